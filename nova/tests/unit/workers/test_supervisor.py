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

import os
import resource
import signal
import subprocess
import sys
import threading
from unittest import mock

import ddt

from nova import test
from nova.workers import supervisor


class SlotTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.enable = self.useFixture(test.fixtures.MockPatchObject(
            supervisor.faulthandler, 'enable')).mock
        self.supervisor = supervisor.Supervisor(['n-worker-1', 'n-worker-2'],
                                                timeout=10)
        self.slot, self.other = self.supervisor.slots

    def silence(self, elapsed=1):
        self.slot.observe(elapsed)
        return self.slot.silence

    def test_no_silence_before_the_first_sign(self):
        self.assertEqual(0, self.silence())
        self.slot.open()
        self.assertEqual(0, self.silence())
        self.assertEqual(0, self.silence())

    def test_silence(self):
        self.slot.open()
        self.slot.alive()
        self.assertEqual([0, 1, 2], [self.silence() for _look in range(3)])
        self.slot.alive()
        self.assertEqual([0, 1], [self.silence() for _look in range(2)])

    def test_no_silence_once_closed(self):
        self.slot.open()
        self.slot.alive()
        self.silence()
        self.slot.close()
        self.assertEqual(0, self.silence())
        # What still runs says so, but nobody counts on it.
        self.slot.alive()
        self.assertEqual([0, 0], [self.silence() for _look in range(2)])

    def test_closed_while_another_thread_counts_up(self):
        self.slot.open()
        self.slot.alive()
        count = self.slot._fields[supervisor._COUNT]
        self.slot.close()
        # That one had read it already.
        self.slot._fields[supervisor._COUNT] = count + 1
        self.assertEqual([0, 0], [self.silence() for _look in range(2)])

    def test_worker_that_comes_back_starts_anew(self):
        self.slot.open()
        self.slot.alive()
        self.silence()
        self.silence()
        self.slot.forget()
        self.assertEqual((0, 0), (self.silence(), self.slot.pid))
        self.slot.open()
        self.slot.alive()
        self.assertEqual([0, 1], [self.silence() for _look in range(2)])

    def test_slots_are_apart(self):
        self.slot.open()
        self.slot.alive()
        self.silence()
        self.assertEqual(1, self.silence())
        self.other.observe(1)
        self.assertEqual((0, 0), (self.other.pid, self.other.silence))
        self.assertEqual(os.getpid(), self.slot.pid)

    def test_read_does_not_wait(self):
        self.assertEqual(b'', self.slot.read())
        self.slot.open()
        writer = self.enable.call_args.args[0]
        os.write(writer, b'stacks')
        self.assertEqual(b'stacks', self.slot.read())
        self.assertEqual(b'', self.slot.read())


class SupervisorTestCase(test.NoDBTestCase):
    """With a real child that stands in for a worker."""

    def setUp(self):
        super().setUp()
        self.supervisor = supervisor.Supervisor(['n-worker-1'], timeout=10)
        self.slot = self.supervisor.slots[0]

    def start_child(self, code):
        child = subprocess.Popen(
            [sys.executable, '-c',
             f'import faulthandler, signal, sys, time\n{code}\n'
             'print("ready", flush=True)\n'
             'time.sleep(600)'],
            pass_fds=[self.slot._writer], stdout=subprocess.PIPE)
        self.addCleanup(child.stdout.close)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        self.assertEqual(b'ready\n', child.stdout.readline())
        self.slot._fields[supervisor._PID] = child.pid
        self.slot._fields[supervisor._COUNT] = 1
        return child

    def start_worker(self):
        return self.start_child(
            f'faulthandler.enable({self.slot._writer})')

    def watch(self, seconds):
        for _second in range(seconds):
            self.supervisor._watch(1)

    def test_within_the_timeout(self):
        child = self.start_worker()
        self.watch(11)
        self.assertIsNone(child.poll())
        self.slot._fields[supervisor._COUNT] += 1
        self.watch(11)
        self.assertIsNone(child.poll())
        self.assertNotIn('replacing', self.stdlog.logger.output)

    def test_replaced(self):
        child = self.start_worker()
        self.watch(12)
        self.assertEqual(-signal.SIGABRT, child.wait())
        output = self.stdlog.logger.output
        self.assertIn(
            f'Worker n-worker-1 (pid {child.pid}) has begun no message for '
            '11 seconds, since 20', output)
        self.assertIn('Stacks of worker n-worker-1:', output)
        self.assertIn('most recent call first', output)
        self.watch(20)
        self.assertEqual(1, self.stdlog.logger.output.count('replacing'))

    def test_stopped_process(self):
        child = self.start_worker()
        child.send_signal(signal.SIGSTOP)
        self.useFixture(test.fixtures.MonkeyPatch(
            'nova.workers.supervisor.DUMP_TIME', 0.1))
        self.watch(12)
        # Nothing of it has run before it was killed.
        self.assertEqual(-signal.SIGKILL, child.wait())
        output = self.stdlog.logger.output
        self.assertIn('Worker n-worker-1 did not abort within', output)
        self.assertNotIn('Stacks of worker', output)

    def test_that_does_not_abort(self):
        self.useFixture(test.fixtures.MonkeyPatch(
            'nova.workers.supervisor.DUMP_TIME', 0.1))
        child = self.start_child(
            'signal.signal(signal.SIGABRT, signal.SIG_IGN)')
        self.watch(12)
        self.assertEqual(-signal.SIGKILL, child.wait())

    def test_leaves_no_core_file(self):
        folder = self.useFixture(test.fixtures.TempDir()).path
        child = self.start_child(
            f'import os, resource\n'
            f'os.chdir({folder!r})\n'
            f'hard = resource.getrlimit(resource.RLIMIT_CORE)[1]\n'
            f'resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))\n'
            f'faulthandler.enable({self.slot._writer})')
        limits = []
        kill = supervisor._kill

        def note(pid, signum):
            limits.append(resource.prlimit(pid, resource.RLIMIT_CORE)[0])
            return kill(pid, signum)

        with mock.patch.object(supervisor, '_kill', side_effect=note):
            self.watch(12)
        self.assertEqual(-signal.SIGABRT, child.wait())
        self.assertIn(limits[0], (0, 1))
        self.assertEqual([], os.listdir(folder))

    def test_limit_of_core_files_that_cannot_be_set(self):
        child = self.start_worker()
        with mock.patch.object(supervisor.resource, 'prlimit',
                               side_effect=PermissionError):
            self.watch(12)
        self.assertEqual(-signal.SIGABRT, child.wait())

    def test_stacks_that_take_long(self):
        # As long as some come, it is not taken for stopped.
        self.useFixture(test.fixtures.MonkeyPatch(
            'nova.workers.supervisor.DUMP_TIME', 0.5))
        child = self.start_child(
            f'import os\n'
            f'def dump(*args):\n'
            f'    for _n in range(10):\n'
            f'        os.write({self.slot._writer}, b"thread\\n")\n'
            f'        time.sleep(0.1)\n'
            f'    os._exit(1)\n'
            f'signal.signal(signal.SIGABRT, dump)')
        self.watch(12)
        self.assertEqual(1, child.wait())
        output = self.stdlog.logger.output
        self.assertNotIn('did not abort', output)
        self.assertEqual(10, output.count('thread\n'))

    def test_nobody_is_forked_while_it_logs(self):
        # The child would find the locks of the log held, for ever.
        with mock.patch.object(
                supervisor.os, 'register_at_fork') as register:
            with mock.patch.object(supervisor.threading, 'Thread'):
                self.supervisor.start()
        hooks = register.call_args.kwargs
        hooks['before']()
        ended = threading.Event()

        def watch():
            self._watch_once()
            ended.set()

        threading.Thread(target=watch).start()
        self.assertFalse(ended.wait(0.1))
        hooks['after_in_parent']()
        self.assertTrue(ended.wait(10))
        hooks['before']()
        hooks['after_in_child']()
        hooks['before']()

    def _watch_once(self):
        with mock.patch.object(self.supervisor, '_watch',
                               side_effect=test.TestingException):
            # Not the time of all: what another test has left would never
            # yield again in the eventlet mode, a listener that polls say.
            with mock.patch.object(supervisor, 'time') as time:
                time.monotonic.return_value = 0
                self.assertRaises(test.TestingException, self.supervisor._run)

    def test_stacks_that_do_not_fit_into_the_pipe(self):
        child = self.start_child(
            f'import os\n'
            f'def dump(*args):\n'
            f'    data = b"x" * 500000 + b"end"\n'
            f'    while data:\n'
            f'        data = data[os.write({self.slot._writer}, data):]\n'
            f'    os._exit(1)\n'
            f'signal.signal(signal.SIGABRT, dump)')
        self.watch(12)
        self.assertEqual(1, child.wait())
        self.assertIn('xend', self.stdlog.logger.output)

    def test_has_ended_by_itself(self):
        child = self.start_worker()
        child.kill()
        child.wait()
        with mock.patch.object(supervisor.os, 'kill') as kill:
            self.watch(12)
        # That id may be somebody else's by now.
        kill.assert_not_called()
        self.assertNotIn('replacing', self.stdlog.logger.output)

    def test_stacks_of_one_that_crashes_by_itself(self):
        child = self.start_worker()
        child.send_signal(signal.SIGSEGV)
        child.wait()
        self.watch(1)
        self.assertIn('Stacks of worker n-worker-1:\nFatal Python error: '
                      'Segmentation fault', self.stdlog.logger.output)

    def test_error_does_not_end_the_watch(self):
        child = self.start_worker()
        with mock.patch.object(self.slot, 'read',
                               side_effect=test.TestingException):
            self.watch(2)
        self.assertIn('Error while watching worker n-worker-1',
                      self.stdlog.logger.output)
        self.watch(10)
        self.assertEqual(-signal.SIGABRT, child.wait())

    @mock.patch.object(supervisor, 'time')
    def test_time_in_which_the_parent_did_not_run(self, time):
        # The whole service was stopped for an hour, say.
        time.monotonic.side_effect = [0, 0.5, 3600.5, 3601]
        time.sleep.side_effect = [None, None, None, test.TestingException]
        with mock.patch.object(self.supervisor, '_watch') as watch:
            self.assertRaises(test.TestingException, self.supervisor._run)
        self.assertEqual([mock.call(0.5), mock.call(1), mock.call(0.5)],
                         watch.call_args_list)


@ddt.ddt
class CheckTestCase(test.NoDBTestCase):

    @ddt.data((0, 10), (0, 0), (30, 10), (10, 2))
    @ddt.unpack
    def test_good(self, timeout, report_interval):
        supervisor.check('scheduler', timeout, report_interval)

    def test_too_small(self):
        exc = self.assertRaises(ValueError, supervisor.check, 'scheduler',
                                29, 10)
        self.assertIn('[scheduler] worker_timeout is 29 seconds', str(exc))
        self.assertIn('at least 30', str(exc))

    def test_no_heartbeat(self):
        exc = self.assertRaises(ValueError, supervisor.check, 'scheduler',
                                60, 0)
        self.assertIn('report_interval is 0', str(exc))
