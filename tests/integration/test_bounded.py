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

"""A worker that is stuck under callers costs them few requests.

The callers leave some of the machine to other tests; how many requests a
worker takes along depends on what it may hold, and not on how fast they come.
"""

import functools
import time

import ddt

from lab import rpc
from tests.integration import base
from tests.integration import stuck


@ddt.ddt
class BoundedTestCase(stuck.StuckTestCase):
    """With no worker_timeout, a worker has to help itself."""

    # With nova's default report_interval as well, and for so long that the
    # broker gives up a connection from which nothing is read.
    @ddt.data(*((mode, *rest) for mode in base.MODES for rest in (
        (base.REPORT_INTERVAL, 25, 60), (10, 60, 10))))
    @ddt.unpack
    def test_bounds_itself_and_serves_again(self, mode, interval, seconds,
                                            threshold):
        self.begin(
            mode, dict(stuck.SMALL_POOL, report_interval=interval,
                       service_down_time=3 * interval),
            rabbit={'heartbeat_timeout_threshold': threshold})
        workers = self.scheduler.workers()
        for worker in workers.values():
            self.made.faults.watch(worker)
        sent = []

        def cast():
            sent.append(f'aggregate-{len(sent)}')
            self.client.cast_aggregate(sent[-1])

        cast()
        self.fault(2, self.made.faults.block, base.WORK[self.topic])
        time.sleep(max(0, stuck.RECOVERED - self.since()))
        # For good.
        while self.since() < seconds:
            self.check_goodput(looks=3)
            cast()
        self.check_bounded()
        # The log says once what it runs, with the stacks.
        text = f'Worker {self.host} (pid {self.worker.pid}) has begun no'
        self.assertEqual(1, self.log().count(text))
        self.assertEqual(1, self.log().count('Stacks of worker'))
        self.assertEqual(self.before, self.pids(self.scheduler))

        self.made.faults.free(self.worker)
        self.client.ping(self.host, timeout=10 + interval)
        cast()
        for worker in workers.values():
            self.made.wait(
                lambda: len(self.made.faults.state(worker)['casts']) >=
                len(sent), 20, 'all casts to be run')
            # Eight threads may begin two of them the other way round.
            state = self.made.faults.state(worker)
            self.assertEqual(sorted(sent), sorted(state['casts']))
            self.assertLessEqual(state['peak'], stuck.POOL)
        self.client.ping(self.host, timeout=10)
        self.wait_up(self.made, self.scheduler)
        self.assertEqual(1, self.log().count(text))
        self.check_goodput()
        self.check_bounded()

    @ddt.data(*base.MODES)
    def test_busy_is_left_alone(self, mode):
        # Two threads, and always more requests than that.
        self.serve(mode, {'executor_thread_pool_size': 2}, stuck.REPLACE)
        before = self.pids(self.scheduler)
        self.made.faults.slow(self.scheduler.workers()[2], 1,
                              base.WORK[self.topic])
        with rpc.Callers(self.client, 6, timeout=30, call=functools.partial(
                self.client.work,
                server=self.scheduler.worker_host(2))) as busy:
            # Longer than three intervals, and than the worker_timeout.
            end = 1.5 * base.WORKER_TIMEOUT
            while busy.elapsed() < end:
                self.assertLessEqual(self.scheduler.record_hosts(),
                                     self.up(self.made))
                time.sleep(0.5)
            answered = busy.counts().answered
        # Two a second: both threads were busy all the time.
        self.assertGreater(answered, 2 * end * 0.7)
        self.assertEqual(0, busy.counts().lost)
        log = self.scheduler.log()
        self.assertNotIn('has begun no message', log)
        self.assertNotIn('replacing it', log)
        self.assertEqual(before, self.pids(self.scheduler))

    @ddt.data(*base.MODES)
    def test_unread_messages_are_not_lost(self, mode):
        self.begin(mode, scheduler=stuck.REPLACE)
        self.callers.stop()
        patient = rpc.Callers(self.client, stuck.CALLERS, timeout=60,
                              pause=self.PAUSE)
        self.fault(2, self.made.faults.stop)
        with patient:
            self.wait_replaced(stacks=False)
        # Those it had prefetched went back, and were answered.
        self.assertEqual((0, 0), patient.counts()[1:])
