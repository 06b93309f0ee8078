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

import contextlib
import io
import subprocess
import sys
import threading
from unittest import mock

import ddt
import fixtures
from oslo_config import cfg
import oslo_messaging as messaging

from nova.cmd import worker_probe
from nova import test


def process(pid, *cmdline):
    return mock.Mock(pid=pid, info={'cmdline': list(cmdline)})


@ddt.ddt
class WorkerProbeTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        # nova's has the options already.
        self.useFixture(fixtures.MockPatchObject(
            worker_probe, 'CONF', cfg.ConfigOpts()))
        # It would do so for all tests of this process.
        self.useFixture(fixtures.MockPatchObject(
            worker_probe.logging, 'disable'))
        self.conf = self.useFixture(fixtures.TempDir()).join('nova.conf')
        with open(self.conf, 'w') as conf:
            conf.write('[DEFAULT]\nhost = n\ntransport_url = fake:/\n'
                       '[scheduler]\nworkers = 3\n')
        #: What the workers that do not answer raise.
        self.errors = {}
        rpc_client = self.useFixture(fixtures.MockPatchObject(
            messaging, 'get_rpc_client')).mock.return_value
        rpc_client.prepare.side_effect = self.prepare
        self.processes = self.useFixture(fixtures.MockPatchObject(
            worker_probe.psutil, 'process_iter')).mock
        self.processes.return_value = [
            process(1, '/sbin/init'), process(2),
            process(10, '/usr/bin/python3', '/usr/bin/nova-scheduler'),
            # As setproctitle leaves it.
            process(11, 'nova-scheduler: n-worker-1', '', ''),
            process(12, 'nova-scheduler: n-worker-2'),
            process(13, 'nova-scheduler: n-worker-3')]

    def prepare(self, server, timeout, retry):
        client = mock.Mock()
        client.call.side_effect = self.errors.get(server)
        return client

    def probe(self, *args):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = worker_probe.main(['--config-file', self.conf, *args])
        return code, out.getvalue(), err.getvalue()

    def test_all_answer(self):
        self.assertEqual((0, '3 of 3 answered\n', ''), self.probe())
        self.processes.assert_not_called()

    def test_stuck(self):
        self.errors['n-worker-2'] = messaging.MessagingTimeout()
        self.assertEqual(
            (1, '2 of 3 answered\n', 'n-worker-2: stuck: process 12 is there '
             'and did not answer in 2.5 seconds\n'),
            self.probe('--timeout', '2.5'))

    def test_down(self):
        self.errors['n-worker-3'] = messaging.MessagingTimeout()
        del self.processes.return_value[-1]
        self.assertEqual(
            (6, '2 of 3 answered\n',
             'n-worker-3: down: nova-scheduler runs and this worker does '
             'not\n'), self.probe())

    def test_not_started(self):
        self.errors = {f'n-worker-{n}': messaging.MessagingTimeout()
                       for n in (1, 2, 3)}
        self.processes.return_value = [
            process(1, 'sh', '-c', 'grep nova-scheduler'),
            process(7, 'python3', '-m', 'nova.cmd.worker_probe')]
        self.assertEqual(
            (3, '0 of 3 answered\n', ''.join(
                f'n-worker-{n}: not started: no nova-scheduler runs here\n'
                for n in (1, 2, 3))), self.probe())

    def test_workers_of_another_node(self):
        # A node name with the same beginning, on the same machine.
        self.errors['n-worker-1'] = messaging.MessagingTimeout()
        self.processes.return_value = [
            process(11, 'nova-scheduler: n-worker-1-worker-1')]
        self.assertEqual(6, self.probe()[0])

    def test_broker_away(self):
        self.errors = {f'n-worker-{n}': messaging.MessageDeliveryFailure(
            'Connection refused\nand more') for n in (1, 2, 3)}
        code, out, err = self.probe()
        self.assertEqual((5, '0 of 3 answered\n'), (code, out))
        self.assertEqual(
            'n-worker-1: the message broker does not take the message: '
            'MessageDeliveryFailure: Connection refused', err.split('\n')[0])

    def test_broker_takes_nothing(self):
        self.useFixture(fixtures.MockPatchObject(
            worker_probe, 'BROKER_TIMEOUT', 0.1))
        forever = threading.Event()
        self.addCleanup(forever.set)
        self.errors['n-worker-1'] = lambda *args, **kwargs: forever.wait(60)
        self.assertEqual(
            (5, '2 of 3 answered\n',
             'n-worker-1: the message broker cannot be reached, or takes no '
             'messages\n'),
            self.probe('--timeout', '0.1'))

    def test_the_worst_is_returned(self):
        self.errors['n-worker-1'] = ValueError()
        self.errors['n-worker-2'] = messaging.MessagingTimeout()
        self.assertEqual(1, self.probe()[0])

    @ddt.data(('[DEFAULT]\ntransport_url = nonsense://\n', 'nonsense'),
              ('[DEFAULT]\nhost = n\n[scheduler]\nworkers = many\n', 'many'),
              ('no section\n', 'no section'))
    @ddt.unpack
    def test_bad_configuration(self, text, names):
        with open(self.conf, 'w') as conf:
            conf.write(text)
        code, out, err = self.probe()
        self.assertEqual((2, ''), (code, out))
        self.assertIn(names, err)
        self.assertEqual(1, err.count('\n'))

    def test_no_file(self):
        self.conf += '.gone'
        code, _out, err = self.probe()
        self.assertEqual(2, code)
        self.assertIn('nova.conf.gone', err)

    def test_imports_no_more_of_nova(self):
        # Which is what it is for.
        modules = subprocess.run(
            [sys.executable, '-c',
             'import sys, nova.cmd.worker_probe; print(*sys.modules)'],
            capture_output=True, check=True, text=True).stdout.split()
        self.assertIn('nova.cmd.worker_probe', modules)
        for name in ('nova.conf', 'nova.context', 'nova.objects', 'nova.rpc'):
            self.assertNotIn(name, modules)
