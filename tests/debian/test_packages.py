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

"""Debian's own nova, with the series in its debian/patches."""

import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile

import psutil

from lab import process
from lab.servers import broker
from tests.integration import base

# The folder of a Debian with nova's packages, and the release of the series.
# tools/run.py makes it and names it here.
ROOT = os.environ.get('LAB_DEBIAN')
RELEASE = os.environ.get('LAB_DEBIAN_RELEASE')

SERVICES = ('scheduler', 'conductor')
WORKERS = 3
# What an installed nova is, in a Debian.
PACKAGES = Path('usr/lib/python3/dist-packages')


class PackagesTestCase(base.LabTestCase):

    def setUp(self):
        super().setUp()
        if not ROOT:
            self.skipTest('needs a Debian with nova: run.py world')
        self.root = Path(ROOT)

    def run_there(self, *command, cwd='/', **environ):
        """Run a program in that Debian, which sees the processes."""
        done = subprocess.run(
            broker.command(
                'env', f'--chdir={cwd}',
                *(f'{k}={v}' for k, v in environ.items()), *command,
                root=ROOT),
            text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(0, done.returncode, done.stdout)
        return done.stdout

    def patch(self):
        """Put the series into a source package, and install what it has.

        The source package is made of the source distribution, and of what
        Debian has installed, which has Debian's own patches.
        """
        folder = Path(tempfile.mkdtemp(dir=self.root / 'tmp'))
        self.addCleanup(shutil.rmtree, folder)
        archive = subprocess.run(
            ['git', '-c', 'safe.directory=*', '-C',
             os.path.join(process.ROOT, 'build', RELEASE), 'archive',
             'base'], check=True, stdout=subprocess.PIPE).stdout
        subprocess.run(['tar', '--extract', '--directory', str(folder)],
                       input=archive, check=True)
        installed, stock = self.root / PACKAGES / 'nova', folder / 'stock'
        shutil.copytree(installed, stock, symlinks=True)
        shutil.copytree(installed, folder / 'nova', dirs_exist_ok=True,
                        symlinks=True,
                        ignore=shutil.ignore_patterns('__pycache__'))
        patches = folder / 'debian/patches'
        patches.mkdir(parents=True)
        (patches / 'series').touch()
        done = subprocess.run(
            [sys.executable, os.path.join(process.ROOT, 'tools/series.py'),
             'export', RELEASE, str(patches), '--layout', 'debian'],
            text=True, capture_output=True)
        self.assertEqual(0, done.returncode, done.stderr)
        if 'LoopingCallDone' in (folder / 'nova/manager.py').read_text():
            # Debian has mended that in its own way; the page says so.
            names = (patches / 'series').read_text().splitlines()
            self.assertIn('manager-periodic-tasks', names[0])
            (patches / 'series').write_text('\n'.join(names[1:]) + '\n')
        said = self.run_there(
            'quilt', 'push', '-a', QUILT_PATCHES='debian/patches',
            cwd='/' + str(folder.relative_to(self.root)))
        self.assertNotIn('fuzz', said)
        # Before the folder goes.
        self.addCleanup(self.install, stock)
        self.install(folder / 'nova')

    def install(self, source):
        installed = self.root / PACKAGES / 'nova'
        shutil.rmtree(installed)
        shutil.copytree(source, installed, symlinks=True)

    def configure(self, made):
        """Have the services of that Debian use the servers of the test."""
        path = made.config_file(base.NODE, made.conf, {
            'DEFAULT': {'state_path': '/var/lib/nova'},
            'oslo_concurrency': {'lock_path': '/var/lib/nova'},
            **{name: {'workers': WORKERS} for name in SERVICES}})
        target = self.root / 'etc/nova/nova.conf'
        shutil.copyfile(path, target)
        os.chmod(target, 0o644)

    def log(self, service):
        path = self.root / f'var/log/nova/nova-{service}.log'
        return path.read_text() if path.exists() else ''

    def parent(self, service):
        path = self.root / f'run/nova/nova-{service}.pid'
        return psutil.Process(int(path.read_text()))

    def test_workers(self):
        self.patch()
        made = self.cloud()
        self.configure(made)
        for service in SERVICES:
            with self.subTest(service):
                self.check_service(made, service)

    def check_service(self, made, service):
        hosts = [f'{base.NODE}-worker-{n}' for n in range(1, WORKERS + 1)]
        queues = [f'{service}.{host}' for host in hosts]
        init = f'/etc/init.d/nova-{service}'
        self.addOnException(lambda exc_info: self.addDetail(
            f'log of nova-{service}',
            base.testtools.content.text_content(self.log(service))))
        self.run_there(init, 'start')
        self.addCleanup(self.run_there, init, 'stop')
        made.wait(lambda: made.broker.consumed(queues) == WORKERS, 120,
                  'all workers to consume')
        made.wait(lambda: set(hosts) <= self.up(
            made, binary=f'nova-{service}'), 60, 'all records to be up')
        parent = self.parent(service)
        before = {child.pid for child in parent.children()}
        killed = min(before)
        psutil.Process(killed).kill()
        made.wait(lambda: len(now := {child.pid for child in
                                      parent.children()}) == WORKERS and
                  killed not in now, 60, 'another worker in its place')
        made.wait(lambda: made.broker.consumed(queues) == WORKERS, 60,
                  'all workers to consume again')
        self.run_there(init, 'stop')
        self.assertFalse(parent.is_running())
        self.check_no_traceback(self.log(service))
