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

import threading
from unittest import mock

from amqp import exceptions as amqp_ex

import oslo_messaging
from oslo_messaging.tests import utils as test_utils


class TestStopWithRunningRequest(test_utils.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.config(heartbeat_timeout_threshold=0,
                    group='oslo_messaging_rabbit')
        self.transport = oslo_messaging.get_rpc_transport(
            self.conf, 'kombu+memory:////')
        self.addCleanup(self.transport.cleanup)
        self.begun = threading.Event()
        self.finish = threading.Event()

    def slow(self, ctxt):
        self.begun.set()
        self.assertTrue(self.finish.wait(30))
        return 'done'

    def test_consumes_no_more_and_replies(self):
        target = oslo_messaging.Target(topic='topic', server='server')
        server = oslo_messaging.get_rpc_server(self.transport, target, [self])
        client = oslo_messaging.get_rpc_client(self.transport, target)
        replies = []
        caller = threading.Thread(
            target=lambda: replies.append(client.call({}, 'slow')))
        server.start()
        caller.start()
        self.assertTrue(self.begun.wait(30))
        connection = server.listener._poll_style_listener.conn.connection

        server.stop()

        self.assertIsNone(connection.connection)
        self.assertEqual([], replies)

        self.finish.set()
        caller.join(30)
        server.wait()

        self.assertEqual(['done'], replies)

    def test_broker_is_away(self):
        # Or whoever stops it would not wait for the requests that run.
        server = oslo_messaging.get_rpc_server(
            self.transport, oslo_messaging.Target(
                topic='topic', server='server'), [self])
        server.start()
        connection = server.listener._poll_style_listener.conn.connection
        error = amqp_ex.RecoverableConnectionError('connection already closed')
        with mock.patch('kombu.Queue.delete', side_effect=error), \
                mock.patch('kombu.Connection.connection_errors',
                           (amqp_ex.ConnectionError,)):
            server.stop()
        server.wait()
        self.assertIsNone(connection.connection)
