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

import datetime
import types
from unittest import mock

import fixtures as fx
import oslo_messaging as messaging
from oslo_utils import timeutils

from nova import context
from nova import objects
from nova import rpc
from nova import test
from nova.tests import fixtures as nova_fixtures
from nova.tests.functional import fixtures as func_fixtures
from nova.tests.functional.workers import fixtures
from nova.workers import board
from nova.workers import identity

NODE = 'scheduler-node-1'
INSTANCE = 'a7d8d5e5-6c1f-4f4a-8d0f-2e8d1f5f3a10'


class WorkersTestCase(test.TestCase):
    """Workers of a service in one process, on the fake RPC driver."""

    BINARY = 'nova-scheduler'
    # A request to its manager, and the version of its RPC API.
    REQUEST = ('select_destinations', '4.5')

    # No timers: a test calls what it is about.
    REPORT_INTERVAL = 0

    def setUp(self):
        super().setUp()
        self.useFixture(func_fixtures.PlacementFixture())
        self.useFixture(fixtures.AMQPRouting())
        # Tests run the periodic tasks and heartbeats they are about.
        self.flags(periodic_enable=False)
        self.context = context.get_admin_context()
        self.boards = {}

    def start_worker(self, number, workers=3, node=NODE):
        hosts = tuple(identity.worker_host(node, n + 1)
                      for n in range(workers))
        if hosts not in self.boards:
            self.boards[hosts] = board.Board(hosts, threads=65)
        return self.useFixture(
            fixtures.WorkerFixture(
                self.boards[hosts], node, number, self.REPORT_INTERVAL,
                self.BINARY)).worker

    @property
    def topic(self):
        return identity.TOPICS[self.BINARY]

    def start_workers(self, workers=3, node=NODE):
        return [self.start_worker(number, workers, node)
                for number in range(1, workers + 1)]

    def records(self):
        """The records of the service by host."""
        records = objects.ServiceList.get_by_binary(
            self.context, self.BINARY)
        return {record.host: record for record in records}

    def request_spec(self):
        """A request for one server."""
        return objects.RequestSpec.from_components(
            self.context, INSTANCE, image=None,
            flavor=objects.Flavor(
                id=1, name='f', memory_mb=1, vcpus=1, root_gb=0,
                ephemeral_gb=0, flavorid='1', swap=0, rxtx_factor=1,
                vcpu_weight=0, disabled=False, is_public=True,
                extra_specs={}, description=None),
            numa_topology=None, pci_requests=None, filter_properties={},
            instance_group=None, availability_zone=None)

    def ask(self, server=None, timeout=60):
        """Who answers at a server name, or at the topic: a worker's number."""
        target = messaging.Target(topic=self.topic, namespace='baseapi',
                                  version='1.1', server=server)
        client = rpc.get_client(target).prepare(timeout=timeout)
        return client.call(self.context, 'get_backdoor_port')


class WorkerHostsTestCase(WorkersTestCase):

    def test_each_worker_has_its_record(self):
        self.start_workers()
        self.assertEqual(
            ['scheduler-node-1-worker-1', 'scheduler-node-1-worker-2',
             'scheduler-node-1-worker-3'], sorted(self.records()))

    def test_one_worker_has_a_worker_host_too(self):
        self.start_workers(1)
        self.assertEqual(['scheduler-node-1-worker-1'], list(self.records()))

    def test_node_that_is_named_like_a_worker_host(self):
        self.start_workers(2, node='k8s-worker-1')
        self.assertEqual(
            ['k8s-worker-1-worker-1', 'k8s-worker-1-worker-2'],
            sorted(self.records()))
        self.assertEqual(2, self.ask('k8s-worker-1-worker-2'))

    def test_each_answers_at_its_own_server_name_and_no_other_does(self):
        workers = self.start_workers()
        for worker in workers:
            self.assertEqual({worker.number}, {
                self.ask(worker.host) for _call in range(5)})
        workers[1].stop()
        self.assertRaises(messaging.MessagingTimeout, self.ask,
                          workers[1].host, timeout=1)
        self.assertEqual(3, self.ask(workers[2].host))

    def test_topic_is_shared(self):
        workers = self.start_workers()
        for worker in workers[:-1]:
            self.assertIn(self.ask(), (1, 2, 3))
            worker.stop()
        self.assertEqual(3, self.ask())

    def test_node_address_is_answered_by_any_live_worker(self):
        workers = self.start_workers()
        for worker in workers[:-1]:
            self.assertIn(self.ask(NODE), (1, 2, 3))
            worker.stop()
        self.assertEqual(3, self.ask(NODE))
        workers[2].stop()
        self.assertRaises(messaging.MessagingTimeout, self.ask, NODE,
                          timeout=1)

    def test_node_address_answers_ping_as_probes_call_it(self):
        self.start_workers(2)
        target = messaging.Target(topic=self.topic, namespace='baseapi',
                                  version='1.1', server=NODE)
        answer = rpc.get_client(target).prepare(timeout=60).call(
            self.context, 'ping', arg='probe')
        self.assertEqual({'service': self.topic, 'arg': 'probe'}, answer)

    def test_node_address_takes_no_requests(self):
        self.start_workers(1)
        method, version = self.REQUEST
        target = messaging.Target(topic=self.topic, version=version,
                                  server=NODE)
        client = rpc.get_client(target).prepare(timeout=60)
        self.assertRaises(
            messaging.UnsupportedVersion, client.call, self.context, method)

    def test_stopped_and_started_again_keeps_its_record(self):
        workers = self.start_workers()
        before = self.records()
        workers[1].stop()
        self.start_worker(2)
        after = self.records()
        self.assertEqual(
            {host: record.id for host, record in before.items()},
            {host: record.id for host, record in after.items()})
        self.assertEqual(2, self.ask(workers[1].host))

    def test_publisher_of_notifications(self):
        self.flags(notification_format='both', group='notifications')
        notifier = self.useFixture(nova_fixtures.NotificationFixture(self))
        worker = self.start_workers(2)[1]
        manager = worker.server.manager
        notifier.reset()
        with mock.patch.object(manager, '_schedule', return_value=[]):
            manager._select_destinations(
                self.context, self.request_spec(), [INSTANCE], {}, None)
        self.assertEqual(
            ['scheduler.scheduler-node-1-worker-2'] * 2,
            [n.publisher_id for n in notifier.notifications])
        self.assertEqual(
            ['nova-scheduler:scheduler-node-1-worker-2'] * 2,
            [n['publisher_id'] for n in notifier.versioned_notifications])


class LeadershipTestCase(WorkersTestCase):

    def setUp(self):
        super().setUp()
        self.leaders = []
        self.useFixture(fx.MonkeyPatch(
            'nova.objects.host_mapping.discover_hosts',
            lambda ctxt: self.leaders.append(self._asked)))

    def discover_hosts(self, workers, turn=0):
        """Who discovers hosts when each of the workers runs the task.

        :param turn: which of the workers after the leader is the deputy
        """
        self.flags(discover_hosts_in_cells_interval=1, group='scheduler')
        self.leaders = []
        self.useFixture(fx.MonkeyPatch(
            'nova.scheduler.leader.time',
            types.SimpleNamespace(time=lambda: turn)))
        for worker in workers:
            self._asked = worker.host
            worker.server.manager._discover_hosts_in_cells(self.context)
        return self.leaders

    def set_seen(self, host, seconds):
        record = self.records()[host]
        record.last_seen_up = (
            timeutils.utcnow() - datetime.timedelta(seconds=seconds))
        record.save()

    def test_one_leader_in_the_cloud_and_a_deputy(self):
        workers = (self.start_workers(2, 'node-b') +
                   self.start_workers(3, 'node-a'))
        leader, *deputies = sorted(worker.host for worker in workers)
        self.assertEqual('node-a-worker-1', leader)
        for turn, deputy in enumerate(deputies):
            self.assertEqual({leader, deputy},
                             set(self.discover_hosts(workers, turn)))

    def test_another_takes_over(self):
        workers = self.start_workers()
        first, second, third = [worker.host for worker in workers]
        self.assertEqual([first, second], self.discover_hosts(workers))
        self.set_seen(first, 3600)
        for host in second, third:
            self.set_seen(host, 0)
        self.assertEqual([second, third], self.discover_hosts(workers))

    def test_all_records_are_stale(self):
        workers = self.start_workers()
        for worker in workers:
            self.set_seen(worker.host, 3600)
        # Each of them leads, or nobody would.
        self.assertEqual([worker.host for worker in workers],
                         self.discover_hosts(workers))
