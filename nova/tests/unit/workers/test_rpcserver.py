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

import collections
import threading
from unittest import mock

from oslo_messaging.rpc import server as messaging_server

from nova import test
from nova.workers import rpcserver


class FakeServer:
    """An oslo.messaging RPC server; what it submits runs when told to."""

    def __init__(self):
        self.submitted = collections.deque()
        self.processed = []
        for method in ('start', 'stop', 'wait'):
            setattr(self, method, mock.Mock())

    def _on_incoming(self, incoming):
        self.submitted.append(incoming)

    def _process_incoming(self, incoming):
        self.processed.append(incoming)

    def run_next(self):
        """What a thread of the dispatch pool does."""
        self._process_incoming(self.submitted.popleft())


class BoundTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.bound = rpcserver.Bound()
        # A listener thread that waits would not end.
        self.addCleanup(self.bound.lift)
        self.server = FakeServer()
        self.wrap(self.server)

    def wrap(self, server, on_begin=lambda: None):
        return rpcserver.RPCServer(server, self.bound, on_begin=on_begin)

    def read(self, *messages, server=None):
        """Have a listener thread read messages.

        :returns: the thread
        """
        def listen():
            for message in messages:
                (server or self.server)._on_incoming(message)

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        return thread

    def wait_for(self, condition):
        self.assertTrue(self._wait_for(condition, 10))

    def wait_in_vain_for(self, condition):
        self.assertFalse(self._wait_for(condition, 0.1))

    @staticmethod
    def _wait_for(condition, seconds):
        changed = threading.Condition()
        with changed:
            for _look in range(int(seconds / 0.01)):
                if condition():
                    return True
                changed.wait(0.01)
        return condition()

    def test_nothing_runs_before_it_is_open(self):
        self.read('one')
        self.wait_in_vain_for(lambda: self.server.submitted)
        self.bound.open(1)
        self.wait_for(lambda: self.server.submitted)

    def test_reads_no_more_than_there_are_threads(self):
        self.bound.open(2)
        thread = self.read('one', 'two')
        self.wait_for(lambda: len(self.server.submitted) == 2)
        self.assertTrue(self.bound.full)
        # It waits with the last message that has a thread, and does not read
        # one that has none.
        self.wait_in_vain_for(lambda: not thread.is_alive())
        self.server.run_next()
        thread.join(10)
        self.assertFalse(thread.is_alive())
        self.assertFalse(self.bound.full)

    def test_order_is_kept(self):
        self.bound.open(1)
        self.read(*range(10))
        for _n in range(10):
            self.wait_for(lambda: self.server.submitted)
            self.server.run_next()
        self.assertEqual(list(range(10)), self.server.processed)

    def test_servers_share_it(self):
        other = FakeServer()
        self.wrap(other)
        self.bound.open(1)
        self.read('one')
        self.wait_for(lambda: self.server.submitted)
        self.read('two', server=other)
        self.wait_in_vain_for(lambda: other.submitted)
        self.server.run_next()
        self.wait_for(lambda: other.submitted)

    def test_runs_until_the_reply_is_sent(self):
        replied = threading.Event()
        self.addCleanup(replied.set)
        server = FakeServer()
        server._process_incoming = lambda incoming: replied.wait(60)
        self.wrap(server)
        self.bound.open(1)
        self.read('one', server=server)
        self.wait_for(lambda: server.submitted)
        thread = threading.Thread(target=server.run_next)
        thread.start()
        self.assertTrue(self.bound.full)
        replied.set()
        thread.join(10)
        self.assertFalse(self.bound.full)

    def test_begin_is_told_before_it_runs(self):
        began = []
        server, probed = FakeServer(), FakeServer()
        self.wrap(server, lambda: began.append(len(server.submitted)))
        # What others ask does not tell how it is.
        self.wrap(probed)
        self.bound.open(2)
        self.read('one', server=probed)
        self.wait_for(lambda: probed.submitted)
        self.assertEqual([], began)
        self.read('one', server=server)
        self.wait_for(lambda: server.submitted)
        self.assertEqual([0], began)

    def test_failure_is_counted_off(self):
        server = FakeServer()
        server._process_incoming = mock.Mock(
            side_effect=test.TestingException)
        self.wrap(server)
        self.bound.open(1)
        self.read('one', server=server)
        self.wait_for(lambda: server.submitted)
        self.assertRaises(test.TestingException, server.run_next)
        self.assertFalse(self.bound.full)

    def test_pool_that_takes_nothing(self):
        server = FakeServer()
        server._on_incoming = mock.Mock(side_effect=RuntimeError)
        self.wrap(server)
        self.bound.open(1)
        self.assertRaises(RuntimeError, server._on_incoming, 'one')
        self.assertFalse(self.bound.full)

    def test_lifted(self):
        self.bound.open(1)
        thread = self.read(*range(5))
        self.wait_for(lambda: self.server.submitted)
        self.bound.lift()
        thread.join(10)
        self.assertEqual(5, len(self.server.submitted))

    def test_lifted_while_it_starts(self):
        self.bound.lift()
        self.bound.open(1)
        self.assertFalse(self.bound.full)
        self.read(*range(5)).join(10)
        self.assertEqual(5, len(self.server.submitted))

    def test_wait_until_idle(self):
        self.bound.wait_until_idle()
        self.bound.open(1)
        self.read('one')
        self.wait_for(lambda: self.server.submitted)
        self.bound.wait_until_idle(0.01)
        waiter = threading.Thread(target=self.bound.wait_until_idle)
        waiter.start()
        self.assertTrue(waiter.is_alive())
        self.server.run_next()
        waiter.join(10)
        self.assertFalse(waiter.is_alive())

    def test_oslo_messaging_that_is_not_known(self):
        server = mock.Mock(spec=['start', 'stop', 'wait'])
        self.wrap(server)
        self.assertEqual(1, self.stdlog.logger.output.count(
            'a worker that is blocked goes on taking requests'))

    def test_oslo_messaging_whose_servers_know_a_limit(self):
        server = mock.Mock(spec=['limit', '_on_incoming', 'wait'])
        hook = server._on_incoming
        on_begin = mock.Mock()
        limit = self.wrap(server, on_begin)
        self.assertIs(limit, server.limit)
        self.assertEqual(hook, server._on_incoming)
        # It is used as a semaphore.
        self.assertFalse(limit.acquire(timeout=0.01))
        on_begin.assert_not_called()
        self.bound.open(2)
        self.assertTrue(limit.acquire(timeout=0.01))
        self.assertTrue(limit.acquire())
        self.assertTrue(self.bound.full)
        self.assertFalse(limit.acquire(timeout=0.01))
        limit.release()
        self.assertTrue(limit.acquire(timeout=0.01))
        self.assertEqual(3, on_begin.call_count)

    def test_oslo_messaging_is_known(self):
        # Where it is not any more, another way has to be found.
        for name in ('_on_incoming', '_process_incoming'):
            self.assertTrue(callable(getattr(
                messaging_server.RPCServer, name)))


class RPCServerTestCase(test.NoDBTestCase):

    def test_stands_in_for_what_it_wraps(self):
        inner = FakeServer()
        on_start = mock.Mock(
            side_effect=lambda: inner.start.assert_called_once_with())
        server = rpcserver.RPCServer(inner, rpcserver.Bound(), on_start)
        server.start()
        on_start.assert_called_once_with()
        server.wait()
        inner.wait.assert_called_once_with()

    def test_stop(self):
        # The bound is lifted before the listener is to stop, and what it has
        # read has run before the manager shuts down.
        order = mock.Mock()
        server = rpcserver.RPCServer(order.server, order.bound)
        order.reset_mock()
        server.stop()
        self.assertEqual(
            [mock.call.bound.lift(), mock.call.server.stop(),
             mock.call.bound.wait_until_idle(rpcserver.STOP_TIME)],
            order.mock_calls)
