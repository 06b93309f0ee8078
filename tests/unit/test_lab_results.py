# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

"""What the lab writes of what it found."""

import io
import json
import math
from pathlib import Path
from unittest import mock

import fixtures
import testtools

from lab import __main__ as lab_main
from lab import LabError
from lab import results
from lab import spread


class TestSpread(testtools.TestCase):

    def test_text(self):
        for text, values in (('2 (1 to 9)', [9, 1, 2]),
                             ('0.97 (0.951 to 1.01)', [1.012, .951, .97]),
                             ('1,234 (100 to 2,000)', [2000., 100., 1234.4]),
                             ('7', [7]),
                             ('infinite (2.5 to infinite)',
                              [2.5, math.inf, math.inf])):
            self.assertEqual(text, str(spread.Spread(values)))

    def test_ratios(self):
        found = spread.Spread.ratios([1, 4, 9], [2, 4, 6])
        self.assertEqual((1, .5, 1.5),
                         (found.median, found.least, found.most))

    def test_ratios_to_nothing(self):
        self.assertEqual([math.inf, 1.0, 0.0],
                         spread.Spread.ratios([3, 0, 0], [0, 0, 5]).values)

    def test_ratios_need_pairs(self):
        self.assertRaises(ValueError, spread.Spread.ratios, [1, 2], [1])


class ResultsTest(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.folder = Path(self.useFixture(fixtures.TempDir()).path)
        self.out = io.StringIO()
        self.results = self.make('out')

    def make(self, folder):
        return results.Results('try', ['--quick', '--workers', '3'],
                               str(self.folder / folder))

    def fill(self, made):
        with mock.patch('sys.stdout', self.out):
            made.table('Calls', ['kind', 'calls/s', 'lost'], [
                ['stock', spread.Spread([1, 3, 2]), 48],
                ['series', spread.Spread([math.inf, 600.5, 700.2]), 0]])
            made.note('Eight callers.')
            made.lines('time', 'Goodput', 'seconds', {'calls/s': {
                'stock': [(0, 700), (1, spread.Spread([5, 0, 3]))],
                'series': [(0, 690), (1, spread.Spread([500, 600, 550]))]}},
                marks=[(.5, 'one worker stuck')])
            made.lines('cost', 'Cost', 'workers', {
                'MiB': {'stock': [(1, 90), (8, 300), (64, 2000)]},
                'seconds': {'stock': [(1, 3), (8, 9), (64, math.inf)]}},
                scale='log')
            made.bars('booted', 'Servers', 'servers', ['well', 'stuck'], {
                'stock': [60, spread.Spread([40, 38, 41])],
                'series': [60, 60]})
        return made

    def read(self, name):
        return (self.folder / 'out' / name).read_bytes()


class TestResults(ResultsTest):

    def test_terminal(self):
        self.fill(self.results)
        text = self.out.getvalue()
        self.assertIn('\nCalls\n+', text)
        self.assertRegex(text, r'\| stock +\| +2 \(1 to 3\) \| +48 \|')
        self.assertIn('\nEight callers.\n', text)

    def test_json(self):
        self.fill(self.results).save()

        def refuse(constant):
            self.fail(constant + ' is not JSON')

        found = json.loads(self.read('try.json'), parse_constant=refuse)
        self.assertEqual(['date', 'command', 'machine', 'versions',
                          'contents'], list(found))
        self.assertRegex(found['date'], r'^\d{4}-\d\d-\d\d \d\d:\d\d UTC$')
        self.assertEqual('python3 tools/run.py lab try --quick --workers 3',
                         found['command'])
        self.assertEqual({'cores', 'memory, GiB'}, set(found['machine']))
        for count in found['machine'].values():
            self.assertGreater(count, 0)
        self.assertEqual(['Python', 'nova', 'oslo.messaging', 'RabbitMQ',
                          'MariaDB'], list(found['versions']))
        table, note, lines, panels, bars = found['contents']
        self.assertEqual('Calls', table['table'])
        self.assertEqual({'median': 2, 'least': 1, 'most': 3,
                          'values': [1, 3, 2]}, table['rows'][0][1])
        self.assertEqual('infinite', table['rows'][1][1]['most'])
        self.assertEqual('Eight callers.', note['note'])
        self.assertEqual([0, 700], lines['panels']['calls/s']['stock'][0])
        self.assertEqual([[.5, 'one worker stuck']], lines['marks'])
        self.assertEqual(['MiB', 'seconds'], list(panels['panels']))
        self.assertEqual([60, 60], bars['series']['series'])

    def test_command(self):
        # As tools/run.py was called, with what is before "lab".
        asked = 'python3 tools/run.py --release 2025.1 lab try'
        self.useFixture(fixtures.EnvironmentVariable('LAB_COMMAND', asked))
        self.assertEqual(asked, results.Results('try').about['command'])

    def test_markdown(self):
        self.fill(self.results).save()
        lines = self.read('try.md').decode().splitlines()
        self.assertEqual('# lab try', lines[0])
        self.assertEqual(
            '- `python3 tools/run.py lab try --quick --workers 3`', lines[3])
        self.assertRegex(lines[4], r'^- \d+ cores, [\d.]+ GiB of memory$')
        self.assertRegex(lines[5], '^- Python 3.*, nova .*, RabbitMQ .*')
        table = lines.index('## Calls')
        self.assertRegex(lines[table + 2], r'^\| kind +\| +calls/s \|')
        self.assertRegex(lines[table + 3], r'^\| ?:?-+ ?\| ?-+: ?\| ?-+: ?\|$')
        self.assertRegex(lines[table + 4], r'^\| stock .*2 \(1 to 3\) \| +48')
        for text in ('Eight callers.', '![Goodput](try-time.svg)',
                     '![Cost](try-cost.svg)', '![Servers](try-booted.svg)'):
            self.assertIn(text, lines)

    def test_saves_what_there_is_up_to_now(self):
        with mock.patch('sys.stdout', self.out):
            self.results.note('one')
            self.results.save()
            self.results.note('two')
            self.results.save()
        self.assertIn(b'one\n\ntwo\n', self.read('try.md'))


class TestPictures(ResultsTest):

    NAMES = ('try-time', 'try-cost', 'try-booted')

    def setUp(self):
        super().setUp()
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            self.skipTest('no matplotlib')

    def test_written(self):
        paths = self.fill(self.results).save()
        self.assertEqual(
            sorted(paths), sorted(map(str, (self.folder / 'out').iterdir())))
        for name in self.NAMES:
            self.assertIn(b'<svg', self.read(name + '.svg'))
            png = self.read(name + '.png')
            self.assertEqual(b'\x89PNG', png[:4])
            width = int.from_bytes(png[16:20], 'big')
            self.assertEqual(1200, width)

    def test_many_bars_lie(self):
        names = list(map(str, range(20)))
        self.results.bars('many', 'Calls', 'calls', names,
                          {'stock': list(range(20))}, 'symlog')
        self.results.save()
        size = self.read('try-many.png')[16:24]
        self.assertGreater(size[4:], size[:4])

    def test_same_data_same_bytes(self):
        self.fill(self.results).save()
        self.fill(self.make('again')).save()
        for name in self.NAMES:
            for kind in ('.svg', '.png'):
                self.assertEqual(
                    self.read(name + kind),
                    (self.folder / 'again' / (name + kind)).read_bytes())

    def test_told_apart_without_colour(self):
        self.fill(self.results).save()
        dashed = self.read('try-time.svg')
        self.assertIn(b'stroke-dasharray', dashed)
        # Hatching is a pattern of SVG.
        self.assertIn(b'<pattern', self.read('try-booted.svg'))


class TestCommands(testtools.TestCase):

    def run_lab(self, *argv):
        """Run it; returns the exit code and what it wrote to stderr."""
        with mock.patch('sys.stderr', io.StringIO()) as stderr, \
                mock.patch('signal.signal'):
            try:
                code = lab_main.main(argv)
            except SystemExit as exc:
                code = exc.code
            return code, stderr.getvalue()

    def test_each_has_what_is_asked_of_it(self):
        found = lab_main.found()
        self.assertIn('demo', found)
        for name, text in found.items():
            self.assertNotEqual('', text)
            module, args = lab_main.parse([name])
            self.assertTrue(callable(module.main), name)
            self.assertEqual('build/lab', args.output)

    def test_unknown_command(self):
        code, err = self.run_lab('nothing')
        self.assertEqual(2, code)
        self.assertIn("invalid choice: 'nothing'", err)

    def test_unknown_option(self):
        code, err = self.run_lab('demo', '--nothing')
        self.assertEqual(2, code)
        self.assertIn('unrecognized arguments: --nothing', err)

    def failing(self, exc):
        module, _ = lab_main.parse(['demo'])
        with mock.patch.object(module, 'main', side_effect=exc):
            return self.run_lab('demo')

    def test_error_is_one_line(self):
        self.assertEqual((1, 'lab demo: no RabbitMQ\n'),
                         self.failing(LabError('no RabbitMQ')))

    def test_log_is_kept(self):
        code, err = self.failing(LabError('it ended', 'one\ntwo'))
        self.assertEqual(1, code)
        line, where = err.splitlines()
        self.assertEqual('lab demo: it ended', line)
        path = Path(where.removeprefix('The log ends in ').rstrip('.'))
        self.addCleanup(path.unlink)
        self.assertIn('two', path.read_text())

    def test_interrupt(self):
        code, err = self.failing(KeyboardInterrupt())
        self.assertEqual((130, 1), (code, err.count('\n')))
