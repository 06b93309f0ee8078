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
from unittest import mock

import amqp
import ddt
import oslo_messaging as messaging
from oslo_messaging._drivers import amqpdriver
from oslo_messaging._drivers import base
from oslo_messaging._drivers import common as driver_common
from oslo_messaging._drivers import impl_rabbit

import nova.conf
from nova import context
from nova import exception
from nova import objects
from nova.objects import base as objects_base
from nova import rpc
from nova import test
from nova.workers import board
from nova.workers import deliveries
from nova.workers import rpcserver

CONF = nova.conf.CONF
INSTANCE = 'a7d8d5e5-6c1f-4f4a-8d0f-2e8d1f5f3a10'


class ConcurrencyLimitTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.limit = rpcserver.ConcurrencyLimit()

    def in_thread(self, function):
        thread = threading.Thread(target=function, daemon=True)
        thread.start()
        return thread

    def test_nothing_runs_before_it_is_open(self):
        self.assertTrue(self.limit.full)
        self.assertFalse(self.limit.acquire(0.01))
        waiter = self.in_thread(self.limit.acquire)
        self.limit.open(1)
        waiter.join(60)
        self.assertTrue(self.limit.full)

    def test_as_many_as_there_are_threads(self):
        self.limit.open(2)
        self.assertEqual([True, True, False], [
            self.limit.acquire(0.01) for _message in range(3)])
        waiter = self.in_thread(self.limit.acquire)
        self.limit.release()
        waiter.join(60)
        self.assertFalse(waiter.is_alive())
        self.assertFalse(self.limit.acquire(0.01))

    def test_wait_until_idle(self):
        self.limit.wait_until_idle()
        self.limit.open(1)
        self.limit.acquire()
        waiter = self.in_thread(self.limit.wait_until_idle)
        self.assertTrue(waiter.is_alive())
        self.limit.release()
        waiter.join(60)
        self.assertFalse(waiter.is_alive())

    def test_share(self):
        self.limit.open(3)
        share = rpcserver.Share(self.limit, 2)
        self.assertEqual([True, True, False], [
            share.acquire(timeout=0.01) for _message in range(3)])
        # The rest is left to others.
        self.assertTrue(self.limit.acquire(0.01))
        self.assertTrue(self.limit.full)
        share.release()
        self.assertTrue(share.acquire(timeout=0.01))

    def test_share_of_a_limit_that_is_full(self):
        self.limit.open(1)
        self.limit.acquire()
        share = rpcserver.Share(self.limit, 1)
        self.assertFalse(share.acquire(timeout=0.01))
        self.limit.release()
        self.assertTrue(share.acquire(timeout=0.01))


class RPCServerTestCase(test.NoDBTestCase):
    """oslo.messaging's own server with what a worker adds to it."""

    def setUp(self):
        super().setUp()
        self.board = board.Board(['n-worker-1', 'n-worker-2'], threads=3)
        self.row, self.sibling = self.board.rows
        for row in self.board.rows:
            row.open()
        self.limit = rpcserver.ConcurrencyLimit()
        self.limit.open(1)
        self.on_reconnect = mock.Mock()
        self.inner = self.get_server()

    def get_server(self):
        return rpc.get_server(messaging.Target(topic='t', server='s'), [self])

    # What it serves.

    def succeed(self, context):
        self.seen = [task.request.decode()
                     for task in self.row.busy(board.RUNNING)]

    def sync_instance_info(self, context):
        pass

    def fail(self, context):
        raise test.TestingException

    @messaging.expected_exceptions(exception.NotFound)
    def refuse(self, context):
        raise exception.InstanceNotFound(instance_id='x')

    @messaging.expected_exceptions(exception.NoValidHost)
    def find_none(self, context):
        raise exception.NoValidHost(reason='x')

    @messaging.expected_exceptions(Exception)
    def fail_as_the_conductor(self, context):
        raise OSError

    def wrap(self, **kwargs):
        return rpcserver.RPCServer(self.inner, self.limit, self.board,
                                   self.row, self.on_reconnect, **kwargs)

    def incoming(self, method='succeed', reply_q='q', **message):
        return mock.Mock(
            ctxt=context.RequestContext(request_id='req-1').to_dict(),
            message={'method': method, 'args': {}} | message,
            msg_id='m', reply_q=reply_q, client_timeout=None)


@ddt.ddt
class ProcessTestCase(RPCServerTestCase):

    def setUp(self):
        super().setUp()
        self.server = self.wrap()
        # How long its thread does nothing then.
        self.rest = self.useFixture(test.fixtures.MockPatchObject(
            self.server._stopped, 'wait')).mock

    def run_request(self, method, **message):
        incoming = self.incoming(method, **message)
        self.inner._process_incoming([incoming])
        return incoming

    def test_stands_in_for_what_it_wraps(self):
        with mock.patch.multiple(self.inner, start=mock.DEFAULT,
                                 stop=mock.DEFAULT) as inner:
            self.server.start(override_pool_size=1)
            self.server.stop()
        inner['start'].assert_called_once_with(override_pool_size=1)
        inner['stop'].assert_called_once_with()
        self.assertEqual(self.inner.wait, self.server.wait)

    def test_listener_of_the_node_address_notices_a_stop(self):
        connection = mock.Mock(_poll_timeout=10)
        self.inner = mock.Mock()
        self.inner.listener._poll_style_listener.conn.connection = connection
        self.wrap().start()
        self.assertEqual(10, connection._poll_timeout)
        self.wrap(own=False).start()
        self.assertEqual(rpcserver.NODE_POLL_TIME, connection._poll_timeout)
        # Another driver.
        self.inner.listener = object()
        self.wrap(own=False).start()

    def test_on_the_board(self):
        self.run_request('succeed')
        self.assertEqual(['req-1 succeed instance -'], self.seen)
        self.assertEqual('', self.row.requests())
        self.assertEqual((1, 0), self.row.counts())

    def test_replying(self):
        incoming = self.incoming('succeed')
        incoming.reply.side_effect = lambda *args: self.assertEqual(
            (0, 1), (len(self.row.busy(board.RUNNING)),
                     len(self.row.busy(board.REPLYING))))
        self.inner._process_incoming([incoming])
        incoming.reply.assert_called_once()

    def test_ping_is_no_request(self):
        self.run_request('ping', namespace='baseapi')
        self.assertEqual((0, 0), self.row.counts())
        self.rest.assert_called_once_with(0)

    def test_thread_of_a_failure_is_busy_as_long_as_those_of_siblings(self):
        self.sibling.took, self.sibling.ended = 3, self.row.since
        incoming = self.incoming('fail')
        # Its caller does not wait for that.
        self.rest.side_effect = lambda seconds: (
            incoming.reply.assert_called_once(),
            # Nor can it be lost any more.
            self.assertEqual('', self.row.requests()))
        self.inner._process_incoming([incoming])
        self.assertAlmostEqual(3, self.rest.call_args.args[0], 0)
        self.assertEqual((0, 1), self.row.counts())

    @ddt.data(('find_none', 0), ('fail_as_the_conductor', 1))
    @ddt.unpack
    def test_failure_that_is_called_expected(self, method, failed):
        self.sibling.took, self.sibling.ended = 3, self.row.since
        self.run_request(method)
        self.assertAlmostEqual(3, self.rest.call_args.args[0], 0)
        self.assertEqual((1 - failed, failed), self.row.counts())
        # It teaches nothing of the time that one takes that succeeds.
        self.assertEqual(0, self.row.success_ended)

    def test_casts_to_all_say_nothing_of_a_worker(self):
        # All others may fail meanwhile.
        for method, counts in (('sync_instance_info', (0, 0)),
                               ('succeed', (1, 0))):
            self.inner._process_incoming(
                [self.incoming(method, reply_q=None)])
            self.assertEqual(counts, self.row.counts())
        # The lab calls it.
        self.inner._process_incoming([self.incoming('sync_instance_info')])
        self.assertEqual((2, 0), self.row.counts())

    def test_thread_of_a_failure_is_busy_for_a_minute_at_most(self):
        # One request of an hour is enough for such a mean.
        self.sibling.took, self.sibling.ended = 720, self.row.since
        self.run_request('fail')
        self.assertAlmostEqual(60, self.rest.call_args.args[0], 0)

    def test_ping_to_the_node_address(self):
        # It says nothing of the queues of this worker.
        self.run_request('succeed')
        newest = self.row.newest
        counts = self.row.counts()
        self.inner = self.get_server()
        self.wrap(own=False)
        self.run_request('ping', namespace='baseapi')
        # oslo.messaging's own, with rpc_ping_enabled.
        self.run_request('oslo_rpc_server_ping')
        self.assertEqual((newest, counts), (
            self.row.newest, self.row.counts()))

    def test_thread_of_others_is_free_at_once(self):
        self.sibling.took, self.sibling.ended = 3, self.row.since
        for method in ('succeed', 'refuse'):
            self.run_request(method)
            self.rest.assert_called_with(0)
        self.assertEqual((2, 0), self.row.counts())

    def test_stop_ends_the_rest(self):
        self.sibling.took, self.sibling.ended = 600, self.row.since
        self.server = self.wrap()
        replied = threading.Event()
        incoming = self.incoming('fail')
        incoming.reply.side_effect = lambda **kwargs: replied.set()
        thread = threading.Thread(
            target=self.inner._process_incoming, args=[[incoming]],
            daemon=True)
        thread.start()
        replied.wait(60)
        self.assertTrue(self.row.busy(board.REPLYING))
        with mock.patch.object(self.inner, 'stop'):
            self.server.stop()
        thread.join(60)
        self.assertFalse(self.row.busy(board.REPLYING))

    def test_oslo_messaging_whose_servers_know_a_limit(self):
        self.inner.limit = None
        create = self.inner._create_listener
        self.wrap()
        self.assertEqual((self.limit, self.on_reconnect, create), (
            self.inner.limit, self.inner.on_reconnect,
            self.inner._create_listener))
        # It releases the limit by itself.
        self.limit.acquire()
        self.run_request('succeed')
        self.assertTrue(self.limit.full)


class Message(dict):
    """A message that the broker has delivered."""

    def __init__(self, name):
        super().__init__(_unique_id=name, method=name, args={})
        self.acknowledge = mock.Mock()
        self._raw_message = mock.Mock(headers={})


class Consumer:

    next_stream_offset = 'last'

    def __init__(self, kind):
        self.type = kind

    def declare(self, conn):
        if conn.lacks_queue:
            # oslo.messaging tries again, and py-amqp has opened the channel
            # again.
            conn.order.append((conn.channel, 0))
            conn.lacks_queue = False
        self._declared_on = conn.channel

    def consume(self, conn, tag):
        # Or it would ask a stream for what it has read.
        assert self._declared_on is None
        self.declare(conn)
        if conn.ends_channel:
            # The same again, as the queue has just gone.
            conn.ends_channel = False
            conn.order.append((conn.channel, 0))
            self.declare(conn)
        conn.order.append((self.type, tag))


class Connection:
    """That of oslo.messaging to RabbitMQ, as far as the listener sees it."""

    channel = 'channel'
    # Whether the next declaration or consumer finds no queue.
    lacks_queue = ends_channel = False

    def __init__(self, prefetch_count):
        self.rabbit_qos_prefetch_count = prefetch_count
        self.connection = mock.Mock(
            hostname='one', port=5672, alt=['one', 'two', 'three'],
            channel_errors=amqp.Connection.channel_errors,
            recoverable_connection_errors=(
                amqp.Connection.recoverable_connection_errors))
        self.topic, self.fanout = Consumer('topic'), Consumer('fanout')
        self._consumers = {self.topic: 1, self.fanout: 2}
        self._new_tags = set()
        self.arriving = []
        self.backlog = []
        self.order = []
        self.timeouts = []
        self.lost = self._consume_loop_stopped = False

    def _set_qos(self, channel):
        self.order.append((channel, self.rabbit_qos_prefetch_count))

    def set_transport_socket_timeout(self):
        pass

    def connect(self):
        """As it is again after the connection was lost."""
        for consumer, tag in self._consumers.items():
            consumer.consume(self, tag)
        self._new_tags.clear()

    def consume(self, timeout):
        self.timeouts.append(timeout)
        if self.lost or self._new_tags:
            self.lost = False
            self.connect()
            if self.backlog:
                # It comes before the broker confirms the last consumer.
                self.topic.callback(self.backlog.pop())
        if self._consume_loop_stopped:
            return
        try:
            self.connection.drain_events(timeout=timeout)
        except TimeoutError:
            pass
        except (OSError, amqp.RecoverableConnectionError):
            self.connect()
        if not self.arriving:
            raise driver_common.Timeout
        consumer, message = self.arriving.pop(0)
        consumer.callback(message)


class ConnectionContext:
    """Through which the listener sees it."""

    def __init__(self, connection):
        self.connection = connection

    def __getattr__(self, name):
        return getattr(self.connection, name)


@ddt.ddt
class HoldBackTestCase(RPCServerTestCase):
    """With the listener of an oslo.messaging that has no limits."""

    def setUp(self):
        super().setUp()
        self.hold_back(prefetch_count=2)

    def hold_back(self, prefetch_count):
        self.conn = Connection(prefetch_count)
        self.listener = amqpdriver.RpcAMQPListener(
            mock.Mock(prefetch_size=prefetch_count),
            ConnectionContext(self.conn))
        adapter = base.PollStyleListenerAdapter(self.listener, 1, None)
        self.inner._create_listener = lambda: adapter
        self.wrap()
        self.assertEqual(adapter, self.inner._create_listener())
        self.conn.connect()

    def arrive(self, *names, consumer=None):
        messages = [Message(name) for name in names]
        self.conn.arriving += [(consumer or self.conn.topic, message)
                               for message in messages]
        return messages

    def _read(self, timeout):
        incoming = self.listener.poll(timeout=timeout, batch_size=1)
        while not incoming and self.conn.arriving:
            # The machine is slow.
            incoming = self.listener.poll(timeout=timeout, batch_size=1)
        return incoming

    def poll(self, *expected):
        """Have the listener read; what it hands to the dispatch pool."""
        found = [self._read(60 if method else 0.3) for method in expected]
        self.assertEqual(list(expected), [
            incoming[0].message['method'] if incoming else None
            for incoming in found])
        return found

    def test_no_acknowledgement_before_a_thread_is_free(self):
        one, two = self.arrive('succeed', 'fail')
        incoming, _none = self.poll('succeed', None)
        one.acknowledge.assert_called_once_with()
        two.acknowledge.assert_not_called()
        self.inner._process_incoming(incoming)
        incoming, _none = self.poll('fail', None)
        two.acknowledge.assert_called_once_with()
        self.inner._process_incoming(incoming)
        self.assertFalse(self.limit.full)

    def test_no_thread_for_it(self):
        self.arrive('one')
        incoming, = self.poll('one')
        self.assertTrue(self.limit.full)
        with mock.patch.object(self.inner, '_work_executor', create=True) as (
                executor):
            executor.submit.side_effect = RuntimeError(
                "can't start new thread")
            self.assertRaises(
                RuntimeError, self.inner._on_incoming, incoming)
        self.assertFalse(self.limit.full)

    def test_reads_the_connection_while_it_waits(self):
        # Or the broker would close it.
        self.limit.acquire()
        self.arrive('one', 'two')
        self.poll(None)
        self.assertEqual([], self.conn.arriving)

    def test_order_is_kept(self):
        self.limit.open(9)
        names = [str(number) for number in range(9)]
        self.arrive(*names)
        self.poll(*names)

    def test_deliveries_of_a_lost_channel_are_others(self):
        self.limit.acquire()
        old = self.arrive('one') + self.arrive(
            'two', consumer=self.conn.fanout)
        self.poll(None)
        self.conn.topic.consume(self.conn, 1)
        self.arrive('three')
        self.limit.release()
        self.limit.open(2)
        self.poll('two', 'three')
        self.assertEqual([False, True], [
            message.acknowledge.called for message in old])

    def test_connection_is_lost_as_a_thread_gets_free(self):
        self.limit.acquire()
        old, = self.arrive('one')
        self.poll(None)
        acquire = self.limit.acquire

        def acquire_and_lose(timeout=None):
            if timeout and self.limit.full:
                self.limit.release()
                self.conn.lost = True
            return acquire(timeout)

        self.useFixture(test.fixtures.MockPatchObject(
            self.limit, 'acquire', acquire_and_lose))
        self.arrive('two')
        self.poll('two')
        # It went back to the broker, and to another worker.
        old.acknowledge.assert_not_called()

    def test_channel_is_lost_while_it_waits(self):
        self.limit.acquire()
        old, = self.arrive('one')
        self.poll(None)
        self.conn._new_tags = {1, 2}
        self.limit.release()
        self.poll(None)
        old.acknowledge.assert_not_called()

    @ddt.data(None, OSError, TimeoutError)
    def test_broker_may_be_gone_as_a_thread_gets_free(self, error):
        now = self.useFixture(test.fixtures.MockPatchObject(
            deliveries, 'time')).mock.monotonic
        now.return_value = 100
        self.limit.acquire()
        old, = self.arrive('old')
        self.poll(None)
        now.return_value = 102
        self.limit.release()
        self.limit.open(2)
        with mock.patch.object(self.conn, '_set_qos',
                               side_effect=[error] + 9 * [None]) as ask:
            self.arrive('new')
            # It went back to the broker, and to another worker, if there is
            # no answer.
            self.poll(*['new'] if error else ['old', 'new'])
        self.assertIn(mock.call('channel'), ask.mock_calls)
        self.assertEqual(not error, old.acknowledge.called)

    def test_broker_is_not_asked_without_a_pause(self):
        self.limit.open(9)
        with mock.patch.object(self.conn, '_set_qos') as ask:
            self.arrive(*'123456789')
            self.poll(*'123456789')
        ask.assert_not_called()

    def test_time_to_find_another_host(self):
        self.listener._current_timeout = 0.001
        self.conn._new_tags = {1, 2}
        self.listener.poll(timeout=0.01)
        self.assertEqual(deliveries._RECONNECT_TIME, self.conn.timeouts[0])
        self.assertGreater(0.1, self.conn.timeouts[1])
        self.assertFalse(self.conn._consume_loop_stopped)

    def test_stopped_while_it_connects(self):
        self.conn._new_tags = {1, 2}
        self.listener._shutdown.set()
        self.listener.conn.consume(timeout=1)
        self.assertTrue(self.conn._consume_loop_stopped)

    def test_backlog_does_not_wait_for_the_next_message(self):
        self.conn._new_tags = {1, 2}
        self.conn.backlog += [Message('one')]
        self.poll('one')
        self.assertEqual(1, len(self.conn.timeouts))

    @ddt.data(
        (406, (60, 20), amqp.RecoverableConnectionError),
        (406, (60, 80), amqp.PreconditionFailed),
        (403, (60, 20), amqp.AccessRefused))
    @ddt.unpack
    def test_consumer_is_refused(self, code, method, expected):
        # Another host may have the stream, but refuses what is wrong, too.
        exc = self.refuse(expected, code, method)
        self.assertIn('no running replica', str(exc))

    def refuse(self, expected, code=406, method=(60, 20)):
        refusal = amqp.error_for_code(
            code, 'no running replica', method, amqp.ChannelError)
        with mock.patch.object(self.conn, 'order') as order:
            order.append.side_effect = [None, refusal]
            return self.assertRaises(
                expected, self.conn.topic.consume, self.conn, 1)

    def test_another_host_than_that_which_has_refused(self):
        # Some versions of kombu go on by themselves, and some do not.
        connection = self.conn.connection
        for host, switches in (('one', 0), ('two', 0), ('two', 1),
                               ('three', 1), ('three', 2)):
            connection.hostname = host
            self.refuse(amqp.RecoverableConnectionError)
            self.assertEqual(switches, connection.maybe_switch_next.call_count)

    @ddt.data(1, 3)
    def test_all_hosts_refuse(self, hosts):
        # Then the listener pauses, as stock oslo.messaging has it do.
        connection = self.conn.connection
        # kombu names the hosts where there are several.
        connection.alt = list(range(hosts)) if hosts > 1 else []
        for _round in range(2):
            for _refusal in range(2 * hosts if hosts > 1 else 0):
                self.refuse(amqp.RecoverableConnectionError)
            self.refuse(amqp.PreconditionFailed)

    def test_fanout_begins_first(self):
        # Where a host refuses it, no request has come and goes back.
        self.assertEqual([self.conn.fanout, self.conn.topic],
                         list(self.conn._consumers))

    def test_stream_is_read_on_from_what_waits(self):
        self.limit.acquire()
        fanout = self.conn.fanout
        for number, message in enumerate(
                self.arrive('one', 'two', consumer=fanout), 10):
            message._raw_message.headers['x-stream-offset'] = number
        fanout.next_stream_offset = 12
        self.poll(None)
        self.conn.connect()
        self.assertEqual(10, fanout.next_stream_offset)

    def test_error_takes_no_thread(self):
        self.arrive('one')
        with mock.patch.object(amqpdriver.AMQPListener, '__call__',
                               side_effect=test.TestingException):
            self.assertRaises(test.TestingException, self.poll, 'one')
        self.assertFalse(self.limit.full)

    def test_prefetch_before_each_consumer(self):
        self.conn.topic.consume(self.conn, 1)
        self.assertEqual(
            [('channel', 2), ('fanout', 2), ('channel', 2), ('topic', 1),
             ('channel', 2), ('topic', 1)], self.conn.order)

    def test_prefetch_where_a_queue_was_gone(self):
        for lacks in ('lacks_queue', 'ends_channel'):
            setattr(self.conn, lacks, True)
            self.conn.topic.consume(self.conn, 1)
            self.assertEqual([('channel', 2), ('topic', 1)],
                             self.conn.order[-2:])
            self.assertIn(('channel', 0), self.conn.order)
            self.conn.order.clear()

    def test_reconnect_is_told_once(self):
        self.on_reconnect.assert_not_called()
        for number in (1, 2):
            self.conn.connect()
            self.assertEqual(number, self.on_reconnect.call_count)

    def test_duplicate_takes_no_thread(self):
        self.limit.open(2)
        self.arrive('one', 'one', 'two')
        self.poll('one', 'two')

    def test_connection_is_gone_takes_no_thread(self):
        message, = self.arrive('one')
        message.acknowledge.side_effect = OSError
        self.arrive('two')
        self.poll('two', None)

    def test_prefetch_of_all_would_be_no_limit(self):
        self.hold_back(prefetch_count=0)
        self.assertEqual(('channel', 1), self.conn.order[0])

    def test_driver_that_is_not_known(self):
        server = self.get_server()
        rpcserver.RPCServer(server, self.limit, self.board, self.row)
        self.assertIsNotNone(server._create_listener())
        self.assertIn('a worker that is blocked goes on taking requests',
                      self.stdlog.logger.output)


class OsloMessagingTestCase(test.NoDBTestCase):
    """Where one of these fails, deliveries.py has to find another way."""

    def setUp(self):
        super().setUp()
        self.transport = messaging.get_rpc_transport(
            CONF, url='kombu+memory:////')
        self.addCleanup(self.transport.cleanup)
        self.inner = messaging.get_rpc_server(
            self.transport, messaging.Target(topic='t', server='s'), [self])

    def test_names(self):
        for owner, names in (
                (self.inner, ['dispatcher', '_process_incoming',
                              '_create_listener', '_on_incoming']),
                (self.inner.dispatcher, ['dispatch']),
                (impl_rabbit.Connection, [
                    'consume', '_set_qos', 'set_transport_socket_timeout']),
                (impl_rabbit.Consumer, ['consume', 'declare'])):
            for name in names:
                self.assertTrue(hasattr(owner, name), (owner, name))

    def test_listener(self):
        node = board.Board(['n-worker-1'], threads=2)
        limit = rpcserver.ConcurrencyLimit()
        address = messaging.get_rpc_server(
            self.transport, messaging.Target(topic='a', server='s'), [self])
        rpcserver.RPCServer(address, limit, node, node.rows[0],
                            own=False).start()
        self.addCleanup(address.wait)
        self.addCleanup(address.stop)
        self.assertLess(0, (address.listener._poll_style_listener.conn.
                            connection._poll_timeout))
        rpcserver.RPCServer(self.inner, limit, node, node.rows[0])
        if hasattr(self.inner, 'limit'):
            # It needs none of it.
            return
        adapter = self.inner._create_listener()
        self.addCleanup(adapter.cleanup)
        listener = adapter._poll_style_listener
        self.assertEqual([], listener.incoming)
        self.assertIsInstance(listener.conn._new_tags, set)
        self.assertIs(False, listener.conn.connection._consume_loop_stopped)
        self.assertFalse(listener._shutdown.is_set())
        self.assertIsNotNone(listener.conn.channel)
        self.assertEqual(deliveries._Deliveries._ask_and_drain, getattr(
            listener.conn.connection.connection.drain_events, '__func__'))
        self.assertEqual(['fanout', 'topic', 'topic'], sorted(
            consumer.type for consumer in listener.conn._consumers))
        client = messaging.get_rpc_client(
            self.transport, messaging.Target(topic='t'))
        client.cast({'request_id': 'r'}, 'method')
        self.assertEqual([], listener.poll(timeout=1))
        limit.open(1)
        incoming, = listener.poll(timeout=60)
        self.assertEqual('method', incoming.message['method'])
        self.assertEqual(0, self.stdlog.logger.output.count('not known'))


@ddt.ddt
class DescribeTestCase(test.NoDBTestCase):

    def describe(self, method, args, **message):
        """Of arguments as a client sends them."""
        args = {name: objects_base.NovaObjectSerializer().serialize_entity(
            None, value) for name, value in args.items()}
        return rpcserver._describe(mock.Mock(
            ctxt={'request_id': 'req-1'},
            message={'method': method, 'args': args} | message)).decode()

    @ddt.data(
        # nova-scheduler
        ('select_destinations', {
            'instance_uuids': [INSTANCE], 'spec_obj': objects.RequestSpec(
                instance_uuid=INSTANCE), 'return_objects': True}),
        ('select_destinations', {
            'spec_obj': objects.RequestSpec(instance_uuid=INSTANCE)}),
        ('sync_instance_info', {'host_name': 'h', 'instance_uuids': [
            INSTANCE]}),
        ('delete_instance_info', {'host_name': 'h',
                                  'instance_uuid': INSTANCE}),
        # nova-conductor
        ('schedule_and_build_instances', {
            'build_requests': [objects.BuildRequest(instance_uuid=INSTANCE)],
            'request_specs': [objects.RequestSpec(instance_uuid=INSTANCE)]}),
        ('build_instances', {'instances': [objects.Instance(uuid=INSTANCE)]}),
        ('build_instances', {'instances': [{'uuid': INSTANCE}]}),
        ('migrate_server', {'instance': objects.Instance(uuid=INSTANCE)}),
        ('object_action', {'objinst': objects.Instance(uuid=INSTANCE),
                           'objmethod': 'save'}))
    @ddt.unpack
    def test_instance(self, method, args):
        self.assertEqual(f'req-1 {method} instance {INSTANCE}',
                         self.describe(method, args))

    @ddt.data(('update_aggregates', {'aggregates': []}),
              ('select_destinations', {'instance_uuids': []}),
              ('object_class_action_versions', {
                  'objname': 'Instance', 'args': [INSTANCE]}),
              ('object_action', {'objinst': objects.Service(id=1)}))
    @ddt.unpack
    def test_no_instance(self, method, args):
        self.assertEqual(f'req-1 {method} instance -',
                         self.describe(method, args))

    def test_without_context_and_arguments(self):
        self.assertEqual(
            b'- m instance -', rpcserver._describe(mock.Mock(
                ctxt={}, message={'method': 'm'})))

    @ddt.data([1], 'x', {'instance': {'nova_object.data': None}},
              {'instance': {'nova_object.data': [1]}})
    def test_arguments_that_are_not_valid(self, args):
        # The dispatcher tells who has sent them.
        self.assertEqual(
            b'- m instance -', rpcserver._describe(mock.Mock(
                ctxt={}, message={'method': 'm', 'args': args})))

    def test_text_that_is_not_valid(self):
        self.assertEqual(
            b'- m? instance ?', rpcserver._describe(mock.Mock(
                ctxt={}, message={'method': 'm\ud800', 'args': {
                    'instance': '\udcff'}})))

    @ddt.data(*rpcserver.PINGS)
    def test_ping(self, namespace):
        self.assertEqual('', self.describe('ping', {}, namespace=namespace))
