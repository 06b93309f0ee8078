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

"""The patches for Kolla, on nova as pip has installed it."""

import importlib.metadata
import importlib.util
import os
from pathlib import Path
import subprocess
import sys
import sysconfig

import fixtures

from lab import process
from tests.integration import base

ROOT = Path(__file__).resolve().parents[2]
TREE = Path(importlib.util.find_spec('nova').origin).parents[1]


class KollaTestCase(base.LabTestCase):

    def run_program(self, *command, **kwargs):
        done = subprocess.run(list(map(str, command)), text=True,
                              stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, **kwargs)
        self.assertEqual(0, done.returncode, done.stdout)
        return done.stdout

    def install_stock(self, image):
        """Install stock nova into an image's environment, as Kolla has it.

        It finds what nova needs in the environment of this test, but not
        the nova that is there.
        """
        venv = image / 'var/lib/kolla/venv'
        self.run_program(sys.executable, '-m', 'venv', '--without-pip', venv)
        packages, = venv.glob('lib/python3.*/site-packages')
        (venv / 'lib/python3').symlink_to(packages.parent.name)
        (packages / 'needs.pth').write_text(
            sysconfig.get_path('purelib') + '\n')
        version = importlib.metadata.version('nova')
        self.run_program(
            sys.executable, '-m', 'pip', '--python', venv / 'bin/python',
            'install', '--no-deps', '--no-index', '--no-build-isolation',
            TREE.parent / 'cache' / f'nova-{version}.tar.gz')
        return venv

    def test_worker_hosts(self):
        image = Path(self.useFixture(fixtures.TempDir()).path)
        venv = self.install_stock(image)
        nova = venv / 'lib/python3/site-packages/nova'
        self.assertTrue((nova / 'service.py').is_file())
        self.assertFalse((nova / 'workers').exists())

        patches = Path(self.useFixture(fixtures.TempDir()).path)
        self.run_program(sys.executable, ROOT / 'tools/series.py', 'export',
                         TREE.name, patches, '--layout', 'kolla')
        for name in (patches / 'nova-base/series').read_text().split():
            # What kolla_patch runs in /.
            with open(patches / 'nova-base' / name) as stream:
                self.run_program('patch', '-p0', '--fuzz=0',
                                 '--ignore-whitespace', stdin=stream,
                                 cwd=image)

        # It is that nova which runs, and not the one of this test.
        self.assertEqual(
            str((nova / '__init__.py').resolve()), os.path.realpath(
                self.run_program(
                    venv / 'bin/python', '-c',
                    'import nova; print(nova.__file__)',
                    env={**os.environ, 'PYTHONPATH': process.nova_path()},
                    cwd=image).strip()))
        cloud = self.cloud()
        scheduler = self.start(cloud, workers=2, hosts=True,
                               mode=base.MODES[0], programs=venv / 'bin')
        hosts = {scheduler.worker_host(n) for n in (1, 2)}
        self.assertEqual(hosts, {r.host for r in cloud.services()})
        self.assertEqual([1, 2], sorted(scheduler.workers()))
        client = self.enterContext(cloud.client())
        for host in (*hosts, base.NODE):
            client.ping(host, timeout=10)
