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
import threading
from unittest import mock

import ddt
from oslo_db import exception as db_exc
from oslo_messaging import opts as messaging_opts
from oslo_service import _options

import nova.conf
from nova import service
from nova import test
from nova.workers import board
from nova.workers import identity
from nova.workers import launcher

CONF = nova.conf.CONF


def register_opts():
    """As the launcher of a service and its first RPC server do."""
    CONF.register_opts(_options.service_opts)
    CONF.register_opts(
        [option for option in dict(messaging_opts.list_opts())[None]
         if option.name == 'executor_thread_pool_size'])


class WorkerTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        register_opts()
        self.server = mock.Mock(host='node-1', binary='nova-scheduler',
                                topic='scheduler')
        self.server.manager.service_name = 'scheduler'
        # It is of the process, which runs other tests too.
        self.useFixture(test.fixtures.MonkeyPatch(
            'nova.workers.identity._own', None))
        self.setproctitle = self.useFixture(test.fixtures.MockPatchObject(
            launcher, 'setproctitle')).mock.setproctitle
        self.get_server = self.useFixture(test.fixtures.MockPatchObject(
            launcher.rpc, 'get_server')).mock
        self.rpcserver = self.useFixture(test.fixtures.MockPatchObject(
            launcher.rpcserver, 'RPCServer')).mock
        self.retirement = self.useFixture(test.fixtures.MockPatchObject(
            launcher.retirement, 'Retirement')).mock
        self.heartbeat = self.useFixture(test.fixtures.MockPatchObject(
            launcher.heartbeat, 'Heartbeat')).mock
        self.limit = self.useFixture(test.fixtures.MockPatchObject(
            launcher.rpcserver, 'ConcurrencyLimit')).mock.return_value
        self.share = self.useFixture(test.fixtures.MockPatchObject(
            launcher.rpcserver, 'Share')).mock
        self.get_notifier = self.useFixture(test.fixtures.MockPatchObject(
            launcher.rpc, 'get_notifier')).mock
        self.board = board.Board(
            [f'node-1-worker-{number}' for number in (1, 2, 3)], threads=1)
        self.watched = [mock.Mock(row=row) for row in self.board.rows]
        self.signal = self.useFixture(test.fixtures.MockPatchObject(
            launcher.signal, 'signal')).mock
        self.exit = self.useFixture(test.fixtures.MockPatchObject(
            launcher.os, '_exit', side_effect=SystemExit)).mock

    def worker(self, number=2):
        return launcher.Worker(self.server, number, 3, self.board,
                               self.watched[number - 1])

    def test_nothing_is_bound_in_the_parent(self):
        worker = self.worker()
        self.assertEqual('node-1-worker-2', worker.host)
        self.assertEqual('node-1', self.server.host)
        self.setproctitle.assert_not_called()

    def test_start_binds_before_the_service_starts(self):
        def start():
            self.assertEqual('node-1-worker-2', identity.own_host())
            self.assertEqual('node-1-worker-2', self.server.host)
            self.assertEqual('node-1-worker-2', self.server.manager.host)
            self.assertEqual(self.get_notifier.return_value,
                             self.server.manager.notifier)
            self.assertEqual(4711, self.server.backdoor_port)
            self.assertEqual(self.heartbeat.return_value,
                             self.server.servicegroup_api)
            self.limit.open.assert_not_called()

        self.server.start.side_effect = start
        worker = self.worker()
        worker.backdoor_port = 4711
        with mock.patch.object(launcher.os, 'getpid', return_value=4712):
            worker.start()
        self.server.start.assert_called_once_with()
        self.get_notifier.assert_called_once_with(
            'scheduler', 'node-1-worker-2')
        self.setproctitle.assert_called_once_with(
            'nova-scheduler: node-1-worker-2')
        self.assertIn('Starting worker 2 of 3 of nova-scheduler on node '
                      'node-1 as node-1-worker-2 (pid 4712)',
                      self.stdlog.logger.output)

    def test_rpcserver(self):
        self.worker().start()
        self.rpcserver.reset_mock()
        rpcserver = self.server.rpcserver_factory('target', [1], 'serializer')
        self.assertEqual(self.rpcserver.return_value, rpcserver)
        beats = self.heartbeat.return_value
        self.get_server.assert_called_with(
            'target', [1, beats.endpoint], 'serializer')
        self.rpcserver.assert_called_once_with(
            self.get_server.return_value, self.limit, self.board,
            self.board.rows[1], beats.reconnected)

    def test_messages_run_once_it_has_started(self):
        self.worker().start()
        row, size = self.board.rows[1], CONF.executor_thread_pool_size
        self.assertEqual((board.SERVING, size), (row.state, row.threads))
        self.limit.open.assert_called_once_with(size)

    @mock.patch.object(launcher, 'setproctitle', new=None)
    def test_start_without_setproctitle(self):
        self.worker().start()
        self.server.start.assert_called_once_with()

    def test_node_address(self):
        self.worker().start()
        target, endpoints = self.get_server.call_args.args
        self.assertEqual('scheduler.node-1', target.topic)
        # The same in all workers, so that it is one queue.
        self.assertEqual(identity.NODE_SERVER, target.server)
        # Nothing but the baseapi: requests have a queue of their own.
        self.assertEqual(['baseapi'], [e.target.namespace for e in endpoints])
        # A worker that cannot run requests does not answer for the node.
        self.rpcserver.assert_called_once_with(
            self.get_server.return_value, self.share.return_value, self.board,
            self.board.rows[1], own=False)
        self.share.assert_called_once_with(self.limit, launcher.NODE_THREADS)
        self.rpcserver.return_value.start.assert_called_once_with(
            override_pool_size=launcher.NODE_THREADS)

    def test_no_request_before_the_node_address_is_served(self):
        # What it had taken would wait for that, or be lost.
        self.rpcserver.return_value.start.side_effect = (
            launcher.messaging.MessageDeliveryFailure('403'))
        self.assertRaises(launcher.messaging.MessageDeliveryFailure,
                          self.worker().start)
        self.server.start.assert_not_called()
        self.limit.open.assert_not_called()

    def test_node_address_is_answered_while_requests_run(self):
        self.useFixture(test.fixtures.MonkeyPatch(
            'nova.workers.launcher.NODE_STOP_TIME', 60))
        order = []
        idle = threading.Event()
        self.limit.wait_until_idle.side_effect = lambda: idle.wait(60)
        self.rpcserver.return_value.stop.side_effect = (
            lambda: order.append('node address'))

        def stop():
            order.append('service')
            idle.set()

        self.server.stop.side_effect = stop
        worker = self.worker()
        worker.start()
        worker.stop()
        self.assertEqual(['service', 'node address'], order)
        self.rpcserver.return_value.wait.assert_called_once_with()

    def test_node_address_that_takes_long_to_stop(self):
        self.useFixture(test.fixtures.MonkeyPatch(
            'nova.workers.launcher.NODE_STOP_TIME', 0.01))
        ended = threading.Event()
        self.addCleanup(ended.set)
        self.rpcserver.return_value.stop.side_effect = (
            lambda: ended.wait(60))
        worker = self.worker()
        worker.start()
        worker.stop()
        self.server.stop.assert_called_once_with()
        self.rpcserver.return_value.wait.assert_not_called()

    def test_stopped_while_it_starts(self):
        worker = self.worker()
        self.limit.open.side_effect = lambda size: worker.stop()
        worker.start()
        self.server.stop.assert_called_once_with()

    def test_stopped_before_it_serves(self):
        worker = self.worker()
        self.server.start.side_effect = worker.stop
        self.assertRaises(SystemExit, worker.start)
        self.exit.assert_called_once_with(0)
        self.server.stop.assert_not_called()

    @mock.patch('time.sleep')
    def test_queue_in_the_way(self, sleep):
        error = launcher.messaging.MessageDeliveryFailure(
            "(406) PRECONDITION_FAILED - inequivalent arg for queue 'q'")
        self.server.start.side_effect = error
        self.assertRaises(SystemExit, self.worker().start)
        line = self.stdlog.logger.output.splitlines()[-1]
        for part in ('node-1-worker-2', "queue 'q'", 'rabbit_quorum_queue'):
            self.assertIn(part, line)
        # Not at once, or the log would be full of it.
        sleep.assert_called_once_with(launcher.START_PAUSE)
        self.exit.assert_called_once_with(1)

    def test_pings_go_back_where_a_queue_is_in_the_way(self):
        self.server.start.side_effect = (
            launcher.messaging.MessageDeliveryFailure('PRECONDITION_FAILED'))
        ended = threading.Event()
        self.rpcserver.return_value.wait.side_effect = ended.set
        with mock.patch('time.sleep', side_effect=lambda seconds:
                        self.assertTrue(ended.wait(60))):
            self.assertRaises(SystemExit, self.worker().start)
        self.rpcserver.return_value.stop.assert_called_once_with()

    @mock.patch('time.sleep')
    def test_cannot_start(self, sleep):
        # As a worker of stock nova.
        error = launcher.messaging.MessageDeliveryFailure
        self.server.start.side_effect = error
        self.assertRaises(error, self.worker().start)
        sleep.assert_not_called()

    def test_reset_in_the_eventlet_mode(self):
        self.useFixture(test.fixtures.MockPatchObject(
            launcher.eventletutils, 'is_monkey_patched', return_value=True))
        mutate = self.useFixture(test.fixtures.MockPatchObject(
            launcher.supervisor, 'mutate')).mock
        worker = self.worker()
        worker.start()
        check, = (call.args[1] for call in
                  self.server.tg.add_timer.call_args_list)
        check()
        self.server.reset.assert_not_called()
        # A database is away, and the timer goes on.
        self.server.reset.side_effect = test.TestingException
        for number in (1, 2):
            worker.row.reset = 1
            check()
            check()
            self.assertEqual(number, self.server.reset.call_count)
        self.assertEqual(2, mutate.call_count)
        # What cannot be read changes nothing.
        mutate.return_value = False
        worker.row.reset = 1
        check()
        self.assertEqual(2, self.server.reset.call_count)

    def test_in_the_parent(self):
        self.flags(graceful_shutdown_timeout=100)
        for number in (1, 2, 3):
            worker = self.worker(number)
            worker.reset()
            worker.stop()
            worker.watched.kill_later.assert_called_once_with(99)
        self.server.reset.assert_not_called()
        self.server.stop.assert_not_called()

    def test_in_the_parent_with_any_time(self):
        for seconds in (0, -1):
            self.flags(graceful_shutdown_timeout=seconds)
            worker = self.worker()
            worker.stop()
            worker.watched.kill_later.assert_not_called()

    def test_child_passes_on(self):
        worker = self.worker(3)
        worker.start()
        worker.reset()
        worker.wait()
        worker.stop()
        self.signal.assert_called_once_with(signal.SIGTERM, signal.SIG_IGN)
        self.server.reset.assert_not_called()
        self.server.wait.assert_called_once_with()
        self.server.stop.assert_called_once_with()

    def test_one_worker_of_a_node_looks_after_its_records(self):
        workers = [self.worker(n) for n in (3, 2, 1)]
        for worker in workers:
            self.retirement.assert_not_called()
            worker.start()
        self.retirement.assert_called_once_with(self.server, 'node-1', 3)
        self.retirement.return_value.start.assert_called_once_with()

    def test_no_records_to_look_after_without_heartbeats(self):
        self.flags(report_interval=0)
        self.worker(1).start()
        self.retirement.assert_not_called()

    def test_on_the_board(self):
        worker, watched = self.worker(), self.watched[1]
        self.assertEqual(0, watched.row.pid)

        def start():
            # The parent sees to it from now on.
            watched.enable_dump.assert_called_once_with()
            self.assertEqual((os.getpid(), board.STARTING),
                             (watched.row.pid, watched.row.state))

        self.server.start.side_effect = start
        worker.start()
        self.heartbeat.assert_called_once_with(
            self.server, self.board, watched.row, self.limit)
        self.server.stop.side_effect = lambda: self.assertEqual(
            board.STOPPING, watched.row.state)
        worker.stop()
        self.server.stop.assert_called_once_with()


@ddt.ddt
class LaunchTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        register_opts()
        self.flags(executor_thread_pool_size=5)
        self.name_clash = self.useFixture(test.fixtures.MockPatchObject(
            launcher.name_clash, 'check')).mock
        self.freeze = self.useFixture(test.fixtures.MockPatchObject(
            launcher.gc, 'freeze')).mock
        self.start = self.useFixture(test.fixtures.MockPatchObject(
            launcher.supervisor.Supervisor, 'start')).mock
        self.at_fork = self.useFixture(test.fixtures.MockPatchObject(
            launcher.os, 'register_at_fork')).mock
        self.health = self.useFixture(test.fixtures.MockPatchObject(
            launcher.health, 'Health')).mock

    @mock.patch('oslo_service.service.ProcessLauncher')
    def test_launch(self, process_launcher):
        server = mock.Mock(host='node-1', topic='scheduler')
        launch_service = process_launcher.return_value.launch_service
        # In the eventlet mode the parent forks there, and the thread that
        # looks after the workers has to be the parent's alone.
        launch_service.side_effect = lambda worker, workers: (
            self.start.assert_not_called(), self.at_fork.assert_called_with(
                after_in_child=launcher.supervisor.make_log_locks))
        self.assertEqual(process_launcher.return_value,
                         launcher.launch(server, 3))
        process_launcher.assert_called_once_with(
            CONF, restart_method='mutate')
        calls = launch_service.call_args_list
        workers = [call.args[0] for call in calls]
        self.assertEqual([{'workers': 1}] * 3, [c.kwargs for c in calls])
        self.assertEqual({server}, {worker.server for worker in workers})
        hosts = ['node-1-worker-1', 'node-1-worker-2', 'node-1-worker-3']
        self.assertEqual(hosts, [worker.host for worker in workers])
        self.assertEqual(
            hosts, [worker.watched.row.host for worker in workers])
        for worker in workers:
            self.assertEqual([other.watched.row for other in workers],
                             worker.board.rows)
        # Some threads more for the node address.
        self.assertEqual(5 + launcher.NODE_THREADS,
                         len(workers[0].watched.row.tasks))
        self.freeze.assert_called_once_with()
        self.start.assert_called_once_with()
        self.health.return_value.start.assert_called_once_with()
        # Nobody is told anything in a parent that only waits.
        for worker in workers:
            self.health.return_value.close.reset_mock()
            worker.watched = mock.Mock()
            worker.stop()
            self.health.return_value.close.assert_called_once_with()

    @mock.patch('nova.workers.supervisor.Supervisor')
    @mock.patch('oslo_service.service.ProcessLauncher')
    def test_launch_with_a_timeout(self, process_launcher, supervisor):
        self.flags(worker_timeout=60, group='scheduler')
        launcher.launch(mock.Mock(host='n', topic='scheduler',
                                  binary='nova-scheduler'), 2)
        _board, timeout, attempt = supervisor.call_args.args
        self.assertEqual(60, timeout)
        self.assertEqual(
            (launcher.trial.attempt,
             ('scheduler', 'nova-scheduler', ['n-worker-1', 'n-worker-2'])),
            (attempt.func, attempt.args))

    @mock.patch.object(service.service, 'launch')
    def test_serve(self, stock_launch):
        self.useFixture(test.fixtures.MonkeyPatch(
            'nova.service._launcher', None))
        launch = mock.Mock()
        service.serve('server', workers=2, launch=launch)
        launch.assert_called_once_with('server', 2)
        stock_launch.assert_not_called()

    @mock.patch('oslo_service.service.ProcessLauncher')
    def test_launch_without_a_database(self, process_launcher):
        self.name_clash.side_effect = db_exc.DBConnectionError('gone')
        launcher.launch(mock.Mock(host='n', topic='scheduler'), 2)
        self.assertIn('whether another node is called like',
                      self.stdlog.logger.output)
        self.assertEqual(
            2, process_launcher.return_value.launch_service.call_count)

    @mock.patch('oslo_service.service.ProcessLauncher')
    def test_launch_nothing(self, process_launcher):
        server = mock.Mock(host='n', topic='conductor')
        exc = self.assertRaises(SystemExit, launcher.launch, server, -1)
        self.assertEqual(1, exc.code)
        self.assertIn('[conductor] workers is -1, but it has to be at least 1',
                      self.stdlog.logger.output)
        process_launcher.assert_not_called()

    @mock.patch('oslo_service.service.ProcessLauncher')
    def test_launch_beside_a_name_clash(self, process_launcher):
        self.name_clash.side_effect = ValueError('is called like')
        server = mock.Mock(host='n', topic='scheduler')
        exc = self.assertRaises(SystemExit, launcher.launch, server, 2)
        self.assertEqual(1, exc.code)
        self.name_clash.assert_called_once_with(server.binary, 'n', 2)
        self.assertIn('is called like', self.stdlog.logger.output)
        process_launcher.assert_not_called()

    def test_prepare(self):
        self.assertIs(launcher.launch, launcher.prepare('scheduler'))

    def test_prepare_for_stock(self):
        self.flags(worker_hosts=False, group='scheduler')
        self.assertIsNone(launcher.prepare('scheduler'))

    @mock.patch('oslo_service.service.ProcessLauncher')
    def test_launch_without_threads(self, process_launcher):
        self.flags(executor_thread_pool_size=-5)
        server = mock.Mock(host='n', topic='scheduler')
        exc = self.assertRaises(SystemExit, launcher.launch, server, 2)
        self.assertEqual(1, exc.code)
        self.assertIn('executor_thread_pool_size is -5, but it has to be at '
                      'least 1', self.stdlog.logger.output)
        process_launcher.assert_not_called()

    def test_prepare_stops_the_start_with_one_line(self):
        self.flags(host='n.' * 110 + 'n')
        with mock.patch.object(launcher.LOG, 'error') as error:
            exc = self.assertRaises(SystemExit, launcher.prepare, 'scheduler')
        self.assertEqual(1, exc.code)
        error.assert_called_once()

    def test_prepare_worker_hosts_that_is_not_valid(self):
        conf = mock.PropertyMock(side_effect=ValueError('maybe is not valid'))
        with mock.patch.object(launcher, 'CONF') as fake:
            type(fake.__getitem__.return_value).worker_hosts = conf
            self.assertRaises(SystemExit, launcher.prepare, 'scheduler')
        self.assertIn('maybe is not valid', self.stdlog.logger.output)

    def test_prepare_healthcheck_uri(self):
        conf = mock.PropertyMock(side_effect=ValueError('uri is not valid'))
        with mock.patch.object(launcher, 'CONF') as fake:
            type(fake.healthcheck).uri = conf
            self.assertRaises(SystemExit, launcher.prepare, 'scheduler')
        self.assertIn('uri is not valid', self.stdlog.logger.output)

    def check_timeout(self, timeout, interval):
        self.flags(report_interval=interval)
        self.flags(worker_timeout=timeout, group='scheduler')
        launcher.prepare('scheduler')

    @ddt.data((0, 10), (0, 0), (30, 10), (10, 2))
    @ddt.unpack
    def test_prepare_worker_timeout(self, timeout, interval):
        self.check_timeout(timeout, interval)

    @ddt.data((29, 10, '[scheduler] worker_timeout is 29 seconds, but with '
               '[DEFAULT] report_interval = 10 it has to be at least 30'),
              (60, 0, '[DEFAULT] report_interval is 0'))
    @ddt.unpack
    def test_prepare_worker_timeout_that_does_not_do(self, timeout, interval,
                                                   line):
        self.assertRaises(
            SystemExit, self.check_timeout, timeout, interval)
        self.assertIn(line, self.stdlog.logger.output)

    def test_prepare_when_the_configuration_has_no_valid_host(self):
        # What oslo.config raises for an empty value.
        conf = mock.PropertyMock(side_effect=ValueError('host is not valid'))
        with mock.patch.object(launcher, 'CONF') as fake:
            type(fake).host = conf
            self.assertRaises(SystemExit, launcher.prepare, 'scheduler')
        self.assertIn('host is not valid', self.stdlog.logger.output)
