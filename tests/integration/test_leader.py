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

from tests.integration import base
from tests.integration import test_scheduler

INTERVAL = 1


class LeaderTestCase(base.LabTestCase):

    wait_for_leader = test_scheduler.SchedulerTestCase.wait_for_leader

    def test_stopped(self):
        cloud = self.cloud({
            'scheduler': {'discover_hosts_in_cells_interval': INTERVAL},
            'DEFAULT': {'debug': 'true'}})
        first = cloud.scheduler(node='node-a', workers=1)
        second = cloud.scheduler(node='node-b', workers=2)
        for scheduler in (first, second):
            scheduler.wait_ready()
            self.wait_up(cloud, scheduler)
        self.wait_for_leader(cloud, [first, second], 'node-a-worker-1')

        leader = first.workers()[1]
        cloud.faults.stop(leader)
        stopped = datetime.datetime.now()
        self.wait_for_leader(cloud, [second], 'node-b-worker-1')
        self.assertEqual({'node-b-worker-1', 'node-b-worker-2'},
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
