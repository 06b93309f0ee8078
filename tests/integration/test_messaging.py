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

"""The settings of RabbitMQ that deployments have.

kolla-ansible and OpenStack-Ansible run quorum queues, stream fanout and the
queue manager, with a prefetch of their own.
"""

import collections
import re

import ddt

from lab.servers import broker
from tests.integration import base

NODE = base.NODE
POOL = 2
# Until it is seen that the broker is back; see test_outage.
BROKER_BACK = 60


@ddt.ddt
class MessagingTestCase(base.LabTestCase):

    def queues(self):
        """The queues there are, but for replies: how many of name and type.

        What oslo.messaging appends to the names of fanout queues is cut off.
        """
        found = collections.Counter()
        for line in self.broker.ctl('list_queues', '--no-table-headers',
                                    'name', 'type'):
            name, kind = line.split('\t')
            if not name.startswith('reply_'):
                found[re.sub('_fanout_.*', '_fanout_', name), kind] += 1
        return dict(found)

    def start_cloud(self, conf, mode, workers=3):
        self.broker = self.enterContext(broker.PrivateBroker())
        self.made = self.cloud(dict(
            conf, DEFAULT={'executor_thread_pool_size': POOL},
            scheduler={'worker_timeout': base.WORKER_TIMEOUT}), self.broker)
        self.mode = mode
        self.scheduler = self.start(self.made, workers=workers, mode=mode)
        self.client = self.enterContext(self.made.client())

    def check_all_answer(self):
        for n in self.scheduler.numbers:
            self.client.ping(self.scheduler.worker_host(n), timeout=30)
        self.client.ping(NODE, timeout=30)

    def check_main_cases(self):
        self.assertEqual(
            {f'{NODE}-worker-{n}' for n in (1, 2, 3)},
            {record.host for record in self.made.services()})
        self.check_all_answer()

        for number, what, fault in (
                (2, 'killed', lambda worker: worker.kill()),
                (1, 'stopped', self.made.faults.stop),
                (3, 'blocked', lambda worker: self.block(
                    self.made, self.scheduler, self.client, POOL, 3))):
            pids = self.pids(self.scheduler)
            fault(self.scheduler.workers()[number])
            self.made.wait(
                lambda: self.pids(self.scheduler).get(
                    number, pids[number]) != pids[number], 40,
                f'worker {number}, {what}, to come back')
            self.scheduler.wait_ready()
            self.wait_up(self.made, self.scheduler)
            self.check_all_answer()
            del pids[number]
            self.assertLessEqual(pids.items(),
                                 self.pids(self.scheduler).items())

        # oslo.messaging logs what it meets there, and tries again: workers
        # that declare a new stream at the same time may be refused it.
        self.assertEqual([], [
            line for line in self.scheduler.log().splitlines()
            if 'Traceback (' in line and not re.search(
                r' oslo([._]messaging\._drivers|_utils\.excutils)', line)])
        pids = self.pids(self.scheduler)
        self.broker.stop()
        self.made.wait(lambda: not self.up(self.made), 30,
                       'all records to be down')
        self.broker.start()
        self.wait_up(self.made, self.scheduler, BROKER_BACK)
        self.check_all_answer()
        self.assertEqual(pids, self.pids(self.scheduler))

        self.scheduler.hup()
        self.made.wait(
            lambda: self.scheduler.hups_taken() == 3
            if self.mode == 'eventlet' else
            not set(self.pids(self.scheduler).values()) & set(pids.values()),
            60, 'SIGHUP')
        self.scheduler.wait_ready()
        self.check_all_answer()

        self.scheduler.stop(60)
        self.scheduler = self.start(self.made, workers=2, mode=self.mode)
        self.check_all_answer()
        self.made.wait(
            lambda: {record.host for record in self.made.services()} ==
            self.scheduler.record_hosts(), base.RETIRED,
            'the record of worker 3 to be retired')

    @ddt.data(*base.MODES)
    def test_kolla(self, mode):
        self.start_cloud(base.KOLLA, mode)
        self.assertEqual(
            {('scheduler_fanout', 'stream'): 1,
             (f'scheduler.{NODE}_fanout', 'stream'): 1,
             ('scheduler', 'quorum'): 1,
             (f'scheduler.{NODE}', 'quorum'): 1,
             (f'scheduler.{NODE}.node', 'quorum'): 1,
             (f'scheduler.{NODE}-worker-1', 'quorum'): 1,
             (f'scheduler.{NODE}-worker-2', 'quorum'): 1,
             (f'scheduler.{NODE}-worker-3', 'quorum'): 1}, self.queues())
        self.check_main_cases()

    def test_queues(self):
        self.start_cloud({}, base.MODES[0])
        self.assertEqual(
            {('scheduler_fanout_', 'classic'): 3,
             (f'scheduler.{NODE}_fanout_', 'classic'): 3,
             ('scheduler', 'classic'): 1,
             (f'scheduler.{NODE}', 'classic'): 1,
             (f'scheduler.{NODE}.node', 'classic'): 1,
             (f'scheduler.{NODE}-worker-1', 'classic'): 1,
             (f'scheduler.{NODE}-worker-2', 'classic'): 1,
             (f'scheduler.{NODE}-worker-3', 'classic'): 1}, self.queues())
