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

from unittest import mock

import ddt
from oslo_config import cfg
from oslo_db import exception as db_exc
import oslo_messaging as messaging

from nova import context
from nova import test
from nova.workers import heartbeat

INTERVAL = 10
# In these tests the broker's connection may take that long to come back.
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
        self.flags(service_down_time=60)
        self.clock = Clock()
        self.useFixture(test.fixtures.MonkeyPatch(
            'nova.workers.heartbeat.time.monotonic', self.clock))
        self.useFixture(test.fixtures.MonkeyPatch(
            'nova.workers.heartbeat._reconnect_time', lambda: RECONNECT))
        # What the threads of the heartbeat would do is up to the test.
        self.probes = []
        self.useFixture(test.fixtures.MonkeyPatch(
            'nova.workers.heartbeat.threading.Thread', self._thread))
        self.get_record = self.useFixture(test.fixtures.MockPatch(
            'nova.objects.Service.get_by_host_and_binary')).mock
        self.client = mock.Mock()
        get_client = self.useFixture(test.fixtures.MockPatchObject(
            heartbeat.rpc, 'get_client')).mock
        get_client.return_value.prepare.side_effect = self._prepare
        self.get_client = get_client
        self.rpcserver = self.useFixture(test.fixtures.MockPatchObject(
            heartbeat.rpcserver, 'RPCServer')).mock.return_value
        self.rpcserver.paused = False
        self.rpcserver.full = False
        self.rpcserver.begun = self.clock.now
        self.rpcserver.pause.side_effect = self._pause
        self.rpcserver.resume.side_effect = self._resume

        self.server = mock.Mock(host='node-1-worker-2', topic='scheduler',
                                binary='nova-scheduler',
                                report_interval=INTERVAL)
        self.record = self.server.service_ref
        self.record.configure_mock(
            id=7, host='node-1-worker-2', binary='nova-scheduler',
            report_count=41)
        # What stands in the database.
        self.get_record.return_value = mock.Mock(id=7, report_count=41)
        self.report_state = self.server.servicegroup_api.report_state
        self.report_state.side_effect = self._report_state
        self.save = self.useFixture(test.fixtures.MockPatchObject(
            heartbeat, '_save', side_effect=self._save)).mock
        self.alive = mock.Mock()
        self.heartbeat = heartbeat.Heartbeat(self.server, self.alive)
        self.heartbeat.get_rpcserver('target', ['endpoint'], 'serializer')
        self.heartbeat.join('node-1-worker-2', 'scheduler', self.server)

    def _thread(self, target, daemon):
        self.assertTrue(daemon)
        self.probes.append(target)
        return mock.Mock()

    def _prepare(self, **kwargs):
        self.prepared = kwargs
        return self.client

    def _pause(self):
        self.rpcserver.paused = True

    def _resume(self):
        self.rpcserver.paused = False
        self.rpcserver.full = False

    def _report_state(self, service):
        # As the db driver does.
        self.record.report_count += 1
        self.record.save()

    def _save(self, ctxt, record):
        self.get_record.return_value.report_count = record.report_count

    def run_own_message(self):
        self.rpcserver.begun = self.clock.now
        endpoint = heartbeat.rpcserver.RPCServer.call_args.args[1][-1]
        endpoint.beat(context.get_admin_context())

    def is_alive(self):
        """Whether the worker says so when it looks at its state."""
        self.alive.reset_mock()
        self.heartbeat._check()
        return self.alive.called

    def block(self, seconds):
        """All threads of the pool run what does not end, for some time."""
        self.rpcserver.full = True
        self.rpcserver.begun = self.clock.now
        self.clock.now += 1
        self.heartbeat._send()
        self.clock.now += seconds - 1

    def test_rpcserver(self):
        args = heartbeat.rpcserver.RPCServer.call_args
        target, endpoints, serializer, on_begin = args.args
        self.assertEqual(('target', 'serializer'), (target, serializer))
        self.assertEqual('endpoint', endpoints[0])
        self.assertEqual('worker', endpoints[1].target.namespace)
        self.assertEqual(self.alive, on_begin)

    def test_rpc_api_is_the_one_message(self):
        endpoint = heartbeat.rpcserver.RPCServer.call_args.args[1][-1]
        self.assertEqual(['beat', 'target'], [
            name for name in dir(endpoint) if not name.startswith('_')])

    def test_message_is_for_the_own_server(self):
        target = self.get_client.call_args.args[0]
        self.assertEqual(('scheduler', 'node-1-worker-2'),
                         (target.topic, target.server))
        self.assertEqual(0, self.prepared['retry'])
        self.assertTrue(self.prepared['transport_options'].at_least_once)

    def test_timers(self):
        timers = self.server.tg.add_timer_args.call_args_list
        self.assertEqual(
            [(INTERVAL, self.heartbeat._send),
             (INTERVAL / 5, self.heartbeat._check)],
            [(timer.args[0], timer.kwargs['args'][0]) for timer in timers])

    def test_no_heartbeat_without_report_interval(self):
        server = mock.Mock(report_interval=0)
        heartbeat.Heartbeat(server, self.alive).join('h', 't', server)
        server.tg.add_timer_args.assert_not_called()

    def test_written_when_the_message_runs(self):
        self.heartbeat._send()
        self.client.cast.assert_called_once_with(mock.ANY, 'beat')
        self.report_state.assert_not_called()
        self.run_own_message()
        self.report_state.assert_called_once_with(self.server)

    def test_one_message_under_way(self):
        for _interval in range(3):
            self.heartbeat._send()
            self.clock.now += INTERVAL - 1
        self.client.cast.assert_called_once()
        self.run_own_message()
        self.heartbeat._send()
        self.assertEqual(2, self.client.cast.call_count)

    def test_one_message_under_way_while_the_heartbeat_is_written(self):
        def write(service):
            self.clock.now += INTERVAL
            self.heartbeat._send()
            self.assertTrue(self.is_alive())

        self.report_state.side_effect = write
        self.heartbeat._send()
        self.run_own_message()
        self.client.cast.assert_called_once()
        self.heartbeat._send()
        self.assertEqual(2, self.client.cast.call_count)

    def test_error_while_the_heartbeat_is_written(self):
        self.report_state.side_effect = test.TestingException
        self.heartbeat._send()
        self.assertRaises(test.TestingException, self.run_own_message)
        self.heartbeat._send()
        self.assertEqual(2, self.client.cast.call_count)

    @ddt.data(messaging.MessageDeliveryFailure('gone'),
              messaging.MessageUndeliverable(
                  'e', 'exchange', 'key', 'message'))
    def test_broker_is_away(self, error):
        self.client.cast.side_effect = error
        for _interval in range(3):
            self.heartbeat._send()
            self.assertTrue(self.is_alive())
            self.clock.now += INTERVAL
        self.assertEqual(3, self.client.cast.call_count)
        self.client.cast.side_effect = None
        for _interval in range(2):
            self.heartbeat._send()
            self.run_own_message()
        output = self.stdlog.logger.output
        self.assertEqual(1, output.count('cannot send its heartbeat'))
        self.assertEqual(1, output.count('sends its heartbeat through its '
                                         'queue again'))

    def test_broker_does_not_answer(self):
        def cast(ctxt, method):
            self.clock.now += 10 * RECONNECT
            self.assertTrue(self.is_alive())
            self.heartbeat._send()

        self.client.cast.side_effect = cast
        self.heartbeat._send()
        self.client.cast.assert_called_once()

    def test_alive_while_the_connection_is_made_again(self):
        self.heartbeat._send()
        for _check in range(RECONNECT):
            self.assertTrue(self.is_alive())
            self.clock.now += 1
        # From now on it is the worker that does not read.
        self.assertFalse(self.is_alive())
        # The message may have been lost with the broker.
        self.heartbeat._send()
        self.assertEqual(2, self.client.cast.call_count)
        self.assertFalse(self.is_alive())
        self.run_own_message()
        self.assertTrue(self.is_alive())

    def test_broker_is_away_after_a_lost_message(self):
        self.heartbeat._send()
        self.clock.now += RECONNECT
        self.client.cast.side_effect = messaging.MessageDeliveryFailure('x')
        self.heartbeat._send()
        self.assertTrue(self.is_alive())

    def test_pauses_when_blocked(self):
        self.block(2 * INTERVAL - 1)
        self.heartbeat._check()
        self.rpcserver.pause.assert_not_called()
        self.clock.now += 1
        self.heartbeat._check()
        self.rpcserver.pause.assert_called_once_with()
        self.clock.now += INTERVAL
        self.heartbeat._check()
        self.rpcserver.pause.assert_called_once_with()

    def test_busy_does_not_pause(self):
        self.rpcserver.full = True
        self.heartbeat._send()
        for _check in range(10):
            self.clock.now += INTERVAL - 1
            # A request ends, the next one begins.
            self.rpcserver.begun = self.clock.now
            self.assertTrue(self.is_alive())
        self.rpcserver.pause.assert_not_called()

    def test_not_read_does_not_pause(self):
        self.heartbeat._send()
        self.clock.now += 10 * INTERVAL
        self.heartbeat._check()
        self.rpcserver.pause.assert_not_called()

    def test_resumes_once_the_own_message_has_run(self):
        self.block(2 * INTERVAL)
        self.heartbeat._check()
        self.heartbeat._check()
        self.rpcserver.resume.assert_not_called()
        self.run_own_message()
        self.heartbeat._check()
        self.rpcserver.resume.assert_called_once_with()
        self.heartbeat._check()
        self.rpcserver.resume.assert_called_once_with()

    def test_resumes_when_the_message_is_not_in_the_pool(self):
        self.block(2 * INTERVAL)
        self.heartbeat._check()
        self.rpcserver.full = False
        self.heartbeat._check()
        self.rpcserver.resume.assert_called_once_with()

    def test_stuck_when_blocked(self):
        self.block(INTERVAL - 1)
        self.assertTrue(self.is_alive())
        self.clock.now += 1
        for _check in range(10):
            # Each time the database answers.
            self.assertFalse(self.is_alive())
            self.probes.pop()()
            self.assertFalse(self.is_alive())
            self.clock.now += 1
        self.run_own_message()
        self.assertTrue(self.is_alive())

    def test_not_stuck_while_the_database_is_slow(self):
        self.block(INTERVAL)
        for _check in range(INTERVAL):
            self.assertFalse(self.is_alive())
            self.clock.now += 1
        for _check in range(INTERVAL):
            self.assertTrue(self.is_alive())
            self.clock.now += 1
        self.assertEqual(1, len(self.probes))
        # Now it answers, so it is the worker.
        self.probes.pop()()
        self.assertFalse(self.is_alive())
        self.assertFalse(self.is_alive())

    def test_not_stuck_while_the_database_is_down(self):
        self.get_record.side_effect = db_exc.DBConnectionError
        self.block(INTERVAL)
        for _check in range(3):
            self.assertFalse(self.is_alive())
            self.probes.pop()()
            self.assertTrue(self.is_alive())

    def test_other_errors_of_the_probe_are_no_excuse(self):
        self.get_record.side_effect = test.TestingException
        self.block(INTERVAL)
        self.assertFalse(self.is_alive())
        self.probes.pop()()
        self.assertFalse(self.is_alive())
        self.assertIn('Unexpected error', self.stdlog.logger.output)

    def test_error_does_not_end_a_timer(self):
        heartbeat._run_and_log(mock.Mock(side_effect=test.TestingException))
        self.assertIn('Unexpected error', self.stdlog.logger.output)

    def beat(self, times=1):
        for _interval in range(times):
            self.heartbeat._send()
            self.run_own_message()
            self.clock.now += INTERVAL

    def test_nobody_else(self):
        self.beat(20)
        self.assertNotIn('another process', self.stdlog.logger.output)
        # It stops looking, and costs what a stock service costs.
        self.assertEqual(7, self.get_record.call_count)

    def test_nobody_else_with_a_driver_that_does_not_write_the_record(self):
        self.report_state.side_effect = None
        self.beat(20)
        self.assertNotIn('another process', self.stdlog.logger.output)

    def test_nobody_else_when_writing_failed(self):
        self.save.side_effect = [test.TestingException, None]
        self.heartbeat._send()
        self.assertRaises(test.TestingException, self.run_own_message)
        self.save.side_effect = self._save
        self.beat(20)
        self.assertNotIn('another process', self.stdlog.logger.output)

    @ddt.data(42, 50)
    def test_record_is_kept_up_by_another_before_the_first_heartbeat(
            self, count):
        self.get_record.return_value.report_count = count
        self.beat(20)
        self.assertEqual(1, self.stdlog.logger.output.count(
            'Record 7 of nova-scheduler on host node-1-worker-2 is kept up '
            'by another process as well'))

    def test_record_is_kept_up_by_another_in_step(self):
        self.beat()
        # The other one went on from 41, as this one did.
        self.get_record.return_value.report_count = 42
        self.beat()
        self.assertIn('another process', self.stdlog.logger.output)

    def test_record_is_gone(self):
        self.get_record.return_value = None
        self.save.side_effect = None
        self.beat(20)
        self.assertNotIn('another process', self.stdlog.logger.output)


class ReconnectTimeTestCase(test.NoDBTestCase):

    def test_rabbit(self):
        with mock.patch.object(heartbeat, 'CONF') as conf:
            conf.oslo_messaging_rabbit.rabbit_interval_max = 5
            self.assertEqual(5, heartbeat._reconnect_time())

    def test_another_driver(self):
        with mock.patch.object(heartbeat, 'CONF', cfg.ConfigOpts()):
            self.assertEqual(30, heartbeat._reconnect_time())
