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

"""Worker hosts of real nova-scheduler processes."""

import collections
import re

import ddt

from tests.integration import base

NODE = base.NODE


@ddt.ddt
class WorkerHostsTestCase(base.LabTestCase):

    def queues(self, cloud, *names):
        """The number of consumers of each queue."""
        return [found and found[1] for found in cloud.broker.queues(names)]

    @ddt.data(*base.MODES)
    def test_a_day_in_the_life(self, mode):
        cloud = self.cloud()
        scheduler = self.start(cloud, workers=3, mode=mode)
        client = self.enterContext(cloud.client(self.topic))

        # Queues and consumers, records, titles, lines in the log.
        self.assertEqual(
            [3, 1, 1, 1, 3],
            self.queues(cloud, self.topic,
                        f'{self.topic}.{NODE}-worker-1',
                        f'{self.topic}.{NODE}-worker-2',
                        f'{self.topic}.{NODE}-worker-3',
                        f'{self.topic}.{NODE}'))
        self.assertEqual(
            [f'{NODE}-worker-{n}' for n in (1, 2, 3)],
            sorted(record.host for record in self.services(cloud)))
        workers = scheduler.workers()
        self.assertEqual([1, 2, 3], sorted(workers))
        for number, worker in workers.items():
            self.assertIn(
                f'Starting worker {number} of 3 of {self.BINARY} on node '
                f'{NODE} as {NODE}-worker-{number} (pid {worker.pid})',
                scheduler.log())

        # Each answers at its own name, and so does the node.
        for server in [NODE] + [scheduler.worker_host(n) for n in workers]:
            client.ping(server, timeout=10)

        # Killed, it comes back under its name and with its record.
        before = {record.host: record.created_at
                  for record in self.services(cloud)}
        pids = self.pids(scheduler)
        workers[2].kill()
        cloud.wait(lambda: self.pids(scheduler).get(2, pids[2]) != pids[2],
                   30, 'worker 2 to come back')
        scheduler.wait_ready()
        client.ping(scheduler.worker_host(2), timeout=10)
        after = self.pids(scheduler)
        self.assertEqual((pids[1], pids[3]), (after[1], after[3]))
        self.assertEqual(before, {record.host: record.created_at
                                  for record in self.services(cloud)})

        # SIGHUP: each is started anew, or goes on as on stock.
        pids = self.pids(scheduler)
        scheduler.reload()
        self.assertEqual(0 if mode == 'threading' else 3, len(
            set(self.pids(scheduler).values()) & set(pids.values())))
        self.assertEqual([1, 2, 3], sorted(scheduler.workers()))
        for server in [NODE] + [scheduler.worker_host(n) for n in workers]:
            client.ping(server, timeout=10)

        # SIGTERM ends all of them.
        self.assertEqual(4, len(scheduler.tree()))
        self.assertEqual(0, self.end(scheduler, 60))
        self.check_no_traceback(scheduler.log())

    @ddt.data(*base.MODES)
    def test_one_worker(self, mode):
        cloud = self.cloud()
        scheduler = self.start(cloud, workers=1, mode=mode)
        self.assertEqual([f'{NODE}-worker-1'],
                         [record.host for record in self.services(cloud)])
        self.assertEqual([1], list(scheduler.workers()))
        client = self.enterContext(cloud.client(self.topic))
        client.ping(NODE, timeout=10)

    def test_node_address_while_a_worker_is_gone(self):
        # A probe that sends one ping at a time finds a live worker, also if
        # another has taken pings it will not answer.
        cloud = self.cloud()
        scheduler = self.start(cloud, workers=3)
        client = self.enterContext(cloud.client(self.topic))
        cloud.faults.stop(scheduler.workers()[2])
        lost = sum(not client.answers(NODE, timeout=1) for _n in range(12))
        # It prefetches a few of them, and no more.
        self.assertLessEqual(lost, 4)
        self.assertTrue(client.answers(NODE, timeout=10))


@ddt.ddt
class SchedulerTestCase(base.LabTestCase):
    """What other services do not have, or need not be asked again."""

    @ddt.data(*base.MODES)
    def test_two_nodes_one_leader(self, mode):
        conf = {'scheduler': {'discover_hosts_in_cells_interval': 2},
                'DEFAULT': {'debug': 'true'}}
        cloud = self.cloud(conf)
        # Of those that follow, another one is the deputy in each round.
        schedulers = [cloud.scheduler(node=node, workers=workers, mode=mode)
                      for node, workers in (('node-a', 2), ('node-b', 3))]
        for scheduler in schedulers:
            scheduler.wait_ready()
            self.wait_up(cloud, scheduler)
        self.wait_for_leader(cloud, schedulers, 'node-a-worker-1')
        # Its successor takes over when it is killed for good.
        schedulers[0].kill()
        self.wait_for_leader(cloud, schedulers[1:], 'node-b-worker-1',
                             base.SERVICE_DOWN_TIME + 4 * 2 + 10)

    def wait_for_leader(self, cloud, schedulers, leader, timeout=30):
        """Wait for two rounds in which all others hold back for the leader.

        In other rounds one of them is its deputy.
        """
        def held_back():
            rounds = collections.Counter()
            for scheduler in schedulers:
                for named, host in re.findall(
                        r'Current leader is (\S+), skipping discover hosts on '
                        r'(\S+)', scheduler.log()[marks[scheduler]:]):
                    rounds[host] = rounds[host] + 1 if named == leader else 0
            return all(rounds[host] >= 2 for host in followers)

        followers = {host for s in schedulers for host in s.record_hosts()
                     if host != leader}
        marks = {s: len(s.log()) for s in schedulers}
        cloud.wait(held_back, timeout, f'{leader} to lead')

    @ddt.data(
        ('empty', {'host': ''}, 'host'),
        ('long', {'host': 'n.' * 110 + 'n'}, '[DEFAULT] host has 221 bytes'),
        ('timeout', {'report_interval': 10},
         '[scheduler] worker_timeout is 29 seconds'),
    )
    @ddt.unpack
    def test_bad_configuration(self, _name, options, message):
        cloud = self.cloud()
        scheduler = cloud.scheduler(
            node='n', conf={'DEFAULT': options,
                            'scheduler': {'worker_timeout': 29}})
        self.assertEqual(1, scheduler.process.wait(60))
        errors = [line for line in scheduler.log().splitlines()
                  if ' ERROR ' in line or ' CRITICAL ' in line]
        self.assertEqual(1, len(errors), scheduler.log())
        self.assertIn(message, errors[0])
        self.check_no_traceback(scheduler.log())
