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


class StopTestCase(utils.SkipIfNoTransportURL):

    def setUp(self):
        super().setUp(conf=cfg.ConfigOpts())
        if self.rpc_url.startswith("kafka://"):
            self.skipTest("kafka does not support RPC API")

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
            oslo_messaging.Target(topic=self.topic, server=name), [endpoint])
        server.start()
        self.addCleanup(server.wait)
        self.addCleanup(server.stop)
        return server, endpoint

    def test_others_answer_while_a_request_runs(self):
        stopped, endpoint = self._serve('stopped')
        self.addCleanup(endpoint.finish.set)
        self._serve('other')
        client = oslo_messaging.get_rpc_client(
            self._transport(), oslo_messaging.Target(topic=self.topic),
            timeout=10)
        pool = concurrent.futures.ThreadPoolExecutor(1)
        self.addCleanup(pool.shutdown)
        slow = pool.submit(
            client.prepare(server='stopped', timeout=60).call, {}, 'slow')
        self.assertTrue(endpoint.begun.wait(30))

        stopped.stop()

        for _ in range(10):
            self.assertTrue(client.call({}, 'quick'))
        endpoint.finish.set()
        self.assertTrue(slow.result(30))
