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

"""A worker serves with what is true when it starts, however late that is."""

import time

import ddt

from lab import rpc
from tests.integration import base


@ddt.ddt
class MemoryTestCase(base.LabTestCase):

    def make(self, name):
        """Make an aggregate, as nova-api does."""
        aggregate = rpc.aggregate(name)['nova_object.data']
        self.made.database.execute(
            'api', 'INSERT INTO aggregates (created_at, id, uuid, name) '
            'VALUES (UTC_TIMESTAMP(), :id, :uuid, :aggregate)',
            id=aggregate['id'], uuid=aggregate['uuid'], aggregate=name)
        self.client.cast_aggregate(name)

    def remove(self, name):
        self.made.database.execute(
            'api', 'DELETE FROM aggregates WHERE name = :aggregate',
            aggregate=name)
        self.client.cast_aggregate(name, 'delete_aggregate')

    def known(self, number):
        return self.made.faults.state(
            self.scheduler.workers()[number])['aggregates']

    def wait_known(self, *names):
        for number in self.scheduler.numbers:
            self.made.wait(lambda: self.known(number) == sorted(names), 10,
                           f'worker {number} to know {names}')

    def kill(self, number):
        """Kill a worker, and return the one in its place at once."""
        worker = self.scheduler.workers()[number]
        before = {child.pid for child in self.scheduler.process.children()}
        worker.kill()
        end = time.monotonic() + 30
        while time.monotonic() < end:
            for child in self.scheduler.process.children():
                if child.pid not in before:
                    return child
        self.fail(f'worker {number} did not come back')

    def wait_back(self, number):
        self.scheduler.wait_ready()
        # It reads what it did not hear of for the first request.
        self.client.work(10, self.scheduler.worker_host(number))

    @ddt.data(*base.MODES)
    def test_aggregates(self, mode):
        self.made = self.cloud()
        self.scheduler = self.start(self.made, workers=2, mode=mode)
        self.client = self.enterContext(self.made.client())
        for name in ('one', 'two', 'old'):
            self.make(name)
        self.wait_known('old', 'one', 'two')
        self.remove('old')
        self.wait_known('one', 'two')

        # Made since the service has started.
        self.kill(2)
        self.wait_back(2)
        self.assertEqual(['one', 'two'], self.known(2))

        # Made while a worker starts, at whatever point that is.
        names = ['one', 'two']
        for delay in (0, 0.05, 0.1, 0.2, 0.4):
            worker = self.kill(2)
            time.sleep(delay)
            self.made.faults.stop(worker)
            names.append(f'after-{delay}')
            self.make(names[-1])
            self.made.faults.resume(worker)
            self.wait_back(2)
            self.wait_known(*names)

        # And gone since then.
        self.remove('one')
        names.remove('one')
        self.wait_known(*names)
        self.kill(1)
        self.wait_back(1)
        self.assertEqual(sorted(names), self.known(1))
