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

import threading
import time
from unittest import mock

import ddt
from oslo_config import cfg
import oslo_messaging as messaging

from nova import context
from nova import test
from nova.workers import board
from nova.workers import heartbeat
from nova.workers import rpcserver

INTERVAL = 10
RECONNECT = 30
DOWN_TIME = 60
HOSTS = ['n-worker-1', 'n-worker-2', 'n-worker-3']


class HeartbeatTestCase(test.NoDBTestCase):
    """The heartbeats of the workers of a node, and a time that is set."""

    def setUp(self):
        super().setUp()
        self.now = 1000.0
        for module in (board, heartbeat):
            clock = self.useFixture(test.fixtures.MockPatchObject(
                module, 'time', mock.Mock(wraps=time))).mock
            clock.monotonic.side_effect = lambda: self.now
        # oslo.messaging registers its options with its first server.
        self.useFixture(test.fixtures.MockPatchObject(
            heartbeat, 'CONF', mock.Mock(
                executor_thread_pool_size=2, report_interval=INTERVAL,
                service_down_time=DOWN_TIME,
                oslo_messaging_rabbit={'rabbit_interval_max': RECONNECT})))
        self.rpc = self.useFixture(test.fixtures.MockPatchObject(
            heartbeat, 'rpc')).mock
        self.rpc.get_transport_url.return_value.hosts = ['a']
        self.records = {}
        self.service_class = self.useFixture(test.fixtures.MockPatchObject(
            heartbeat.objects, 'Service', side_effect=self._new_record)).mock
        self.service_class.get_by_host_and_binary.side_effect = (
            lambda ctxt, host, binary: self.records.get(host))
        # What the servicegroup driver returns.
        self.missing = set()
        self.board = board.Board(HOSTS, threads=2)
        self.workers = [self._worker(row) for row in self.board.rows]
        self.worker, self.other, self.third = self.workers

    def _new_record(self, ctxt=None, **fields):
        record = mock.Mock(id=len(self.records) + 101, **fields)
        self.records[fields['host']] = record
        return record

    def _worker(self, row):
        row.open()
        row.threads = 3
        worker = mock.Mock(row=row)
        worker.client = mock.Mock()
        self.rpc.get_client.return_value = worker.client
        worker.service = mock.Mock(
            host=row.host, topic='scheduler', binary='nova-scheduler',
            report_interval=INTERVAL, service_ref=self._new_record(
                host=row.host, topic='scheduler', binary='nova-scheduler'))
        worker.report_state = worker.service.servicegroup_api.report_state
        worker.report_state.side_effect = lambda *args: self.missing
        worker.limit = rpcserver.ConcurrencyLimit()
        worker.heartbeat = heartbeat.Heartbeat(
            worker.service, self.board, row, worker.limit)
        worker.endpoint = worker.heartbeat.endpoint
        worker.heartbeat.join(row.host, 'scheduler', worker.service)
        row.enter(board.SERVING)
        worker.limit.open(2)
        worker.cast = worker.client.prepare.return_value.cast
        worker.ping = worker.heartbeat._ping
        return worker

    def run_ping(self, worker):
        worker.endpoint.ping(context.get_admin_context())

    def written(self, worker):
        """The hosts whose heartbeats a worker has just written."""
        calls = worker.report_state.call_args_list
        hosts = [[worker.row.host] + [host for _id, host in call.args[1]]
                 for call in calls]
        worker.report_state.reset_mock()
        return sum(hosts, [])


class JoinTestCase(HeartbeatTestCase):

    def test_endpoint(self):
        endpoint = self.worker.endpoint
        self.assertEqual('worker', endpoint.target.namespace)
        # A self-ping is all that others may send there.
        self.assertEqual(['ping', 'target'], [
            name for name in dir(endpoint) if not name.startswith('_')])

    def test_on_the_board(self):
        self.assertEqual((101, 1000), (
            self.worker.row.record, self.worker.row.ticked))

    def join(self, report_interval):
        service = self.worker.service
        service.report_interval = report_interval
        service.tg.reset_mock()
        self.worker.heartbeat.join('n-worker-1', 'scheduler', service)
        return service.tg

    def test_timers(self):
        timers = self.join(INTERVAL)
        timers.add_timer.assert_called_once_with(
            heartbeat.TICK, self.worker.row.tick)
        # A timer ends with the first exception by default. And a node with
        # many workers starts them all first.
        timers.add_timer_args.assert_called_once_with(
            INTERVAL, self.worker.ping, stop_on_exception=False,
            initial_delay=5)

    def test_first_self_ping_within_an_interval(self):
        # Or the record would be down where service_down_time is short.
        self.assertEqual(2, self.join(
            2).add_timer_args.call_args.kwargs['initial_delay'])

    def test_no_heartbeat_without_report_interval(self):
        timers = self.join(0)
        timers.add_timer_args.assert_not_called()
        timers.add_timer.assert_called_once()


class SelfPingTestCase(HeartbeatTestCase):

    def sent(self):
        """How many self-pings the worker has just sent."""
        sent = self.worker.cast.call_count
        self.worker.cast.reset_mock()
        return sent

    def pings(self, seconds):
        """Let the timer run; how many self-pings it sends."""
        for _interval in range(seconds // INTERVAL):
            self.now += INTERVAL
            self.worker.ping()
        return self.sent()

    def fill(self):
        limit = self.worker.limit
        while not limit.full:
            limit.acquire()
        return limit

    def test_is_for_the_own_server(self):
        self.rpc.get_transport_url.return_value.hosts = ['a', 'b', 'c']
        self.worker.heartbeat.join(
            'n-worker-1', 'scheduler', self.worker.service)
        target = self.rpc.get_client.call_args.args[0]
        self.assertEqual(
            ('scheduler', 'n-worker-1', 'worker', '1.0'),
            (target.topic, target.server, target.namespace, target.version))
        client = self.rpc.get_client.return_value
        self.worker.ping()
        # All hosts of the URL, each once, after the connection that is there.
        client.prepare.assert_called_once_with(retry=3)
        client.prepare.return_value.cast.assert_called_once_with(
            mock.ANY, 'ping')

    def test_one_under_way(self):
        self.assertEqual(1, self.pings(30))
        self.run_ping(self.worker)
        self.assertEqual(1, self.pings(30))

    def test_lost(self):
        self.worker.ping()
        self.assertEqual(1, self.sent())
        for _time in range(2):
            self.assertEqual(0, self.pings(RECONNECT))
            self.assertEqual(1, self.pings(INTERVAL))

    def test_none_while_full(self):
        self.worker.ping()
        limit = self.fill()
        self.assertEqual(1, self.pings(600))
        # The time starts when it could run.
        limit.release()
        self.assertEqual(0, self.pings(RECONNECT))
        self.assertEqual(1, self.pings(INTERVAL))

    def test_none_while_a_heartbeat_is_written(self):
        self.worker.row.threads = 64

        def write(*args):
            self.worker.heartbeat.reconnected()
            self.assertEqual(0, self.pings(600))
            # Nor if requests fill the other threads for a while.
            limit = self.fill()
            self.assertEqual(0, self.pings(600))
            limit.release()
            self.assertEqual(0, self.pings(600))
            raise test.TestingException

        self.worker.report_state.side_effect = write
        self.assertRaises(test.TestingException, self.run_ping, self.worker)
        self.assertEqual(1, self.pings(30))

    def test_sent_again_where_the_heartbeat_hangs_and_requests_run(self):
        self.worker.row.threads = 4

        def hang(*args):
            self.now += 1
            self.worker.row.end(self.worker.row.begin(b'r m i'))
            self.assertEqual(0, self.pings(2 * DOWN_TIME))
            self.worker.row.end(self.worker.row.begin(b'r m i'))
            # One waits for a thread.
            self.fill()
            self.assertEqual(1, self.pings(600))
            raise test.TestingException

        self.worker.report_state.side_effect = hang
        self.assertRaises(test.TestingException, self.run_ping, self.worker)

    def test_few_hang(self):
        # The database takes no writes, but requests go on.
        def hang(*args):
            self.now += last[0]
            self.worker.row.end(self.worker.row.begin(b'r m i'))
            self.assertEqual(0, self.pings(INTERVAL))
            self.now += last[0] + 1
            last[0] *= 2
            self.worker.row.end(self.worker.row.begin(b'r m i'))
            sent.append(self.pings(INTERVAL))
            if sent[-1]:
                self.run_ping(self.worker)
            raise test.TestingException

        # Each runs for twice as long as the last one before the next is sent.
        for last in ([DOWN_TIME // 2], [DOWN_TIME // 2]):
            sent = []
            self.worker.row.threads = 8
            self.worker.report_state.side_effect = hang
            self.assertRaises(
                test.TestingException, self.run_ping, self.worker)
            self.assertEqual([1, 1, 0], sent)

    def test_sent_again_where_the_heartbeat_hangs_and_a_request_runs(self):
        def hang(*args):
            self.assertEqual(0, self.pings(DOWN_TIME))
            self.assertEqual(1, self.pings(INTERVAL))
            raise test.TestingException

        self.worker.row.begin(b'r m i')
        self.worker.report_state.side_effect = hang
        self.assertRaises(test.TestingException, self.run_ping, self.worker)

    def test_hangs_in_a_thread_of_its_own_where_there_are_few(self):
        # Or no request would run while the database hangs.
        self.worker.row.threads = 1
        written, hangs = threading.Event(), threading.Event()
        self.addCleanup(hangs.set)

        def hang(*args):
            hangs.wait(60)
            written.set()

        self.worker.report_state.side_effect = hang
        self.run_ping(self.worker)
        self.assertFalse(written.is_set())
        self.assertEqual(0, self.pings(INTERVAL))
        hangs.set()
        self.assertTrue(written.wait(60))

    def test_more_hang_in_threads_of_their_own(self):
        self.worker.row.begin(b'r m i')
        for threads, sent in ((2, 1), (8, 0)):
            self.worker.row.threads = threads
            self.worker.heartbeat._sent = float('inf')
            self.worker.heartbeat._running = 3
            self.worker.row.pinged = self.now - 5 * DOWN_TIME
            self.assertEqual(sent, self.pings(INTERVAL))

    def test_no_thread_of_its_own(self):
        self.worker.row.threads = 1
        with mock.patch('threading.Thread.start', side_effect=RuntimeError):
            self.run_ping(self.worker)
        self.assertEqual([self.worker.row.host], self.written(self.worker))
        self.assertEqual(1, self.pings(INTERVAL))

    def test_sent_again_where_others_begin(self):
        # A consumer of a process that was killed has it.
        self.assertEqual(1, self.pings(INTERVAL))
        self.now += 1
        self.worker.row.end(self.worker.row.begin(b'r m i'))
        self.assertEqual(1, self.pings(INTERVAL))
        self.assertEqual(0, self.pings(INTERVAL))

    def test_sent_again_after_a_reconnect(self):
        # Its listener has lost what the queue had, and consumes anew.
        self.worker.ping()
        with mock.patch.object(heartbeat.refresh, 'mark_stale') as stale:
            self.worker.heartbeat.reconnected()
        # So had its queue lost the casts to all schedulers.
        stale.assert_called_once_with(self.worker.service.manager)
        self.assertEqual(2, self.pings(30))

    def test_broker_is_away(self):
        self.worker.cast.side_effect = messaging.MessageDeliveryFailure
        self.assertEqual(6, self.pings(60))
        self.assertEqual(self.now, self.worker.row.unsent)
        self.worker.cast.side_effect = None
        self.assertEqual(1, self.pings(30))


class WriteTestCase(HeartbeatTestCase):

    def test_written_when_the_self_ping_runs(self):
        self.worker.ping()
        self.worker.report_state.assert_not_called()
        self.run_ping(self.worker)
        self.worker.report_state.assert_called_once_with(
            self.worker.service, [])
        self.assertEqual((1000, 1000, 1000), (
            self.worker.row.pinged, self.worker.row.wrote,
            self.worker.row.written))

    def due(self, *workers):
        """Their self-pings have just run, and are to be written."""
        for worker in workers:
            worker.row.written = self.now - INTERVAL
            worker.row.pinged = self.now

    def interval(self, *workers):
        """All self-pings of an interval run; who writes whose heartbeats."""
        wrote = {}
        for worker in workers:
            self.now += 1
            self.run_ping(worker)
            if hosts := self.written(worker):
                wrote[worker.row.host] = hosts
        self.now += INTERVAL - len(workers)
        return wrote

    def test_one_writes_for_all(self):
        for _interval in range(2):
            self.interval(*self.workers)
        for _interval in range(5):
            self.assertEqual({HOSTS[2]: [HOSTS[2], *HOSTS[:2]]},
                             self.interval(*self.workers))
            self.assertTrue(all(self.now - row.written < INTERVAL
                                for row in self.board.rows))

    def test_ids_and_hosts_of_others(self):
        self.due(self.other, self.third)
        self.run_ping(self.worker)
        self.worker.report_state.assert_called_once_with(
            self.worker.service, [(102, HOSTS[1]), (103, HOSTS[2])])

    def test_not_for_a_worker_whose_self_ping_has_not_run(self):
        for _interval in range(3):
            self.interval(*self.workers)
        # The first one has been written for the last self-ping that ran.
        for _interval in range(3):
            self.assertEqual({HOSTS[2]: [HOSTS[2], HOSTS[1]]},
                             self.interval(self.other, self.third))

    def test_not_for_one_that_does_not_serve(self):
        for state in (board.STARTING, board.STOPPING):
            self.other.row.enter(state)
            self.due(self.other)
            self.run_ping(self.worker)
            self.assertEqual([HOSTS[0]], self.written(self.worker))

    def test_taken_over(self):
        for _interval in range(3):
            self.interval(*self.workers)
        # Who has written does not run any more.
        self.assertEqual({}, self.interval(self.worker, self.other))
        # Each for itself now, as the record of one may be locked.
        self.assertEqual({HOSTS[0]: HOSTS[:1], HOSTS[1]: HOSTS[1:2]},
                         self.interval(self.worker, self.other))
        for _interval in range(3):
            self.assertEqual({HOSTS[1]: HOSTS[1::-1]},
                             self.interval(self.worker, self.other))

    def test_record_of_one_is_locked(self):
        for _interval in range(3):
            self.interval(*self.workers)
        # The third one writes for all, and waits for the lock of the first
        # one's record. So does the first one, when it is overdue.
        self.interval(self.worker, self.other)
        self.worker.row.pinged = self.now + 1
        for _interval in range(6):
            self.assertEqual({HOSTS[1]: HOSTS[1:2]},
                             self.interval(self.other))

    def test_taken_over_at_once_when_the_process_has_ended(self):
        for _interval in range(3):
            self.interval(*self.workers)
        self.third.row.clear()
        self.assertEqual({HOSTS[1]: HOSTS[1::-1]},
                         self.interval(self.worker, self.other))

    def test_database_is_away(self):
        self.due(self.other, self.third)
        self.missing = None
        self.run_ping(self.worker)
        self.assertEqual([0, 990, 990],
                         [row.written for row in self.board.rows])
        self.assertEqual(0, self.worker.row.wrote)
        # The others are due still, whoever is the next one.
        self.missing = set()
        self.worker.report_state.reset_mock()
        self.run_ping(self.other)
        self.assertEqual([HOSTS[1], HOSTS[2]], self.written(self.other))

    def test_record_that_is_missing(self):
        self.due(self.other)
        self.missing = {102}
        del self.records[HOSTS[1]]
        self.run_ping(self.worker)
        self.service_class.assert_called_once_with(
            mock.ANY, host=HOSTS[1], topic='scheduler',
            binary='nova-scheduler', report_count=0)
        new = self.records[HOSTS[1]]
        new.create.assert_called_once_with()
        self.assertEqual(new.id, self.other.row.record)
        self.assertIn('Record 102 of nova-scheduler on host n-worker-2 was '
                      f'deleted while the worker is alive; created it again '
                      f'as record {new.id}', self.stdlog.logger.output)
        # That worker sees it on the board.
        self.missing = set()
        self.run_ping(self.other)
        self.assertEqual(new, self.other.service.service_ref)

    def test_own_record_is_missing(self):
        self.missing = {101}
        del self.records[HOSTS[0]]
        self.run_ping(self.worker)
        new = self.records[HOSTS[0]]
        self.assertEqual(new, self.worker.service.service_ref)
        self.assertEqual(new.id, self.worker.row.record)

    def test_record_that_memcached_cannot_see(self):
        # A timer of its own looks for the record, as the database may hang.
        add_timer = self.worker.service.tg.add_timer_args
        add_timer.assert_called_once()
        heartbeat.CONF.servicegroup_driver = 'mc'
        self.worker.heartbeat.join(HOSTS[0], 'scheduler', self.worker.service)
        interval, look, args = add_timer.call_args_list[1].args
        self.assertEqual(DOWN_TIME, interval)
        del self.records[HOSTS[0]]
        look(*args)
        self.assertEqual(self.records[HOSTS[0]],
                         self.worker.service.service_ref)

    def test_database_goes_away_meanwhile(self):
        self.missing = {101}
        self.service_class.get_by_host_and_binary.side_effect = (
            test.TestingException('gone'))
        self.run_ping(self.worker)
        self.assertEqual(1000, self.worker.row.written)
        self.assertIn('Cannot look for the record of n-worker-1: gone',
                      self.stdlog.logger.output)


@ddt.ddt
class RabbitTestCase(test.NoDBTestCase):

    @ddt.data((mock.Mock(oslo_messaging_rabbit={'rabbit_interval_max': 5}), 5),
              (mock.Mock(oslo_messaging_rabbit={}), 30),
              (cfg.ConfigOpts(), 30))
    @ddt.unpack
    def test_reconnect_time(self, conf, seconds):
        with mock.patch.object(heartbeat, 'CONF', conf):
            self.assertEqual(seconds, heartbeat.reconnect_time())
