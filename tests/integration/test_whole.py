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

"""A whole cloud comes up, boots a server, and leaves nothing behind."""

import os
import subprocess

import psutil
import testtools

from lab.commands import up
from lab.measure import boots
from lab.servers import whole
from tests.integration import base

WORKERS = 2


class WholeCloudTest(base.LabTestCase):
    def setUp(self):
        super().setUp()
        reason = whole.missing()
        if reason:
            self.skipTest(reason)

    def run_program(self, made, *command):
        """What a program prints for whom it has no cloud but this one."""
        return subprocess.run(
            command, env=dict(os.environ, **made.env()), check=True,
            capture_output=True, text=True).stdout

    def test_it_serves_and_ends(self):
        """The real client sees the worker hosts, and a server is booted."""
        before = set(psutil.process_iter())
        made = whole.WholeCloud(workers=WORKERS, computes=1, conf=up.CONF)
        self.addOnException(lambda exc_info: self.addDetail(
            'log', testtools.content.text_content(made.log())))
        with made:
            up_hosts = self.run_program(
                made, 'openstack', 'compute', 'service', 'list',
                '-f', 'value', '-c', 'Host', '-c', 'State').splitlines()
            with made.connect() as client:
                outcome = boots.Boots(
                    client, whole.IMAGE, whole.FLAVOR).run(1, 1, 60)
            started = {child for child in psutil.Process().children(True)
                       if child not in before}
        hosts = {service.worker_host(n) if service.hosts else service.node
                 for service in (*made.schedulers, *made.conductors)
                 for n in service.numbers}
        self.assertEqual(
            {f'{host} up' for host in (*hosts, 'compute-1')}, set(up_hosts))
        self.assertIn(f'scheduler-node-1-worker-{WORKERS}', hosts)
        self.assertEqual((1, 0, 0), outcome[:3])
        self.assertNotEqual(set(), started)
        self.assertEqual([], [child for child in started
                              if child.is_running()])
        self.assertFalse(os.path.exists(made.folder))
