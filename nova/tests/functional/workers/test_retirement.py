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
from nova.workers import retirement

NODE = test_scheduler.NODE


class RetirementTestCase(test_scheduler.WorkersTestCase):
    """Records in a real database, and workers that look after them."""

    def add_record(self, host, binary='nova-scheduler', seen=3600):
        """A record that another process, or an earlier one, has left."""
        record = objects.Service(
            context=self.context, host=host, binary=binary,
            topic=binary.removeprefix('nova-'), report_count=1)
        record.create()
        self.set_seen(host, binary, seen)

    def set_seen(self, host, binary='nova-scheduler', seen=3600):
        record = objects.Service.get_by_host_and_binary(
            self.context, host, binary)
        record.last_seen_up = (
            timeutils.utcnow() - datetime.timedelta(seconds=seen))
        record.save()

    def hosts(self):
        return {(record.host, record.binary) for record in
                objects.ServiceList.get_all(self.context)
                if record.binary in (
                    'nova-scheduler', 'nova-conductor', 'nova-compute')}

    def retire(self, worker):
        self.set_seen(worker.host, seen=0)
        retired = retirement.Retirement(
            worker.server, worker.node, worker.workers)
        # At the first look the worker was not up before.
        self.assertEqual([worker.host], retired.retire(self.context))
        return retired.retire(self.context)

    def scheduler_hosts(self):
        return {host for host, binary in self.hosts()
                if binary == 'nova-scheduler'}

    def test_scale_down_and_up(self):
        for worker in self.start_workers(5):
            worker.stop()
            self.set_seen(worker.host)
        worker = self.start_workers(2)[0]
        self.assertEqual([], self.retire(worker))
        self.assertEqual({f'{NODE}-worker-1', f'{NODE}-worker-2'},
                         self.scheduler_hosts())
        self.start_workers(5)
        self.assertEqual({f'{NODE}-worker-{n}' for n in range(1, 6)},
                         self.scheduler_hosts())

    def test_first_start_after_stock(self):
        self.add_record(NODE, seen=1)
        worker = self.start_workers(1)[0]
        # It was up until a moment ago, and may be so still.
        self.assertEqual([NODE], self.retire(worker))
        self.assertIn(NODE, self.scheduler_hosts())
        self.set_seen(NODE)
        self.assertEqual([], self.retire(worker))
        self.assertEqual({f'{NODE}-worker-1'}, self.scheduler_hosts())

    def test_live_stock_node_and_look_alikes(self):
        others = {(f'{NODE}0', 'nova-scheduler'),
                  (f'{NODE}-worker-9', 'nova-scheduler'),
                  (f'{NODE}-worker-9', 'nova-compute'),
                  (f'{NODE}-worker-8', 'nova-scheduler'),
                  (f'{NODE}-worker-7', 'nova-scheduler'),
                  (f'{NODE}-worker-7-worker-1', 'nova-conductor'),
                  (f'{NODE}-worker-6', 'nova-conductor'),
                  ('live', 'nova-scheduler')}
        for host, binary in others:
            self.add_record(host, binary)
        # A worker host of another binary does not make it a node.
        self.add_record(f'{NODE}-worker-6', 'nova-scheduler')
        # One is up and has no other services.
        self.set_seen(f'{NODE}-worker-8', seen=1)
        worker = self.start_workers(1)[0]
        self.assertEqual([f'{NODE}-worker-8'], self.retire(worker))
        self.assertEqual(others | {(worker.host, 'nova-scheduler')},
                         self.hosts())

    def test_same_host_with_another_binary(self):
        self.add_record(NODE, 'nova-conductor')
        self.add_record(NODE)
        worker = self.start_workers(1)[0]
        self.assertEqual([], self.retire(worker))
        self.assertEqual({(NODE, 'nova-conductor'),
                          (worker.host, 'nova-scheduler')}, self.hosts())
