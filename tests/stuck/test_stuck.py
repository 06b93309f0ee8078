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

"""A stuck worker is seen, costs few requests, and is replaced."""

import functools
import time

import ddt
from nova.workers import launcher

from lab import rpc
from tests.integration import base

# What the other two of three workers have to answer, of what three did.
GOODPUT = 0.55
PREFETCH = launcher.PREFETCH_COUNT
CALLERS = 8
POOL = 8

SMALL_POOL = {'executor_thread_pool_size': POOL}
REPLACE = {'worker_timeout': base.WORKER_TIMEOUT}
# From the fault to the new process, and to the record that is down.
REPLACED = base.WORKER_TIMEOUT + 2 * base.REPORT_INTERVAL + 3
DOWN = base.SERVICE_DOWN_TIME + base.REPORT_INTERVAL
# What callers lose to a worker that reads but cannot run: what it has begun,
# has in hand, and has prefetched. They have it back after their timeout.
BOUND = POOL + 1 + PREFETCH
RECOVERED = 5 + base.CALL_TIMEOUT


class StuckTestCase(base.LabTestCase):

    def begin(self, mode, default=None, scheduler=None, rabbit=None):
        """Three workers under eight callers, at a healthy rate."""
        self.made = self.cloud({'DEFAULT': default or {},
                                'scheduler': scheduler or {},
                                'oslo_messaging_rabbit': rabbit or {}})
        self.scheduler = self.start(self.made, workers=3, mode=mode)
        self.client = self.enterContext(self.made.client())
        self.callers = self.enterContext(rpc.Callers(
            self.client, CALLERS, timeout=base.CALL_TIMEOUT,
            call=self.client.work))
        # Connections, thread pools and caches are made in the first calls.
        self.callers.rate(2)
        self.healthy = self.callers.rate(5)
        self.assertGreater(self.healthy, 20)

    def fault(self, number, function, *args):
        """Get a worker stuck."""
        self.number = number
        self.host = self.scheduler.worker_host(number)
        self.before = self.pids(self.scheduler)
        self.mark = len(self.scheduler.log())
        self.worker = self.scheduler.workers()[number]
        self.at = time.monotonic()
        self.before_fault = self.callers.elapsed()
        function(self.worker, *args)
        self.after_fault = self.callers.elapsed()

    def since(self):
        return time.monotonic() - self.at

    def log(self):
        """What was logged since the fault."""
        return self.scheduler.log()[self.mark:]

    def wait_down(self):
        """The stuck worker's record turns down, and only that one.

        Watched all the time, so that another record that turns down in
        between does not go unseen.
        """
        others = self.scheduler.record_hosts() - {self.host}

        def down():
            up = self.up(self.made)
            self.assertLessEqual(others, up)
            return self.host not in up

        self.made.wait(down, DOWN - self.since() + 0.5,
                       f'the record of {self.host} to be down')

    def wait_replaced(self, stacks=True):
        """The stuck worker is back under its name, and no other was.

        :param stacks: whether it can write them; a stopped process cannot
        """
        pid = self.before[self.number]
        self.made.wait(
            lambda: self.pids(self.scheduler).get(self.number, pid) != pid and
            self.number in self.scheduler.consuming(),
            REPLACED - self.since(), f'{self.host} to be replaced')
        after = self.pids(self.scheduler)
        self.assertEqual(self.before, after | {self.number: pid})
        log = self.log()
        self.assertEqual(1, log.count('replacing it'))
        self.assertIn(f'Worker {self.host} (pid {pid}) has begun no message '
                      'for', log)
        if stacks:
            self.assertIn(f'Stacks of worker {self.host}:', log)
            self.assertIn('most recent call first', log)
        else:
            self.assertIn(f'Worker {self.host} did not abort within', log)
        self.wait_up(self.made, self.scheduler)

    def check_goodput(self, seconds=3, looks=5):
        """The callers get their answers, at the rate of two workers.

        On a machine that does something else in between, a later look counts;
        with a worker that takes requests along, none is good.
        """
        for _look in range(looks):
            rate = self.callers.rate(seconds)
            if rate >= GOODPUT * self.healthy:
                return
        self.fail(f'{rate:.0f} calls a second, of {self.healthy:.0f}; '
                  'answered, lost and failed in each 5 s: '
                  f'{self.callers.timeline()}')

    def check_bounded(self):
        """A worker that cannot run took no more than its bound."""
        counts = self.callers.counts(self.before_fault)
        self.assertLessEqual(counts.lost, BOUND, self.callers.timeline())
        self.assertEqual(0, counts.failed)

    def check_lost(self):
        """The stuck worker holds what it prefetched, and no more.

        Nothing brings back the calls that it had begun already when it got
        stuck. So of those made later at most as many as it prefetches are
        lost, and altogether none of the callers loses a second one.
        """
        later = self.callers.counts(began=self.after_fault)
        self.assertLessEqual(later.lost, PREFETCH)
        counts = self.callers.counts(self.before_fault)
        self.assertLessEqual(counts.lost, CALLERS)
        self.assertEqual(0, counts.failed)


@ddt.ddt
class ReplacedTestCase(StuckTestCase):

    @ddt.data(*base.MODES)
    def test_seen_bounded_and_replaced(self, mode):
        self.begin(mode, SMALL_POOL, REPLACE)
        # A process that reads no more holds what it prefetched.
        for number, fault, *args in ((1, self.made.faults.stop),
                                     (2, self.made.faults.hold_gil, 120)):
            self.fault(number, fault, *args)
            self.check_goodput()
            self.wait_down()
            self.wait_replaced(stacks=number != 1)
            self.check_goodput()
            self.check_lost()
        # One that reads but cannot run, or has run but cannot end.
        for number, fault, *args in (
                (3, self.made.faults.block, base.WORK[self.topic]),
                (1, self.made.faults.hang_reply)):
            self.fault(number, fault, *args)
            self.wait_down()
            self.wait_replaced()
            self.check_goodput()
            self.check_bounded()

    def test_unread_messages_are_not_lost(self):
        self.begin('threading', scheduler=REPLACE)
        self.callers.stop()
        patient = rpc.Callers(self.client, CALLERS, timeout=60)
        self.fault(2, self.made.faults.stop)
        with patient:
            self.wait_replaced(stacks=False)
        # Those it had prefetched went back, and were answered.
        self.assertEqual(0, patient.counts().lost)
        self.assertEqual(0, patient.counts().failed)


@ddt.ddt
class BlockedPoolTestCase(StuckTestCase):
    """With no worker_timeout, a worker has to help itself."""

    # With nova's default report_interval as well, and for so long that the
    # broker gives up a connection from which nothing is read.
    @ddt.data(*((mode, *rest) for mode in base.MODES for rest in (
        (base.REPORT_INTERVAL, 25, 60), (10, 60, 10))))
    @ddt.unpack
    def test_bounds_itself_and_serves_again(self, mode, interval, seconds,
                                            threshold):
        self.begin(
            mode, dict(SMALL_POOL, report_interval=interval,
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
        time.sleep(max(0, RECOVERED - self.since()))
        # For good.
        while self.since() < seconds:
            self.check_goodput(looks=3)
            cast()
        self.check_bounded()
        text = (f'Worker {self.host} takes no more requests: all {POOL} '
                'threads')
        self.assertEqual(1, self.log().count(text))
        self.assertNotIn('runs messages again', self.log())
        self.assertEqual(self.before, self.pids(self.scheduler))

        self.made.faults.free(self.worker)
        self.made.wait(
            lambda: f'Worker {self.host} runs messages again' in self.log(),
            10 + interval, 'the worker to serve again')
        cast()
        for worker in workers.values():
            self.made.wait(
                lambda: len(self.made.faults.state(worker)['casts']) >=
                len(sent), 20, 'all casts to be run')
            # Eight threads may begin two of them the other way round.
            state = self.made.faults.state(worker)
            self.assertEqual(sorted(sent), sorted(state['casts']))
            self.assertLessEqual(state['peak'], POOL)
        self.client.ping(self.host, timeout=10)
        self.wait_up(self.made, self.scheduler)
        self.assertEqual(1, self.log().count('takes no more'))
        self.check_goodput()
        self.check_bounded()

    @ddt.data(*base.MODES)
    def test_busy_is_left_alone(self, mode):
        # Two threads, and always more requests than that.
        self.begin(mode, {'executor_thread_pool_size': 2}, REPLACE)
        self.callers.stop()
        self.fault(2, self.made.faults.slow, 1, base.WORK[self.topic])
        with rpc.Callers(self.client, 6, timeout=30, call=functools.partial(
                self.client.work, server=self.host)) as busy:
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
        self.assertNotIn('takes no more requests', log)
        self.assertNotIn('replacing it', log)
        self.assertEqual(self.before, self.pids(self.scheduler))
