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

"""One worker of the cloud leads, also when the leader is stuck."""

import datetime
import re

import ddt
import psutil

from tests.integration import base
from tests.integration import test_scheduler

INTERVAL = 1


@ddt.ddt
class LeaderTestCase(base.LabTestCase):

    wait_for_leader = test_scheduler.SchedulerTestCase.wait_for_leader

    def test_stopped(self):
        cloud = self.cloud({
            'scheduler': {'discover_hosts_in_cells_interval': INTERVAL},
            'DEFAULT': {'debug': 'true'}})
        first = cloud.scheduler(node='node-a', workers=1)
        # Of two that follow, each is the deputy in every other round.
        second = cloud.scheduler(node='node-b', workers=3)
        for scheduler in (first, second):
            scheduler.wait_ready()
            self.wait_up(cloud, scheduler)
        self.wait_for_leader(cloud, [first, second], 'node-a-worker-1')

        leader = first.workers()[1]
        cloud.faults.stop(leader)
        stopped = datetime.datetime.now()
        self.wait_for_leader(cloud, [second], 'node-b-worker-1')
        self.assertEqual({f'node-b-worker-{n}' for n in (1, 2, 3)},
                         self.up(cloud))
        # It leads from the next round on, one interval later. Three seconds
        # are for a loaded machine, and MariaDB keeps whole seconds.
        waited = self.last_held_back(second, 'node-b-worker-1') - stopped
        self.assertLessEqual(waited.total_seconds(),
                             base.SERVICE_DOWN_TIME + 3)

        # It still remembers that it leads. Soon it does, and nobody else.
        cloud.faults.resume(leader)
        self.wait_for_leader(cloud, [first, second], 'node-a-worker-1')
        self.assertEqual(leader.pid, first.workers()[1].pid)

    @staticmethod
    def last_held_back(scheduler, host):
        """The time of the last round in which a worker did not lead."""
        found = re.findall(
            rf'^(\S+ \S+) .* skipping discover hosts on {host}\b',
            scheduler.log(), re.MULTILINE)
        return datetime.datetime.fromisoformat(found[-1])

    @ddt.data(*base.MODES)
    def test_half_open_connection_to_a_cell(self, mode):
        databases = base.shared_database()
        box, url = self.middlebox(databases.urls['main'])
        self.addCleanup(databases.map_cell, databases.urls['main'])
        databases.map_cell(url)
        self.made = self.cloud({
            'scheduler': {'discover_hosts_in_cells_interval': INTERVAL},
            'DEFAULT': {'debug': 'true'}})
        nodes = [self.made.scheduler(node=node, workers=workers, mode=mode)
                 for node, workers in (('node-a', 3), ('node-b', 1))]
        for scheduler in nodes:
            scheduler.wait_ready()
            self.wait_up(self.made, scheduler)
        self.wait_for_leader(self.made, nodes, 'node-a-worker-1')
        self.discover('compute-1')

        leader = psutil.Process(nodes[0].workers()[1].pid)
        box.abandon(leader)
        self.discover('compute-2')
        self.made.wait(
            lambda: 'The discovery of hosts on node-a-worker-1 has not ended '
            f'after {base.SERVICE_DOWN_TIME} seconds' in nodes[0].log(),
            base.SERVICE_DOWN_TIME + 10, 'the warning')
        # It still hangs, and the others go on.
        self.discover('compute-3')
        # It is well but for that.
        self.assertEqual(4, len(self.up(self.made)))
        self.assertEqual(leader.pid, nodes[0].workers()[1].pid)

    def discover(self, host):
        """A nova-compute is there, and its host is discovered."""
        found = self.made.database
        found.add_compute(host)
        # In one interval it is the turn of the leader, in the other one not.
        self.made.wait(lambda: not found.undiscovered(),
                       base.SERVICE_DOWN_TIME + 2 * INTERVAL + 5,
                       f'{host} to be mapped')
