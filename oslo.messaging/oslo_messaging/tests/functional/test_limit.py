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

import concurrent.futures
import threading
import uuid

from oslo_config import cfg

import oslo_messaging
from oslo_messaging.tests.functional import utils


class Endpoint:

    def __init__(self):
        self.begun = threading.Event()
        self.finish = threading.Event()

    def slow(self, ctxt):
        self.begun.set()
        return self.finish.wait(60)

    def quick(self, ctxt):
        return True


class LimitTestCase(utils.SkipIfNoTransportURL):

    def setUp(self):
        super().setUp(conf=cfg.ConfigOpts())
        if self.rpc_url.startswith("kafka://"):
            self.skipTest("kafka does not support RPC API")

        self.conf.prog = "test_prog"
        self.conf.project = "test_project"
        self.config(rabbit_qos_prefetch_count=1, group='oslo_messaging_rabbit')
        self.topic = uuid.uuid4().hex

    def _transport(self):
        return self.useFixture(utils.RPCTransportFixture(
            self.conf, self.rpc_url)).transport

    def _serve(self, name, limit=None):
        endpoint = Endpoint()
        server = oslo_messaging.get_rpc_server(
            self._transport(),
            oslo_messaging.Target(topic=self.topic, server=name), [endpoint],
            limit=limit)
        server.start()
        self.addCleanup(server.wait)
        self.addCleanup(server.stop)
        self.addCleanup(endpoint.finish.set)
        return server, endpoint

    def test_busy_server_leaves_requests_to_others(self):
        client = oslo_messaging.get_rpc_client(
            self._transport(), oslo_messaging.Target(topic=self.topic),
            timeout=60)
        pool = concurrent.futures.ThreadPoolExecutor(6)
        self.addCleanup(pool.shutdown)
        busy, endpoint = self._serve('busy', threading.Semaphore(1))
        slow = pool.submit(client.call, {}, 'slow')
        self.assertTrue(endpoint.begun.wait(30))

        calls = [pool.submit(client.call, {}, 'quick') for _ in range(5)]
        self._serve('other')
        finished = concurrent.futures.as_completed(calls, timeout=30)
        for _ in range(4):
            self.assertTrue(next(finished).result())

        # What it was sent ahead goes back, unacknowledged.
        busy.stop()
        self.assertTrue(next(finished).result())
        self.assertFalse(slow.done())
        endpoint.finish.set()
        self.assertTrue(slow.result(30))
