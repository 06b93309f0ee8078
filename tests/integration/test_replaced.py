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

"""A worker is replaced, however it got stuck.

What that costs callers meanwhile is in tests.stuck.
"""

import re

import ddt

from tests.integration import base

# nova's default of executor_thread_pool_size.
POOL = 64
# A stuck worker has to be gone by then, on a loaded machine too.
REPLACED = base.WORKER_TIMEOUT + 2 * base.REPORT_INTERVAL + 30


@ddt.ddt
class ReplacedTestCase(base.LabTestCase):

    @property
    def conf(self):
        return {self.topic: {'worker_timeout': base.WORKER_TIMEOUT}}

    def replaced(self, scheduler, before):
        """The numbers of the workers that have other processes now."""
        after = self.pids(scheduler)
        return sorted(n for n, pid in before.items()
                      if after.get(n, pid) != pid)

    @ddt.data(*base.MODES)
    def test_as_soon_as_it_serves(self, mode):
        made = self.cloud(self.conf)
        scheduler = getattr(made, self.topic)(workers=3, mode=mode)
        made.wait(lambda: 2 in scheduler.consuming(), 60, 'worker 2 to serve')
        worker = scheduler.workers()[2]
        made.faults.stop(worker)
        scheduler.wait_ready()
        before = self.pids(scheduler)
        made.wait(lambda: self.replaced(scheduler, before) == [2], REPLACED,
                  'worker 2 to be replaced')
        self.wait_up(made, scheduler)
        self.assertEqual([2], self.replaced(scheduler, before))
        self.assertIn(
            f'Worker {scheduler.worker_host(2)} (pid {worker.pid}) has begun '
            'no message for', scheduler.log())

    @ddt.data(*base.MODES)
    def test_half_open_connection_to_the_database(self, mode):
        # A write hangs for ever, but the database answers all others.
        box, url = self.middlebox(base.shared_database().urls['main'])
        made = self.cloud(dict(self.conf, database={'connection': url}))
        scheduler = self.start(made, workers=3, mode=mode)
        before = self.pids(scheduler)
        box.abandon()
        # One after the other. Worker 1 may get on: if its look for records
        # hangs first, its heartbeats have another connection.
        made.wait(lambda: {2, 3} <= set(self.replaced(scheduler, before)),
                  3 * REPLACED, 'workers 2 and 3 to be replaced')
        self.wait_up(made, scheduler)
        self.assertEqual(len(self.replaced(scheduler, before)),
                         scheduler.log().count('replacing it'))

    def test_all_stacks(self):
        # faulthandler stops after 100 threads, the newest first.
        made = self.cloud(self.conf)
        scheduler = self.start(made, workers=2, mode='threading')
        client = self.enterContext(made.client(self.topic))
        for _ping in range(100):
            client.ping(scheduler.node, timeout=10)
        self.block(made, scheduler, client, POOL, 2)
        before = self.pids(scheduler)
        made.wait(lambda: self.replaced(scheduler, before) == [2], REPLACED,
                  'worker 2 to be replaced')
        stacks = scheduler.log().partition('Stacks of worker ')[2]
        self.assertEqual(POOL, len(re.findall(
            r'File ".*/lab/faults/inject/.* in method\n', stacks)))
