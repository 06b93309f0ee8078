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
from unittest import mock

from amqp import exceptions as amqp_ex
import testscenarios

import oslo_messaging
from oslo_messaging._drivers import common as rpc_common
from oslo_messaging.tests import utils as test_utils

load_tests = testscenarios.load_tests_apply_scenarios


class TestStreamOffset(test_utils.BaseTestCase):

    scenarios = [
        # Of the topic, of the server, and of the stream that all have.
        ('topic', {'tag': '1', 'deleted': (), 'expected': 42}),
        ('server', {'tag': '2', 'deleted': ('stream',), 'expected': 42}),
        ('stream', {'tag': '3', 'deleted': (), 'expected': 'last'}),
        # Somebody deletes all of them, and the stream is the last.
        ('deleted', {'tag': '1', 'deleted': ('stream',), 'expected': 'last'}),
    ]

    def test_consumer_cancelled(self):
        self.config(heartbeat_timeout_threshold=0,
                    kombu_reconnect_delay=0,
                    rabbit_qos_prefetch_count=1,
                    rabbit_stream_fanout=True,
                    rabbit_transient_quorum_queue=True,
                    group='oslo_messaging_rabbit')
        transport = oslo_messaging.get_rpc_transport(self.conf,
                                                     'kombu+memory:////')
        self.addCleanup(transport.cleanup)
        # In this process others have a fanout exchange that is not durable.
        adapter = transport._driver.listen(
            oslo_messaging.Target(topic='stream', server='server'), 1, None)
        self.addCleanup(adapter.cleanup)
        connection = adapter._poll_style_listener.conn
        stream, = (consumer for consumer in connection._consumers
                   if consumer.type == 'fanout')
        stream.next_stream_offset = 42
        for name in self.deleted:
            connection.channel.queue_delete(name)

        cancelled = amqp_ex.ConsumerCancelled(self.tag, (60, 30))
        with mock.patch('kombu.Connection.drain_events',
                        side_effect=itertools.chain(
                            [cancelled], itertools.repeat(TimeoutError))):
            self.assertRaises(rpc_common.Timeout, connection.consume,
                              timeout=0.5)

        self.assertEqual(self.expected, stream.next_stream_offset)
