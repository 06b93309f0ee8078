#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""What a fault did, as it is found out of the looks at it."""

import datetime
import math
import mmap
import os
from pathlib import Path
import runpy
import signal
import threading
import time
import types
from unittest import mock

import fixtures
import testtools

import lab
from lab.commands import faults as command
from lab import LabError
from lab.measure import faults
from lab.measure.faults import stage
from lab.measure.faults import verdicts
from lab.servers import database

INJECT = Path(lab.__file__).parent / 'faults/inject/sitecustomize.py'
HOSTS = {'node-worker-1', 'node-worker-2'}
WORKERS = {11: 'node worker 1', 12: 'node worker 2'}


def look(at, up=HOSTS, said=False, sound=True, share=1.0, workers=WORKERS):
    return verdicts.Look(at, up, said, sound, share, workers)


class TestSeen(testtools.TestCase):

    def seen(self, *looks, hosts=HOSTS, since=10):
        return verdicts.seconds_until_seen(looks, hosts, since)

    def test_record(self):
        down = {'node-worker-1'}
        self.assertEqual(8, self.seen(
            look(9, up=set()), look(12), look(18, up=down), look(19)))

    def test_log(self):
        self.assertEqual(2, self.seen(look(11), look(12, said=True)))

    def test_never(self):
        self.assertIsNone(self.seen(look(11), look(12)))

    def test_record_of_another(self):
        self.assertIsNone(self.seen(look(11, up={'node-worker-2'}),
                                    hosts={'node-worker-2'}))

    def test_nobody_can_ask(self):
        self.assertIsNone(self.seen(look(11, up=None)))


class TestHealed(testtools.TestCase):

    def healed(self, *looks, since=10):
        return verdicts.seconds_until_healed(looks, since)

    def test_at_once(self):
        # Most of what is seen at first was before it.
        self.assertEqual(2, self.healed(
            look(9, sound=False), look(10.5), look(12), look(13)))

    def test_after_the_last_that_is_ill(self):
        self.assertEqual(7, self.healed(
            look(11, share=.1), look(12), look(16, sound=False), look(17),
            look(18)))

    def test_well_is_more_than_not_ill(self):
        self.assertEqual(6, self.healed(
            look(11, sound=False), look(13, share=.6), look(14, share=.79),
            look(16, share=.9), look(17, share=.7), look(18, share=.95)))

    def test_a_third_of_the_answers_is_missing(self):
        # For good, though all was well once.
        self.assertIsNone(self.healed(
            look(12), *(look(at, share=.66) for at in range(13, 20))))

    def test_never(self):
        for looks in ([look(11), look(12, sound=False)],
                      [look(11), look(12, share=.49)],
                      [look(11, share=.79), look(12, share=.6)], [],
                      [look(11)]):
            self.assertIsNone(self.healed(*looks))


class TestKilledWrongly(testtools.TestCase):

    def killed(self, *workers, log='', faulty=()):
        return verdicts.killed_wrongly(
            [look(at, workers=found) for at, found in enumerate(workers)],
            log, faulty)

    def test_nobody(self):
        self.assertEqual([], self.killed(WORKERS, WORKERS, log='Child of 11'))

    def test_replaced(self):
        after = {11: 'node worker 1', 13: 'node worker 2'}
        self.assertEqual(['node worker 2'], self.killed(WORKERS, after))
        self.assertEqual([], self.killed(WORKERS, after, faulty=[12]))

    def test_not_replaced(self):
        self.assertEqual(['node worker 1', 'node worker 2'],
                         self.killed(WORKERS, {}))

    def test_replaced_again(self):
        self.assertEqual(['node worker 2'], self.killed(
            WORKERS, {13: 'node worker 2'} | WORKERS, WORKERS, faulty=[12]))

    def test_between_two_looks(self):
        for line in ('Child 14 killed by signal -6',
                     'Child 14 exited with status 1',
                     'Worker node-worker-2 (pid 14) has begun no message for '
                     '10 seconds, since 11:22:33; replacing it',
                     'Worker node-worker-2 (pid 14) fails: its last 5 '
                     'requests failed, those of its siblings succeed; '
                     'restarting it',
                     'Worker node-worker-2 (pid 14) does not stop within 60 '
                     'seconds; killing it'):
            self.assertEqual(['pid 14'],
                             self.killed(WORKERS, WORKERS, log=line))
            self.assertEqual([], self.killed(WORKERS, WORKERS, log=line,
                                             faulty=[14]))

    def test_only_told(self):
        # Without worker_timeout.
        log = ('Worker node-worker-2 (pid 14) has begun no message for 10 '
               'seconds\nChild of it, replacing it')
        self.assertEqual([], self.killed(WORKERS, WORKERS, log=log))
        self.assertIsNotNone(verdicts.SAYS.search(log))


WELL = verdicts.Outcome(100, 0, 0, 0, 1.0, None, 2.0, 3.0, [], [])


class TestWorse(testtools.TestCase):

    def worse(self, stock, ours, **options):
        fault = faults.fault.Fault('name', 'title', None, **options)
        return list(verdicts.worse(fault, WELL._replace(**stock),
                                   WELL._replace(**ours)))

    def test_as_well(self):
        self.assertEqual([], self.worse({}, {}))

    def test_bad(self):
        self.assertEqual([], self.worse({}, {'lost': 2, 'failed': 1}))
        self.assertEqual(['4 calls lost or failed, on stock 0'],
                         self.worse({}, {'lost': 3, 'failed': 1}))
        self.assertEqual([], self.worse({'lost': 20}, {'failed': 25}))
        self.assertEqual(['26 calls lost or failed, on stock 20'],
                         self.worse({'lost': 20}, {'failed': 26}))

    def test_bad_of_more(self):
        # Callers who are answered call again.
        self.assertEqual([], self.worse(
            {'answered': 100, 'failed': 50}, {'answered': 200, 'failed': 99}))

    def test_twice(self):
        self.assertEqual([], self.worse({'twice': 1}, {'twice': 1}))
        self.assertEqual(['1 run twice, on stock 0'],
                         self.worse({}, {'twice': 1}))
        self.assertEqual([], self.worse({}, {'twice': 1}, chance=1))
        self.assertEqual(['2 run twice, on stock 0'],
                         self.worse({}, {'twice': 2}, chance=1))

    def test_healed(self):
        self.assertEqual([], self.worse({'healed': 10}, {'healed': 16}))
        self.assertEqual(
            ['healed after 16.1 s, on stock after 10.0 s'],
            self.worse({'healed': 10}, {'healed': 16.1}))
        self.assertEqual(['never healed, on stock after 3.0 s'],
                         self.worse({}, {'healed': None}))
        self.assertEqual(['never healed'],
                         self.worse({'healed': None}, {'healed': None}))
        self.assertEqual([], self.worse({'healed': None}, {}))

    def test_errors(self):
        for quick, expected in (
                (True, ['errors came after 0.50 s, on stock after 0.02 s']),
                (False, [])):
            self.assertEqual(expected, self.worse(
                {'error': 0.02}, {'error': 0.5}, quick_errors=quick))
        self.assertEqual([], self.worse({}, {}, quick_errors=True))

    def test_harm(self):
        self.assertEqual(
            ['killed wrongly: a, b', 'records left over: c'],
            self.worse({'wrongly': ['a'], 'left': ['c']},
                       {'wrongly': ['a', 'b'], 'left': ['c']}))


class TestFaults(testtools.TestCase):

    def test_names(self):
        names = [fault.name for fault in faults.FAULTS]
        self.assertEqual(len(names), len(set(names)))
        titles = [fault.title for fault in faults.FAULTS]
        self.assertEqual(len(titles), len(set(titles)))


class TestInject(testtools.TestCase):

    def test_no_thread_runs_while_the_gil_is_held(self):
        """Whatever signal arrives: one has a worker write its stacks."""
        turns = mmap.mmap(-1, mmap.PAGESIZE)
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                _hold_gil(turns, writer)
            finally:
                os._exit(1)
        self.addCleanup(os.waitpid, pid, 0)
        self.addCleanup(os.kill, pid, signal.SIGKILL)
        os.close(writer)
        with open(reader, 'rb', buffering=0) as output:
            self.assertEqual(b'soon', output.read(4))
            before = None
            while turns[:8] != before:
                before = turns[:8]
                time.sleep(0.3)
            for _signal in range(5):
                os.kill(pid, signal.SIGUSR1)
                # What wrote this needs no GIL. Python code would run next.
                self.assertEqual(bytes([signal.SIGUSR1]), output.read(1))
                time.sleep(0.05)
            self.assertEqual(before, turns[:8])


def _hold_gil(turns, output):
    """Hold the GIL, beside a thread that counts its turns."""
    def count():
        while True:
            turns[:8] = (int.from_bytes(turns[:8], 'big') + 1).to_bytes(
                8, 'big')
            time.sleep(0.001)

    hold_gil = runpy.run_path(str(INJECT))['hold_gil']
    os.set_blocking(output, False)
    signal.signal(signal.SIGUSR1, lambda *_args: None)
    signal.set_wakeup_fd(output)
    threading.Thread(target=count, daemon=True).start()
    os.write(output, b'soon')
    hold_gil(600)


class TestRecord(testtools.TestCase):

    def is_up(self, created, seen=None, seconds=8):
        now = datetime.datetime.now(datetime.timezone.utc).replace(
            tzinfo=None)
        return database.Record(
            'host', 'nova-scheduler', 73, 0,
            now - datetime.timedelta(seconds=created),
            seen and now - datetime.timedelta(seconds=seen), 0).is_up(seconds)

    def test_is_up(self):
        self.assertTrue(self.is_up(99, 7))
        self.assertFalse(self.is_up(2, 9))
        self.assertTrue(self.is_up(7))
        self.assertFalse(self.is_up(9))

    def test_clock_ahead(self):
        # It is as wrong for nova.
        self.assertFalse(self.is_up(99, -3600))


class TestCommand(testtools.TestCase):

    def outcomes(self, **changes):
        return {(fault.name, kind): WELL._replace(**changes)
                if (fault.name, kind) == ('slow', 'series') else WELL
                for fault in faults.FAULTS for kind in command.KINDS}

    def run_command(self, *arguments, **changes):
        raises = changes.pop('raises', None)
        outcomes = self.outcomes(**changes)
        #: Those that ran with other packages.
        self.packages = {}

        def measure(servers, fault, mode, tree, packages, stem):
            kind = 'stock' if tree == 'stock' else 'series'
            if packages:
                self.packages[fault.name, kind] = packages
            outcome = outcomes[fault.name, kind]
            if raises and fault.name == 'slow' and tree != 'stock':
                raise raises
            if not outcome.answered:
                raise LabError('no call was answered in 20 s')
            return outcome

        results = mock.Mock(folder=self.useFixture(fixtures.TempDir()).path,
                            command='faults')
        args = dict({'only': None, 'quick': False, 'mode': None,
                     'companion': None, 'stock': 'stock', 'series': None},
                    **dict(arguments))
        with mock.patch.object(stage, 'servers', mock.MagicMock()), \
                mock.patch('lab.servers.cloud.find_tree'), \
                mock.patch('lab.servers.cloud.stock', str), \
                mock.patch('lab.servers.cloud.companion',
                           lambda tree: tree or 'that of the release'), \
                mock.patch.object(faults, 'measure', measure):
            code = command.main(types.SimpleNamespace(**args), results)
        return code, results

    def test_well(self):
        code, results = self.run_command(lost=2, failed=1, error=.123,
                                         seen=None, healed=8)
        self.assertEqual(0, code)
        calls, seen, errors = (list(call.args[2])
                               for call in results.table.mock_calls)
        self.assertEqual(len(faults.FAULTS), len(calls))
        [row] = [row for row in calls if row[0].startswith('slow')]
        self.assertEqual([100, 100, 0, 2, 0, 1, 0, 0, 1.0, 1.0], row[1:])
        [row] = [row for row in seen if row[0].startswith('slow')]
        self.assertEqual(['-', '-', 3.0, 8, 0, 0, 0, 0], row[1:])
        self.assertEqual([['slow, 0.5 s a call', 0, .01, '-', .12]], errors)

    def test_nothing_failed(self):
        _code, results = self.run_command()
        self.assertEqual(2, len(results.table.mock_calls))

    def test_worse(self):
        for changes, line in (
                ({'wrongly': ['node worker 1', 'node worker 3']},
                 'killed wrongly: node worker 1, node worker 3.'),
                ({'left': ['node-worker-9'], 'twice': 2},
                 '2 run twice, on stock 0; records left over: '
                 'node-worker-9.')):
            code, results = self.run_command(**changes)
            self.assertEqual(1, code)
            self.assertEqual(
                'With the series, slow, 0.5 s a call: ' + line,
                results.note.mock_calls[-1].args[0])

    def test_stock_not_measured(self):
        found = self.outcomes(twice=1, left=['node-worker-9'])
        del found['slow', 'stock']
        self.assertEqual(
            ['With the series, slow, 0.5 s a call: records left over: '
             'node-worker-9.'], list(command.harm(faults.FAULTS, found)))

    def test_companion(self):
        self.run_command()
        wanted = {(fault.name, 'series') for fault in faults.FAULTS
                  if fault.companion}
        self.assertEqual(dict.fromkeys(wanted, ['that of the release']),
                         self.packages)
        self.run_command(('companion', 'tree'))
        self.assertEqual({(name, 'series'): ['tree']
                          for name in command.NAMES}, self.packages)

    def test_not_measured(self):
        code, results = self.run_command(answered=0)
        self.assertEqual(1, code)
        self.assertEqual('Not measured: slow, 0.5 s a call, series: no call '
                         'was answered in 20 s.',
                         results.note.mock_calls[-1].args[0])
        for call in results.table.mock_calls:
            [row] = [row for row in call.args[2] if row[0].startswith('slow')]
            self.assertEqual('-', row[2])
        # A bar of none would say that none was lost.
        bars = results.bars.mock_calls[0].args[4]
        self.assertEqual([True], [
            math.isnan(value) for fault, value in zip(
                faults.FAULTS, bars['series']) if fault.name == 'slow'])

    def test_any_error_leaves_the_others(self):
        code, results = self.run_command(raises=KeyError(2))
        self.assertEqual(1, code)
        self.assertIn('series: KeyError(2).',
                      results.note.mock_calls[-1].args[0])

    def test_chosen(self):
        _code, results = self.run_command(('quick', True))
        self.assertEqual(len(command.QUICK),
                         len(results.bars.mock_calls[0].args[3]))
        self.assertLess(set(command.QUICK), set(command.NAMES))
