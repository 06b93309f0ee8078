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

import itertools
import threading
import time
from unittest import mock
import uuid

import fixtures
import testscenarios

import oslo_messaging
from oslo_messaging._drivers import amqp as rpc_amqp
from oslo_messaging._drivers import common as rpc_common
from oslo_messaging._drivers import impl_rabbit
from oslo_messaging.tests import utils as test_utils

load_tests = testscenarios.load_tests_apply_scenarios


class LimitTestCase(test_utils.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.config(heartbeat_timeout_threshold=0,
                    group='oslo_messaging_rabbit')
        # Others leave a mock there, which makes duplicates of all messages.
        numbers = itertools.count()
        self.useFixture(fixtures.MonkeyPatch(
            'uuid.uuid4', lambda: uuid.UUID(int=next(numbers))))


class TestServerLimit(LimitTestCase):

    scenarios = [
        ('fake', {'url': 'fake:///'}),
        ('rabbit', {'url': 'kombu+memory:////'}),
    ]

    def setUp(self):
        super().setUp()
        self.transport = oslo_messaging.get_rpc_transport(self.conf, self.url)
        self.addCleanup(self.transport.cleanup)
        self.client = oslo_messaging.get_rpc_client(
            self.transport, oslo_messaging.Target(topic='topic'), timeout=30)
        self.begun = threading.Semaphore(0)
        self.finish = threading.Semaphore(0)

    def method(self, ctxt, fail=False):
        self.begun.release()
        self.finish.acquire()
        if fail:
            raise ValueError()
        return 'done'

    def test_no_thread(self):
        limit = threading.Semaphore(1)
        server = self.serve(limit)
        with mock.patch.object(server._work_executor, 'submit',
                               side_effect=RuntimeError) as submit:
            self.client.cast({}, 'method')
            for _look in range(100):
                if submit.called:
                    break
                time.sleep(0.1)
        self.assertTrue(limit.acquire(timeout=10))
        limit.release()
        self.client.cast({}, 'method')
        self.assertTrue(self.begun.acquire(timeout=30))

    def serve(self, limit, name='server'):
        server = oslo_messaging.get_rpc_server(
            self.transport,
            oslo_messaging.Target(topic='topic', server=name), [self],
            limit=limit)
        server.start()
        self.addCleanup(server.wait)
        self.addCleanup(server.stop)
        # However the test ends, its requests do.
        self.addCleanup(self.finish.release, 100)
        return server

    def call(self, count):
        """Call from threads; returns them, and the list of their results."""
        results = []
        callers = [threading.Thread(target=lambda: results.append(
            self.client.call({}, 'method'))) for _ in range(count)]
        for caller in callers:
            caller.start()
        return callers, results

    def assert_begun(self, count):
        for _ in range(count):
            self.assertTrue(self.begun.acquire(timeout=30))
        self.assertFalse(self.begun.acquire(timeout=0.5))

    def test_runs_as_many_requests(self):
        self.serve(threading.BoundedSemaphore(2))

        callers, results = self.call(5)

        self.assert_begun(2)
        self.finish.release()
        self.assert_begun(1)
        self.finish.release(4)
        for caller in callers:
            caller.join(30)
        self.assertEqual(['done'] * 5, results)

    def test_casts_and_failures_release_it(self):
        limit = threading.BoundedSemaphore(1)
        self.serve(limit)
        self.finish.release(3)

        self.client.cast({}, 'method')
        self.assertRaises(ValueError, self.client.call, {}, 'method',
                          fail=True)
        self.assertEqual('done', self.client.call({}, 'method'))

        self.assertTrue(limit.acquire(timeout=30))

    def test_servers_share_it(self):
        limit = threading.BoundedSemaphore(1)
        self.serve(limit, 'one')
        self.serve(limit, 'two')

        for name in ('one', 'two'):
            self.client.prepare(server=name).cast({}, 'method')

        self.assert_begun(1)
        self.finish.release()
        self.assert_begun(1)

    def test_stop_does_not_wait_for_it(self):
        server = self.serve(threading.BoundedSemaphore(1))
        callers, results = self.call(1)
        self.assert_begun(1)
        self.client.cast({}, 'method')
        self.assert_begun(0)

        server.stop()

        self.assertEqual([], results)
        self.finish.release()
        callers[0].join(30)
        self.assertEqual(['done'], results)
        server.wait()
        self.assert_begun(0)


class TestListenerLimit(LimitTestCase):

    def setUp(self):
        super().setUp()
        transport = oslo_messaging.get_rpc_transport(self.conf,
                                                     'kombu+memory:////')
        self.addCleanup(transport.cleanup)
        self.limit = threading.BoundedSemaphore(1)
        adapter = transport._driver.listen(
            oslo_messaging.Target(topic='topic', server='server'), 1, None)
        self.addCleanup(adapter.cleanup)
        self.listener = adapter._poll_style_listener
        self.listener.limit = self.limit

    def deliver(self):
        """Have the listener read a request, as its connection does.

        :returns: what the broker is told about it
        """
        message = {'method': 'method', 'args': {}}
        rpc_amqp._add_unique_id(message)
        raw = mock.Mock(payload=rpc_common.serialize_msg(message))
        self.listener(impl_rabbit.RabbitMessage(raw))
        return raw

    def test_acknowledged_once_acquired(self):
        first, second = self.deliver(), self.deliver()

        self.assertEqual(1, len(self.listener.poll(timeout=0.5)))
        self.assertEqual([], self.listener.poll(timeout=0.5))
        first.ack.assert_called_once_with()
        second.ack.assert_not_called()

        self.limit.release()
        self.assertEqual(1, len(self.listener.poll(timeout=0.5)))
        second.ack.assert_called_once_with()
        self.assertFalse(self.limit.acquire(blocking=False))

    def test_not_acknowledged_when_stopped(self):
        self.limit.acquire()
        raw = self.deliver()
        poll = threading.Thread(target=self.listener.poll)
        poll.start()

        self.listener.stop()

        poll.join(30)
        raw.ack.assert_not_called()

    def test_released_when_acknowledge_fails(self):
        lost, raw = self.deliver(), self.deliver()
        lost.ack.side_effect = ConnectionError()

        self.assertEqual(1, len(self.listener.poll(timeout=0.5)))

        raw.ack.assert_called_once_with()

    def test_sees_to_the_connection(self):
        self.limit.acquire()
        self.deliver()
        with mock.patch.object(impl_rabbit.Connection, 'consume',
                               side_effect=rpc_common.Timeout) as consume:
            self.listener.poll(timeout=1)

        self.assertLess(1, consume.call_count)
        self.assertGreater(20, consume.call_count)

    def test_delivered_while_other_consumers_begin(self):
        # It would wait for the next event of the connection.
        begin, raws = impl_rabbit.Consumer.consume, []

        def consume(consumer, conn, tag):
            begin(consumer, conn, tag)
            raws.append(self.deliver())

        self.useFixture(fixtures.MonkeyPatch(
            'oslo_messaging._drivers.impl_rabbit.Consumer.consume', consume))
        with mock.patch('kombu.connection.Connection.drain_events') as drain:
            self.assertEqual(1, len(self.listener.poll(timeout=30)))
        drain.assert_not_called()
        raws[0].ack.assert_called_once_with()
