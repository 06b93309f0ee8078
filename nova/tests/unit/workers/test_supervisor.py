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

import ctypes
import logging
import os
import re
import signal
import threading
import time
from unittest import mock

import ddt
from oslo_config import cfg
from oslo_utils import eventletutils
from oslo_utils import importutils

from nova import test
from nova.workers import board
from nova.workers import heartbeat
from nova.workers import supervisor

HOSTS = ['n-worker-1', 'n-worker-2', 'n-worker-3']
TIMEOUT = 30
INTERVAL = 10
RECONNECT = 40
NOTICE = 100


class SupervisorTestCase(test.NoDBTestCase):
    """Workers that the test plays, and a time that it sets."""

    def setUp(self):
        super().setUp()
        self.now = 1000.0
        for module in (board, supervisor):
            clock = self.useFixture(test.fixtures.MockPatchObject(
                module, 'time', mock.Mock(wraps=time))).mock
            clock.monotonic.side_effect = lambda: self.now
        conf = mock.Mock(
            report_interval=INTERVAL, service_down_time=60,
            servicegroup_driver='db',
            long_rpc_timeout=1800, graceful_shutdown_timeout=180,
            oslo_messaging_rabbit={
                'rabbit_interval_max': RECONNECT,
                'heartbeat_timeout_threshold': NOTICE // 2})
        for module in (heartbeat, supervisor):
            self.useFixture(test.fixtures.MockPatchObject(
                module, 'CONF', conf))
        self.conf = conf
        self.signals = []
        # The processes whose timers were asked for their stacks.
        self.asked = []
        self.children = set()
        self.useFixture(test.fixtures.MockPatchObject(
            supervisor, '_kill', self._kill))
        self.useFixture(test.fixtures.MockPatchObject(
            supervisor, 'is_child', self.children.__contains__))
        # Whether SIGHUP waits to be taken.
        self.hup = False
        self.useFixture(test.fixtures.MockPatchObject(
            supervisor.signal, 'sigtimedwait', self._take_hup))
        # A trial ends at once; the test says how.
        self.outage = None
        self.trials = self.useFixture(test.fixtures.MockPatchObject(
            supervisor.trial, 'Trial', side_effect=lambda *args: mock.Mock(
                began=self.now, ended=True, error=self.outage))).mock
        self.watch(TIMEOUT)

    def watch(self, timeout, hosts=HOSTS):
        self.board = board.Board(hosts, threads=5)
        self.supervisor = supervisor.Supervisor(
            self.board, timeout, mock.sentinel.attempt)
        # These begin no messages, and none of them runs any code.
        self.silent = set()
        self.frozen = False
        for number, row in enumerate(self.board.rows, 1):
            self.serve(row, number)
            row.record = number + 100
        self.row = self.board.rows[0]
        self.watched = self.supervisor.watched[0]

    def serve(self, row, pid):
        row.open()
        row.pid = pid
        self.children.add(pid)
        row.threads = 2
        row.enter(board.SERVING)

    def _kill(self, pid, signum):
        found = pid in self.children
        self.signals.append((pid, signum))
        if signum == signal.SIGKILL:
            self.children.discard(pid)
        return found

    def _take_hup(self, signums, timeout):
        self.assertEqual(([signal.SIGHUP], 0), (signums, timeout))
        taken, self.hup = self.hup, False
        return taken or None

    def fill(self, row, request=b'r m i'):
        self.silent.add(row.host)
        return [row.begin(request) for _thread in range(row.threads)]

    def look(self, seconds):
        """Have that time pass."""
        for _look in range(int(seconds / supervisor.INTERVAL)):
            self.now += supervisor.INTERVAL
            for row in self.board.rows:
                if not self.frozen:
                    row.ticked = self.now
                    if row.asked:
                        row.asked = 0
                        self.asked.append(row.pid)
                if self.now % INTERVAL == 0 and row.host not in self.silent:
                    row.end(row.begin(b''))
            self.supervisor.look(self.now)

    def logged(self, text):
        return self.stdlog.logger.output.count(text)


class AllowanceTestCase(SupervisorTestCase):

    def assertAllowance(self, seconds, timeout=TIMEOUT):
        self.assertEqual(seconds, self.watched.allowance(timeout, self.now))

    def test_starting(self):
        self.row.enter(board.STARTING)
        self.assertAllowance(TIMEOUT + supervisor.START_TIME)

    def test_full(self):
        self.row.ticked = self.now
        self.fill(self.row)
        self.assertAllowance(TIMEOUT)

    def test_runs_no_python_code(self):
        self.row.begin(b'r m i')
        self.row.ticked = self.now - supervisor.PAUSE
        self.assertAllowance(TIMEOUT)

    def test_idle(self):
        # Its listener may be about to connect to the broker.
        self.row.ticked = self.now
        self.assertAllowance(TIMEOUT + RECONNECT)

    def test_runs_requests_and_has_free_threads(self):
        self.row.ticked = self.now
        self.row.begin(b'r m i')
        self.assertAllowance(NOTICE + RECONNECT)
        self.assertAllowance(2 * NOTICE + RECONNECT, timeout=2 * NOTICE)

    def test_runs_requests_while_self_pings_hang(self):
        # The next one comes over another connection to the database.
        self.row.ticked = self.now
        self.row.threads = 4
        self.row.begin(b'r m i')
        for hanging in (1, 2):
            self.row.begin(b'')
            self.assertGreater(
                self.watched.allowance(TIMEOUT, self.now),
                self.conf.service_down_time * hanging + INTERVAL)
        # But not for ever.
        before = self.watched.allowance(TIMEOUT, self.now)
        self.row.threads = 5
        self.row.begin(b'')
        self.assertAllowance(before)

    def test_runs_only_a_ping(self):
        # It hangs while it writes a heartbeat, and loses nothing.
        self.row.ticked = self.now
        self.row.begin(b'')
        self.assertAllowance(TIMEOUT)

    def test_replies(self):
        # The callers may be gone, and oslo.messaging has to notice.
        self.row.ticked = self.now
        for request in (b'r m i', b''):
            tasks = self.fill(self.row, request)
            for task in tasks:
                task.stage = board.REPLYING
            self.assertAllowance(NOTICE + RECONNECT)
            for task in tasks:
                self.row.end(task)

    def test_replaced_often(self):
        for factor in (1, 1, 2, 4, 8, 8):
            self.watched.replaced.append(self.now)
            self.assertAllowance(TIMEOUT * factor)
        self.now += supervisor.REMEMBERED
        self.assertAllowance(TIMEOUT)


class ReplaceTestCase(SupervisorTestCase):

    def slow_trials(self):
        """Have a trial go on until the test says that it has ended."""
        one = mock.Mock(ended=False, error=None)

        def begin(attempt):
            one.began = self.now
            return one

        self.trials.side_effect = tried = mock.Mock(side_effect=begin)
        return tried, one

    def refuse(self, rows, seconds):
        """Have the broker refuse the self-pings of workers for that time."""
        for _interval in range(int(seconds / INTERVAL)):
            self.look(INTERVAL)
            for row in rows:
                row.unsent = self.now

    def test_just_as_the_broker_returns(self):
        self.silent.update(HOSTS)
        self.outage = 'the broker is away'
        self.refuse(self.board.rows, 6 * (TIMEOUT + RECONNECT))
        self.outage = None
        # Each has the time to connect again once a trial has succeeded.
        self.look(INTERVAL + TIMEOUT + RECONNECT - INTERVAL)
        self.assertEqual([], self.signals)
        self.look(3 * INTERVAL)
        self.assertNotEqual([], self.signals)

    def test_broker_is_away_for_a_moment(self):
        # It is back when a trial is made, which is the only one.
        self.silent.update(HOSTS)
        self.look(2 * INTERVAL)
        self.refuse(self.board.rows, 2 * INTERVAL)
        self.assertEqual(1, self.trials.call_count)
        self.assertIsNone(self.supervisor.outage)
        self.look(TIMEOUT + RECONNECT - INTERVAL)
        self.assertEqual([], self.signals)

    def test_outage_is_told_at_once(self):
        self.silent.update(HOSTS)
        self.outage = 'the broker is away'
        self.refuse(self.board.rows, INTERVAL)
        self.look(2 * supervisor.INTERVAL)
        self.assertEqual('the broker is away', self.supervisor.outage)
        self.assertEqual(1, self.logged('the broker is away'))

    def test_workers_themselves_cannot_send(self):
        # A trial can, so the broker is not the cause: no file is left to them.
        self.silent.update(HOSTS)
        self.refuse(self.board.rows, 2 * (TIMEOUT + RECONNECT))
        self.assertNotEqual([], self.signals)

    def test_no_connection_is_left(self):
        # Whoever is stuck may have them, as siblings still write heartbeats.
        self.outage = supervisor.trial.NO_CONNECTION
        self.silent.add(self.row.host)
        for _interval in range(10):
            self.board.rows[1].written = self.now
            self.look(INTERVAL)
        self.assertNotEqual([], self.signals)
        self.assertIsNone(self.supervisor.outage)

    def test_no_connection_is_left_and_nobody_writes(self):
        # The database hangs, and connections pile up.
        self.outage = supervisor.trial.NO_CONNECTION
        self.board.rows[1].written = self.now
        self.fill(self.row)
        self.silent.update(HOSTS)
        self.look(600)
        self.assertEqual([], self.signals)
        self.assertEqual(supervisor.trial.NO_CONNECTION,
                         self.supervisor.outage)

    def test_no_connection_is_left_and_heartbeats_go_elsewhere(self):
        # To memcached.
        self.conf.servicegroup_driver = 'mc'
        self.outage = supervisor.trial.NO_CONNECTION
        self.silent.add(self.row.host)
        for _interval in range(10):
            self.board.rows[1].written = self.now
            self.look(INTERVAL)
        self.assertEqual([], self.signals)

    def sentence(self):
        self.fill(self.row)
        self.look(TIMEOUT + 1)
        self.assertEqual(1, self.watched.doomed)
        self.signals.clear()

    def test_one_that_ends_by_itself(self):
        self.sentence()
        self.children.discard(1)
        with mock.patch.object(self.row, 'clear') as clear:
            self.look(20)
        # The next process may be about to do so.
        clear.assert_not_called()
        self.assertEqual(0, self.watched.doomed)

    def test_one_that_goes_on_is_spared(self):
        self.sentence()
        self.now += 0.1
        self.silent.clear()
        self.row.end(self.row.begin(b''))
        self.look(20)
        self.assertEqual([], self.signals)
        self.assertEqual(1, self.logged('goes on, and is not replaced'))
        self.assertEqual((0, []), (
            self.watched.reasons['stuck'], self.watched.replaced))

    def test_parent_was_held_up_with_it(self):
        self.sentence()
        self.now += 60
        self.look(20)
        self.assertEqual([], self.signals)
        # It has all of its time.
        self.look(TIMEOUT)
        self.assertIn((1, signal.SIGKILL), self.signals)

    def test_one_that_starts_again_and_again(self):
        # That is no message, and tells nothing of the others.
        self.silent.update(HOSTS)
        self.fill(self.row)
        for _start in range(4):
            self.look(2 * INTERVAL + 1)
            other = self.board.rows[1]
            other.open()
            other.pid = 2
        self.assertIn((1, signal.SIGKILL), self.signals)

    def test_one_alone_cannot_send(self):
        self.silent.add(self.row.host)
        self.refuse([self.row], TIMEOUT + RECONNECT + INTERVAL)
        self.assertNotEqual([], self.signals)

    def test_blocked_while_the_broker_refuses(self):
        # It sends none, so it does not tell.
        self.outage = 'the broker is away'
        self.fill(self.row)
        self.silent.update(HOSTS)
        self.refuse(self.board.rows[1:], 600)
        self.assertEqual([], self.signals)

    def test_healthy(self):
        self.look(600)
        self.trials.assert_not_called()
        self.assertEqual([], self.signals)

    def test_stuck(self):
        self.fill(self.row, b'req-1 m instance i')
        self.look(TIMEOUT)
        self.trials.assert_not_called()
        self.look(1)
        self.trials.assert_called_once_with(mock.sentinel.attempt)
        self.assertEqual([], self.signals)
        # Its timer is to write its stacks.
        self.look(supervisor.PAUSE)
        self.assertEqual(([1], [(1, signal.SIGKILL)]),
                         (self.asked, self.signals))
        self.assertEqual(1, self.logged(
            'Worker n-worker-1 (pid 1) has begun no message for 31 seconds, '
            'since 20'))
        lost = 'req-1 m instance i for 36.0 s'
        self.assertEqual(1, self.logged(f'lost: {lost}; {lost}'))
        self.assertEqual(0, self.row.pid)
        self.look(600)
        self.assertEqual(1, len(self.signals))

    def test_stuck_before_it_serves(self):
        self.row.enter(board.STARTING)
        self.silent.add(self.row.host)
        self.look(TIMEOUT + supervisor.START_TIME)
        self.assertEqual([], self.signals)
        self.look(6)
        self.assertEqual((1, signal.SIGKILL), self.signals[-1])

    def test_has_ended_by_itself(self):
        # That id may be somebody else's by now.
        self.fill(self.row)
        self.children.discard(1)
        self.look(600)
        self.trials.assert_not_called()
        self.assertEqual([], self.signals)

    def test_gets_on_while_the_trial_runs(self):
        tried, one = self.slow_trials()
        tasks = self.fill(self.row)
        self.look(TIMEOUT + 1)
        self.row.end(tasks[0])
        self.silent.clear()
        self.look(INTERVAL)
        one.configure_mock(ended=True, error=None)
        self.look(60)
        tried.assert_called_once()
        self.assertEqual([], self.signals)

    def test_outage(self):
        self.outage = 'the broker is away'
        self.silent.update(HOSTS)
        for row in self.board.rows:
            self.fill(row)
        self.look(600)
        self.assertEqual([], self.signals)
        self.assertEqual(1, self.logged(
            'Workers run no messages, and a new one could do no better, so '
            'none is replaced: the broker is away'))
        # One in each interval.
        self.assertAlmostEqual(600 / INTERVAL, self.trials.call_count,
                               delta=5)
        # It is over, but what they wait for has to notice.
        self.outage = None
        self.look(TIMEOUT)
        self.assertEqual([], self.signals)
        # One after the other. A new one that serves is no excuse for those
        # that hang.
        for pid in (1, 2, 3):
            self.look(INTERVAL + TIMEOUT)
            self.assertEqual(pid, self.board.rows.index(
                self.supervisor._replacing.row) + 1)
            self.silent.discard(HOSTS[pid - 1])
            self.serve(self.board.rows[pid - 1], pid + 3)
        self.look(600)
        self.assertEqual({1, 2, 3}, {pid for pid, _signum in self.signals})
        # A second outage is told as well.
        self.outage = 'the broker is away'
        self.silent.update(HOSTS)
        self.look(600)
        self.assertEqual(2, self.logged('the broker is away'))

    def test_trials_go_on_until_the_outage_is_over(self):
        self.outage = 'the broker is away'
        self.fill(self.row)
        self.look(TIMEOUT + 5)
        # Nobody is stuck for the time being, yet it is to be known.
        self.trials.reset_mock()
        self.look(TIMEOUT)
        self.assertEqual(TIMEOUT // INTERVAL, self.trials.call_count)
        self.outage = None
        self.look(INTERVAL)
        self.trials.reset_mock()
        self.look(TIMEOUT - INTERVAL - 1)
        self.trials.assert_not_called()

    def test_nobody_began_anything_until_now(self):
        # As the broker was away for less than anybody is stuck.
        self.silent.update(HOSTS)
        self.look(TIMEOUT + RECONNECT - 5)
        self.silent.discard(HOSTS[1])
        # The others connect later.
        self.look(TIMEOUT + RECONNECT - 5)
        self.trials.assert_not_called()
        self.look(2 * INTERVAL)
        self.assertEqual((1, signal.SIGKILL), self.signals[0])

    def test_siblings_are_busy_with_long_requests(self):
        # They begin few messages, but the broker is there.
        rows = self.board.rows[1:]
        tasks = [self.fill(row)[0] for row in rows]
        self.silent.update(HOSTS)

        def begin():
            self.look(3 * INTERVAL)
            self.row.ticked = 0
            for number, row in enumerate(rows):
                row.end(tasks[number])
                tasks[number] = row.begin(b'r m i')

        for _request in range(8):
            begin()
        self.assertEqual([], self.signals)
        self.frozen = True
        for _request in range(8):
            begin()
        self.assertEqual(1, self.signals[0][0])

    def test_blocked_while_siblings_begin_few_messages(self):
        self.fill(self.row)
        for row in self.board.rows[1:]:
            tasks = self.fill(row)
        # For longer than a break of the broker would be told by.
        for _request in range(8):
            self.look(3 * INTERVAL)
            row.end(tasks[0])
            tasks[0] = row.begin(b'r m i')
        self.assertEqual((1, signal.SIGKILL), self.signals[0])

    def test_blocked_while_siblings_rest_between_long_requests(self):
        self.fill(self.row)
        tasks = [self.fill(row) for row in self.board.rows[1:]]
        for _request in range(8):
            self.look(3 * INTERVAL)
            for row, held in zip(self.board.rows[1:], tasks):
                for task in held:
                    row.end(task)
            # Not for long enough to run a self-ping.
            self.look(1)
            tasks = [self.fill(row) for row in self.board.rows[1:]]
        self.assertEqual((1, signal.SIGKILL), self.signals[0])

    def test_blocked_while_the_broker_was_away(self):
        # It waits for the broker, and others had threads free.
        self.fill(self.row)
        self.silent.update(HOSTS)
        self.look(TIMEOUT - INTERVAL)
        self.silent.difference_update(HOSTS[1:])
        self.look(TIMEOUT - INTERVAL)
        self.assertEqual([], self.signals)
        self.look(TIMEOUT)
        self.assertEqual(1, self.signals[0][0])

    def test_trial_that_waits_for_the_end_of_an_outage(self):
        tried, one = self.slow_trials()
        tasks = self.fill(self.row)
        self.look(TIMEOUT + supervisor.PAUSE + 2)
        one.ended = True
        self.look(INTERVAL - 1)
        self.assertEqual([], self.signals)
        tried.assert_called_once()
        # It goes on, and another outage is another one.
        for task in tasks:
            self.row.end(task)
        self.silent.clear()
        self.look(2 * INTERVAL)
        self.fill(self.row)
        one.ended = False
        self.look(TIMEOUT + supervisor.PAUSE + 2)
        one.ended = True
        self.look(INTERVAL - 1)
        self.assertEqual([], self.signals)
        tried.reset_mock()
        # Nor is a database where each trial takes long an excuse.
        one.ended = False
        self.look(supervisor.PAUSE + 2)
        one.ended = True
        self.look(10)
        self.assertEqual(1, tried.call_count)
        self.assertEqual((1, signal.SIGKILL), self.signals[0])

    def test_parent_was_paused(self):
        self.silent.update(HOSTS)
        self.now += 3600
        self.look(TIMEOUT + RECONNECT)
        self.trials.assert_not_called()
        self.look(2)
        self.trials.assert_called_once()

    def test_one_at_a_time(self):
        for row in self.board.rows[:2]:
            self.fill(row)
            self.look(1)
        # Who is stuck for longer comes first, and has not started again.
        self.look(TIMEOUT + 20)
        self.assertEqual([1], [pid for pid, _signum in self.signals])
        self.row.open()
        self.row.pid = 4
        self.children.add(4)
        self.look(supervisor.PAUSE + 1)
        self.assertEqual(1, len(self.signals))
        self.row.enter(board.SERVING)
        self.silent.discard(self.row.host)
        self.look(supervisor.PAUSE + 1)
        self.assertEqual([1, 2], [pid for pid, _signum in self.signals])

    def test_one_that_cannot_start_holds_up_no_other(self):
        for row in self.board.rows[:2]:
            self.fill(row)
            self.look(1)
        self.look(2 * TIMEOUT + supervisor.START_TIME + 10)
        self.assertEqual([1, 2], [pid for pid, _signum in self.signals])

    def test_new_one_is_stuck_as_well(self):
        for row in self.board.rows[:2]:
            self.fill(row)
            self.look(1)
        self.look(TIMEOUT + 6)
        self.row.open()
        self.row.pid = 4
        self.children.add(4)
        self.look(600)
        # It has had its time, and the other one waits no longer.
        self.assertEqual([1, 2], [
            pid for pid, _signum in self.signals if pid != 4])

    def test_single_worker(self):
        self.watch(TIMEOUT, HOSTS[:1])
        self.fill(self.row)
        self.look(TIMEOUT + 6)
        self.assertEqual((1, signal.SIGKILL), self.signals[-1])

    def test_does_not_stop(self):
        self.row.begin(b'r m i')
        self.row.enter(board.STOPPING)
        self.look(181)
        self.assertEqual([], self.signals)
        self.look(supervisor.PAUSE + 2)
        self.assertEqual([(1, signal.SIGKILL)], self.signals)
        self.assertEqual(1, self.logged(
            'Worker n-worker-1 (pid 1) does not stop within 180 seconds; '
            'killing it'))
        self.assertEqual(1, self.logged('lost: r m i'))
        self.trials.assert_not_called()

    def test_pid_is_used_again(self):
        self.row.enter(board.STOPPING)
        self.look(5)
        self.children.discard(1)
        self.row.clear()
        self.look(60)
        self.serve(self.row, 1)
        self.look(300)
        self.assertEqual([], self.signals)

    def test_full_and_does_not_stop(self):
        self.fill(self.row)
        self.row.enter(board.STOPPING)
        self.look(TIMEOUT + 6)
        self.assertEqual((1, signal.SIGKILL), self.signals[-1])
        self.trials.assert_called_once()

    def test_service_stops(self):
        with mock.patch.object(supervisor.signal, 'getsignal',
                               return_value=signal.SIG_IGN):
            # These hold the GIL, so they do not say that they stop.
            self.look(179)
            self.assertEqual([], self.signals)
            self.look(10)
        self.assertEqual([1, 2, 3], [
            pid for pid, signum in self.signals if signum == signal.SIGKILL])

    def test_may_take_any_time_to_stop(self):
        for seconds in (0, -1):
            self.conf.graceful_shutdown_timeout = seconds
            self.row.enter(board.STOPPING)
            self.look(600)
            self.assertEqual([], self.signals)


class ReloadTestCase(SupervisorTestCase):

    def setUp(self):
        super().setUp()
        self.patched = self.useFixture(test.fixtures.MockPatchObject(
            supervisor.eventletutils, 'is_monkey_patched',
            return_value=False)).mock

    def assertTold(self, *pids):
        self.assertEqual([(pid, signal.SIGTERM) for pid in pids],
                         self.signals)

    def renew(self, number, state=board.SERVING):
        """Have a worker that was told to stop be started anew."""
        row = self.board.rows[number - 1]
        self.children.discard(row.pid)
        self.serve(row, row.pid + 10)
        row.enter(state)

    def test_one_after_the_other(self):
        self.hup = True
        self.look(10)
        self.assertTold(1)
        self.row.enter(board.STOPPING)
        self.look(10)
        self.renew(1, board.STARTING)
        self.look(10)
        self.assertTold(1)
        self.row.enter(board.SERVING)
        self.look(1)
        self.assertTold(1, 2)
        self.renew(2)
        self.look(1)
        self.renew(3)
        self.look(60)
        self.assertTold(1, 2, 3)
        self.conf.mutate_config_files.assert_called_once_with()

    def test_eventlet(self):
        # There stock ends nothing, so long requests go on.
        self.patched.return_value = True
        self.hup = True
        self.look(1)
        self.assertEqual([1, 1, 1], [row.reset for row in self.board.rows])
        self.look(300)
        self.assertEqual([], self.signals)

    def test_twice(self):
        self.hup = True
        self.look(1)
        self.renew(1)
        self.look(1)
        self.hup = True
        self.look(1)
        self.assertTold(1, 2)
        self.renew(2)
        self.look(1)
        self.renew(3)
        self.look(1)
        self.assertTold(1, 2, 3, 11)

    def test_one_that_was_just_started_anew(self):
        self.hup = True
        self.look(1)
        self.renew(2, board.STARTING)
        self.renew(1)
        self.look(1)
        # All but one consume.
        self.look(10)
        self.assertTold(1)
        self.board.rows[1].enter(board.SERVING)
        self.look(1)
        self.assertTold(1, 3)

    def test_configuration_cannot_be_read(self):
        for number, error in enumerate((
                cfg.ConfigFileParseError('nova.conf', 'no [\n'),
                SystemExit(1)), 1):
            self.conf.mutate_config_files.side_effect = error
            self.hup = True
            self.look(1)
            self.assertEqual(number, self.logged(
                'The configuration cannot be read, so no worker is renewed'))
        self.look(60)
        self.assertTold()
        self.assertNotIn('Traceback', self.stdlog.logger.output)

    def reload_beside_a_stuck_one(self):
        self.fill(self.row)
        self.look(1)
        self.hup = True
        self.look(1)
        self.renew(2)
        self.look(1)
        self.renew(3)
        self.look(1)

    def test_stuck_one_is_last(self):
        self.watch(0)
        self.reload_beside_a_stuck_one()
        self.assertTold(2, 3, 1)
        self.row.enter(board.STOPPING)
        self.signals.clear()
        self.look(190)
        self.assertEqual((1, signal.SIGKILL), self.signals[-1])

    def test_stuck_one_is_replaced(self):
        self.reload_beside_a_stuck_one()
        self.row.enter(board.STOPPING)
        self.signals.clear()
        self.look(TIMEOUT + 5)
        self.assertEqual((1, signal.SIGKILL), self.signals[-1])
        self.serve(self.row, 11)
        self.hup = True
        self.look(1)
        self.assertIn((11, signal.SIGTERM), self.signals)

    def test_replaced_meanwhile(self):
        self.hup = True
        self.look(1)
        self.renew(2)
        self.renew(1)
        self.look(1)
        self.assertTold(1, 3)

    def test_does_not_come_back(self):
        self.hup = True
        self.look(1)
        self.children.remove(1)
        self.look(180 + supervisor.START_TIME + 2)
        self.assertTold(1, 2)

    def test_does_not_end_and_may_take_any_time(self):
        self.conf.graceful_shutdown_timeout = 0
        self.hup = True
        self.look(1)
        self.row.enter(board.STOPPING)
        self.look(supervisor.START_TIME + 2)
        self.assertTold(1, 2)

    def test_service_stops_meanwhile(self):
        self.hup = True
        self.look(1)
        with mock.patch.object(supervisor.signal, 'getsignal',
                               return_value=signal.SIG_IGN):
            self.renew(1)
            self.look(60)
        self.assertTold(1)


@ddt.ddt
class FailingTestCase(SupervisorTestCase):

    def run_requests(self, row, count, failed=False):
        for _request in range(count):
            task = row.begin(b'r m i')
            row.count(task, failed)
            row.end(task)
        self.look(1)

    def assertRestarted(self, *pids):
        self.assertEqual([(pid, signal.SIGTERM) for pid in pids],
                         self.signals)

    def setUp(self):
        super().setUp()
        self.sibling = self.board.rows[1]
        for row in self.board.rows:
            self.run_requests(row, 10)

    def test_restarted_once(self):
        for _second in range(60):
            self.run_requests(self.row, 10, failed=True)
            self.run_requests(self.sibling, 2)
        self.assertRestarted(1)
        self.assertEqual(1, self.logged(
            'Worker n-worker-1 (pid 1) fails: its requests fail, and those '
            'of its siblings succeed; restarting it'))
        # It still fails when it has started again.
        self.serve(self.row, 4)
        for _second in range(supervisor.PATIENCE // 2):
            self.run_requests(self.row, 10, failed=True)
            self.run_requests(self.sibling, 2)
        self.assertRestarted(1, 4)

    @ddt.data(0, -1)
    def test_not_restarted_without_graceful_shutdown_timeout(self, seconds):
        # The process would go on without taking requests.
        self.conf.graceful_shutdown_timeout = seconds
        for _second in range(60):
            self.run_requests(self.row, 10, failed=True)
            self.run_requests(self.sibling, 2)
        self.assertRestarted()

    def test_few_failures(self):
        for _request in range(supervisor.FAILURES - 1):
            self.run_requests(self.row, 1, failed=True)
            self.run_requests(self.sibling, 100)
        self.assertRestarted()

    def test_success_between(self):
        for number in range(60):
            self.run_requests(
                self.row, 1, failed=number % supervisor.FAILURES > 0)
            self.run_requests(self.sibling, 10)
        self.assertRestarted()

    def test_all_fail_alike(self):
        for _second in range(60):
            for row in self.board.rows:
                self.run_requests(row, 10, failed=True)
        self.assertRestarted()

    def test_all_fail_alike_after_a_quiet_time_of_one(self):
        # The successes are of a time when this one had no requests.
        self.run_requests(self.sibling, 1000)
        for _second in range(10):
            for row in self.board.rows:
                self.run_requests(row, 10, failed=True)
        self.assertRestarted()

    def test_placement_is_just_back_and_one_has_no_requests(self):
        for _second in range(10):
            for row in self.board.rows:
                self.run_requests(row, 10, failed=True)
        self.run_requests(self.sibling, 1000)
        self.assertRestarted()

    def test_placement_is_just_back_and_one_had_all_requests(self):
        self.run_requests(self.row, 10, failed=True)
        self.run_requests(self.sibling, 1000)
        self.assertRestarted()

    @ddt.data((1, [1]), (4, []))
    @ddt.unpack
    def test_failures_of_siblings(self, failures, restarted):
        for _second in range(10):
            self.run_requests(self.row, 10, failed=True)
            self.run_requests(self.sibling, 20)
            self.run_requests(self.sibling, failures, failed=True)
        self.assertRestarted(*restarted)

    def test_sibling_has_started_again(self):
        for _request in range(supervisor.FAILURES - 1):
            self.run_requests(self.row, 1, failed=True)
            self.run_requests(self.sibling, 1)
        self.serve(self.sibling, 4)
        for _request in range(supervisor.FAILURES - 1):
            self.run_requests(self.row, 1, failed=True)
            self.run_requests(self.sibling, 1)
        self.assertRestarted()

    def test_single_worker(self):
        self.watch(TIMEOUT, HOSTS[:1])
        self.run_requests(self.row, 100, failed=True)
        self.assertRestarted()


class TellTestCase(SupervisorTestCase):
    """Without a timeout nobody is killed."""

    def setUp(self):
        super().setUp()
        self.watch(0)

    def test_told_once(self):
        tasks = self.fill(self.row, b'req-1 m instance i')
        self.look(600)
        self.assertEqual(1, self.logged(
            'Worker n-worker-1 (pid 1) has begun no message for 60 seconds; '
            'it runs: req-1 m instance i for 60.5 s'))
        self.assertEqual(([1], []), (self.asked, self.signals))
        self.trials.assert_not_called()
        # It gets on, and is stuck again.
        for task in tasks:
            self.row.end(task)
        self.silent.clear()
        self.look(INTERVAL)
        self.fill(self.row)
        self.look(600)
        self.assertEqual(2, self.logged('has begun no message'))

    def test_told_without_heartbeats(self):
        # Requests come with pauses, and no pause is an outage.
        self.conf.report_interval = 0
        self.silent.update(HOSTS)
        self.fill(self.row)
        for _request in range(60):
            self.board.rows[1].end(self.board.rows[1].begin(b'r m i'))
            self.look(2)
        self.assertEqual(1, self.logged('has begun no message'))

    def test_idle(self):
        # It is the worker's, as the others get on.
        self.silent.add(self.row.host)
        self.look(600)
        self.assertEqual(1, self.logged('it runs: nothing'))

    def test_outage(self):
        self.silent.update(HOSTS)
        self.look(600)
        self.assertEqual(0, self.logged('Worker'))

    def test_failing(self):
        for _request in range(20):
            for row, failed in zip(self.board.rows, (True, False)):
                task = row.begin(b'r m i')
                row.count(task, failed)
                row.end(task)
            self.look(1)
        self.assertEqual([], self.signals)


class HopelessTestCase(SupervisorTestCase):
    """Whether to start the service again would help."""

    def setUp(self):
        super().setUp()
        self.watch(0)
        self.supervisor.asked = True

    def all_stuck(self):
        # Their processes are stopped.
        self.silent.update(HOSTS)
        self.frozen = True

    def test_busy_with_long_requests(self):
        # A restart would lose them.
        for row in self.board.rows:
            self.fill(row)
        self.look(1790)
        self.assertFalse(self.supervisor.failing)
        self.look(20)
        self.assertTrue(self.supervisor.failing)

    def test_nobody_asks(self):
        self.supervisor.asked = False
        self.all_stuck()
        self.look(600)
        self.assertFalse(self.supervisor.failing)
        self.trials.assert_not_called()

    def test_one_is_not_stuck(self):
        for row in self.board.rows[1:]:
            self.fill(row)
        self.look(600)
        self.assertFalse(self.supervisor.failing)
        self.trials.assert_not_called()

    def test_all_are_stuck(self):
        self.all_stuck()
        self.look(50)
        self.assertFalse(self.supervisor.failing)
        self.look(12)
        self.assertTrue(self.supervisor.failing)
        # Asked again from time to time, as an outage may begin.
        self.look(50)
        self.trials.assert_called_once_with(mock.sentinel.attempt)
        self.look(600)
        self.assertTrue(self.supervisor.failing)
        self.outage = 'broker gone'
        self.look(62)
        self.assertFalse(self.supervisor.failing)
        self.assertEqual('broker gone', self.supervisor.outage)

    def test_one_gets_on_again(self):
        self.all_stuck()
        self.look(72)
        self.assertTrue(self.supervisor.failing)
        self.row.begin(b'')
        self.look(0.5)
        self.assertFalse(self.supervisor.failing)

    def test_outage(self):
        self.outage = 'broker gone'
        self.all_stuck()
        self.look(600)
        self.assertFalse(self.supervisor.failing)
        self.assertEqual('broker gone', self.supervisor.outage)
        self.assertEqual(1, self.logged('a new one could do no better'))
        self.outage = None
        self.look(INTERVAL + 1)
        self.assertIsNone(self.supervisor.outage)
        # Then each has all of its time.
        self.look(49)
        self.assertFalse(self.supervisor.failing)
        self.look(62)
        self.assertTrue(self.supervisor.failing)

    def test_no_heartbeats(self):
        self.conf.report_interval = 0
        self.silent.update(HOSTS)
        self.look(600)
        self.assertFalse(self.supervisor.failing)
        self.trials.assert_not_called()

    def test_one_stops_or_starts(self):
        self.all_stuck()
        self.row.enter(board.STOPPING)
        self.look(100)
        self.assertFalse(self.supervisor.failing)
        # It has ended, and is started again.
        self.children.discard(1)
        self.look(10)
        self.assertFalse(self.supervisor.failing)
        self.row.open()
        self.row.pid = 7
        self.children.add(7)
        self.look(80)
        self.assertFalse(self.supervisor.failing)
        # One that hangs before it serves counts, too.
        self.look(20)
        self.assertTrue(self.supervisor.failing)

    def test_none_runs(self):
        for timeout in (0, TIMEOUT):
            self.children.clear()
            self.watch(timeout)
            self.children.clear()
            self.look(25)
            self.assertFalse(self.supervisor.failing)
            self.look(10)
            self.assertTrue(self.supervisor.failing)
        self.trials.assert_not_called()

    def test_none_runs_for_long(self):
        # As with queues of another type in the way.
        for _fork in range(20):
            for row in self.board.rows:
                row.open()
                row.pid = 99
                self.look(10)
                self.assertFalse(self.supervisor.failing)

    def test_stuck_ones_are_replaced(self):
        self.watch(TIMEOUT)
        self.all_stuck()
        self.look(TIMEOUT + 1 + supervisor.DUMP_TIME)
        self.assertFalse(self.supervisor.failing)
        self.assertEqual([1], [
            watched.reasons['stuck'] for watched in self.supervisor.watched
            if any(watched.reasons.values())])

    def test_parent_stops(self):
        self.all_stuck()
        self.look(62)
        with mock.patch.object(self.supervisor, '_sigterm', None):
            self.look(1)
        self.assertFalse(self.supervisor.failing)


class ThreadTestCase(SupervisorTestCase):

    def test_each_process_has_locks_of_its_own_for_the_log(self):
        handler = mock.Mock()
        with mock.patch.object(
                supervisor.logging, 'getLogger') as get_logger:
            get_logger.return_value.logger.handlers = [handler]
            supervisor.make_log_locks()
        handler.createLock.assert_called_once_with()

    def test_nobody_is_forked_while_it_logs(self):
        # The child would find the locks of the log held, for ever.
        with mock.patch.object(
                supervisor.os, 'register_at_fork') as register:
            with mock.patch.object(supervisor.threading, 'Thread'):
                self.supervisor.start()
        hooks = register.call_args.kwargs
        hooks['before']()
        ended = threading.Event()

        def run():
            self.run_once()
            ended.set()

        threading.Thread(target=run).start()
        self.assertFalse(ended.wait(0.1))
        hooks['after_in_parent']()
        self.assertTrue(ended.wait(60))
        hooks['before']()
        hooks['after_in_child']()
        hooks['before']()

    def run_once(self, **look):
        supervisor.time.sleep.side_effect = [None, test.TestingException]
        with mock.patch.object(self.supervisor, 'look', **look) as mock_look:
            self.assertRaises(test.TestingException, self.supervisor._run)
        mock_look.assert_called_once_with(self.now)

    def test_error_does_not_end_it(self):
        self.run_once(side_effect=ValueError('no'))
        self.assertEqual(1, self.logged(
            'Error while looking after the workers'))


def _hold_gil():
    ctypes.PyDLL(None).pause()


@ddt.ddt
class ProcessTestCase(test.NoDBTestCase):
    """A forked process that stands in for a worker, in the real time."""

    def setUp(self):
        super().setUp()
        self.useFixture(test.fixtures.MockPatchObject(
            supervisor, 'CONF', mock.Mock(
                report_interval=10, graceful_shutdown_timeout=180)))
        node = board.Board(HOSTS[:1], threads=1)
        self.supervisor = supervisor.Supervisor(node, 30, None)
        self.watched, = self.supervisor.watched
        self.addCleanup(os.close, self.watched._output)

    def start_worker(self, hang):
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.pid = os.fork()
        if not self.pid:
            self.watched.enable_dump()
            self.watched.row.open()
            self.watched.row.enter(board.SERVING)
            os.write(writer, b'ready')
            while True:
                hang()
        self.addCleanup(self.end)
        os.close(writer)
        os.read(reader, 5)

    def end(self):
        if supervisor.is_child(self.pid):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def look_until(self, condition):
        for _look in range(600):
            now = self.supervisor.looked = time.monotonic()
            self.supervisor.look(now)
            if condition():
                return
            time.sleep(0.1)
        self.fail('It did not come to that.')

    def replace(self):
        self.supervisor._replace(self.watched, time.monotonic())
        self.look_until(lambda: not self.watched.doomed)
        self.assertEqual(
            (self.pid, signal.SIGKILL), os.waitpid(self.pid, 0))

    @ddt.data(signal.pause, _hold_gil)
    def test_replaced(self, hang):
        self.start_worker(hang)
        self.assertEqual(self.pid, self.watched.row.pid)
        self.replace()
        self.assertEqual(0, self.watched.row.pid)
        output = self.stdlog.logger.output
        self.assertIn('Stacks of worker n-worker-1:', output)
        self.assertIn(' in start_worker', output)

    def test_stopped_process(self):
        self.start_worker(signal.pause)
        os.kill(self.pid, signal.SIGSTOP)
        self.replace()
        self.assertNotIn('Stacks of worker', self.stdlog.logger.output)

    def test_process_that_ticks(self):
        # A handler of signals may crash what runs Python code.
        def go_on():
            self.watched.row.tick()
            time.sleep(0.1)

        with mock.patch.object(self.watched, 'enable_dump'):
            self.start_worker(go_on)
        self.look_until(lambda: self.watched.row.ticked)
        self.replace()
        self.assertIn(' in go_on', self.stdlog.logger.output)

    def test_timer_ends_before_it_writes_the_stacks(self):
        def tick_once():
            self.watched.row.tick()
            _hold_gil()

        self.useFixture(test.fixtures.MockPatchObject(
            supervisor, 'PAUSE', 2))
        self.start_worker(tick_once)
        self.look_until(lambda: self.watched.row.ticked)
        self.replace()
        self.assertIn(' in tick_once', self.stdlog.logger.output)

    def test_no_signal_to_a_stopped_process_that_may_go_on(self):
        # Threads that run while it handles the signal may crash it.
        self.supervisor._timeout = 0
        supervisor.CONF.service_down_time = 60
        self.start_worker(signal.pause)
        row = self.watched.row
        row.tasks[0].request, row.tasks[0].stage = b'r m i', board.RUNNING
        row.tasks[0].since = time.monotonic() - 61
        row.threads = 1
        self.supervisor._works -= 61
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)
        self.look_until(lambda: self.watched.told)
        self.assertIn('it runs: r m i', self.stdlog.logger.output)
        with open(f'/proc/{self.pid}/status') as status:
            self.assertEqual(['0' * 16], re.findall(
                r'^ShdPnd:\s+(\w+)', status.read(), re.MULTILINE))

    def test_machine_without_memory_files(self):
        with mock.patch('os.memfd_create', side_effect=PermissionError):
            watched = supervisor.Watched(self.watched.row)
        self.addCleanup(os.close, watched._output)
        os.write(watched._output, b'stacks')
        self.assertTrue(watched.dumps(1000))
        self.assertFalse(watched.dumps(1001))
        self.assertEqual('stacks', watched.read())

    def test_stacks_of_one_that_goes_on(self):
        self.start_worker(signal.pause)
        for number in (1, 2):
            self.supervisor._dump(self.watched, time.monotonic())
            self.look_until(lambda: self.stdlog.logger.output.count(
                ' in start_worker') == number)
            # It is memory of the machine's.
            self.assertEqual(0, os.fstat(self.watched._output).st_size)
        self.assertTrue(supervisor.is_child(self.pid))

    def test_log_of_one_that_is_killed_while_it_writes(self):
        if eventletutils.is_monkey_patched('thread'):
            # As in a service of that mode.
            self.useFixture(test.fixtures.MonkeyPatch(
                'logging.Handler.createLock', importutils.import_module(
                    'oslo_log.pipe_mutex').pipe_createLock))
        handler = logging.NullHandler()
        logging.Handler.createLock(handler)
        self.useFixture(test.fixtures.MonkeyPatch(
            'logging.root.handlers', [handler]))

        def write():
            supervisor.make_log_locks()
            handler.acquire()
            os.write(self.writer, b'x')
            signal.pause()

        reader, self.writer = os.pipe()
        self.start_worker(write)
        os.read(reader, 1)
        self.end()
        # All others would wait for ever.
        self.assertTrue(handler.lock.acquire(blocking=False))
        handler.release()
        for fd in (reader, self.writer):
            os.close(fd)

    def test_one_that_has_ended_is_no_child(self):
        self.start_worker(signal.pause)
        self.assertTrue(supervisor.is_child(self.pid))
        os.kill(self.pid, signal.SIGKILL)
        self.look_until(lambda: not supervisor.is_child(self.pid))
        # It is the launcher that takes note of that.
        self.assertEqual(self.pid, os.waitpid(self.pid, 0)[0])

    def test_signals_only_children(self):
        with mock.patch.object(supervisor.os, 'kill') as kill:
            for pid in (0, os.getpid(), os.getppid()):
                supervisor._kill(pid, signal.SIGKILL)
        kill.assert_not_called()
