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

from unittest import mock

from amqp import exceptions as amqp_ex
import fixtures
import kombu
import testscenarios

import oslo_messaging
from oslo_messaging._drivers import common as rpc_common
from oslo_messaging._drivers import impl_rabbit
from oslo_messaging.tests import utils as test_utils

load_tests = testscenarios.load_tests_apply_scenarios

HOSTS = {'host0', 'host1', 'host2'}


class TestEachHost(test_utils.BaseTestCase):

    scenarios = [
        ('one host', {'hosts': 1, 'retry': 0, 'attempts': 1}),
        ('no retry', {'hosts': 3, 'retry': 0, 'attempts': 3}),
        ('fewer retries', {'hosts': 3, 'retry': 1, 'attempts': 3}),
        ('as many retries as hosts', {'hosts': 3, 'retry': 3, 'attempts': 4}),
    ]

    def test_each_is_asked(self):
        url = oslo_messaging.TransportURL.parse(self.conf, 'rabbit://' + (
            ','.join(f'host{n}' for n in range(self.hosts))))
        asked = []

        def refuse(connection):
            asked.append(connection.hostname)
            raise ConnectionRefusedError()

        with mock.patch('kombu.connection.Connection._connection_factory',
                        side_effect=refuse, autospec=True), \
                mock.patch('kombu.utils.functional.sleep'):
            self.assertRaises(
                kombu.exceptions.OperationalError, impl_rabbit.Connection,
                self.conf, url, rpc_common.PURPOSE_SEND, self.retry)

        self.assertEqual(self.attempts, len(asked))
        self.assertEqual(self.hosts, len(set(asked)))


class TestListener(test_utils.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.config(heartbeat_timeout_threshold=0,
                    kombu_reconnect_delay=0,
                    group='oslo_messaging_rabbit')
        for name, value in (
                ('pyamqp.Transport.establish_connection', self.connect),
                ('pyamqp.Transport.create_channel',
                 lambda transport, connection: connection.channel),
                ('pyamqp.Transport.drain_events', self.drain_events)):
            self.useFixture(fixtures.MonkeyPatch(
                f'kombu.transport.{name}', value))
        self.useFixture(fixtures.MonkeyPatch(
            'kombu.utils.functional.sleep', lambda seconds: None))
        self.asked = []
        self.away = self.without_replica = ()
        self.errors = []
        self.connection = impl_rabbit.Connection(
            self.conf, oslo_messaging.TransportURL.parse(
                self.conf, 'rabbit://host0,host1,host2'),
            rpc_common.PURPOSE_LISTEN)
        self.connection.declare_topic_consumer(
            'exchange', 'topic', mock.Mock())
        self.addCleanup(setattr, self.connection, '_consumers', {})

    def connect(self, transport):
        host = transport.client.hostname
        self.asked.append(host)
        if host in self.away:
            raise ConnectionRefusedError()
        connection = mock.MagicMock(connected=True)
        connection.channel.basic_consume.side_effect = self.consume
        return connection

    def consume(self, *args, **kwargs):
        if self.asked[-1] in self.without_replica:
            raise amqp_ex.PreconditionFailed('no replica', (60, 20))

    def drain_events(self, transport, connection, **kwargs):
        raise self.errors.pop() if self.errors else TimeoutError()

    def lose(self, there=None):
        """Have it connect, and lose that while one host is there."""
        self.assertRaises(rpc_common.Timeout, self.connection.consume, 0)
        self.away = HOSTS - {there}
        self.asked.clear()
        self.errors.append(ConnectionResetError())
        # The timeout of a busy listener is over by then.
        self.assertRaises(rpc_common.Timeout, self.connection.consume, 0)

    def test_each_is_asked_however_short_the_timeout_is(self):
        there = min(HOSTS - set(self.asked))
        self.lose(there)
        self.assertEqual(there, self.asked[-1])
        self.assertTrue(self.connection.connection.connected)

    def test_all_are_away(self):
        self.lose()
        self.assertEqual(3, len(self.asked))

    def test_stopped_while_all_are_away(self):
        connect = self.connect

        def stop(transport):
            if self.away:
                self.connection.stop_consuming()
            return connect(transport)

        self.useFixture(fixtures.MonkeyPatch(
            'kombu.transport.pyamqp.Transport.establish_connection', stop))
        self.lose()
        self.assertEqual(1, len(self.asked))

    def test_hosts_without_a_replica(self):
        there = min(HOSTS - set(self.asked))
        self.without_replica = HOSTS - {there}
        for _time in range(3):
            # Older versions of kombu ask each host twice.
            self.assertRaises(rpc_common.Timeout, self.connection.consume, 0)
        self.assertEqual(there, self.asked[-1])
        self.assertEqual(set(), self.connection._new_tags)

    def test_refused_twice_at_different_times(self):
        # The last host that has refused is forgotten when one accepts.
        for _time in range(2):
            there = self.asked[-1]
            self.without_replica = HOSTS - {there}
            self.errors.append(ConnectionResetError())
            for _call in range(3):
                self.assertRaises(
                    rpc_common.Timeout, self.connection.consume, 0)
            self.assertEqual(there, self.asked[-1])
            self.assertEqual(set(), self.connection._new_tags)
            self.assertEqual([], self.connection._left)

    def test_no_host_has_a_replica(self):
        # Whoever listens pauses then, and asks each of them again.
        self.without_replica = HOSTS
        self.assertRaises(oslo_messaging.MessageDeliveryFailure,
                          self.connection.consume, 60)
        self.assertEqual(HOSTS, set(self.asked))
        self.assertLess(len(self.asked), 9)

    def test_channel_that_the_broker_closes(self):
        # Its consumer_timeout is over, which no other host would mend.
        self.assertRaises(rpc_common.Timeout, self.connection.consume, 0)
        self.errors.append(amqp_ex.PreconditionFailed('timed out', (0, 0)))
        self.assertRaises(rpc_common.Timeout, self.connection.consume, 0)
        self.assertEqual(1, len(self.asked))
