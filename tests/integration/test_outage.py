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

"""No worker is replaced for what is not its fault, and idling costs nothing.

What is away is behind a box of the test's own, or is the test's own. The
callers reach the broker all the time.
"""

import contextlib
import functools
import time

import ddt
import kombu

from lab import rpc
from lab.servers import broker
from lab.servers import cloud as lab_cloud
from lab.servers import database
from tests.integration import base

# oslo.messaging's own: it waits so long between two attempts to connect.
RABBIT_INTERVAL_MAX = 30
# Longer than a stuck worker is let live.
OUTAGE = 2 * base.WORKER_TIMEOUT
ALARM = 30
# Until all are up again.
BROKER_BACK = base.SERVICE_DOWN_TIME + RABBIT_INTERVAL_MAX
DATABASE_BACK = base.SERVICE_DOWN_TIME + 2 * base.REPORT_INTERVAL

# Requests send notifications, and the pool is full with a few that hang.
POOL = 2
CONF = {'DEFAULT': {'executor_thread_pool_size': POOL},
        'scheduler': {'worker_timeout': base.WORKER_TIMEOUT},
        'conductor': {'worker_timeout': base.WORKER_TIMEOUT},
        'oslo_messaging_notifications': {'driver': 'messagingv2'}}


class OutageTestCase(base.LabTestCase):
    """A nova-scheduler and a nova-conductor."""

    def begin(self, mode, conf=None, **private):
        self.made = self.cloud(dict(CONF, **(conf or {})), **private)
        self.running = self.start_all(self.made, 3, mode)
        self.clients = {
            service: self.enterContext(self.made.client(service.topic()))
            for service in self.running}
        self.before = self.all_pids()

    def all_pids(self):
        return [self.pids(service) for service in self.running]

    def all_up(self):
        """The hosts of both services that are up."""
        return set().union(*(self.up(self.made, binary=service.binary)
                             for service in self.running))

    def wait_all_up(self, timeout):
        for service in self.running:
            self.wait_up(self.made, service, timeout)

    def check_nobody_was_replaced(self):
        self.assertEqual(self.before, self.all_pids())
        self.assertNotIn('replacing it', self.made.log())

    def load(self, stack, call):
        """Callers that want answers, but no more than can be given."""
        return [stack.enter_context(rpc.Callers(
            client, 8, timeout=base.CALL_TIMEOUT, pause=0.2,
            call=functools.partial(call, client)))
            for client in self.clients.values()]

    def check_outage(self, begin, end, back, call=None, seconds=OUTAGE,
                     down=True):
        """Nobody is replaced in an outage, and all are back after it.

        :param begin: begins the outage
        :param end: ends it
        :param back: seconds until all are up again
        :param call: what callers ask for all the time, if there are any
        :param down: whether the records turn down
        """
        with contextlib.ExitStack() as stack:
            loads = self.load(stack, call) if call else []
            for load in loads:
                # The first ones make connections and thread pools.
                load.wait_answered(20, 60, self.made.log)
            begin()
            over = time.monotonic() + seconds
            while time.monotonic() < over:
                self.check_nobody_was_replaced()
                time.sleep(0.5)
            if down:
                self.assertEqual(set(), self.all_up())
            end()
            self.wait_all_up(back)
            for load in loads:
                load.wait_answered(20, 60, self.made.log)
        self.check_nobody_was_replaced()

    def check_from_here_on(self):
        """Nobody is replaced later for what was then."""
        over = time.monotonic() + base.WORKER_TIMEOUT + base.REPORT_INTERVAL
        while time.monotonic() < over:
            self.check_nobody_was_replaced()
            time.sleep(0.5)


@ddt.ddt
class BrokerOutageTestCase(OutageTestCase):

    @ddt.data(*base.MODES)
    def test_restarted(self, mode):
        private = self.enterContext(broker.PrivateBroker())
        self.begin(mode, private_broker=private)
        self.check_outage(private.stop, private.start, BROKER_BACK)
        self.check_from_here_on()

    @ddt.data(*base.MODES)
    def test_refuses_is_silent_or_takes_nothing(self, mode):
        self.box, url = self.middlebox(base.rabbitmq().transport_url)
        self.begin(mode, {'DEFAULT': dict(CONF['DEFAULT'],
                                          transport_url=url)})
        for begin in (self.box.hold_published, self.box.refuse,
                      self.box.silence, self.box.vanish):
            self.check_outage(begin, self.box.restore, BROKER_BACK,
                              rpc.Client.read)
        self.check_from_here_on()

    @ddt.data(*base.MODES)
    def test_half_open_connections(self, mode):
        # Nobody but self-pings sends anything.
        box, url = self.middlebox(base.rabbitmq().transport_url)
        self.begin(mode, {
            'DEFAULT': dict(CONF['DEFAULT'], transport_url=url),
            'oslo_messaging_rabbit': {'heartbeat_timeout_threshold': 6},
            **{topic: {'worker_timeout': 0} for topic in base.WORK}})
        box.abandon()
        self.made.wait(lambda: not self.all_up(), 2 * base.SERVICE_DOWN_TIME,
                       'all records to be down')
        self.wait_all_up(BROKER_BACK)
        self.check_nobody_was_replaced()

    @ddt.data(*base.MODES)
    def test_alarm(self, mode):
        # It takes nothing from callers either.
        self.begin(mode)
        watermark = 'set_vm_memory_high_watermark'
        ctl = base.rabbitmq().ctl
        self.addCleanup(ctl, watermark, '0.4')
        self.check_outage(
            lambda: ctl(watermark, '0.000001'),
            lambda: ctl(watermark, '0.4'), BROKER_BACK,
            rpc.Client.read, ALARM)
        self.check_from_here_on()

    @ddt.data(*base.MODES)
    def test_lets_nobody_in_while_it_boots(self, mode):
        # A worker that was blocked then is not deaf after it.
        self.begin(mode, {topic: {'worker_timeout': 0}
                          for topic in base.WORK})
        hosts = {service: service.worker_host(2) for service in self.running}
        workers = [service.workers()[2] for service in self.running]
        ctl = base.rabbitmq().ctl
        self.addCleanup(ctl, 'change_password', 'guest', 'guest')
        for service, client in self.clients.items():
            self.block(self.made, service, client, POOL, 2)
        ctl('change_password', 'guest', 'another')
        ctl('close_all_connections', 'as if it was restarted')
        for worker in workers:
            self.made.faults.free(worker)
        time.sleep(2 * base.REPORT_INTERVAL)
        ctl('change_password', 'guest', 'guest')
        self.wait_all_up(BROKER_BACK)
        for service, client in self.clients.items():
            service.wait_ready(timeout=RABBIT_INTERVAL_MAX)
            client.ping(hosts[service], timeout=10)
        self.check_nobody_was_replaced()


@ddt.ddt
class DatabaseOutageTestCase(OutageTestCase):

    @ddt.data(*base.MODES)
    def test_main(self, mode):
        # Heartbeats go there, and what requests read of the cell is there.
        databases = base.shared_database()
        box, url = self.middlebox(databases.urls['main'])
        self.addCleanup(databases.map_cell, databases.urls['main'])
        databases.map_cell(url)
        self.begin(mode, {'database': {'connection': url}})
        for begin in (box.refuse, box.vanish):
            self.check_outage(begin, box.restore, DATABASE_BACK,
                              rpc.Client.read)
        self.check_from_here_on()

    @ddt.data(*base.MODES)
    def test_main_takes_no_writes(self, mode):
        # As while a backup has locked its tables. Reads are answered.
        self.begin(mode)
        lock = self.enterContext(contextlib.ExitStack())
        self.check_outage(
            lambda: lock.enter_context(
                base.shared_database().locked('services', 'READ')),
            lock.close, DATABASE_BACK)
        self.check_from_here_on()

    @ddt.data(*base.MODES)
    def test_api(self, mode):
        box, url = self.middlebox(base.shared_database().urls['api'])
        self.begin(mode, {'api_database': {'connection': url}})
        for begin, down in ((box.refuse, False), (box.silence, True)):
            # Heartbeats do not go there, but wait for a thread.
            self.check_outage(begin, box.restore, DATABASE_BACK,
                              rpc.Client.look_up, down=down)
        self.check_from_here_on()


class IdleCostTestCase(base.LabTestCase):
    """Beside a stock nova-scheduler of the same number of workers."""

    INTERVALS = 6

    def measure(self, tree):
        """What three idle workers cost in some report intervals.

        :returns: the messages sent over RPC, and how many statements the
            database got
        """
        with lab_cloud.Cloud(
                broker=base.rabbitmq(), conf=base.CONF,
                database=base.shared_database(self.private)) as made:
            scheduler = made.scheduler(tree=tree, workers=3)
            scheduler.wait_ready()
            self.wait_up(made, scheduler)
            # A start costs more, in both.
            time.sleep(2 * base.SERVICE_DOWN_TIME)
            with kombu.Connection(made.broker.url) as connection:
                # Gets a copy of all that goes through nova's exchange.
                queue = kombu.Queue(
                    'lab-copies', exclusive=True, routing_key='#',
                    exchange=kombu.Exchange('nova', 'topic', passive=True)
                )(connection)
                queue.declare()
                before = self.statements()
                time.sleep(self.INTERVALS * base.REPORT_INTERVAL)
                statements = self.statements() - before
                messages = []
                while message := queue.get(no_ack=True):
                    messages.append(message.body)
                return messages, statements

    def statements(self):
        """How many statements clients have sent to the database server."""
        return self.private.status('Questions')[0]

    def test_no_more_than_stock(self):
        self.private = self.enterContext(database.PrivateMariaDB())
        stock_messages, stock_statements = self.measure(base.stock_tree())
        messages, statements = self.measure(None)
        # A last one may be under way at either end.
        self.assertLessEqual(len(messages), 3 * (self.INTERVALS + 1))
        self.assertGreaterEqual(len(messages), 3 * (self.INTERVALS - 1))
        self.assertEqual([], stock_messages)
        for message in messages:
            self.assertLess(len(message), 2000)
        self.assertLessEqual(statements, stock_statements)
