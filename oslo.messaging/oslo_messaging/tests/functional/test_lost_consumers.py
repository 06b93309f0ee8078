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

import collections
import threading
import uuid

import kombu
from oslo_config import cfg

import oslo_messaging
from oslo_messaging.tests.functional import utils


class Endpoint:

    def __init__(self, ran):
        self.ran = ran
        self.begun = threading.Event()
        self.finish = threading.Event()

    def slow(self, ctxt):
        self.begun.set()
        self.finish.wait(60)

    def quick(self, ctxt, number):
        self.ran.append(number)

    def last(self, ctxt):
        return True


class LostConsumersTestCase(utils.SkipIfNoTransportURL):

    def setUp(self):
        super().setUp(conf=cfg.ConfigOpts())
        if not self.rpc_url.startswith("rabbit://"):
            self.skipTest("RabbitMQ loses consumers like that")

        self.conf.prog = "test_prog"
        self.conf.project = "test_project"
        self.config(rabbit_qos_prefetch_count=2, group='oslo_messaging_rabbit')
        self.topic = uuid.uuid4().hex
        self.ran = []
        self.client = oslo_messaging.get_rpc_client(
            self._transport(), oslo_messaging.Target(topic=self.topic),
            timeout=30)

    def _transport(self):
        return self.useFixture(utils.RPCTransportFixture(
            self.conf, self.rpc_url)).transport

    def _serve(self, name):
        endpoint = Endpoint(self.ran)
        server = oslo_messaging.get_rpc_server(
            self._transport(),
            oslo_messaging.Target(topic=self.topic, server=name), [endpoint],
            limit=threading.Semaphore(1))
        server.start()
        self.addCleanup(server.wait)
        self.addCleanup(server.stop)
        self.addCleanup(endpoint.finish.set)
        return server.listener._poll_style_listener, endpoint

    def _wait(self, condition):
        for _ in range(300):
            if condition():
                return
            threading.Event().wait(0.1)
        self.fail('not in 30 s')

    def _busy_answers(self):
        try:
            return self.client.prepare(server='busy', timeout=1).call(
                {}, 'last')
        except oslo_messaging.MessagingTimeout:
            return False

    def _test(self, lose):
        listener, endpoint = self._serve('busy')
        self.client.prepare(server='busy').cast({}, 'slow')
        self.assertTrue(endpoint.begun.wait(30))
        for number in range(2):
            self.client.cast({}, 'quick', number=number)
        self._wait(lambda: len(listener._unacknowledged) == 2)

        self._serve('other')
        lose(listener.conn)
        # The busy server is sent two of what went back and of these, at most.
        for number in range(2, 10):
            self.client.cast({}, 'quick', number=number)
        self._wait(lambda: len(self.ran) >= 8)
        endpoint.finish.set()
        # Its queue is missing until it has connected again.
        self._wait(self._busy_answers)
        self._wait(lambda: len(set(self.ran)) == 10)

        self.assertEqual({number: 1 for number in range(10)},
                         collections.Counter(self.ran))

    def test_channel_closed(self):
        # For asking for what is not there, instead of the consumer_timeout.
        self._test(lambda conn: conn.channel.queue_declare(
            queue='missing', passive=True, nowait=True))

    def test_consumer_cancelled(self):
        def delete_queue(conn):
            with kombu.Connection(conn.connection.connection.as_uri(
                    include_password=True)) as other:
                other.default_channel.queue_delete(f'{self.topic}.busy')

        self._test(delete_queue)
