# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

import ddt

from nova import test
from nova.workers import identity


@ddt.ddt
class IdentityTestCase(test.NoDBTestCase):

    def test_worker_host(self):
        self.assertEqual('scheduler-node-1-worker-2',
                         identity.worker_host('scheduler-node-1', 2))

    @ddt.data('scheduler-node-1', 'k8s-worker-1', 'a.example.org', '::1',
              'node-worker-', '-worker-1')
    def test_parse_is_the_inverse(self, node):
        for number in (1, 9, 10, 6400):
            self.assertEqual(
                (node, number),
                identity.parse(identity.worker_host(node, number)))

    @ddt.data('', 'scheduler-node-1', 'node-worker-', 'node-worker-0',
              'node-worker-01', 'node-worker-1x', 'node-worker--1',
              '-worker-1', 'node-worker-1\n', 'node-worker-\u0661')
    def test_parse_no_worker_host(self, host):
        self.assertIsNone(identity.parse(host))

    def test_node_topic_is_the_routing_key_of_the_node_address(self):
        self.assertEqual('scheduler.scheduler-node-1',
                         identity.node_topic('scheduler', 'scheduler-node-1'))

    @ddt.data('n', '\u00e9')
    def test_check_counts_bytes(self, letter):
        size = len(letter.encode())
        # scheduler.<node>_fanout_<32 hex digits> has 255 bytes with 205.
        identity.check('scheduler', letter * (205 // size))
        exc = self.assertRaises(ValueError, identity.check, 'scheduler',
                                letter * (205 // size + 1))
        self.assertIn('more than 205', str(exc))
        self.assertNotIn('\n', str(exc))

    @ddt.data('scheduler', 'conductor', 'a-rather-long-topic')
    def test_check_leaves_room_for_every_name(self, topic):
        node = 'n' * (255 - 40 - len(topic) - 1)
        identity.check(topic, node)
        host = identity.worker_host(node, 10 ** 30)
        self.assertLessEqual(len(host), 255)
        self.assertLessEqual(len(f'{topic}.{host}'), 255)

    def test_own_host(self):
        self.useFixture(test.fixtures.MonkeyPatch(
            'nova.workers.identity._own', None))
        self.flags(host='n')
        self.assertEqual('n', identity.own_host())
        # Longer than a label of a name in DNS may be.
        host = identity.worker_host('n' * 60, 1)
        identity.bind(host)
        self.assertEqual(host, identity.own_host())
