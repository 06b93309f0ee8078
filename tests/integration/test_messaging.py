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

"""The settings of RabbitMQ that deployments have.

kolla-ansible and OpenStack-Ansible run quorum queues, stream fanout and the
queue manager, with a prefetch of their own.
"""

import collections
import itertools
import pathlib
import re

import ddt
import psutil

from lab.servers import broker
from tests.integration import base

POOL = 2
# Seconds until RabbitMQ closes a channel on which a message is not
# acknowledged, and between two looks of it: half an hour and a minute, if they
# are not set.
CONSUMER_TIMEOUT = 10
CHANNEL_TICK = 5
# Until it is seen that the broker is back; see test_outage.
BROKER_BACK = 60


@ddt.ddt
class MessagingTestCase(base.LabTestCase):

    def queues(self):
        """The queues there are, but for replies: how many of name and type.

        What oslo.messaging appends to the names of fanout queues is cut off.
        """
        found = collections.Counter()
        for line in self.broker.ctl('list_queues', '--no-table-headers',
                                    'name', 'type'):
            name, kind = line.split('\t')
            if not name.startswith('reply_'):
                found[re.sub('_fanout_.*', '_fanout_', name), kind] += 1
        return dict(found)

    def start_cloud(self, conf, mode):
        self.broker = self.enterContext(broker.PrivateBroker())
        self.made = self.cloud(dict(
            conf, DEFAULT={'executor_thread_pool_size': POOL},
            **{topic: {'worker_timeout': base.WORKER_TIMEOUT}
               for topic in base.WORK}), self.broker)
        self.mode = mode
        self.clients = {topic: self.enterContext(self.made.client(topic))
                        for topic in base.WORK}
        self.start_services(3)

    def start_services(self, workers):
        self.running = self.start_all(self.made, workers, self.mode)

    def expected_queues(self, fanout, kind, fanouts):
        """The queues of both services, of three workers each.

        :param fanout: what the names of fanout queues end with
        :param kind: of the other queues
        :param fanouts: the kind of fanout queues, and how many they are
        """
        found = {}
        for topic in base.WORK:
            own = f'{topic}.{topic}-node-1'
            kinds, count = fanouts
            found |= {(f'{topic}{fanout}', kinds): count,
                      (f'{own}{fanout}', kinds): count,
                      (topic, kind): 1, (own, kind): 1,
                      (f'{own}.@', kind): 1}
            found |= {(f'{own}-worker-{n}', kind): 1 for n in (1, 2, 3)}
        return found

    def start_beside_blocked(self, made, mode, packages):
        """Start two workers, the second of which is blocked at once.

        :returns: the service, a client, and the workers; what both run is
            counted
        """
        service = self.start(made, workers=2, mode=mode, packages=packages)
        client = self.enterContext(made.client())
        workers = service.workers()
        made.faults.slow(workers[1], 0, base.WORK[self.topic])
        self.block(made, service, client, POOL, 2)
        return service, client, workers

    def check_run_once(self, made, workers, sent, seconds):
        """The workers run so many requests within seconds, and no more."""
        def total(name):
            return sum(made.faults.state(worker)[name]
                       for worker in workers.values())

        made.wait(lambda: total('ended') >= sent, seconds,
                  'all requests to be run')
        made.wait(lambda: not total('running'), 10, 'nothing to run')
        self.assertEqual(sent, total('ended'))

    def check_all_answer(self):
        for service in self.running:
            client = self.clients[service.topic()]
            for n in service.numbers:
                client.ping(service.worker_host(n), timeout=30)
            client.ping(service.node, timeout=30)

    def has_records(self, service):
        return {record.host for record in self.made.services(
            binary=service.binary)} == service.record_hosts()

    def put(self, service, number, fault):
        """Put a fault into a worker."""
        if fault == 'blocked':
            self.block(self.made, service, self.clients[service.topic()],
                       POOL, number)
        else:
            {'killed': psutil.Process.kill, 'stopped': self.made.faults.stop}[
                fault](service.workers()[number])

    def check_main_cases(self):
        for service in self.running:
            self.assertTrue(self.has_records(service))
        self.check_all_answer()

        for number, fault in (2, 'killed'), (1, 'stopped'), (3, 'blocked'):
            pids = [self.pids(service) for service in self.running]
            for service in self.running:
                self.put(service, number, fault)
            for service, before in zip(self.running, pids):
                self.made.wait(
                    lambda: self.pids(service).get(
                        number, before[number]) != before[number], 40,
                    f'worker {number}, {fault}, to come back')
                service.wait_ready()
                self.wait_up(self.made, service)
                del before[number]
                self.assertLessEqual(before.items(),
                                     self.pids(service).items())
            self.check_all_answer()

        # oslo.messaging logs what it meets there, and tries again: workers
        # that declare a new stream at the same time may be refused it. What
        # logs that for it, excutils, has the root logger in nova 2025.2.
        log = self.made.log()
        retried = tuple(re.findall(
            r'^(.* root) .*Unexpected exception occurred \d+ time.* '
            r'oslo_messaging\.', log, re.MULTILINE))
        self.assertEqual([], [
            line for line in log.splitlines()
            if 'Traceback (' in line and not line.startswith(retried) and
            not re.search(
                r' oslo([._]messaging\._drivers|_utils\.excutils)', line)])
        pids = [self.pids(service) for service in self.running]
        self.broker.stop()
        for service in self.running:
            self.made.wait(
                lambda: not self.up(self.made, binary=service.binary), 30,
                'all records to be down')
        self.broker.start()
        for service in self.running:
            self.wait_up(self.made, service, BROKER_BACK)
        self.check_all_answer()
        self.assertEqual(pids, [self.pids(service)
                                for service in self.running])

        for service in self.running:
            service.reload()
        self.check_all_answer()

        for service in self.running:
            service.stop(60)
        self.start_services(2)
        self.check_all_answer()
        for service in self.running:
            self.made.wait(lambda: self.has_records(service), base.RETIRED,
                           'the record of worker 3 to be retired')

    @ddt.data(*base.MODES)
    def test_kolla(self, mode):
        self.start_cloud(base.KOLLA, mode)
        self.assertEqual(
            self.expected_queues('_fanout', 'quorum', ('stream', 1)),
            self.queues())
        self.check_main_cases()

    def test_queues(self):
        self.start_cloud({}, base.MODES[0])
        self.assertEqual(
            self.expected_queues('_fanout_', 'classic', ('classic', 3)),
            self.queues())
        for service in self.running:
            service.stop(60)
        # As stock nova does it, they delete those that nobody uses any more.
        self.assertEqual([], [name for name, _kind in self.queues()
                              if name.endswith('_fanout_')])

    @ddt.data(*base.MODES)
    def test_consumer_timeout(self, mode):
        self.broker = self.enterContext(broker.PrivateBroker(
            f'consumer_timeout = {CONSUMER_TIMEOUT * 1000}\n'))
        self.broker.set_env('channel_tick_interval', CHANNEL_TICK * 1000)
        made = self.cloud({'DEFAULT': {'executor_thread_pool_size': POOL}},
                          self.broker)
        service, client, workers = self.start_beside_blocked(
            made, mode, [base.companion()])
        sent = POOL
        for _ in range(8):
            client.cast_work(service.worker_host(2))
            client.cast_work()
            client.cast_aggregate('gone', 'delete_aggregate')
            # The cast to all is run by both.
            sent += 4

        text = 'delivery acknowledgement on channel 1 timed out'
        logs = pathlib.Path(self.broker.folder, 'log')
        made.wait(lambda: sum(path.read_text().count(text)
                              for path in logs.iterdir()) >= 2,
                  6 * CONSUMER_TIMEOUT,
                  'the channel of worker 2 to be closed twice')
        made.wait(lambda: set(self.broker.ctl(
            'list_consumers', '--no-table-headers', 'prefetch_count')) ==
            {'2'}, 10, 'all consumers to have their prefetch count')

        made.faults.free(workers[2])
        self.check_run_once(made, workers, sent, 30)
        for n in service.numbers:
            client.ping(service.worker_host(n), timeout=10)
        self.check_run_once(made, workers, sent, 0)
        self.assertRegex(made.log(),
                         f'RPC requests went back to the broker: .*{text}')
        self.check_no_traceback(made.log())
        self.assertEqual({n: worker.pid for n, worker in workers.items()},
                         self.pids(service))

    @ddt.data(*itertools.product(base.MODES, (False, True)))
    @ddt.unpack
    def test_half_open_while_requests_wait(self, mode, companion):
        self.broker = self.enterContext(broker.PrivateBroker())
        box, url = self.middlebox(self.broker.transport_url)
        made = self.cloud({
            'DEFAULT': {'executor_thread_pool_size': POOL,
                        'transport_url': url},
            'oslo_messaging_rabbit': {'heartbeat_timeout_threshold': 15}},
            self.broker)
        service, client, workers = self.start_beside_blocked(
            made, mode, [base.companion()] * companion)
        sent = POOL
        for _ in range(4):
            client.cast_work(service.worker_host(2))
            client.cast_work()
            sent += 2
        # More than are run twice if that is not noticed.
        for _ in range(4):
            client.cast_work(service.worker_host(2))
            sent += 1

        def waiting():
            return dict(line.split('\t') for line in self.broker.ctl(
                'list_queues', '--no-table-headers', 'name',
                'messages_unacknowledged'))

        made.wait(lambda: waiting()[self.topic] != '0' and waiting()[
            f'{self.topic}.{service.worker_host(2)}'] == '2', 10,
            'worker 2 to hold requests')
        # The broker takes back what worker 2 holds, which does not see that.
        box.abandon(workers[2])
        self.broker.ctl('close_all_connections', 'test')
        made.wait(lambda: waiting()[self.topic] == '0' and
                  made.faults.state(workers[1])['ended'] >= 4, 15,
                  'worker 1 to run what worker 2 held')
        made.faults.free(workers[2])
        self.check_run_once(made, workers, sent, 90)
        self.wait_up(made, service, 60)
        self.check_run_once(made, workers, sent, 0)

    @ddt.data(*base.MODES)
    def test_stop_unconnected(self, mode):
        private = self.enterContext(broker.PrivateBroker())
        made = self.cloud(private_broker=private)
        private.stop()
        service = made.scheduler(workers=2, mode=mode,
                                 packages=[base.companion()])
        made.wait(lambda: all(
            re.search(f' {worker.pid} ERROR .* Connection failed: ',
                      made.log())
            for worker in service.workers().values()) and
            len(service.workers()) == 2, 60,
            'both workers to ask for the broker')

        service.process.terminate()

        made.wait(lambda: not service.running(), 10, 'the service to end')
        self.assertEqual(0, service.returncode)

    @ddt.data(*base.MODES)
    def test_stop_where_nobody_answers(self, mode):
        private = self.enterContext(broker.PrivateBroker())
        box, url = self.middlebox(private.transport_url)
        made = self.cloud({'DEFAULT': {'transport_url': url}}, private)
        service = self.start(made, workers=2, mode=mode,
                             packages=[base.companion()])
        box.vanish()

        service.process.terminate()

        # Less than the timeout of one socket.
        made.wait(lambda: not service.running(), 40, 'the service to end')
        self.assertEqual(0, service.returncode)
