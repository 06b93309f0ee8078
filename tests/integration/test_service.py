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

"""A daemon that is no part of nova, and whose workers have hosts as well."""

import contextlib
import importlib.util
import os
import subprocess
import sys
import uuid

import ddt
import fixtures
import oslo_messaging
import testtools

from lab import process
from lab import rpc
from lab.servers import cloud
from lab.service import records
from tests.integration import base

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
BACKENDS = ('threading', 'eventlet')
NUMBERS = (1, 2, 3)
DOWN_TIME = 6
POOL = 2
# As the daemon has it: so many requests a worker holds that does not read.
PREFETCH = 2
START = 30


class Client(rpc.Client):
    """Calls the daemon."""

    def _prepare(self, **options):
        return self.client.prepare(exchange='lab-service', namespace=None,
                                   version='1.0', **options)

    def ping(self, server=None, timeout=5):
        """Have a worker answer; its worker host."""
        return self._prepare(server=server, timeout=timeout).call({}, 'ping')

    def work(self, server, seconds):
        """Have a worker run a request for so long, and wait for nothing."""
        self._prepare(server=server).cast({}, 'work', seconds=seconds)

    def answered(self, calls, timeout, server=None):
        """Call so many times; the worker hosts of those that answered."""
        found = []
        for _call in range(calls):
            with contextlib.suppress(oslo_messaging.MessagingTimeout):
                found.append(self.ping(server, timeout))
        return found


@ddt.ddt
class ServiceTestCase(testtools.TestCase):

    def setUp(self):
        super().setUp()
        if not importlib.util.find_spec('oslo_service.backend._threading'):
            self.skipTest('this oslo.service has but one backend')
        self.broker = base.rabbitmq()
        if self.broker is None:
            reason = ('no RabbitMQ is installed, and none answers at '
                      '127.0.0.1:5672')
            if os.environ.get('CI') == 'true':
                self.fail(reason)
            self.skipTest(reason)
        # Others may be on this broker.
        self.topic = 'lab-service-' + uuid.uuid4().hex[:8]
        self.node = 'node-' + self.topic[-8:]
        self.hosts = {n: f'{self.node}-worker-{n}' for n in NUMBERS}
        self.folder = self.useFixture(fixtures.TempDir()).path
        self.records = os.path.join(self.folder, 'records.sqlite')

    def configure(self, backend, packages=(), **options):
        """Write the configuration; how to run the daemon with it."""
        path = process.write_conf(os.path.join(self.folder, 'service.conf'), {
            'DEFAULT': dict({
                'host': self.node, 'topic': self.topic,
                'transport_url': self.broker.transport_url,
                'records': self.records, 'report_interval': 1,
                'service_down_time': DOWN_TIME,
                'executor_thread_pool_size': POOL}, **options),
            'oslo_messaging_rabbit': {
                'rabbit_transient_queues_ttl': rpc.QUEUE_TTL}})
        self.command = [sys.executable, '-m', 'lab.service',
                        '--config-file', path]
        self.env = {'PYTHONPATH': os.pathsep.join([*packages, ROOT]),
                    'LAB_SERVICE_BACKEND': backend}

    def start(self, *args, **options):
        """Start the daemon, and wait until all of its workers are up.

        The arguments are those of configure().
        """
        self.configure(*args, **options)
        self.addCleanup(self.broker.delete, [
            self.queue(name) for name in
            (None, self.node, f'{self.node}.node', *self.hosts.values())])
        self.child = self.enterContext(cloud.Service(
            'lab-service', self.broker, self.node, len(NUMBERS), True,
            self.command, os.path.join(self.folder, 'log'), self.env))
        self.addOnException(lambda exc_info: self.addDetail(
            'log', testtools.content.text_content(self.child.log())))
        self.client = self.enterContext(
            Client(self.broker.transport_url, self.topic))
        self.wait(lambda: self.up() == set(NUMBERS), START,
                  'all workers to be up')

    def wait(self, condition, timeout, what):
        return process.wait(condition, timeout, what, self.child.log)

    def queue(self, name=None):
        return f'{self.topic}.{name}' if name else self.topic

    def up(self):
        """The numbers of the workers that are up."""
        ages = records.ages(self.records)
        return {n for n, host in self.hosts.items()
                if ages.get(host, DOWN_TIME) < DOWN_TIME}

    def pids(self):
        return base.LabTestCase.pids(self.child)

    def wait_down(self, number):
        """Wait until one worker is down, and no other is at any time."""
        def down():
            up = self.up()
            self.assertLessEqual(set(NUMBERS) - {number}, up)
            return number not in up

        self.wait(down, 3 * DOWN_TIME, f'worker {number} to be down')

    def wait_replaced(self, number, pids):
        """Wait until another process is a worker, and the others the same."""
        self.wait(lambda: self.pids().get(number, pids[number]) !=
                  pids[number], START, f'worker {number} to come back')
        host = self.hosts[number]
        self.wait(lambda: self.client.answers(host, timeout=1), START,
                  f'{host} to answer')
        self.assertEqual(host, self.client.ping(host))
        self.assertEqual(
            {n: pid for n, pid in pids.items() if n != number},
            {n: pid for n, pid in self.pids().items() if n != number})

    @ddt.data(*BACKENDS)
    def test_worker_hosts(self, backend):
        self.start(backend)
        pids = self.pids()
        self.assertEqual(set(NUMBERS), set(pids))
        found = self.broker.queues([
            self.queue(name) for name in
            (None, self.node, *self.hosts.values())])
        self.assertEqual([3, 3, 1, 1, 1],
                         [consumers for _waiting, consumers in found])
        for host in self.hosts.values():
            self.assertEqual(host, self.client.ping(host))
        self.assertIn(self.client.ping(self.node), self.hosts.values())

        self.child.workers()[2].kill()
        self.wait_replaced(2, pids)

        self.child.workers()[1].suspend()
        with rpc.Callers(self.client) as callers:
            self.wait_down(1)
        counts = callers.counts()
        self.assertGreater(counts.answered, 50, counts)
        self.assertLessEqual(counts.lost, PREFETCH, counts)
        self.assertEqual(0, counts.failed, counts)
        # It holds as many of what was sent to the node.
        self.check_others_answer(1, 20, self.node)

        self.child.workers()[1].resume()
        self.wait(lambda: self.up() == set(NUMBERS), 10,
                  'worker 1 to be up again')
        tree = self.child.tree()
        self.child.stop()
        self.assertEqual(0, self.child.returncode, self.child.log())
        self.assertEqual([], [each for each in tree if each.is_running()])

    @ddt.data(*BACKENDS)
    def test_replaced(self, backend):
        self.start(backend, missed_beats=4)
        pids = self.pids()
        self.child.workers()[3].suspend()
        self.wait_replaced(3, pids)
        self.assertIn(f'Worker {self.hosts[3]} (pid {pids[3]}) is stuck',
                      self.child.log())

    def check_others_answer(self, number, calls, server=None):
        """All but what one worker was sent ahead is answered by others."""
        answered = self.client.answered(calls, 2, server)
        self.assertGreaterEqual(len(answered), calls - PREFETCH)
        self.assertEqual(set(self.hosts.values()) - {self.hosts[number]},
                         set(answered))

    def block(self):
        """Have requests take up all threads of worker 3."""
        for _thread in range(POOL):
            self.client.work(self.hosts[3], 600)
        self.wait_down(3)

    @ddt.data(*BACKENDS)
    def test_blocked(self, backend):
        self.start(backend, [base.companion()])
        self.block()
        self.check_others_answer(3, 60)
        self.child.kill()

    @ddt.data(*BACKENDS)
    def test_blocked_without_companion(self, backend):
        # Seen all the same; but each third call goes to it for ever.
        self.start(backend)
        self.assertIn('no limit', self.child.log())
        self.block()
        self.assertIn(len(self.client.answered(12, timeout=1)), (7, 8, 9))
        self.child.kill()

    def run_daemon(self, *arguments):
        return subprocess.run(
            [*self.command, *arguments], env={**os.environ, **self.env},
            capture_output=True, text=True, timeout=START)

    def test_list(self):
        self.start(BACKENDS[0])
        self.child.workers()[2].suspend()
        self.wait_down(2)
        done = self.run_daemon('--list')
        self.assertEqual(
            [[self.hosts[1], 'up'], [self.hosts[2], 'down'],
             [self.hosts[3], 'up']],
            [line.split()[:2] for line in done.stdout.splitlines()])

    def test_bad_input(self):
        for options in ({'workers': 0}, {'service_down_time': 1},
                        {'transport_url': 'nothing://'},
                        {'records': self.folder}):
            self.configure(BACKENDS[0], **options)
            done = self.run_daemon()
            self.assertEqual(1, done.returncode, done)
            self.assertRegex(done.stderr, r'^lab-service: .*\n$')
