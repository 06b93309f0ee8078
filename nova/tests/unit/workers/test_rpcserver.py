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

import threading
import time
from unittest import mock

import oslo_messaging as messaging

from nova import test
from nova.workers import rpcserver


# The real one, while that of the module under test is replaced.
Thread = threading.Thread


class FakeServer:
    """An oslo.messaging RPC server whose dispatch the test calls."""

    def __init__(self, calls, name, pool_size=2):
        self.dispatcher = mock.Mock()
        self.conf = mock.Mock(executor_thread_pool_size=pool_size)
        for method in ('start', 'stop', 'wait'):
            setattr(self, method,
                    lambda method=method: calls.append((name, method)))
        self.listener = mock.Mock()
        self.listener.cleanup = lambda: calls.append((name, 'close'))


class FakeThread:
    """A thread that has run once it was started."""

    def __init__(self, target, daemon):
        self.start = target
        self.join = lambda: None


class RPCServerTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.calls = []
        self.servers = []
        self.get_server = self.useFixture(test.fixtures.MockPatchObject(
            rpcserver.rpc, 'get_server', side_effect=self._get_server)).mock
        self.useFixture(test.fixtures.MonkeyPatch(
            'nova.workers.rpcserver.threading.Thread', FakeThread))
        self.on_begin = mock.Mock()
        self.target = messaging.Target(
            topic='scheduler', server='node-1-worker-2')
        self.server = rpcserver.RPCServer(
            self.target, 'endpoints', 'serializer', self.on_begin)

    def _get_server(self, *args):
        self.servers.append(FakeServer(self.calls, len(self.servers) + 1))
        return self.servers[-1]

    def test_stands_in_for_what_it_wraps(self):
        self.get_server.assert_called_once_with(
            self.target, 'endpoints', 'serializer')
        self.server.start()
        self.server.stop()
        self.server.wait()
        self.assertEqual([(1, 'start'), (1, 'stop'), (1, 'wait')], self.calls)

    def test_dispatch(self):
        inner = mock.Mock()
        dispatcher = rpcserver._CountingDispatcher(inner, self.on_begin)
        self.assertEqual(inner.dispatch.return_value,
                         dispatcher.dispatch(mock.sentinel.incoming))
        inner.dispatch.assert_called_once_with(mock.sentinel.incoming)
        self.on_begin.assert_called_once_with()

    def test_begin_is_noted_before_the_message_runs(self):
        inner = mock.Mock()
        inner.dispatch.side_effect = (
            lambda incoming: self.on_begin.assert_called_once_with())
        rpcserver._CountingDispatcher(inner, self.on_begin).dispatch(None)

    def test_failed_dispatch_is_counted_off(self):
        inner = mock.Mock()
        inner.dispatch.side_effect = test.TestingException
        dispatcher = rpcserver._CountingDispatcher(inner, self.on_begin)
        self.assertRaises(test.TestingException, dispatcher.dispatch, None)
        self.assertEqual(0, dispatcher.running)

    def test_full_while_all_threads_run_messages(self):
        release = threading.Event()
        self.addCleanup(release.set)
        started = threading.Semaphore(0)

        def run(incoming):
            started.release()
            release.wait(60)

        before = self.server.begun
        dispatcher = self.servers[0].dispatcher
        dispatcher._dispatcher.dispatch = run
        threads = [Thread(target=dispatcher.dispatch, args=(None,))
                   for _n in range(2)]
        self.assertFalse(self.server.full)
        threads[0].start()
        started.acquire()
        self.assertFalse(self.server.full)
        threads[1].start()
        started.acquire()
        self.assertTrue(self.server.full)
        self.assertGreaterEqual(self.server.begun, before)
        self.assertEqual(2, self.on_begin.call_count)
        release.set()
        for thread in threads:
            thread.join()
        self.assertFalse(self.server.full)

    def test_begun(self):
        self.server.begun = 0
        self.servers[0].dispatcher.dispatch(None)
        self.assertAlmostEqual(time.monotonic(), self.server.begun, delta=60)

    def test_pause_and_resume(self):
        self.server.start()
        self.server.begun -= 20
        self.server.pause()
        self.assertTrue(self.server.paused)
        # Closed at once, while what it runs goes on.
        self.assertEqual([(1, 'start'), (1, 'stop'), (1, 'close')],
                         self.calls)
        self.assertIn(
            'Worker node-1-worker-2 takes no more requests: all 2 threads of '
            'its dispatch pool are busy and have begun nothing for 20 '
            'seconds', self.stdlog.logger.output)
        self.server.resume()
        self.assertFalse(self.server.paused)
        # The old one is finished, a new one takes over.
        self.assertEqual([(1, 'stop'), (1, 'wait'), (2, 'start')],
                         self.calls[3:])
        self.assertIn('Worker node-1-worker-2 takes requests again',
                      self.stdlog.logger.output)
        self.server.stop()
        self.assertEqual((2, 'stop'), self.calls[-1])

    def test_resumes_once_the_old_one_is_closed(self):
        self.server.start()
        self.server.pause()
        self.server._pausing = mock.Mock()
        self.server._pausing.join.side_effect = (
            lambda: self.assertNotIn((2, 'start'), self.calls))
        self.server.resume()
        self.assertIn((2, 'start'), self.calls)

    def test_resumed_server_is_not_full_of_the_old_threads(self):
        self.servers[0].dispatcher.running = 2
        self.assertTrue(self.server.full)
        self.server.pause()
        self.server.resume()
        self.assertFalse(self.server.full)

    def test_once(self):
        self.server.start()
        self.server.resume()
        self.assertEqual(1, len(self.servers))
        for _call in range(2):
            self.server.pause()
        self.assertEqual(1, self.calls.count((1, 'close')))

    def test_stopped_for_good(self):
        self.server.start()
        self.server.stop()
        self.server.pause()
        self.assertFalse(self.server.paused)
        self.server.resume()
        self.assertEqual(1, len(self.servers))
        self.assertNotIn('takes', self.stdlog.logger.output)

    def test_paused_and_then_stopped_for_good(self):
        self.server.start()
        self.server.pause()
        self.server.stop()
        self.server.resume()
        self.assertEqual(1, len(self.servers))

    def test_error_while_closing_is_logged(self):
        self.server.start()
        self.servers[0].stop = mock.Mock(side_effect=test.TestingException)
        self.server.pause()
        self.assertTrue(self.server.paused)
        self.assertIn('Unexpected error in a pausing RPC server',
                      self.stdlog.logger.output)
