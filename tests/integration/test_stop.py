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

"""With the companion, a worker that is told to stop loses nothing.

``tools/run.py lab bench restarts`` does the same again and again, beside
stock.
"""

import concurrent.futures

import ddt

from lab.measure import restarts
from lab.servers import broker
from lab.servers import computes
from tests.integration import base

# Seconds that callers wait; a stop, with what runs then, and a start are less.
TIMEOUT = 12
PATIENCE = 40
# For the whole service to end and to start, on a loaded machine.
RESTART = 120
# Calls answered around each event. The lab asks for more.
CALLS = 300


class StopBase(base.LabTestCase):

    def setUp(self):
        super().setUp()
        self.packages = [base.companion()]

    def check_events(self, mode, conf=None, private_broker=None):
        made = self.cloud(conf, private_broker)
        nodes = restarts.Nodes(made, mode, self.topic,
                               packages=self.packages)
        for event, name in nodes.EVENTS.items():
            with self.callers(made, TIMEOUT) as callers:
                callers.wait_answered(CALLS, log=made.log)
                getattr(nodes, event)()
                callers.wait_answered(CALLS, log=made.log)
            counts = callers.counts()
            self.assertEqual((0, 0), counts[1:], f'{name}: {counts}')
        log = made.log()
        self.check_no_traceback(log)
        for text in ('cannot schedule', 'has been started'):
            self.assertNotIn(text, log)


@ddt.ddt
class StopTestCase(StopBase):

    @ddt.data(*base.MODES)
    def test_nothing_is_lost(self, mode):
        self.check_events(mode)

    @ddt.data(*base.MODES)
    def test_request_under_way(self, mode):
        # It takes as long as a stop may.
        made = self.cloud()
        scheduler = self.start(made, workers=2, mode=mode,
                               packages=self.packages)
        worker = scheduler.workers()[2]
        made.faults.slow(worker, 20, base.WORK[self.topic])
        client = self.enterContext(made.client(self.topic))
        pool = self.enterContext(
            concurrent.futures.ThreadPoolExecutor(1))
        slow = pool.submit(client.work, PATIENCE, scheduler.worker_host(2))
        made.wait(lambda: made.faults.state(worker)['running'], 10,
                  'the request to run')
        # Not as slow, whichever worker they reach.
        with self.callers(made, TIMEOUT, lambda client, timeout:
                          client.ping(timeout=timeout)) as callers:
            worker.terminate()
            made.wait(slow.done, PATIENCE, 'the slow request to end')
            # Others answer meanwhile: it gets none that it will not run.
            self.assertGreater(callers.counts().answered, CALLS)
        slow.result()
        self.assertEqual((0, 0), callers.counts()[1:])
        scheduler.wait_ready()

    @ddt.data(*base.MODES)
    def test_replaced(self, mode):
        # What it had begun is lost, and no more.
        pool = 2
        made = self.cloud({
            'DEFAULT': {'executor_thread_pool_size': pool},
            self.topic: {'worker_timeout': base.WORKER_TIMEOUT}})
        scheduler = self.start(made, workers=3, mode=mode,
                               packages=self.packages)
        for fault in (made.faults.stop,
                      lambda worker: made.faults.block(
                          worker, base.WORK[self.topic])):
            worker = scheduler.workers()[2]
            with self.callers(made, 30) as callers:
                callers.wait_answered(CALLS, 60, made.log)
                fault(worker)
                made.wait(lambda: not worker.is_running(), PATIENCE,
                          'worker 2 to be replaced')
                scheduler.wait_ready()
                callers.wait_answered(CALLS, 60, made.log)
            counts = callers.counts()
            self.assertLessEqual(counts.lost, pool)
            self.assertEqual(0, counts.failed)


class ConductorStopTestCase(StopTestCase):

    BINARY = 'nova-conductor'


@ddt.ddt
class SchedulerStopTestCase(StopBase):

    def test_nothing_is_lost_with_the_settings_of_kolla(self):
        # The exchanges of other tests are not durable.
        private = self.enterContext(broker.PrivateBroker())
        self.check_events('threading', base.KOLLA, private)

    @ddt.data(*base.MODES)
    def test_servers(self, mode):
        # As many are booted at a time as nova-conductor may have threads to.
        made = self.cloud(computes.CONF)
        nodes = computes.Computes(made, 5)
        options = {'workers': 3, 'mode': mode, 'packages': self.packages}
        scheduler = made.scheduler(**options).wait_ready()
        client = self.enterContext(made.client())
        pool = self.enterContext(
            concurrent.futures.ThreadPoolExecutor(base.CALLERS))

        def restart():
            scheduler.stop(RESTART)
            made.scheduler(**options)

        for event in (scheduler.hup, restart):
            servers = [pool.submit(nodes.select, client, RESTART)
                       for _server in range(48)]
            made.wait(lambda: any(server.done() for server in servers), 30,
                      'the first server to have a host')
            event()
            self.assertEqual(
                48, len([server.result() for server in servers]))
            made.schedulers[-1].wait_ready()
        self.check_no_traceback(made.log())
