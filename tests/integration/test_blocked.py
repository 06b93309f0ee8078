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

"""A worker whose threads are all blocked loses nothing, and tells so.

Blocked by requests to the manager, so what is asked of it meanwhile, a ping
say, is not held up by the fault itself.
"""

import re
import time

import ddt

from tests.integration import base

# A worker says that it is blocked after one report_interval or so.
BLOCKED = 20


class BlockedBase(base.LabTestCase):

    def begin(self, mode, workers=3, pool=2):
        self.pool = pool
        self.made = self.cloud(
            {'DEFAULT': {'executor_thread_pool_size': pool}})
        self.scheduler = self.start(self.made, workers=workers, mode=mode)
        self.before = self.pids(self.scheduler)
        self.client = self.enterContext(self.made.client(self.topic))

    def get_blocked(self, *numbers):
        self.block(self.made, self.scheduler, self.client, self.pool,
                   *numbers)

    def until_said(self, function, *numbers):
        """Do something until workers say that they are blocked, and on."""
        hosts = [self.scheduler.worker_host(n) for n in numbers]

        def said():
            function()
            log = self.scheduler.log()
            return all(re.search(
                rf'Worker {host} \(pid \d+\) has begun no message for \d+ '
                'seconds; it runs: req-', log) for host in hosts)

        self.made.wait(said, BLOCKED, f'workers {numbers} to say so')
        end = time.monotonic() + 1.5 * base.REPORT_INTERVAL
        while time.monotonic() < end:
            function()
            time.sleep(0.1)

    def free(self, *numbers):
        for n in numbers:
            self.made.faults.free(self.scheduler.workers()[n])

    def state(self, number):
        return self.made.faults.state(self.scheduler.workers()[number])


@ddt.ddt
class FanoutTestCase(BlockedBase):

    @ddt.data(*base.MODES)
    def test_fanout_casts(self, mode):
        # With one thread each, so that the order is theirs too.
        self.begin(mode, pool=1)
        numbers = sorted(self.before)
        for worker in self.scheduler.workers().values():
            self.made.faults.watch(worker)
        sent = []

        def cast():
            sent.append(f'aggregate-{len(sent)}')
            # As nova-api does after its commit: it must not raise.
            self.client.cast_aggregate(sent[-1])

        def wait_known(number):
            self.made.wait(
                lambda: len(self.state(number)['casts']) >= len(sent), 30,
                f'worker {number} to run {len(sent)} casts')
            self.assertEqual(sent, self.state(number)['casts'])
            self.assertEqual(sorted(sent), self.state(number)['aggregates'])

        cast()
        self.get_blocked(2)
        self.until_said(cast, 2)
        for number in (1, 3):
            wait_known(number)
        self.get_blocked(1, 3)
        self.until_said(cast, 1, 3)
        self.free(*numbers)
        cast()
        for number in numbers:
            wait_known(number)
        self.assertEqual(self.before, self.pids(self.scheduler))


@ddt.ddt
class BlockedTestCase(BlockedBase):

    @ddt.data(*base.MODES)
    def test_node_address(self, mode):
        self.begin(mode, workers=2)
        self.get_blocked(1)
        # One that is blocked may have prefetched a ping before.
        self.made.wait(lambda: self.client.answers(base.NODE, 1), 20,
                       'an answer from the other worker')
        self.get_blocked(2)
        for _probe in range(4):
            self.assertFalse(self.client.answers(base.NODE, 1))
        self.free(2)
        self.made.wait(lambda: self.client.answers(base.NODE, 1), 20,
                       'an answer from the worker that was freed')

    @ddt.data(*base.MODES)
    def test_requests_wait_for_a_thread(self, mode):
        # The blocked worker has begun some and prefetched others, and each
        # is run in the end, by this worker or by another.
        self.begin(mode)
        workers = self.scheduler.workers().values()
        for worker in workers:
            # Counts them.
            self.made.faults.slow(worker, 0, base.WORK[self.topic])

        def ended():
            return sum(self.made.faults.state(worker)['ended']
                       for worker in workers)

        sent = [self.pool]

        def send(count=20):
            for _request in range(count):
                self.client.cast_work()
            sent[0] += count

        self.get_blocked(2)
        self.until_said(send, 2)
        self.made.wait(lambda: ended() >= sent[0] / 2, 20,
                       'the others to run requests')
        self.free(2)
        self.made.wait(lambda: ended() >= sent[0], 20,
                       f'{sent[0]} requests to be run')
        self.assertEqual(sent[0], ended())

    @ddt.data(*base.MODES)
    def test_no_more_requests_run_than_threads(self, mode):
        self.begin(mode, workers=2)
        worker = self.scheduler.workers()[2]

        def send(count=4):
            for _request in range(count):
                self.client.cast_work(self.scheduler.worker_host(2))

        self.get_blocked(2)
        # Its own message comes next, and then more requests.
        time.sleep(1.2 * base.REPORT_INTERVAL)
        send()
        self.until_said(lambda: None, 2)
        # One thread is free for a moment, and the other one is not.
        self.made.faults.release(worker)
        self.made.wait(lambda: self.state(2)['ended'] == 1, 10,
                       'the end of the one that was released')
        time.sleep(base.REPORT_INTERVAL)
        send()
        time.sleep(base.REPORT_INTERVAL)
        self.assertEqual(self.pool, self.state(2)['peak'])
        self.free(2)
        self.made.wait(lambda: self.state(2)['ended'] == self.pool + 8, 20,
                       'the end of all of them')
        self.assertEqual(self.pool, self.state(2)['peak'])
