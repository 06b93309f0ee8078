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

"""What tests of a worker that gets stuck under callers have in common."""

import time

from nova import rpc as nova_rpc

from lab import rpc
from tests.integration import base

# What the other two of three workers have to answer, of what three did.
GOODPUT = 0.55
PREFETCH = nova_rpc.PREFETCH_COUNT
CALLERS = 8
# Seconds between their calls, where the machine is left to others as well.
PAUSE = 0.1
POOL = 8

SMALL_POOL = {'executor_thread_pool_size': POOL}
REPLACE = {'worker_timeout': base.WORKER_TIMEOUT}
# From the fault to the new process, and to the record that is down.
REPLACED = base.WORKER_TIMEOUT + 2 * base.REPORT_INTERVAL + 8
DOWN = base.SERVICE_DOWN_TIME + base.REPORT_INTERVAL
# What callers lose to a worker that reads but cannot run: what it has begun,
# has in hand, and has prefetched. They have it back after their timeout.
BOUND = POOL + 1 + PREFETCH
RECOVERED = 5 + base.CALL_TIMEOUT


class StuckTestCase(base.LabTestCase):

    #: Seconds that each caller waits before a call.
    PAUSE = PAUSE

    def serve(self, mode, default=None, scheduler=None, rabbit=None):
        """Three workers, and a client."""
        self.made = self.cloud({'DEFAULT': default or {},
                                'scheduler': scheduler or {},
                                'oslo_messaging_rabbit': rabbit or {}})
        self.scheduler = self.start(self.made, workers=3, mode=mode)
        self.client = self.enterContext(self.made.client())

    def begin(self, *args, **kwargs):
        """The same under eight callers, at a healthy rate."""
        self.serve(*args, **kwargs)
        self.callers = self.enterContext(rpc.Callers(
            self.client, CALLERS, base.CALL_TIMEOUT, pause=self.PAUSE,
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
            self.assertNotIn(f'Stacks of worker {self.host}:', log)
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
