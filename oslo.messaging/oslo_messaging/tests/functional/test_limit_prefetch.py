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

from oslo_config import cfg

import oslo_messaging
from oslo_messaging.tests.functional import utils


class Endpoint:

    def __init__(self):
        self.begun = threading.Event()
        self.finish = threading.Event()
        self.ran = threading.Semaphore(0)

    def slow(self, ctxt):
        self.begun.set()
        self.finish.wait(60)

    def quick(self, ctxt):
        self.ran.release()


class LimitPrefetchTestCase(utils.SkipIfNoTransportURL):

    def setUp(self):
        super().setUp(conf=cfg.ConfigOpts())
        if not self.rpc_url.startswith("rabbit://"):
            self.skipTest("RabbitMQ has a prefetch count")

        self.conf.prog = "test_prog"
        self.conf.project = "test_project"
        self.topic = uuid.uuid4().hex

    def _transport(self):
        return self.useFixture(utils.RPCTransportFixture(
            self.conf, self.rpc_url)).transport

    def _serve(self, name):
        endpoint = Endpoint()
        server = oslo_messaging.get_rpc_server(
            self._transport(),
            oslo_messaging.Target(topic=self.topic, server=name), [endpoint],
            limit=threading.Semaphore(1))
        server.start()
        self.addCleanup(server.wait)
        self.addCleanup(server.stop)
        self.addCleanup(endpoint.finish.set)
        return endpoint

    def test_busy_server_is_sent_one(self):
        client = oslo_messaging.get_rpc_client(
            self._transport(), oslo_messaging.Target(topic=self.topic))
        busy = self._serve('busy')
        client.cast({}, 'slow')
        self.assertTrue(busy.begun.wait(30))
        for _ in range(10):
            client.cast({}, 'quick')

        other = self._serve('other')

        for _ in range(9):
            self.assertTrue(other.ran.acquire(timeout=30))
        self.assertFalse(busy.ran.acquire(blocking=False))
        busy.finish.set()
        self.assertTrue(busy.ran.acquire(timeout=30))
