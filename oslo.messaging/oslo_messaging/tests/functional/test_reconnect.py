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
import uuid

import kombu
from oslo_config import cfg

import oslo_messaging
from oslo_messaging.tests.functional import utils


class Endpoint:

    def __init__(self):
        self.ran = threading.Event()

    def run(self, ctxt):
        self.ran.set()


class ReconnectTestCase(utils.SkipIfNoTransportURL):

    def setUp(self):
        super().setUp(conf=cfg.ConfigOpts())
        if not self.rpc_url.startswith("rabbit://"):
            self.skipTest("RabbitMQ loses consumers like that")

        self.conf.prog = "test_prog"
        self.conf.project = "test_project"
        self.topic = uuid.uuid4().hex

    def _transport(self):
        return self.useFixture(utils.RPCTransportFixture(
            self.conf, self.rpc_url)).transport

    def test_consumes_again(self):
        endpoint = Endpoint()
        server = oslo_messaging.get_rpc_server(
            self._transport(),
            oslo_messaging.Target(topic=self.topic, server='server'),
            [endpoint])
        reconnected = threading.Event()
        server.on_reconnect = reconnected.set
        server.start()
        self.addCleanup(server.wait)
        self.addCleanup(server.stop)
        client = oslo_messaging.get_rpc_client(
            self._transport(), oslo_messaging.Target(topic=self.topic,
                                                     fanout=True))
        client.cast({}, 'run')
        self.assertTrue(endpoint.ran.wait(30))
        self.assertFalse(reconnected.is_set())
        endpoint.ran.clear()

        # Its consumer is cancelled.
        with kombu.Connection(
                self.rpc_url.replace('rabbit:', 'amqp:', 1)) as connection:
            connection.default_channel.queue_delete(f'{self.topic}.server')

        self.assertTrue(reconnected.wait(30))
        client.cast({}, 'run')
        self.assertTrue(endpoint.ran.wait(30))
