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

import datetime

from oslo_utils import timeutils

from nova import objects
from nova.tests.functional.workers import test_scheduler
from nova.workers import inventory


class InventoryTestCase(test_scheduler.WorkersTestCase):

    def setUp(self):
        super().setUp()
        self.flags(service_down_time=60)
        self.inventory = inventory.Inventory(self.context)

    def add_record(self, host, binary='nova-scheduler', seen=0):
        record = objects.Service(
            self.context, host=host, binary=binary, topic=binary[5:],
            report_count=1)
        record.create()
        self.set_seen(host, seen, binary)

    def set_seen(self, host, seconds, binary='nova-scheduler'):
        record = objects.Service.get_by_host_and_binary(
            self.context, host, binary)
        record.last_seen_up = (
            timeutils.utcnow() - datetime.timedelta(seconds=seconds))
        record.save()

    def states(self):
        return [(worker.binary, worker.host, worker.state)
                for worker in self.inventory.workers()]

    def answers(self, timeout, **only):
        workers = self.inventory.workers(**only)
        return {worker.host: answer.error for worker, answer in zip(
            workers, inventory.ping(self.context, workers, timeout))}

    def test_a_mixed_cloud(self):
        self.start_workers(2, node='new')
        self.add_record('new')
        self.set_seen('new', 61)
        self.add_record('old')
        self.add_record('old', 'nova-conductor')
        self.add_record('old', 'nova-compute')
        self.assertEqual([
            ('nova-scheduler', 'new', 'down'),
            ('nova-scheduler', 'new-worker-1', 'up'),
            ('nova-scheduler', 'new-worker-2', 'up'),
            ('nova-conductor', 'old', 'up'),
            ('nova-scheduler', 'old', 'up')], self.states())

    def test_each_answers_for_itself(self):
        workers = self.start_workers()
        conductor = self.start_service('conductor', host='n').host
        self.assertEqual(
            dict.fromkeys([conductor] + [w.host for w in workers]),
            self.answers(10))
        self.assertEqual({workers[2].host: None}, self.answers(10, number=3))

    def test_one_does_not_answer(self):
        workers = self.start_workers()
        workers[1].stop()
        self.assertEqual(
            {workers[0].host: None, workers[2].host: None,
             workers[1].host: 'no answer in 1 seconds'}, self.answers(1))
        self.assertEqual({workers[1].host: 'no answer in 1 seconds'},
                         self.answers(1, number=2))

    def test_retire(self):
        self.start_workers(2)
        self.add_record(f'{test_scheduler.NODE}-worker-3')
        down = self.inventory.workers()
        self.assertEqual(3, len(down))
        self.set_seen(down[2].host, 61)
        self.assertEqual([False, False, True],
                         [self.inventory.retire(worker) for worker in down])
        # Another one has seen the same records.
        self.assertEqual([False] * 3,
                         [self.inventory.retire(worker) for worker in down])
        self.assertEqual([down[0].host, down[1].host], sorted(self.records()))
