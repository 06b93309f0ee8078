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

import amqp
from amqp import exceptions as amqp_ex
import fixtures
import testscenarios

import oslo_messaging
from oslo_messaging._drivers import amqp as rpc_amqp
from oslo_messaging._drivers import common as rpc_common
from oslo_messaging._drivers import impl_rabbit
from oslo_messaging.tests import utils as test_utils

load_tests = testscenarios.load_tests_apply_scenarios


class LostConsumersTestCase(test_utils.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.config(heartbeat_timeout_threshold=0,
                    kombu_reconnect_delay=0,
                    rabbit_qos_prefetch_count=7,
                    group='oslo_messaging_rabbit')
        # What is recoverable with RabbitMQ.
        for name in ('connection_errors', 'channel_errors',
                     'recoverable_connection_errors',
                     'recoverable_channel_errors'):
            self.useFixture(fixtures.MonkeyPatch(
                f'kombu.transport.memory.Transport.{name}',
                getattr(amqp.Connection, name)))
        transport = oslo_messaging.get_rpc_transport(self.conf,
                                                     'kombu+memory:////')
        self.addCleanup(transport.cleanup)
        adapter = transport._driver.listen(
            oslo_messaging.Target(topic='topic', server='server'), 1, None)
        self.addCleanup(adapter.cleanup)
        self.listener = adapter._poll_style_listener
        self.listener.limit = threading.Semaphore(0)

        self.broker = mock.Mock()
        for name in ('basic_qos', 'basic_consume'):
            self.useFixture(fixtures.MonkeyPatch(
                f'kombu.transport.memory.Channel.{name}',
                getattr(self.broker, name)))
        self.errors = []
        self.useFixture(fixtures.MonkeyPatch(
            'kombu.connection.Connection.drain_events', self.drain_events))

    def drain_events(self, connection, timeout):
        # Longer than the listener is willing to wait.
        time.sleep(0.01)
        raise self.errors.pop() if self.errors else TimeoutError()

    def calls(self):
        return [call[0] for call in self.broker.mock_calls]

    def deliver(self, consumer=None, **headers):
        """Have the listener read a request, as its connection does.

        :returns: what the broker is told about it
        """
        message = {'method': 'method', 'args': {}}
        rpc_amqp._add_unique_id(message)
        raw = mock.Mock(payload=rpc_common.serialize_msg(message),
                        headers=headers)
        if consumer:
            consumer._callback(raw)
        else:
            self.listener(impl_rabbit.RabbitMessage(raw))
        return raw


class TestStream(LostConsumersTestCase):

    def test_offset_is_that_of_what_was_acknowledged(self):
        # Or what waits for the limit would not be sent again.
        consumer, = (consumer for consumer in self.listener.conn._consumers
                     if consumer.type == 'fanout')
        consumer.rabbit_stream_fanout = True
        consumer.queue = mock.Mock(channel=object())
        self.deliver(consumer, **{'x-stream-offset': 10})
        self.listener.poll(timeout=0.3)
        self.assertEqual(10, consumer.next_stream_offset)

        self.listener.limit.release()

        self.listener.poll(timeout=0.5)
        self.assertEqual(11, consumer.next_stream_offset)


class TestMissingQueue(LostConsumersTestCase):

    def test_start_anew_with_the_prefetch_count(self):
        self.broker.basic_consume.side_effect = itertools.chain(
            [amqp_ex.NotFound()], itertools.repeat(None))

        self.listener.poll(timeout=0.5)

        self.assertEqual(['basic_qos', 'basic_consume'] * 2 +
                         ['basic_consume'] * 2, self.calls())


class TestLostConsumers(LostConsumersTestCase):
    """A listener that waits for its limit when its consumers are lost."""

    scenarios = [
        # RabbitMQ's consumer_timeout is over.
        ('channel closed', {'error': amqp_ex.PreconditionFailed(
            'delivery acknowledgement on channel 1 timed out')}),
        ('acknowledgement refused', {'error': amqp_ex.PreconditionFailed(
            'unknown delivery tag 1', (60, 80))}),
        ('consumer cancelled', {'error': amqp_ex.ConsumerCancelled('1')}),
        ('connection closed', {'error': amqp_ex.ConnectionForced('closed')}),
    ]

    def test_stream_begins_first(self):
        # Where a host refuses it, no request has come and goes back.
        self.listener.poll(timeout=0.1)
        queues = [call.kwargs['queue'] for call in
                  self.broker.basic_consume.mock_calls]
        self.assertEqual(3, len(queues))
        self.assertIn('_fanout_', queues[0])

    def test_requests_are_not_acknowledged(self):
        raw = self.deliver()
        self.errors.append(self.error)
        self.listener.poll(timeout=0.5)

        self.listener.limit.release()

        self.assertEqual([], self.listener.poll(timeout=0.5))
        raw.ack.assert_not_called()
        # The next is.
        raw = self.deliver()
        self.assertEqual(1, len(self.listener.poll(timeout=0.5)))
        raw.ack.assert_called_once_with()

    def test_lost_as_the_limit_gets_free(self):
        # The consumers begin.
        self.listener.poll(timeout=0.1)
        raw, limit = self.deliver(), self.listener.limit

        def acquire(timeout):
            if timeout:
                limit.release()
                self.errors.append(self.error)
            return limit.acquire(timeout=timeout)

        self.listener.limit = mock.Mock(acquire=acquire,
                                        release=limit.release)
        self.assertEqual([], self.listener.poll(timeout=0.5))
        raw.ack.assert_not_called()

    def test_broker_is_asked_after_a_pause(self):
        raw = self.deliver()
        self.listener.poll(timeout=0.5)
        self.listener._heard = 0
        self.broker.reset_mock()

        self.listener.limit.release()

        self.assertEqual(1, len(self.listener.poll(timeout=0.5)))
        self.assertEqual(['basic_qos'], self.calls())
        raw.ack.assert_called_once_with()

    def test_broker_is_gone(self):
        self.check_broker_is_gone(self.error)

    def test_broker_does_not_answer(self):
        self.check_broker_is_gone(TimeoutError())
        self.assertEqual(6, self.calls().count('basic_consume'))

    def check_broker_is_gone(self, error):
        raw = self.deliver()
        self.listener.poll(timeout=0.5)
        self.listener._heard = 0
        errors = [error]

        def basic_qos(*args):
            if errors:
                time.sleep(0.01)
                raise errors.pop()

        self.broker.basic_qos.side_effect = basic_qos
        self.listener.limit.release()

        self.assertEqual([], self.listener.poll(timeout=0.5))
        raw.ack.assert_not_called()

    def test_declared_anew(self):
        # Or a stream would be read again from where it was declared.
        self.deliver()
        self.listener.poll(timeout=0.5)
        self.errors.append(self.error)
        with mock.patch.object(impl_rabbit.Consumer, 'declare',
                               autospec=True) as declare:
            self.listener.poll(timeout=0.5)
        self.assertEqual(3, len({call.args[0]
                                 for call in declare.mock_calls}))

    def test_start_anew_with_the_prefetch_count(self):
        self.deliver()
        self.listener.poll(timeout=0.5)
        self.broker.reset_mock()

        self.errors.append(self.error)
        self.listener.poll(timeout=0.5)

        self.assertEqual(['basic_qos'] + ['basic_consume'] * 3,
                         self.calls()[-4:])
