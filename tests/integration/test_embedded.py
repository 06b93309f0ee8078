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

"""The demo where there is no RabbitMQ: all workers in one process."""

import ddt
import fixtures

from lab.servers import cloud
from lab.servers import embedded
from tests.integration import base

NODE = 'n1'
HOSTS = [f'{NODE}-worker-{number}' for number in (1, 2, 3)]


@ddt.ddt
class EmbeddedTestCase(base.LabTestCase):

    @ddt.data(*base.MODES)
    def test_records_and_answers(self, mode):
        folder = self.useFixture(fixtures.TempDir()).path
        records, pings = embedded.run(
            folder, NODE, len(HOSTS), None, cloud.mode_env(mode))
        self.assertEqual(HOSTS, sorted(record.host for record in records))
        self.assertEqual(
            {host: number for number, host in enumerate(HOSTS, 1)},
            {host: pings[host] for host in HOSTS})
        # Any of them answers for the node.
        self.assertIn(pings[NODE], (1, 2, 3))
