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
from unittest import mock

from oslo_config import cfg
from oslo_db import exception as db_exc
import oslo_messaging as messaging

import nova.conf
from nova import test
from nova.workers import identity
from nova.workers import launcher

CONF = nova.conf.CONF


class WorkerTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
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
        self.get_notifier = self.useFixture(test.fixtures.MockPatchObject(
            launcher.rpc, 'get_notifier')).mock

    def test_nothing_is_bound_in_the_parent(self):
        worker = launcher.Worker(self.server, 2, 3)
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
            self.assertEqual(self.heartbeat.return_value.get_rpcserver,
                             self.server.rpcserver_factory)

        self.server.start.side_effect = start
        worker = launcher.Worker(self.server, 2, 3)
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

    @mock.patch.object(launcher, 'setproctitle', new=None)
    def test_start_without_setproctitle(self):
        launcher.Worker(self.server, 1, 1).start()
        self.server.start.assert_called_once_with()

    def test_node_address(self):
        launcher.Worker(self.server, 2, 3).start()
        target, endpoints = self.get_server.call_args.args
        self.assertEqual('scheduler.node-1', target.topic)
        # The same in all workers, so that it is one queue.
        self.assertEqual('node', target.server)
        # Nothing but the baseapi: requests have a queue of their own.
        self.assertEqual(['baseapi'], [e.target.namespace for e in endpoints])
        # A worker that cannot run requests does not answer for the node.
        self.rpcserver.assert_called_once_with(
            self.get_server.return_value, self.heartbeat.return_value.bound)
        self.rpcserver.return_value.start.assert_called_once_with()

    def test_node_address_is_answered_while_requests_run(self):
        bound = self.heartbeat.return_value.bound
        order = []
        idle = threading.Event()
        bound.wait_until_idle.side_effect = lambda: idle.wait(60)
        self.rpcserver.return_value.stop.side_effect = (
            lambda: order.append('node address'))

        def stop():
            order.append('service')
            idle.set()

        self.server.stop.side_effect = stop
        worker = launcher.Worker(self.server, 2, 3)
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
        worker = launcher.Worker(self.server, 2, 3)
        worker.start()
        worker.stop()
        self.server.stop.assert_called_once_with()
        self.rpcserver.return_value.wait.assert_not_called()

    def test_stopped_before_the_node_address_is_served(self):
        worker = launcher.Worker(self.server, 2, 3)
        self.server.start.side_effect = worker.stop
        worker.start()
        self.server.stop.assert_called_once_with()

    def test_in_the_parent(self):
        workers = [launcher.Worker(self.server, n, 3) for n in (1, 2, 3)]
        for worker in workers:
            worker.reset()
            worker.stop()
        self.server.reset.assert_called_once_with()
        self.server.stop.assert_not_called()

    def test_child_passes_on(self):
        worker = launcher.Worker(self.server, 3, 3)
        worker.start()
        worker.reset()
        worker.wait()
        worker.stop()
        self.server.reset.assert_called_once_with()
        self.server.wait.assert_called_once_with()
        self.server.stop.assert_called_once_with()

    def test_one_worker_of_a_node_looks_after_its_records(self):
        workers = [launcher.Worker(self.server, n, 3) for n in (3, 2, 1)]
        for worker in workers:
            self.retirement.assert_not_called()
            worker.start()
        self.retirement.assert_called_once_with(self.server, 'node-1', 3)
        self.retirement.return_value.start.assert_called_once_with()

    def test_slot(self):
        slot = mock.Mock()
        worker = launcher.Worker(self.server, 2, 3, slot)
        slot.open.assert_not_called()
        self.server.start.side_effect = (
            lambda: slot.open.assert_called_once_with())
        worker.start()
        self.heartbeat.assert_called_once_with(self.server, slot.alive)
        self.server.stop.side_effect = (
            lambda: slot.close.assert_called_once_with())
        worker.stop()
        slot.close.assert_called_once_with()


class LaunchTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.lookalike = self.useFixture(test.fixtures.MockPatchObject(
            launcher.lookalike, 'check')).mock
        self.freeze = self.useFixture(test.fixtures.MockPatchObject(
            launcher.gc, 'freeze')).mock

    @mock.patch('oslo_service.service.ProcessLauncher')
    def test_launch(self, process_launcher):
        server = mock.Mock(host='node-1', topic='scheduler')
        self.assertEqual(process_launcher.return_value,
                         launcher.launch(server, 3))
        process_launcher.assert_called_once_with(
            CONF, restart_method='mutate')
        calls = process_launcher.return_value.launch_service.call_args_list
        self.assertEqual(
            ['node-1-worker-1', 'node-1-worker-2', 'node-1-worker-3'],
            [call.args[0].host for call in calls])
        self.assertEqual({server}, {call.args[0].server for call in calls})
        self.assertEqual([{'workers': 1}] * 3, [c.kwargs for c in calls])
        self.assertEqual({None}, {call.args[0].slot for call in calls})
        self.freeze.assert_called_once_with()

    @mock.patch('nova.workers.supervisor.Supervisor')
    @mock.patch('oslo_service.service.ProcessLauncher')
    def test_launch_with_a_timeout(self, process_launcher, supervisor):
        self.flags(worker_timeout=60, group='scheduler')
        supervisor.return_value.slots = [mock.sentinel.one, mock.sentinel.two]
        launch_service = process_launcher.return_value.launch_service
        # In the eventlet mode the parent forks there, and the thread that
        # watches has to be the parent's alone.
        launch_service.side_effect = lambda worker, workers: (
            supervisor.return_value.start.assert_not_called())
        launcher.launch(mock.Mock(host='n', topic='scheduler'), 2)
        supervisor.assert_called_once_with(['n-worker-1', 'n-worker-2'], 60)
        self.assertEqual(
            [mock.sentinel.one, mock.sentinel.two],
            [call.args[0].slot for call in launch_service.call_args_list])
        supervisor.return_value.start.assert_called_once_with()

    @mock.patch('oslo_service.service.ProcessLauncher')
    def test_launch_without_a_database(self, process_launcher):
        self.lookalike.side_effect = db_exc.DBConnectionError('gone')
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
    def test_launch_beside_a_lookalike(self, process_launcher):
        self.lookalike.side_effect = ValueError('is called like')
        server = mock.Mock(host='n', topic='scheduler')
        exc = self.assertRaises(SystemExit, launcher.launch, server, 2)
        self.assertEqual(1, exc.code)
        self.lookalike.assert_called_once_with(server.binary, 'n', 2)
        self.assertIn('is called like', self.stdlog.logger.output)
        process_launcher.assert_not_called()

    def test_check(self):
        self.flags(host='node-1')
        launcher.check('scheduler')

    def test_check_stops_the_start_with_one_line(self):
        self.flags(host='n.' * 110 + 'n')
        with mock.patch.object(launcher.LOG, 'error') as error:
            exc = self.assertRaises(SystemExit, launcher.check, 'scheduler')
        self.assertEqual(1, exc.code)
        error.assert_called_once()

    def test_check_worker_timeout(self):
        self.flags(report_interval=10)
        self.flags(worker_timeout=29, group='scheduler')
        self.assertRaises(SystemExit, launcher.check, 'scheduler')
        self.assertIn('at least 30', self.stdlog.logger.output)

    def test_check_when_the_configuration_has_no_valid_host(self):
        # What oslo.config raises for an empty value.
        conf = mock.PropertyMock(side_effect=ValueError('host is not valid'))
        with mock.patch.object(launcher, 'CONF') as fake:
            type(fake).host = conf
            self.assertRaises(SystemExit, launcher.check, 'scheduler')
        self.assertIn('host is not valid', self.stdlog.logger.output)


class SetDefaultsTestCase(test.NoDBTestCase):

    def prefetch(self, text='', url='rabbit://host/'):
        """What oslo.messaging's driver would see."""
        path = self.useFixture(test.fixtures.TempDir()).join('nova.conf')
        with open(path, 'w') as config_file:
            config_file.write(text)
        conf = cfg.ConfigOpts()
        with mock.patch.object(launcher, 'CONF', conf):
            launcher.set_defaults()
        conf(['--config-file', path])
        transport = messaging.get_rpc_transport(conf, url=url)
        self.addCleanup(transport.cleanup)
        return transport._driver.prefetch_size

    def test_default(self):
        self.assertEqual(launcher.PREFETCH_COUNT, self.prefetch())

    def test_operator_wins_in_the_file(self):
        for count in (0, 16):
            self.assertEqual(count, self.prefetch(
                '[oslo_messaging_rabbit]\n'
                f'rabbit_qos_prefetch_count = {count}\n'))

    def test_operator_wins_in_the_transport_url(self):
        self.assertEqual(16, self.prefetch(
            url='rabbit://host/?rabbit_qos_prefetch_count=16'))
