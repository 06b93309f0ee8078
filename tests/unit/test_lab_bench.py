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

"""What the lab measures with, short of the servers that it measures."""

import argparse
import os
from pathlib import Path
import subprocess
from unittest import mock

import fixtures
import testtools

from lab import __main__ as lab_main
from lab.commands import bench
from lab.commands import scale
from lab import LabError
from lab.measure import pairs
from lab.measure import paper
from lab.servers import cloud


class TestCloud(testtools.TestCase):

    def test_all_have_what_a_cloud_needs(self):
        for name in ('bench', 'scale'):
            _module, args = lab_main.parse([name])
            stack = mock.MagicMock()
            with mock.patch('lab.servers.broker.PrivateBroker'), \
                    mock.patch('lab.servers.database.PrivateMariaDB'):
                made = pairs.start_cloud(args, stack)
            self.assertEqual('scheduler', made.topic)


class TestPairs(testtools.TestCase):

    def variants(self, calls):
        for name, base in (('stock', None), ('series', 'stock')):
            def measure(name=name):
                calls.append(name)
                return {'calls/s': 100. * len(calls), 'lost': 0,
                        'timeline': [[1, 2]]}
            yield pairs.Variant(name, measure, base)

    def test_every_other_round_backwards(self):
        calls, said = [], []
        measured = pairs.run(list(self.variants(calls)), 3, said.append)
        self.assertEqual(['stock', 'series', 'series', 'stock', 'stock',
                          'series'], calls)
        self.assertEqual(['round 1 of 3: stock', '  calls/s: 100, lost: 0'],
                         said[:2])
        self.assertEqual(12, len(said))
        self.assertEqual([100, 400, 500], [
            row['calls/s'] for row in measured['stock']])

    def test_table_has_ratios_of_the_same_rounds(self):
        found = list(self.variants([]))
        columns, rows = pairs.table(found, pairs.run(found, 3, str))
        # What is for pictures is left out.
        self.assertEqual(['', 'calls/s', 'lost'], columns)
        self.assertEqual(['stock', 'series', '/ stock'],
                         [row[0] for row in rows])
        self.assertEqual([2, .75, 1.2], rows[2][1].values)
        self.assertEqual([1, 1, 1], rows[2][2].values)

    def test_kinds(self):
        args = argparse.Namespace(stock='tree', stock_prefetch=[4, 0])
        self.assertEqual(
            [('stock', 'tree'), ('stock, prefetch 4', 'tree'),
             ('stock, prefetch unlimited', 'tree'), ('series', None)],
            [kind[:2] for kind in pairs.kinds(args)])

    def test_percentiles(self):
        self.assertEqual([51, 100], [round(each) for each in pairs.percentiles(
            [n / 1000 for n in range(1, 101)])])


class TestPaper(testtools.TestCase):

    def limit(self, points, most, **more):
        return paper.Limit('it', points, most, 'why', 'then', **more)

    def test_line(self):
        limit = self.limit([(1, 12), (2, 14), (4, 18)], 110)
        self.assertAlmostEqual(210, limit.at(100))
        self.assertAlmostEqual(50, limit.workers)
        self.assertAlmostEqual(100, limit.share(50))

    def test_square(self):
        limit = self.limit([(n, 3 * n * n) for n in (1, 2, 5)], 300,
                           square=True)
        self.assertAlmostEqual(30000, limit.at(100))
        self.assertAlmostEqual(10, limit.workers)

    def test_what_does_not_grow_reaches_nothing(self):
        self.assertEqual(float('inf'), self.limit(
            [(1, 5), (2, 5), (3, 5)], 10).workers)

    def test_two_points_are_no_law(self):
        self.assertRaises(ValueError, self.limit, [(1, 1), (2, 2)], 5)


class TestScale(testtools.TestCase):

    def limits(self):
        """What is used up by 3 connections, 6 processes, 64 KiB a worker."""
        sizes = [100, 200, 400]
        real = {'series': [(n, {'RabbitMQ connections': 3 * n,
                                'MariaDB connections': 5 + n})
                           for n in (1, 2, 4)]}
        found = [{'processes': 300 + 6 * n, 'memory': 2 ** 16 * n,
                  'list': 2 + n / 1000, 'ping': 3 + n / 100} for n in sizes]
        election = [{'election': [0, 0, n * n / 10 ** 6]} for n in sizes]
        return scale.limits_of(
            argparse.Namespace(workers=sizes), real,
            {'processes': 4, 'memory': 2 ** 17}, found,
            {'processes': 2 ** 20, 'memory': 2 ** 33}, election, 3000)

    def test_limits(self):
        found = {limit.what.partition(',')[0]: limit
                 for limit in self.limits()}
        for what, workers in (
                ('RabbitMQ: connections', 65536 / 3),
                ('RabbitMQ: Erlang processes', (2 ** 20 - 300) / (6 + 3 * 4)),
                ('RabbitMQ: memory', 2 ** 33 / (2 ** 16 + 3 * 2 ** 17)),
                ('MariaDB: connections', 10000 - 5),
                ('MariaDB: heartbeats a second', 30000),
                ('nova-manage worker list', 58000),
                ('nova-manage worker ping', 5700)):
            self.assertAlmostEqual(workers, found[what].workers, 2, what)
        leader, = (limit for limit in found.values()
                   if limit.what.startswith('election'))
        self.assertAlmostEqual((60 * 10 ** 6) ** .5, leader.workers, 2)

    def test_first_that_breaks_is_named(self):
        made = self.limits()
        self.assertEqual(sorted(limit.workers for limit in made),
                         [limit.workers for limit in made])
        out = mock.Mock()
        scale.on_paper(argparse.Namespace(workers=[100, 200, 400]), out, made)
        (text,), _ = out.note.call_args
        self.assertTrue(text.startswith(
            'What breaks first: nova-manage worker ping, s, at 5,700 '
            'workers (60: a minute). Then'), text)
        columns, rows = out.table.call_args[0][1:]
        self.assertEqual(len(made), len(rows))
        for row in rows:
            self.assertEqual(len(columns), len(row))


class TestArguments(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.stock = self.useFixture(fixtures.TempDir()).path
        os.mkdir(os.path.join(self.stock, 'nova'))

    def checked(self, command, *argv):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        args = parser.parse_args([*argv, '--stock', self.stock])
        with mock.patch.object(cloud, 'has_worker_hosts',
                               lambda tree=None: tree is None):
            return args, command.checked(args)

    def refused(self, text, command, *argv):
        self.assertIn(text, str(self.assertRaises(
            LabError, self.checked, command, *argv)))

    def test_bench(self):
        args, names = self.checked(bench)
        self.assertEqual(bench.USUAL, names)
        # What was asked for: pairs, five at least; and the sizes.
        self.assertEqual((5, [1, 8, 32, 64], 100),
                         (args.rounds, args.workers, args.nodes))
        args, names = self.checked(bench, 'stuck', '--quick', '--rounds', '2')
        self.assertEqual((['stuck'], 2, ['stopped']),
                         (names, args.rounds, args.fault))

    def test_bench_refuses(self):
        self.refused('nothing is no measurement', bench, 'nothing')
        self.refused('--rounds is at least 1', bench, '--rounds', '0')
        self.refused('--workers is at least 1', bench, '--workers', '8', '0')
        self.refused('--stock-prefetch is at least 0', bench,
                     '--stock-prefetch', '-1')
        os.rmdir(os.path.join(self.stock, 'nova'))
        self.refused('is no nova without the series', bench)

    def test_scale(self):
        args, sizes = self.checked(scale)
        self.assertEqual((6400, scale.FULL), (args.workers[-1], sizes))
        args, sizes = self.checked(scale, '--workers', '30', '10', '20')
        self.assertEqual([10, 20, 30], args.workers)

    def test_scale_refuses(self):
        for sizes in (['1', '2'], ['5', '5', '5'], ['0', '1', '2']):
            self.refused('--workers takes three', scale, '--workers', *sizes)


class TestStockTree(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.build = Path(self.useFixture(fixtures.TempDir()).path).resolve()
        self.tree = self.build / '1.0'
        (self.tree / 'nova').mkdir(parents=True)

    def git(self, *args):
        subprocess.run(['git', '-c', 'user.name=A', '-c', 'user.email=a@b',
                        *args], cwd=self.tree, check=True,
                       capture_output=True,
                       env={**os.environ, 'GIT_CONFIG_GLOBAL': os.devnull})

    def commit(self, text):
        (self.tree / 'nova' / 'service.py').write_text(text)
        self.git('add', '.')
        self.git('commit', '--message', text)

    def made(self):
        found = Path(cloud.stock_tree(str(self.tree)))
        self.assertEqual(self.build / 'stock-1.0', found)
        return found

    def test_is_the_base(self):
        self.git('init')
        self.commit('stock')
        self.git('tag', 'base')
        self.commit('series')
        service = self.made() / 'nova' / 'service.py'
        self.assertEqual('stock', service.read_text())
        # It is made once, and again when the base is another one.
        (self.made() / 'mark').touch()
        self.assertTrue((self.made() / 'mark').exists())
        self.git('tag', '--force', 'base')
        self.assertEqual('series', (
            self.made() / 'nova' / 'service.py').read_text())
        self.assertFalse((self.made() / 'mark').exists())
        # Nothing else is left.
        self.assertEqual({'1.0', 'stock-1.0'}, {
            path.name for path in self.build.iterdir()})

    def refused(self, text):
        exc = self.assertRaises(LabError, self.made)
        self.assertIn(text, exc.line)

    def test_of_a_wheel(self):
        self.refused('was not built by tools/series.py')

    def test_without_a_base(self):
        self.git('init')
        self.refused('has no commit "base"')
