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

"""nova.cmd.worker_probe with real processes and a real broker."""

import os
import subprocess
import sys
import uuid

import ddt
import psutil

from lab.servers import broker
from tests.integration import base


class ProbeBase(base.LabTestCase):

    def setUp(self):
        super().setUp()
        # It looks at processes, and other tests, of this class too, run
        # beside this one.
        self.node = f'probed-{uuid.uuid4().hex[:8]}'

    def probe(self, made, *args):
        """The return code, what is wrong, and how many answered."""
        done = subprocess.run(
            [sys.executable, '-m', 'nova.cmd.worker_probe', '--config-file',
             os.path.join(made.folder, self.node + '.conf'),
             '--binary', self.BINARY, *args],
            text=True, capture_output=True, timeout=60)
        return done.returncode, done.stderr, done.stdout

    def check_states(self, made, **kwargs):
        scheduler = self.start(made, node=self.node, workers=3, **kwargs)
        self.assertEqual((0, '', '3 of 3 answered\n'), self.probe(made))

        worker = scheduler.workers()[2]
        made.faults.stop(worker)
        self.assertEqual(
            (1, f'{self.node}-worker-2: stuck: process {worker.pid} is there '
             'and did not answer in 2 seconds\n', '2 of 3 answered\n'),
            self.probe(made, '--timeout', '2'))

        # Its parent does not start it again.
        made.faults.stop(scheduler.process)
        worker.kill()
        made.wait(lambda: worker.status() == psutil.STATUS_ZOMBIE, 10,
                  'the worker to end')
        self.assertEqual(
            (6, f'{self.node}-worker-2: down: {self.BINARY} runs and this '
             'worker does not\n', '2 of 3 answered\n'),
            self.probe(made, '--timeout', '2'))


@ddt.ddt
class StatesTestCase(ProbeBase):

    @ddt.data(*base.MODES)
    def test_states(self, mode):
        self.check_states(self.cloud(), mode=mode)


class ProbeTestCase(ProbeBase):

    def test_states_with_the_settings_of_kolla(self):
        # The exchanges of other tests are not durable.
        private = self.enterContext(broker.PrivateBroker())
        self.check_states(self.cloud(base.KOLLA, private))

    def check_reply_queues(self, conf, kind):
        private = self.enterContext(broker.PrivateBroker())

        def queues():
            return {line for line in private.ctl(
                'list_queues', '--no-table-headers', 'name', 'type',
                'arguments') if line.startswith('reply_')}

        made = self.cloud(conf, private)
        self.start(made, node=self.node, workers=1)
        before = queues()
        self.assertEqual(0, self.probe(made)[0])
        queue, = queues() - before
        name, found, arguments = queue.split('\t')
        # And no name that the next probe has, too.
        self.assertRegex(name, '^reply_[0-9a-f]{32}$')
        self.assertEqual(kind, found)
        self.assertIn('60000', arguments)

    def test_reply_queue(self):
        # RabbitMQ may allow no other type, and there is a new one each time.
        self.check_reply_queues({}, 'classic')
        self.check_reply_queues(base.KOLLA, 'quorum')

    def test_blocked(self):
        made = self.cloud({'DEFAULT': {'executor_thread_pool_size': 2}})
        scheduler = self.start(made, node=self.node, workers=2)
        client = self.enterContext(made.client())
        self.block(made, scheduler, client, 2, 1)
        code, told, answered = self.probe(made, '--timeout', '2')
        self.assertEqual((1, '1 of 2 answered\n'), (code, answered))
        self.assertIn(f'{self.node}-worker-1: stuck: ', told)

    def test_broker_away(self):
        box, url = self.middlebox(base.rabbitmq().transport_url)
        made = self.cloud({'DEFAULT': {'transport_url': url}})
        self.start(made, node=self.node, workers=2)
        for fault in (box.refuse, box.hold_published, box.silence):
            fault()
            code, told, answered = self.probe(made, '--timeout', '2')
            self.assertEqual((5, '0 of 2 answered\n'), (code, answered))
            for n, line in enumerate(told.splitlines(), 1):
                # How it is told depends on how far it gets.
                self.assertIn(f'{self.node}-worker-{n}: the message broker ',
                              line)
            box.restore()
