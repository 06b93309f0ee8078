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
import signal
import time
from unittest import mock

from nova import test
from nova.workers import board

HOSTS = ['n-worker-1', 'n-worker-2', 'n-worker-3']


class BoardTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.now = 1000.0
        clock = self.useFixture(test.fixtures.MockPatchObject(
            board, 'time', mock.Mock(wraps=time))).mock
        clock.monotonic.side_effect = lambda: self.now
        self.board = board.Board(HOSTS, threads=2)
        self.row, self.other, self.third = self.board.rows

    def run_request(self, row, seconds=0, failed=False, request=b'r m i'):
        task = row.begin(request)
        self.now += seconds
        row.count(task, failed, not failed)
        row.end(task)

    def test_hosts(self):
        self.assertEqual(HOSTS, [row.host for row in self.board.rows])

    def test_open(self):
        self.row.open()
        self.assertEqual((os.getpid(), board.STARTING, 1000),
                         (self.row.pid, self.row.state, self.row.since))
        self.assertEqual((0, 0), (self.other.pid, self.other.state))

    def test_begun(self):
        self.row.open()
        # As long as it has begun nothing, it is its start that counts.
        self.assertEqual(1000, self.row.begun)
        self.now += 1
        first = self.row.begin(b'')
        self.now += 1
        self.row.end(self.row.begin(b''))
        self.row.end(first)
        self.assertEqual(1002, self.row.begun)

    def test_full_of_methods(self):
        self.row.open()
        # Before it serves nothing of it runs.
        self.assertFalse(self.row.full)
        self.row.threads = 1
        self.assertFalse(self.row.full)
        task = self.row.begin(b'')
        self.assertTrue(self.row.full)
        task.stage = board.REPLYING
        self.assertFalse(self.row.full)
        self.assertEqual(
            [1, 1, 0], [len(self.row.busy(*stages)) for stages in (
                [board.REPLYING], [board.RUNNING, board.REPLYING],
                [board.RUNNING])])

    def test_past(self):
        self.row.open()
        self.run_request(self.row)
        self.run_request(self.row, failed=True)
        self.row.begin(b'req-1 m instance i')
        self.row.begin(b'')
        self.now += 7
        self.row.open()
        past = self.row.past
        self.assertEqual((2, 3, 1, 1), (
            past.starts, past.begun, past.failed, past.lost))
        lost = past.requests[0]
        self.assertEqual((1000, 1007, b'req-1 m instance i'),
                         (lost.began, lost.ended, lost.request))
        # Of one that was counted already the reply is lost.
        task = self.row.begin(b'req-2 m instance i')
        self.row.count(task, failed=False)
        task.stage = board.REPLYING
        self.row.clear()
        self.row.clear()
        self.assertEqual((2, 4, 1, 2), (
            past.starts, past.begun, past.failed, past.lost))
        self.assertEqual(0, self.other.past.starts)

    def test_lost_requests_are_bounded(self):
        for number in range(board.REMEMBERED + 1):
            self.row.open()
            self.row.begin(b'req-%d m instance i' % number)
        self.row.open()
        self.assertEqual(board.REMEMBERED + 1, self.row.past.lost)
        self.assertEqual(b'req-20 m instance i',
                         self.row.past.requests[0].request)

    def test_counts(self):
        self.row.open()
        for failed in (False, True, True, False, True):
            self.run_request(self.row, failed=failed)
        self.assertEqual((2, 3), self.row.counts())
        self.assertEqual((0, 0), self.other.counts())

    def test_requests(self):
        self.row.open()
        self.row.begin(b'req-1 select_destinations instance i')
        self.now += 1.5
        self.assertEqual('req-1 select_destinations instance i for 1.5 s',
                         self.row.requests())
        # A ping is nobody's.
        self.row.begin(b'')
        self.assertNotIn(';', self.row.requests())

    def test_long_request(self):
        self.row.open()
        self.row.begin('ä'.encode() * 100)
        self.assertEqual(f'{"ä" * 79}\N{REPLACEMENT CHARACTER} for 0.0 s',
                         self.row.requests())

    def test_clear_tells_what_is_lost(self):
        self.row.open()
        self.row.begin(b'req-1 m instance i')
        self.row.begin(b'')
        self.now += 2
        self.row.clear()
        self.assertIn(
            f'Worker n-worker-1 (pid {os.getpid()}) has ended and lost: '
            'req-1 m instance i for 2.0 s\n', self.stdlog.logger.output)
        self.assertEqual((0, 0, 0, ''), (
            self.row.pid, self.row.state, self.row.begun,
            self.row.requests()))
        self.row.clear()
        self.assertEqual(1, self.stdlog.logger.output.count('lost'))

    def test_worker_that_comes_back_tells_what_was_lost(self):
        # Nobody has cleared the row of a process that somebody else killed.
        self.row.open()
        self.row.begin(b'req-1 m instance i')
        self.row.open()
        self.assertEqual(1, self.stdlog.logger.output.count('lost: req-1'))
        self.assertEqual([], self.row.busy(board.RUNNING))

    def test_clear_leaves_siblings_alone(self):
        for row in self.board.rows:
            row.open()
            row.begin(b'r m i')
        self.other.clear()
        self.assertEqual([1, 0, 1], [
            len(row.busy(board.RUNNING)) for row in self.board.rows])
        self.assertEqual([os.getpid(), 0, os.getpid()],
                         [row.pid for row in self.board.rows])

    def test_shared_with_a_process_that_is_killed(self):
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            self.row.open()
            self.row.begin(b'r m i')
            os.write(writer, b'begun')
            signal.pause()
        for fd in (reader, writer):
            self.addCleanup(os.close, fd)
        os.read(reader, 5)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self.assertEqual((pid, 'r m i for 0.0 s'),
                         (self.row.pid, self.row.requests()))

    def test_took_is_that_of_siblings(self):
        for row in self.board.rows:
            row.open()
        self.assertEqual(0, self.board.took(self.row))
        for _request in range(50):
            self.run_request(self.row)
            self.run_request(self.other, 1)
        self.assertAlmostEqual(1, self.board.took(self.row), 3)
        for _request in range(50):
            self.run_request(self.third, 0.5)
        self.assertAlmostEqual(0.75, self.board.took(self.row), 3)
        # What has run nothing lately tells nothing.
        self.now += board.LATELY - 20
        self.run_request(self.row)
        self.assertAlmostEqual(0.5, self.board.took(self.row), 3)
        self.now += board.LATELY - 1
        self.assertEqual(0, self.board.took(self.row))

    def test_took_while_all_fail(self):
        for row in self.board.rows:
            row.open()
            for _request in range(50):
                self.run_request(row, 0.5)
        self.fail_all(20)
        # Callers get their errors at once.
        self.assertAlmostEqual(0, self.board.took(self.row), 1)
        self.now += board.LATELY
        self.fail_all(20)
        # Other nodes may be well.
        self.assertAlmostEqual(0.5, self.board.took(self.row), 3)
        # One that takes long is no reason to hold up errors for long.
        self.run_request(self.other, 60)
        self.now += board.LATELY
        self.assertEqual(board.MOST, self.board.took(self.row))

    def test_took_where_none_has_ever_succeeded(self):
        for row in self.board.rows:
            row.open()
        self.fail_all(20)
        self.assertEqual(0, self.board.took(self.row))
        self.now += board.LATELY + 1
        self.assertEqual(board.MOST, self.board.took(self.row))

    def fail_all(self, times):
        for _time in range(times):
            for row in self.board.rows:
                self.run_request(row, 0, failed=True)

    def test_took_without_siblings(self):
        alone = board.Board(HOSTS[:1], threads=2)
        row, = alone.rows
        row.open()
        for _request in range(50):
            self.run_request(row, 2)
            self.run_request(row, 0, failed=True)
        self.assertAlmostEqual(2, alone.took(row), 3)
        self.now += board.LATELY
        self.run_request(row, 0, failed=True)
        self.assertEqual(board.MOST, alone.took(row))
