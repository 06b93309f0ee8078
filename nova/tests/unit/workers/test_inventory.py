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
import threading
from unittest import mock

import ddt
import oslo_messaging as messaging
from oslo_utils import timeutils

from nova import context
from nova import exception
from nova import objects
from nova import test
from nova.workers import inventory


def undeliverable(routing_key):
    return messaging.MessageUndeliverable(None, 'nova', routing_key, None)


class InventoryTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.flags(service_down_time=60)
        self.context = context.get_admin_context()
        self.now = self.useFixture(test.fixtures.MockPatch(
            'oslo_utils.timeutils.utcnow', side_effect=self._utcnow)).mock
        self.records = []
        self.useFixture(test.fixtures.MockPatch(
            'nova.objects.ServiceList.get_all',
            side_effect=lambda ctxt: self.records))

    @staticmethod
    def _utcnow(with_timezone=False):
        return datetime.datetime(
            2026, 1, 1,
            tzinfo=datetime.timezone.utc if with_timezone else None)

    def record(self, host, binary='nova-scheduler', seen=0, created=0,
               disabled=False, forced_down=False):
        now = timeutils.utcnow()
        self.records.append(objects.Service(
            id=len(self.records) + 1, host=host, binary=binary,
            topic=binary[5:], disabled=disabled, forced_down=forced_down,
            created_at=now - datetime.timedelta(seconds=created),
            last_seen_up=None if seen is None
            else now - datetime.timedelta(seconds=seen)))
        return self.records[-1]

    def workers(self, *args, **kwargs):
        return inventory.Inventory(self.context).workers(*args, **kwargs)


class WorkersTestCase(InventoryTestCase):

    def test_node_that_looks_like_a_worker(self):
        # Without worker hosts, and its compute is in another database.
        record = self.record('k8s-worker-2')
        found, = self.workers(node='k8s-worker-2')
        self.assertEqual((record, 'k8s-worker-2', None),
                         (found.record, found.node, found.number))

    def names(self, *args, **kwargs):
        return [(worker.node, worker.number)
                for worker in self.workers(*args, **kwargs)]

    def test_by_node_and_number(self):
        for host in ('b-worker-10', 'b-worker-9', 'b-worker-1', 'a-worker-2',
                     'stock', 'b'):
            self.record(host)
        self.assertEqual(
            [('a', 2), ('b', None), ('b', 1), ('b', 9), ('b', 10),
             ('stock', None)], self.names())

    def test_only_some(self):
        for host in ('a-worker-1', 'a-worker-2', 'b-worker-2'):
            self.record(host)
        self.record('a', 'nova-conductor')
        self.record('a', 'nova-compute')
        self.assertEqual([('a', None)], self.names(['nova-conductor']))
        self.assertEqual([('a', None), ('a', 1), ('a', 2)],
                         self.names(node='a'))
        self.assertEqual([('a', 2), ('b', 2)], self.names(number=2))
        self.assertEqual([('a', 2)], self.names(
            ['nova-scheduler'], node='a', number=2))
        self.assertEqual([], self.names(node='c'))

    def test_nodes_that_are_named_like_workers(self):
        # Two with workers, one with a stock scheduler and a compute.
        for host in ('k8s-worker-1', 'k8s-worker-1-worker-1', 'k8s-worker-2',
                     'k8s-worker-3'):
            self.record(host)
        self.record('k8s-worker-2', 'nova-compute')
        self.record('k8s-worker-3-worker-1', 'nova-conductor')
        self.assertEqual(
            [('k8s-worker-1', None), ('k8s-worker-1', 1),
             ('k8s-worker-2', None), ('k8s-worker-3', None),
             ('k8s-worker-3', 1)], self.names())

    def test_compute_that_is_named_like_a_worker(self):
        for number in (1, 2, 3):
            self.record(f'k8s-worker-{number}')
        self.record('k8s-worker-2', 'nova-compute')
        # So it may be another node.
        self.assertEqual([('k8s', 1), ('k8s', 3), ('k8s-worker-2', None)],
                         self.names())
        # A ping of the node asks all of its workers.
        self.assertEqual([('k8s', 1), ('k8s', 2), ('k8s', 3)],
                         self.names(node='k8s'))
        self.assertEqual([('k8s-worker-2', None)],
                         self.names(node='k8s-worker-2'))

    def test_both_binaries(self):
        # The workers of one are no evidence that a node has their name.
        for binary in ('nova-scheduler', 'nova-conductor'):
            self.record('n-worker-1', binary)
            self.record('n-worker-2', binary)
        self.assertEqual(
            [('n', 1, 'nova-conductor'), ('n', 1, 'nova-scheduler'),
             ('n', 2, 'nova-conductor'), ('n', 2, 'nova-scheduler')],
            [(worker.node, worker.number, worker.binary)
             for worker in self.workers()])

    def test_state(self):
        self.record('n-worker-1', seen=10)
        self.record('n-worker-2', seen=61)
        self.record('n-worker-3', seen=10, disabled=True)
        self.record('n-worker-4', seen=61, disabled=True)
        self.record('n-worker-5', seen=10, forced_down=True)
        self.record('n-worker-6', seen=None, created=10)
        self.record('n-worker-7', seen=None, created=100)
        self.assertEqual(
            [('up', 10, None), ('down', 61, 1), ('disabled', 10, None),
             ('down', 61, 1), ('down', 10, None), ('up', 10, None),
             ('down', 100, 40)],
            [(w.state, w.age, w.down_for) for w in self.workers()])

    def test_clock_of_the_worker_is_fast(self):
        self.record('n-worker-1', seen=-5)
        self.assertEqual(0, self.workers()[0].age)

    def test_memcached_knows_no_time_of_who_is_down(self):
        self.flags(servicegroup_driver='mc')
        self.record('n-worker-1', seen=None, created=4000)
        self.record('n-worker-2', seen=None, created=4000)
        api = self.useFixture(test.fixtures.MockPatch(
            'nova.servicegroup.API')).mock.return_value
        api.service_is_up.side_effect = [True, False]
        api.get_updated_time.return_value = self._utcnow(
            True) - datetime.timedelta(seconds=7)
        self.assertEqual(
            [('up', 7, None), ('down', None, 0)],
            [(w.state, w.age, w.down_for) for w in self.workers()])


class RetireTestCase(InventoryTestCase):

    def setUp(self):
        super().setUp()
        self.has_others = self.useFixture(test.fixtures.MockPatchObject(
            inventory.retirement, 'has_others', return_value=False)).mock

    def retire(self, now, dry_run=False):
        """Retire a worker that was down, with the record as it is now."""
        worker = inventory.Worker(objects.Service(id=42), 'n', 1, False, 3600)
        with mock.patch('nova.objects.Service.get_by_id',
                        side_effect=[now]) as get_by_id:
            retired = inventory.Inventory(self.context).retire(
                worker, dry_run)
        get_by_id.assert_called_once_with(self.context, 42)
        return retired

    @mock.patch('nova.objects.Service.destroy')
    def test_down(self, destroy):
        self.assertTrue(self.retire(self.record('m', seen=3600)))
        destroy.assert_called_once_with()

    @mock.patch('nova.objects.Service.destroy')
    def test_dry_run(self, destroy):
        self.assertTrue(self.retire(self.record('m', seen=3600), True))
        self.has_others.return_value = True
        self.assertFalse(self.retire(self.record('m', seen=3600), True))
        destroy.assert_not_called()

    @mock.patch('nova.objects.Service.destroy')
    def test_up_by_now(self, destroy):
        self.assertFalse(self.retire(self.record('n-worker-1')))
        self.assertFalse(self.retire(
            self.record('n-worker-1', seen=3600, forced_down=True)))
        destroy.assert_not_called()

    @mock.patch('nova.objects.Service.destroy')
    def test_node_of_a_compute(self, destroy):
        self.has_others.return_value = True
        self.assertFalse(self.retire(self.record('k8s-worker-1', seen=3600)))
        self.has_others.assert_called_once_with(self.context, 'k8s-worker-1')
        destroy.assert_not_called()

    def test_gone_by_now(self):
        self.assertFalse(self.retire(
            exception.ServiceNotFound(service_id=42)))
        with mock.patch('nova.objects.Service.destroy',
                        side_effect=exception.ServiceNotFound(service_id=42)):
            self.assertFalse(self.retire(self.record('n', seen=3600)))


@ddt.ddt
class PingTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.context = context.get_admin_context()
        self.call = mock.Mock(side_effect=self._call)
        self.cast = mock.Mock()
        self.prepared = []
        self.retry = 0
        self.outcomes = {}
        self.useFixture(test.fixtures.MockPatch(
            'nova.rpc.get_client', side_effect=self._get_client))
        self.useFixture(test.fixtures.MockPatchObject(
            inventory, 'BROKER_TIMEOUT', new=60))

    def _get_client(self, target):
        self.assertEqual('baseapi', target.namespace)
        self.assertEqual('1.1', target.version)

        def prepare(server, retry, **kwargs):
            self.assertEqual(self.retry, retry)
            self.prepared.append((target.topic, server))

            def call(ctxt, method, arg):
                self.assertEqual(5, kwargs['timeout'])
                self.assertTrue(kwargs['transport_options'].at_least_once)
                return self.call(f'{target.topic}.{server}')
            client = mock.Mock(spec=['call', 'cast'])
            client.call.side_effect = call
            client.cast.side_effect = self.cast
            return client

        client = mock.Mock(spec=['prepare'])
        client.prepare.side_effect = prepare
        return client

    def _call(self, routing_key):
        outcomes = self.outcomes.get(routing_key)
        outcome = outcomes.pop(0) if outcomes else None
        if outcome:
            raise outcome

    def ping(self, *hosts, binary='nova-scheduler'):
        workers = [
            inventory.Worker(objects.Service(host=host, binary=binary), host,
                          None, True, 0) for host in hosts]
        return inventory.ping(self.context, workers, 5)

    def test_all_answer(self):
        answers = self.ping('a', 'b', 'c')
        self.assertEqual([None] * 3, [answer.error for answer in answers])
        for answer in answers:
            self.assertLess(answer.milliseconds, 60000)
        self.assertEqual(
            [('scheduler', 'a'), ('scheduler', 'b'), ('scheduler', 'c')],
            self.prepared[1:])
        self.assertEqual(1, self.cast.call_count)

    def test_nobody_to_ask(self):
        self.assertEqual([], self.ping())

    def test_topic_of_the_binary(self):
        self.ping('a', binary='nova-conductor')
        self.assertEqual(('conductor', 'a'), self.prepared[-1])

    def test_some_do_not(self):
        self.outcomes = {
            'scheduler.a': [messaging.MessagingTimeout()],
            'scheduler.b': [undeliverable('scheduler.b')],
            'scheduler.c': [messaging.RemoteError('Nope', 'no\nsuch thing')]}
        answers = self.ping(*'abcd')
        self.assertEqual(
            ['no answer in 5 seconds', 'no queue',
             'RemoteError: Remote error: Nope no', None],
            [answer.error for answer in answers])
        self.assertEqual([None] * 3, [a.milliseconds for a in answers[:3]])

    def test_told_that_the_message_of_another_came_back(self):
        # b's message was not delivered, a is told, and b waits in vain.
        self.outcomes = {
            'scheduler.a': [undeliverable('scheduler.b')],
            'scheduler.b': [messaging.MessagingTimeout()]}
        answers = self.ping('a', 'b')
        self.assertEqual([None, 'no queue'], [a.error for a in answers])

    def test_silent_ones_wait_all_at_once(self):
        count = 3 * inventory.WINDOW
        all_there = threading.Barrier(count + 1)
        self.call.side_effect = lambda key: all_there.wait(30)
        with mock.patch.object(threading, 'Semaphore') as semaphore:
            # The window is full at once and for ever.
            semaphore.return_value.acquire.return_value = False
            waiter = threading.Thread(target=all_there.wait, daemon=True)
            waiter.start()
            answers = self.ping(*(f'n-worker-{n}' for n in range(count)))
        semaphore.return_value.acquire.assert_called_with(timeout=1 / count)
        semaphore.return_value.release.assert_not_called()
        self.assertEqual({None}, {answer.error for answer in answers})

    def test_window_is_kept_by_those_who_answer(self):
        lock = threading.Lock()
        busy = []
        most = []

        def call(key):
            with lock:
                busy.append(key)
                most.append(len(busy))
            with lock:
                busy.remove(key)
        self.call.side_effect = call
        self.ping(*(f'n-worker-{n}' for n in range(200)))
        self.assertEqual(200, len(most))
        self.assertLessEqual(max(most), inventory.WINDOW)

    @ddt.data(Exception('gone\naway'), messaging.MessageDeliveryFailure(
        'gone'))
    def test_broker_is_not_there(self, exc):
        self.cast.side_effect = exc
        error = self.assertRaises(inventory.BrokerUnreachable, self.ping, 'a')
        self.assertIn('gone', str(error))
        self.assertNotIn('\n', str(error))
        self.call.assert_not_called()

    def test_broker_hangs(self):
        never = threading.Event()
        self.addCleanup(never.set)
        self.cast.side_effect = lambda *a, **kw: never.wait()
        self.useFixture(test.fixtures.MockPatchObject(
            inventory, 'BROKER_TIMEOUT', new=1))
        error = self.assertRaises(inventory.BrokerUnreachable, self.ping, 'a')
        self.assertIn('no answer in 1 seconds', str(error))

    def test_broker_goes_away_meanwhile(self):
        self.cast.side_effect = [None, messaging.MessageDeliveryFailure('x')]
        self.outcomes = {'scheduler.a': [messaging.MessagingTimeout()]}
        self.assertRaises(inventory.BrokerUnreachable, self.ping, 'a', 'b')

    @ddt.data(messaging.MessageDeliveryFailure('gone\naway'),
              PermissionError('gone'))
    def test_own_error_is_not_of_a_worker(self, exc):
        self.outcomes = {'scheduler.a': [exc]}
        error = self.assertRaises(
            inventory.BrokerUnreachable, self.ping, 'a', 'b')
        self.assertIn('gone', str(error))
        self.assertNotIn('\n', str(error))

    def test_error_of_a_worker(self):
        # As oslo.messaging makes it of one that it may import.
        raised = type('OSError_Remote', (OSError,), {})('no files left')
        self.outcomes = {'scheduler.a': [raised]}
        self.assertEqual(['OSError_Remote: no files left', None],
                         [answer.error for answer in self.ping('a', 'b')])

    def test_each_host_of_the_url_once(self):
        self.useFixture(test.fixtures.MockPatch(
            'nova.rpc.get_transport_url', return_value=mock.Mock(
                hosts=[1, 2, 3])))
        self.retry = 2
        self.assertEqual([None], [a.error for a in self.ping('a')])
