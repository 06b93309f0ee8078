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

"""nova-manage worker with real processes, broker and database."""

import concurrent.futures
import json
import os
import subprocess
import time
import urllib.parse

import ddt

from lab import process
from lab.servers import broker
from lab.servers import cloud as lab_cloud
from lab.servers import database
from tests.integration import base

NODE = base.NODE
CLEAR = {'worker ping': 'The message broker cannot be reached: ',
         'worker list': 'The database cannot be reached: '}


@ddt.ddt
class InventoryTestCase(base.LabTestCase):

    def run_manage(self, cloud, line, mode, node):
        return subprocess.run(
            [database.program('nova-manage'), '--config-file',
             os.path.join(cloud.folder, node + '.conf'), *line.split()],
            env=dict(os.environ, **lab_cloud.mode_env(mode)),
            text=True, capture_output=True, timeout=120)

    def manage(self, cloud, line, mode=base.MODES[0], node=NODE, stderr=''):
        """Run nova-manage.

        :param line: its command line
        :param node: with whose configuration
        :param stderr: what it has to say there
        :returns: its return code and what it says on stdout
        """
        done = self.run_manage(cloud, line, mode, node)
        # In the eventlet mode nova itself warns, of that mode, and releases
        # to which the other one is new, of that.
        told = [line for line in done.stderr.splitlines()
                if ' ' in line and 'ventlet' not in line and
                not line.startswith('Service is starting with native ')]
        if mode == 'threading':
            self.assertEqual(stderr.splitlines(), told)
        else:
            self.assertLessEqual(set(stderr.splitlines()), set(told))
        return done.returncode, done.stdout

    def rows(self, cloud, line='worker list --format json', **kwargs):
        code, out = self.manage(cloud, line, **kwargs)
        self.assertEqual(0, code)
        return json.loads(out)

    def messages(self, cloud, scheduler):
        """The number of messages in each worker's queue; None without one."""
        return [found and found[0] for found in cloud.broker.queues(
            [scheduler.queue(n) for n in scheduler.numbers])]

    def test_eventlet(self):
        cloud = self.cloud()
        scheduler = self.start(cloud, workers=2)
        for row in self.rows(cloud, 'worker list --ping --format json',
                             mode='eventlet'):
            self.assertEqual(('up', None), (row['state'], row['error']))
            self.assertGreater(row['answer_ms'], 0)
        cloud.faults.stop(scheduler.workers()[2])
        self.assertEqual((6, '1 of 2 answered\n'), self.manage(
            cloud, 'worker ping --node --timeout 2', mode='eventlet',
            stderr=f'nova-scheduler {scheduler.worker_host(2)}: no answer in '
                   '2 seconds'))

    def test_a_day_in_the_life(self):
        cloud = self.cloud()
        scheduler = self.start(cloud, workers=3)
        hosts = [scheduler.worker_host(n) for n in (1, 2, 3)]

        # Who should be there and who is.
        rows = self.rows(cloud)
        self.assertEqual(
            [('nova-scheduler', NODE, n, host, 'up')
             for n, host in enumerate(hosts, 1)],
            [(row['binary'], row['node'], row['worker'], row['host'],
              row['state']) for row in rows])
        for row in rows:
            self.assertLessEqual(row['seconds_since_heartbeat'],
                                 base.SERVICE_DOWN_TIME)
        self.assertIn(f'| nova-scheduler | {NODE} | 3      | up    |',
                      self.manage(cloud, 'worker list')[1])

        # Who answers.
        for row in self.rows(cloud, 'worker list --ping --format json'):
            self.assertIsNone(row['error'])
            self.assertGreater(row['answer_ms'], 0)
        for line, answered in (('worker ping --timeout 10', '3 of 3'),
                               ('worker ping --node --worker 2', '1 of 1')):
            self.assertEqual((0, f'{answered} answered\n'),
                             self.manage(cloud, line))
        self.assertEqual(3, self.manage(
            cloud, 'worker ping --node other',
            stderr='No such worker is known')[0])

        # One that is up is not retired.
        self.assertEqual(
            (0, 'Workers retired: 0\n'), self.manage(
                cloud, 'worker retire --node --down-for 0'))

        # One is stuck.
        worker = scheduler.workers()[2]
        cloud.faults.stop(worker)
        self.assertEqual((6, '2 of 3 answered\n'), self.manage(
            cloud, 'worker ping --node --timeout 2',
            stderr=f'nova-scheduler {hosts[1]}: no answer in 2 seconds'))

        # All are gone: their queues are there, but nobody reads them. None is
        # killed with a message of its own under way, which would not expire.
        cloud.faults.resume(worker)
        cloud.wait(lambda: self.messages(cloud, scheduler) == [0, 0, 0], 10,
                   'all messages to be read')
        scheduler.kill()
        self.assertEqual((6, '0 of 3 answered\n'), self.manage(
            cloud, 'worker ping --node --timeout 1',
            stderr='\n'.join(
                f'nova-scheduler {host}: no answer in 1 seconds'
                for host in hosts)))
        cloud.wait(lambda: self.messages(cloud, scheduler) == [0, 0, 0], 5,
                   'the messages to expire')

        # Two have no queues, and get none.
        gone = [scheduler.queue(n) for n in (1, 3)]
        cloud.broker.delete(gone)
        self.assertEqual((6, '0 of 3 answered\n'), self.manage(
            cloud, 'worker ping --timeout 2',
            stderr=f'nova-scheduler {hosts[0]}: no queue\n'
                   f'nova-scheduler {hosts[1]}: no answer in 2 seconds\n'
                   f'nova-scheduler {hosts[2]}: no queue'))
        self.assertEqual([None, None], cloud.broker.queues(gone))

        # They are retired once they are down.
        names = [f'nova-scheduler {host}' for host in hosts]
        cloud.wait(lambda: not self.up(cloud), 30, 'the records to go down')
        for line, out in (
                ('--all-nodes', [f'Left {name}: down for' for name in names]),
                ('--node --down-for 0 --dry-run',
                 [f'Would retire {name}' for name in names])):
            code, said = self.manage(cloud, f'worker retire {line}')
            self.assertEqual(0, code)
            for one in out:
                self.assertIn(one, said)
            self.assertEqual(3, len(cloud.services()))
        self.assertEqual(
            (0, ''.join(f'Retired {name}\n' for name in names) +
             'Workers retired: 3\n'),
            self.manage(cloud, 'worker retire --node --down-for 0'))
        self.assertEqual([], cloud.services())

    @ddt.data(*base.MODES)
    def test_what_cannot_be_reached(self, mode):
        # A stock scheduler would do as well: it is about its configuration.
        cloud = self.cloud()
        self.start(cloud, workers=1)
        with open(os.path.join(cloud.folder, NODE + '.conf')) as stream:
            good = stream.read()
        for name, old, port, code, line in (
                ('broker', cloud.broker.transport_url,
                 'rabbit://guest:guest@127.0.0.1:1/', 5, 'worker ping'),
                ('database', cloud.database.urls['main'],
                 'mysql+pymysql://root@127.0.0.1:1/nova', 4, 'worker list')):
            with open(os.path.join(cloud.folder, name + '.conf'),
                      'w') as stream:
                stream.write(good.replace(old, port))
            began = time.monotonic()
            done = self.run_manage(cloud, line, mode, name)
            self.assertLess(time.monotonic() - began, 60)
            self.assertEqual((code, ''), (done.returncode, done.stdout))
            self.assertEqual(1, done.stderr.count(CLEAR[line]), done.stderr)
            self.assertNotIn('Traceback', done.stderr)
            self.assertNotIn('AMQP server', done.stderr)

    def test_ping_beside_a_dead_host(self):
        # Which host of the URL it tries first is chance.
        url = urllib.parse.urlsplit(base.rabbitmq().transport_url)
        user = url.netloc.rpartition('@')[0]
        made = self.cloud({'DEFAULT': {'transport_url': url._replace(
            netloc=f'{url.netloc},{user}@127.0.0.1:{process.free_port()}'
        ).geturl()}})
        self.start(made, workers=2)
        for _ping in range(6):
            self.assertEqual((0, '2 of 2 answered\n'),
                             self.manage(made, 'worker ping'))

    def test_pings_at_a_time_with_the_queue_manager(self):
        private = self.enterContext(broker.PrivateBroker())
        made = self.cloud(base.KOLLA, private)
        scheduler = self.start(made, workers=3)
        made.faults.stop(scheduler.workers()[3])
        with concurrent.futures.ThreadPoolExecutor() as pool:
            waits = pool.submit(self.run_manage, made,
                                'worker ping --timeout 40', None, NODE)
            while not waits.done():
                done = self.run_manage(
                    made, 'worker ping --worker 1 --timeout 20', None, NODE)
                self.assertEqual((0, '1 of 1 answered\n'),
                                 (done.returncode, done.stdout), done.stderr)
            self.assertEqual(6, waits.result().returncode)
