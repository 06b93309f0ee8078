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

"""Whoever ends a command of the lab, nothing of it is left."""

import os
from pathlib import Path
import re
import signal
import sys

import ddt
import fixtures
import psutil

from lab import process
from lab.servers import database
from tests.integration import base

ROOT = Path(__file__).resolve().parents[2]

# The first child that the lab starts lives, and the lab is told to end before
# anybody knows of it.
UNKNOWN = '''
import os, runpy, signal
import psutil

class Popen(psutil.Popen):
    def __init__(self, command, **options):
        super().__init__(['sleep', '600'], **options)
        print('started', self.pid, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

psutil.Popen = Popen
runpy.run_module('lab', run_name='__main__')
'''


@ddt.ddt
class InterruptTestCase(base.LabTestCase):

    @ddt.data(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    def test_nothing_is_left(self, signum):
        folder = self.useFixture(fixtures.TempDir()).path
        lab = process.Child(
            # As it is documented, and not the lab alone.
            [sys.executable, ROOT / 'tools/run.py', '--release',
             os.path.basename(base.tree()), 'lab', 'demo', '--output',
             folder], folder + '/log',
            {'LAB_AMQP_URL': base.rabbitmq().url, 'TMPDIR': folder})
        self.addCleanup(lab.kill)

        def started():
            self.assertTrue(lab.running(), lab.log())
            # Placement, and the parent and the workers of nova-scheduler.
            return len(lab.tree()) > 4

        process.wait(started, 120, 'a nova-scheduler', lab.log)
        children = lab.tree()[1:]
        # Twice: nobody who sees nothing happen waits for long.
        os.kill(lab.pid, signum)
        os.kill(lab.pid, signum)
        process.wait(lambda: not lab.running(), 60, 'it to end', lab.log)
        self.assertEqual(130, lab.returncode)
        self.assertEqual('lab demo: interrupted; what it started is ended',
                         lab.log().splitlines()[-1])
        self.assertEqual([], [child for child in children
                              if process.runs(child)])
        local = database.MariaDB()
        # It has SQLite files otherwise, in the folder.
        names = local.query('SHOW DATABASES') if local.answers() else []
        self.assertEqual([], [name for name, in names
                              if name.startswith('lab_%d_' % lab.pid)])
        self.assertEqual(['log'], os.listdir(folder))

    def test_child_that_nobody_knows_of_yet(self):
        folder = self.useFixture(fixtures.TempDir()).path
        with process.Child(
                [sys.executable, '-c', UNKNOWN, 'demo', '--output', folder],
                folder + '/log', {
                    'LAB_AMQP_URL': base.rabbitmq().url,
                    'TMPDIR': folder}) as lab:
            process.wait(lambda: not lab.running(), 60, 'it to end', lab.log)
        self.assertEqual(130, lab.returncode)
        (pid,) = re.findall('^started (.*)', lab.log(), re.MULTILINE)
        if psutil.pid_exists(int(pid)):
            os.kill(int(pid), signal.SIGKILL)
            self.fail('the child that it started is left')
