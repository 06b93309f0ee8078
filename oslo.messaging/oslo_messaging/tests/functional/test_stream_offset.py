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

import time
import uuid

import kombu
from oslo_config import cfg

import oslo_messaging
from oslo_messaging.tests.functional import utils


class Endpoint:

    def __init__(self):
        self.ran = []

    def run(self, ctxt, number):
        self.ran.append(number)


class StreamOffsetTestCase(utils.SkipIfNoTransportURL):

    def setUp(self):
        super().setUp(conf=cfg.ConfigOpts())
        if not self.rpc_url.startswith("rabbit://"):
            self.skipTest("RabbitMQ has streams")

        self.conf.prog = "test_prog"
        self.conf.project = "test_project"
        self.config(rabbit_qos_prefetch_count=2,
                    rabbit_stream_fanout=True,
                    rabbit_quorum_queue=True,
                    rabbit_transient_quorum_queue=True,
                    group='oslo_messaging_rabbit')
        self.topic = uuid.uuid4().hex

    def _transport(self):
        return self.useFixture(utils.RPCTransportFixture(
            self.conf, self.rpc_url)).transport

    def _target(self, **kwargs):
        # Others have an exchange that is not durable.
        return oslo_messaging.Target(exchange=self.topic, topic=self.topic,
                                     **kwargs)

    def _delete(self, *suffixes):
        with kombu.Connection(
                self.rpc_url.replace('rabbit:', 'amqp:', 1)) as connection:
            for suffix in suffixes:
                connection.default_channel.queue_delete(self.topic + suffix)

    def _wait(self, condition):
        for _ in range(300):
            if condition():
                return
            time.sleep(0.1)
        self.fail('not in 30 seconds')

    def test_another_consumer_is_cancelled(self):
        endpoint = Endpoint()
        server = oslo_messaging.get_rpc_server(
            self._transport(), self._target(server='server'), [endpoint])
        self.addCleanup(self._delete, '', '.server', '_fanout')
        server.start()
        self.addCleanup(server.wait)
        self.addCleanup(server.stop)
        client = oslo_messaging.get_rpc_client(
            self._transport(), self._target(fanout=True))
        client.cast({}, 'run', number=0)
        self._wait(lambda: endpoint.ran)
        # One that has just read something tries again at once.
        listener = server.listener._poll_style_listener
        self._wait(lambda: listener._current_timeout > 1)

        self._delete('.server')
        # The server takes a second to connect again.
        for number in range(1, 6):
            client.cast({}, 'run', number=number)

        self._wait(lambda: 5 in endpoint.ran)
        self.assertEqual(list(range(6)), endpoint.ran)
