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

from unittest import mock

import ddt
import oslo_messaging as messaging

from nova import context
from nova import test
from nova.workers import heartbeat

INTERVAL = 10
RECONNECT = 30


class Clock:
    """A time.monotonic() that the test moves."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@ddt.ddt
class HeartbeatTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.clock = Clock()
        self.useFixture(test.fixtures.MonkeyPatch(
            'nova.workers.heartbeat.time.monotonic', self.clock))
        self.useFixture(test.fixtures.MonkeyPatch(
            'nova.workers.excuse.reconnect_time', lambda: RECONNECT))
        # What is away, if anything, is up to the test.
        self.outage = None
        self.inquiry = self.useFixture(test.fixtures.MockPatchObject(
            heartbeat.excuse, 'Inquiry', side_effect=self._inquire)).mock
        self.record = self.useFixture(test.fixtures.MockPatchObject(
            heartbeat.record, 'Record')).mock.return_value
        self.rpc = self.useFixture(test.fixtures.MockPatchObject(
            heartbeat, 'rpc')).mock
        # oslo.messaging registers it with its first server.
        self.conf = self.useFixture(test.fixtures.MockPatchObject(
            heartbeat, 'CONF', mock.Mock(executor_thread_pool_size=2,
                                         servicegroup_driver='db'))).mock
        self.client = mock.Mock()
        self.rpc.get_client.return_value = self.client
        self.cast = self.client.prepare.return_value.cast

        self.server = mock.Mock(host='node-1-worker-2', topic='scheduler',
                                binary='nova-scheduler',
                                report_interval=INTERVAL)
        self.report_state = self.server.servicegroup_api.report_state
        self.alive = mock.Mock()
        self.heartbeat = heartbeat.Heartbeat(self.server, self.alive)
        self.heartbeat.get_rpcserver(
            'target', ['endpoint'], 'serializer').start()
        self.heartbeat.join('node-1-worker-2', 'scheduler', self.server)

    def _inquire(self, topic, timeout, then):
        # Knows at once what it finds out.
        inquiry = mock.Mock(end=self.clock.now + timeout, outage=self.outage)
        if not self.outage:
            then(self.client)
        return inquiry

    @property
    def endpoint(self):
        return self.rpc.get_server.call_args.args[1][-1]

    def run_own_message(self):
        self.heartbeat._begun = self.clock.now
        self.endpoint.beat(context.get_admin_context())

    def fill(self):
        """All threads run what does not end."""
        self.heartbeat.bound._running = 2
        self.heartbeat._begun = self.clock.now

    def is_alive(self, seconds=INTERVAL):
        """Whether the worker says so within that time."""
        self.alive.reset_mock()
        for _check in range(heartbeat.CHECKS):
            self.clock.now += seconds / heartbeat.CHECKS
            self.heartbeat._check()
        return self.alive.called

    def logged(self, text):
        return self.stdlog.logger.output.count(text)

    def test_rpcserver(self):
        target, endpoints, serializer = self.rpc.get_server.call_args.args
        self.assertEqual(('target', 'serializer'), (target, serializer))
        self.assertEqual('endpoint', endpoints[0])
        self.assertEqual('worker', endpoints[1].target.namespace)

    def test_rpc_api_is_the_one_message(self):
        self.assertEqual(['beat', 'target'], [
            name for name in dir(self.endpoint) if not name.startswith('_')])

    def start(self):
        self.alive.reset_mock()
        self.server.tg.add_timer_args.reset_mock()
        self.heartbeat = heartbeat.Heartbeat(self.server, self.alive)
        server = self.heartbeat.get_rpcserver('target', [], 'serializer')
        self.alive.assert_not_called()
        server.start()

    def test_watched_once_the_broker_sends_to_it(self):
        # It has prefetched requests from then on.
        self.start()
        self.alive.assert_called_once_with()
        self.assertEqual(0, self.heartbeat.bound.size)
        self.heartbeat._send()
        self.assertFalse(self.is_alive())

    def test_database_is_away_before_it_serves(self):
        self.start()
        self.heartbeat._send()
        self.outage = 'the main database does not answer: gone'
        for _interval in range(3):
            self.assertTrue(self.is_alive())

    def test_serves_once_the_service_has_started(self):
        self.start()
        self.heartbeat.join('node-1-worker-2', 'scheduler', self.server)
        self.assertEqual(2, self.heartbeat.bound.size)

    def test_message_is_for_the_own_server(self):
        self.heartbeat._send()
        self.assertEqual(
            'scheduler', self.rpc.get_client.call_args.args[0].topic)
        self.client.prepare.assert_called_once_with(
            server='node-1-worker-2', namespace='worker', version='1.0',
            retry=0)

    def test_timers(self):
        timers = self.server.tg.add_timer_args.call_args_list
        self.assertEqual(
            [(INTERVAL, self.heartbeat._send),
             (INTERVAL / 5, self.heartbeat._check)],
            [timer.args for timer in timers])
        # A timer ends with the first exception by default. And a node with
        # many workers starts them all first.
        self.assertEqual(
            [{'stop_on_exception': False, 'initial_delay': 5}] * 2,
            [timer.kwargs for timer in timers])

    def test_first_message_within_an_interval(self):
        # Or the record would be down where service_down_time is short.
        self.server.report_interval = 2
        self.start()
        self.assertEqual(
            [2, 2], [timer.kwargs['initial_delay'] for timer in
                     self.server.tg.add_timer_args.call_args_list])

    def test_no_heartbeat_without_report_interval(self):
        self.server.report_interval = 0
        self.start()
        self.server.tg.add_timer_args.assert_not_called()

    def test_written_when_the_message_runs(self):
        self.heartbeat._send()
        self.cast.assert_called_once_with(mock.ANY, 'beat')
        self.report_state.assert_not_called()
        self.run_own_message()
        self.report_state.assert_called_once_with(self.server)
        self.record.check.assert_not_called()
        self.assertEqual(self.record.write, self.server.service_ref.save)

    def test_driver_that_does_not_write_the_record(self):
        self.conf.servicegroup_driver = 'mc'
        self.run_own_message()
        self.report_state.assert_called_once_with(self.server)
        self.record.check.assert_called_once_with()

    def test_healthy(self):
        for _interval in range(20):
            self.heartbeat._send()
            self.clock.now += 1
            self.run_own_message()
            for _check in range(heartbeat.CHECKS):
                self.clock.now += 1.8
                self.heartbeat._check()
        self.assertEqual(20, self.cast.call_count)
        self.inquiry.assert_not_called()
        self.assertEqual(0, self.logged('Worker'))

    def test_one_message_under_way(self):
        for _interval in range(3):
            self.heartbeat._send()
        self.cast.assert_called_once()
        self.run_own_message()
        self.heartbeat._send()
        self.assertEqual(2, self.cast.call_count)

    def test_one_message_under_way_while_the_heartbeat_is_written(self):
        def write(service):
            self.heartbeat._send()
            for _interval in range(2 * RECONNECT // INTERVAL):
                # Whatever the database says, nobody knows of this write.
                self.assertFalse(self.is_alive())

        self.report_state.side_effect = write
        self.heartbeat._send()
        self.run_own_message()
        self.cast.assert_called_once()
        self.heartbeat._send()
        self.assertEqual(2, self.cast.call_count)

    def test_database_is_away_while_the_heartbeat_is_written(self):
        def write(service):
            self.outage = 'the main database does not answer: no answer'
            for _interval in range(3):
                self.assertTrue(self.is_alive())

        self.report_state.side_effect = write
        self.heartbeat._send()
        self.run_own_message()
        self.assertEqual(1, self.logged(
            'Worker node-1-worker-2 runs no messages, as the main database '
            'does not answer: no answer'))
        self.assertEqual(1, self.logged(
            'Worker node-1-worker-2 runs messages again'))

    def test_error_while_the_heartbeat_is_written(self):
        self.report_state.side_effect = test.TestingException
        self.heartbeat._send()
        self.assertRaises(test.TestingException, self.run_own_message)
        self.heartbeat._send()
        self.assertEqual(2, self.cast.call_count)

    def test_broker_is_away(self):
        self.cast.side_effect = messaging.MessageDeliveryFailure('gone')
        self.outage = 'the message broker does not answer: gone'
        self.heartbeat._send()
        for _interval in range(3 * RECONNECT // INTERVAL):
            self.assertTrue(self.is_alive())
        # It is back, but the listener of the worker is not yet.
        self.outage = None
        self.cast.side_effect = messaging.MessageUndeliverable(
            'e', 'exchange', 'key', 'message')
        self.assertTrue(self.is_alive())
        self.assertTrue(self.is_alive())
        self.cast.reset_mock(side_effect=True)
        # Now it is, and the message goes into its queue, once.
        self.is_alive()
        self.is_alive()
        self.cast.assert_called_once_with(mock.ANY, 'beat')
        options = self.client.prepare.call_args.kwargs
        self.assertTrue(options['transport_options'].at_least_once)
        self.run_own_message()
        self.assertEqual(1, self.logged('runs no messages, as'))
        self.assertEqual(1, self.logged('runs messages again'))

    def test_message_was_not_read(self):
        self.heartbeat._send()
        for _interval in range(RECONNECT // INTERVAL):
            self.assertTrue(self.is_alive(INTERVAL - 1))
        self.clock.now += RECONNECT
        # From now on it is the worker that does not read.
        self.assertFalse(self.is_alive())
        # The message may have been lost.
        self.assertEqual(2, self.cast.call_count)
        self.assertFalse(self.is_alive())
        self.assertEqual(2, self.cast.call_count)

    def test_blocked(self):
        self.fill()
        self.heartbeat._send()
        for _interval in range(3):
            self.assertFalse(self.is_alive())
        self.assertEqual(1, self.logged(
            'Worker node-1-worker-2 takes no more requests: all 2 threads are '
            'busy and have begun nothing for 10 seconds'))
        # The message waits in the queue. A second one would be no help.
        self.cast.assert_called_once()
        self.heartbeat.bound._running = 1
        self.run_own_message()
        self.assertEqual(1, self.logged('runs messages again'))

    @ddt.data('the message broker', 'the API database')
    def test_blocked_by_what_is_away(self, name):
        self.outage = f'{name} does not answer: gone'
        self.fill()
        self.heartbeat._send()
        for _interval in range(5):
            self.assertTrue(self.is_alive())
        # It is back, and what hangs on old connections has some time left.
        self.outage = None
        for _interval in range(RECONNECT // INTERVAL):
            self.assertTrue(self.is_alive())
        # If this goes on it is the worker.
        self.is_alive()
        self.assertFalse(self.is_alive())

    def test_inquiry_that_knows_nothing_proves_nothing(self):
        self.inquiry.side_effect = None
        self.inquiry.return_value = mock.Mock(
            end=float('inf'), outage=None)
        self.fill()
        self.heartbeat._send()
        for _interval in range(3):
            self.assertFalse(self.is_alive())
        self.inquiry.assert_called_once()

    def test_inquiry_that_ends_while_it_is_looked_at(self):
        class Inquiry:
            end = float('inf')
            outages = [None, 'the API database does not answer: gone']

            @property
            def outage(self):
                return self.outages.pop(0)

        self.inquiry.side_effect = None
        self.inquiry.return_value = Inquiry()
        self.fill()
        self.heartbeat._send()
        for _check in range(3):
            self.clock.now += INTERVAL / heartbeat.CHECKS
            self.heartbeat._check()
        self.assertEqual(1, self.logged('the API database does not answer'))

    def test_one_inquiry_at_each_interval(self):
        # Each makes connections, which all of the workers of a cloud do. While
        # something is away it is looked for more often.
        self.fill()
        self.heartbeat._send()
        for _interval in range(10):
            self.is_alive()
        self.assertEqual(10, self.inquiry.call_count)

    def test_busy(self):
        self.fill()
        self.heartbeat._send()
        for _check in range(50):
            self.clock.now += 1
            # A request ends, the next one begins.
            self.heartbeat._begun = self.clock.now
            self.heartbeat._check()
        self.inquiry.assert_not_called()
        self.assertEqual(0, self.logged('Worker'))

    def serve(self, seconds):
        """A request begins each second, and ends."""
        for _second in range(seconds):
            self.clock.now += 1
            self.heartbeat._begun = self.clock.now
            self.heartbeat._check()

    @ddt.data(0, 2)
    def test_busy_when_the_broker_is_back(self, running):
        self.cast.side_effect = messaging.MessageDeliveryFailure('gone')
        self.heartbeat._send()
        # Requests are here before anybody has asked for it.
        self.cast.reset_mock(side_effect=True)
        self.heartbeat.bound._running = running
        self.serve(2 * INTERVAL)
        # So it does not stay down for as long as they go on.
        self.cast.assert_called_once_with(mock.ANY, 'beat')
        self.assertEqual(0, self.logged('Worker'))

    def test_busy_while_the_message_is_lost(self):
        self.heartbeat._send()
        self.serve(RECONNECT - 1)
        self.cast.assert_called_once()
        self.serve(2 * INTERVAL)
        self.assertEqual(2, self.cast.call_count)
