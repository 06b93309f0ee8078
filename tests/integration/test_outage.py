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

On a broker and a database of the test's own, which it may stop.
"""

import time

import ddt
import kombu

from lab import broker
from lab import cloud as lab_cloud
from lab import database
from tests.integration import base

# oslo.messaging's own: it waits so long between two attempts to connect.
RABBIT_INTERVAL_MAX = 30
OUTAGE = 2 * base.WORKER_TIMEOUT


@ddt.ddt
class OutageTestCase(base.LabTestCase):

    def begin(self, mode, **private):
        self.made = self.cloud(
            {'scheduler': {'worker_timeout': base.WORKER_TIMEOUT}}, **private)
        self.scheduler = self.start(self.made, workers=3, mode=mode)
        self.before = self.pids(self.scheduler)

    def check_nobody_was_replaced(self):
        self.assertEqual(self.before, self.pids(self.scheduler))
        self.assertNotIn('replacing it', self.scheduler.log())

    @ddt.data(*base.MODES)
    def test_rabbitmq(self, mode):
        private = self.enterContext(broker.PrivateBroker())
        self.begin(mode, private_broker=private)
        private.stop()
        time.sleep(OUTAGE)
        # Nobody can be asked, and nobody is up.
        self.assertEqual(set(), self.up(self.made))
        self.check_nobody_was_replaced()
        private.start()
        self.wait_up(self.made, self.scheduler,
                     base.SERVICE_DOWN_TIME + RABBIT_INTERVAL_MAX)
        self.check_nobody_was_replaced()
        # Said once per worker, not at each attempt.
        log = self.scheduler.log()
        for text in ('cannot send its heartbeat through its queue',
                     'sends its heartbeat through its queue again'):
            self.assertEqual(3, log.count(text), text)
        # From here on, a stuck one is replaced as before.
        time.sleep(base.WORKER_TIMEOUT)
        self.check_nobody_was_replaced()

    @ddt.data(*((mode, fault) for mode in base.MODES
                for fault in ('down', 'silent')))
    @ddt.unpack
    def test_mariadb(self, mode, fault):
        private = self.enterContext(database.PrivateMariaDB())
        self.begin(mode, private_database=private)
        if fault == 'down':
            private.stop()
        else:
            private.freeze()
        time.sleep(OUTAGE)
        self.check_nobody_was_replaced()
        if fault == 'down':
            private.start()
        else:
            private.thaw()
        self.wait_up(self.made, self.scheduler, base.SERVICE_DOWN_TIME)
        time.sleep(base.WORKER_TIMEOUT)
        self.check_nobody_was_replaced()


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
        return int(self.private.query(
            "SHOW GLOBAL STATUS LIKE 'Questions'")[0][1])

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
