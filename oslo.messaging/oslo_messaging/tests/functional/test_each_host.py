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

import socket
import uuid

from oslo_config import cfg

import oslo_messaging
from oslo_messaging.tests.functional import utils


class EachHostTestCase(utils.SkipIfNoTransportURL):

    def setUp(self):
        super().setUp(conf=cfg.ConfigOpts())
        if not self.rpc_url.startswith("rabbit://"):
            self.skipTest("RabbitMQ has several hosts")

        self.conf.prog = "test_prog"
        self.conf.project = "test_project"

    def test_no_retry_with_hosts_that_are_away(self):
        url = oslo_messaging.TransportURL.parse(self.conf, self.rpc_url)
        for _ in range(2):
            sock = socket.socket()
            self.addCleanup(sock.close)
            # Nobody listens there.
            sock.bind(('127.0.0.1', 0))
            url.hosts.append(oslo_messaging.TransportHost(
                '127.0.0.1', sock.getsockname()[1], 'guest', 'guest'))

        # Each connects to them in an order of its own.
        for _ in range(10):
            transport = self.useFixture(utils.RPCTransportFixture(
                self.conf, str(url))).transport
            client = oslo_messaging.get_rpc_client(
                transport, oslo_messaging.Target(topic=uuid.uuid4().hex),
                retry=0)
            client.cast({}, 'method')
