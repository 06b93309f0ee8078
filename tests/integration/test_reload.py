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

"""A SIGHUP renews one worker after the other, and nobody notices.

In the eventlet mode workers go on, as on stock. With the companion, and with
nova's own time for a stop, also on 2026.1 where each stop takes all of that
time.
"""

import concurrent.futures
import contextlib
import os
import threading
import time

import ddt

from tests.integration import base

WORKERS = 6
TIMEOUT = 30
CALLS = 100
# Seconds between two looks at the consumers.
LOOK = 0.03
# Seconds that a request takes, longer than the renewal of all workers; and
# the seconds in which all are renewed.
SLOW = 25
RENEWED = 45
GRACEFUL = 15
# Seconds after the start at which a service is stopped.
EARLY = (0.3, 1.2, 2.4)


@contextlib.contextmanager
def looking(broker, queue):
    """The numbers of consumers of a queue, while in a ``with``."""
    found, stop = [], threading.Event()

    def run():
        with broker.looking(queue) as look:
            while not stop.wait(LOOK):
                found.append(look()[1])

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


class ReloadBase(base.LabTestCase):

    def serve(self, mode, workers=WORKERS, conf=None):
        made = self.cloud(conf)
        service = self.start(made, workers=workers, mode=mode,
                             packages=[base.companion()])
        return made, service, self.enterContext(made.client(self.topic))

    def check_renewed(self, before, service, mode):
        after = self.pids(service)
        if mode == 'eventlet':
            self.assertEqual(before, after)
        else:
            self.assertFalse(set(before.values()) & set(after.values()))

    def check_nobody_notices(self, mode):
        made, service, client = self.serve(mode)
        with looking(made.broker, self.topic) as looks, \
                self.callers(made, TIMEOUT) as callers:
            callers.wait_answered(CALLS, log=made.log)
            service.reload(2 * RENEWED)
            callers.wait_answered(CALLS, log=made.log)
        self.assertEqual((0, 0), callers.counts()[1:])
        self.assertGreaterEqual(min(looks), WORKERS - (mode == 'threading'))
        self.assertGreater(len(looks), 20)
        self.check_no_traceback(made.log())


@ddt.ddt
class ReloadTestCase(ReloadBase):

    @ddt.data(*base.MODES)
    def test_nobody_notices(self, mode):
        self.check_nobody_notices(mode)

    @ddt.data(*base.MODES)
    def test_requests_under_way(self, mode):
        made, service, client = self.serve(mode)
        pool = self.enterContext(
            concurrent.futures.ThreadPoolExecutor(WORKERS))
        slow = []
        for number, worker in service.workers().items():
            made.faults.slow(worker, SLOW, base.WORK[self.topic])
            slow.append(pool.submit(client.work, 20 * SLOW,
                                    service.worker_host(number)))
            made.wait(lambda: made.faults.state(worker)['running'], 10,
                      'the request to run')
        with looking(made.broker, self.topic) as looks:
            service.reload(20 * SLOW)
        for request in slow:
            request.result(SLOW)
        self.assertGreaterEqual(min(looks), WORKERS - 1)

    @ddt.data(*base.MODES)
    def test_beside_a_blocked_worker(self, mode):
        pool = 2
        made, service, client = self.serve(mode, 3, {
            'DEFAULT': {'executor_thread_pool_size': pool},
            self.topic: {'worker_timeout': base.WORKER_TIMEOUT}})
        self.block(made, service, client, pool, 1)
        service.reload(RENEWED)
        self.wait_up(made, service)

    @ddt.data(*base.MODES)
    def test_beside_a_blocked_worker_that_nobody_replaces(self, mode):
        pool = 2
        made, service, client = self.serve(mode, 3, {
            'DEFAULT': {'executor_thread_pool_size': pool,
                        # Else this is three minutes.
                        'graceful_shutdown_timeout': GRACEFUL,
                        'manager_shutdown_timeout': 1}})
        workers = service.workers()
        self.block(made, service, client, pool, 1)
        service.hup()
        if mode == 'eventlet':
            # Nobody ends what stock would let go on.
            service.reload()
            self.assertTrue(all(
                worker.is_running() for worker in workers.values()))
            return
        made.wait(lambda: not workers[2].is_running() and
                  not workers[3].is_running(), RENEWED,
                  'the others to be renewed')
        self.assertTrue(workers[1].is_running())
        made.wait(lambda: not workers[1].is_running(), GRACEFUL + 10,
                  'the blocked worker to be killed')
        service.wait_ready()

    @ddt.data(*base.MODES)
    def test_configuration_that_does_not_parse(self, mode):
        made, service, client = self.serve(mode, 3)
        path = os.path.join(made.folder, f'{service.node}.conf')
        with open(path) as stream:
            good = stream.read()
        pids = self.pids(service)
        with open(path, 'w') as stream:
            stream.write('[DEFAULT\n' + good)
        service.hup()
        text = 'The configuration cannot be read, so no worker is renewed or '
        made.wait(lambda: text in made.log(), 10, 'the line in the log')
        self.assertEqual(pids, self.pids(service))
        client.ping(service.node, timeout=10)
        with open(path, 'w') as stream:
            stream.write(good)
        service.reload()
        self.check_renewed(pids, service, mode)
        self.check_no_traceback(made.log())

    @ddt.data(*base.MODES)
    def test_with_a_thread_of_oslo_reports(self, mode):
        made = self.cloud()
        service = self.start(made, workers=2, mode=mode, conf={
            'oslo_reports': {'file_event_handler': made.folder}})
        pids = self.pids(service)
        service.reload()
        self.check_renewed(pids, service, mode)

    @ddt.data(*base.MODES)
    def test_sigterm_during_a_reload(self, mode):
        made, service, _client = self.serve(mode, 3)
        first = service.workers()[1]
        service.hup()
        if mode == 'threading':
            made.wait(lambda: not first.is_running(), 30,
                      'worker 1 to be renewed')
        self.assertEqual(0, self.end(service, 30))
        self.check_no_traceback(service.log())


@ddt.ddt
class ConductorReloadTestCase(ReloadBase):

    BINARY = 'nova-conductor'

    @ddt.data(*base.MODES)
    def test_nobody_notices(self, mode):
        self.check_nobody_notices(mode)


@ddt.ddt
class EndTestCase(base.LabTestCase):
    """A stop ends, whatever the service was at."""

    @ddt.data(*base.MODES)
    def test_never_connected(self, mode):
        box, url = self.middlebox(base.rabbitmq().transport_url)
        made = self.cloud()
        box.refuse()
        service = made.scheduler(workers=3, mode=mode, conf={
            'DEFAULT': {'transport_url': url}})
        made.wait(lambda: made.log().count('Connection failed') >= 3,
                  60, 'the workers to look for the broker')
        self.end(service, 10)

    @ddt.data(*base.MODES)
    def test_while_it_starts(self, mode):
        made = self.cloud()
        for seconds in EARLY:
            service = made.scheduler(workers=3, mode=mode)
            # The time is what is tested here; nothing tells of it.
            time.sleep(seconds)
            self.end(service, 30)
            self.check_no_traceback(service.log())

    @ddt.data(*base.MODES)
    def test_holds_its_interpreter_lock(self, mode):
        made = self.cloud({'DEFAULT': {
            'graceful_shutdown_timeout': GRACEFUL,
            'manager_shutdown_timeout': 1}})
        service = self.start(made, workers=3, mode=mode)
        made.faults.stop(service.workers()[2])
        self.end(service, GRACEFUL + 10)
