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

"""The page about going back from worker hosts, done as it stands, under load.

What needs nova-api, systemd or Kubernetes is left out.
"""

import contextlib
import os
import re
import shlex
import stat
import subprocess

import ddt

from lab import process
from lab import rpc
from lab.servers import broker
from lab.servers import cloud
from lab.servers import database
from tests.integration import base

PAGE = os.path.join(process.ROOT, 'doc', 'source', 'admin',
                    'scheduler-workers-undo.rst')
NODES = 2
# Few, as each of their queues takes a rabbitmqctl to be deleted.
WORKERS = 1
# Seconds that callers wait; for a node to end and to serve again.
TIMEOUT = 20
RESTART = 90
CALLS = 200


def commands(word):
    """The commands of the page that have a word in them, in their order."""
    with open(PAGE) as stream:
        blocks = re.findall(r'\.\. code-block:: console\n\n((?:   .*\n|\n)+)',
                            stream.read())
    found = []
    for block in blocks:
        # Pipelines and brackets go on in the next line.
        lines = iter(block.replace('\\\n', '').splitlines())
        for line in lines:
            if not line.startswith('   # '):
                continue
            command = line[5:]
            while command.rstrip().endswith(('|', '&&')):
                command += '\n' + next(lines)
            if re.search(word, command):
                found.append(command)
    return found


@ddt.ddt
class UndoTestCase(base.LabTestCase):

    def run_page(self, command):
        """Run a command of the page, and return what it prints."""
        done = subprocess.run(
            ['bash', '-c', command], text=True, capture_output=True,
            env={**os.environ, **self.env, 'VHOST': '/'})
        self.assertEqual('', done.stderr, command)
        return done.stdout

    def make_programs(self):
        """Put what the commands call into a folder of its own."""
        folder = os.path.join(self.made.folder, 'programs')
        os.mkdir(folder)
        rabbit = self.made.broker
        tree = cloud.find_tree()
        for name, command, env in (
                ('rabbitmqctl', broker.command(broker.CTL, root=rabbit.root),
                 rabbit.env()),
                ('nova-manage', [
                    database.program('nova-manage'), '--config-file',
                    os.path.join(self.made.folder, 'scheduler-node-1.conf')],
                 {**cloud.mode_env(tree=tree),
                  'PYTHONPATH': process.nova_path(tree)})):
            path = os.path.join(folder, name)
            with open(path, 'w') as stream:
                stream.write('#!/bin/sh\nexec env %s %s "$@"\n' % (
                    shlex.join(f'{key}={value}'
                               for key, value in env.items()),
                    shlex.join(command)))
            os.chmod(path, stat.S_IRWXU)
        self.env = {'PATH': folder + os.pathsep + os.environ['PATH']}

    def replace(self, topic, number, **options):
        """Have a node go on in another way, as step 3 does."""
        old = self.services[topic, number]
        old.stop(RESTART)
        self.services[topic, number] = self.start(
            self.made, topic, node=old.node, workers=WORKERS, mode=self.mode,
            packages=[base.companion()], hosts=False, **options)

    @ddt.data(('threading', 'option'), ('eventlet', 'package'))
    @ddt.unpack
    def test_page(self, mode, way):
        self.mode = mode
        self.made = self.cloud(private_broker=self.enterContext(
            broker.PrivateBroker()))
        topics = list(base.WORK)
        self.services = {
            (topic, number): self.start(
                self.made, topic, node=f'{topic}-node-{number}',
                workers=WORKERS, mode=mode, packages=[base.companion()])
            for topic in topics for number in range(1, NODES + 1)}
        self.make_programs()
        options = {'conf': {topic: {'worker_hosts': 'false'}
                            for topic in topics}}
        if way == 'package':
            options = {'tree': base.stock_tree()}
        workers, = commands('pgrep -af')
        consumers, = commands('grep -E "')
        with contextlib.ExitStack() as stack:
            callers = {}
            for topic in topics:
                client = stack.enter_context(self.made.client(topic))
                callers[topic] = stack.enter_context(rpc.Callers(
                    client, base.CALLERS, TIMEOUT, pause=base.PAUSE,
                    call=client.work))
            for (topic, number), service in list(self.services.items()):
                callers[topic].wait_answered(CALLS, log=self.made.log)
                self.replace(topic, number, **options)
                self.env['NODE'] = service.node
                found = dict(line.split() for line in self.run_page(
                    consumers).splitlines())
                self.assertEqual({WORKERS}, {
                    int(found[f'{topic}.{service.node}'])})
                self.assertEqual({'0'}, {
                    count for name, count in found.items()
                    if '-worker-' in name or name.endswith('.@')})
            for each in callers.values():
                each.wait_answered(CALLS, log=self.made.log)
        self.assertEqual(dict.fromkeys(topics, (0, 0)), {
            topic: each.counts()[1:] for topic, each in callers.items()})
        titles = self.run_page(workers + ' || true')
        pids = {process.pid for service in self.services.values()
                for process in service.tree()}
        self.assertEqual([], [line for line in titles.splitlines()
                              if int(line.split()[0]) in pids])
        self.check_clean_up(topics, way)

    def check_clean_up(self, topics, way):
        """Steps 5 and 6."""
        names = {f'{topic}-node-{number}' for topic, number in self.services}
        gone = {f'{node}-worker-{n}' for node in names
                for n in range(1, WORKERS + 1)}
        self.made.wait(
            lambda: not any(gone & self.up(self.made, binary=f'nova-{topic}')
                            for topic in topics), base.RETIRED,
            'the records of the workers to be down')
        dry, retire = commands('worker retire')
        self.assertIn(f'Workers to retire: {len(gone)}', self.run_page(dry))
        self.assertIn(f'Workers retired: {len(gone)}', self.run_page(retire))
        self.assertEqual(names, {
            record.host for topic in topics
            for record in self.made.services(binary=f'nova-{topic}')})
        show, delete = commands('-trial')
        left = self.run_page(show)
        for node in names:
            self.assertIn(f'.{node}.@', left)
        self.run_page(delete)
        self.assertEqual('', self.run_page(show))
        for service in self.services.values():
            self.assertEqual(WORKERS, self.made.broker.queue(
                f'{service.topic()}.{service.node}')[1])
