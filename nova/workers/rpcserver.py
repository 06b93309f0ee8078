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

"""RPC servers that read no message they have no thread for.

oslo.messaging acknowledges a request as soon as it has read it, and puts it
into a dispatch pool whose backlog has no limit. So a worker whose pool is
blocked goes on taking its share of all requests for ever, and a slow one
collects every caller in its backlog. Here a request waits with the broker
until a thread is free, so the broker gives it to another worker.
"""

import collections
import threading

from oslo_log import log as logging
import oslo_messaging as messaging

from nova.workers import board

LOG = logging.getLogger(__name__)

# The namespaces of messages that are no requests: pings of either kind.
PINGS = ('baseapi', 'worker')

# The arguments of requests that name instances.
_INSTANCES = ('instance', 'instance_uuid', 'instances', 'instance_uuids',
              'spec_obj', 'request_specs', 'objinst')

# Seconds that a listener waits for a thread, and for its connection, in turn.
# So it sends heartbeats, and notices when the broker has gone.
_THREAD_WAIT = 0.1
_CONNECTION_WAIT = 0.001


class ConcurrencyLimit:
    """Lets no more messages run at a time than there are threads.

    A semaphore, as oslo.messaging's ``limit``, that the RPC servers of a
    worker share. No message runs before open().
    """

    def __init__(self):
        self._changed = threading.Condition()
        self._running = 0
        self._size = 0

    @property
    def full(self):
        """Whether a message that comes now has to wait for another."""
        return self._running >= self._size

    def open(self, size):
        """Let so many messages run at a time."""
        with self._changed:
            self._size = size
            self._changed.notify_all()

    def acquire(self, timeout=None):
        """Wait until a message may run.

        :param timeout: seconds to wait at most
        :returns: whether the message may run
        """
        with self._changed:
            free = self._changed.wait_for(lambda: not self.full, timeout)
            self._running += free
        return free

    def release(self):
        """A message has run."""
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def wait_until_idle(self):
        """Wait until no message runs."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running)


class RPCServer:
    """An oslo_messaging.RPCServer under a limit, as nova's Service uses it.

    :param server: the oslo_messaging.RPCServer
    :param limit: the ConcurrencyLimit
    :param node: the nova.workers.board.Board of the node
    :param row: the nova.workers.board.Row of the worker
    :param on_reconnect: called without arguments when the server consumes
        anew, as casts may have got lost meanwhile
    """

    def __init__(self, server, limit, node, row, on_reconnect=lambda: None):
        self._server = server
        self._board = node
        self._row = row
        self._current = threading.local()
        self._stopped = threading.Event()
        self.wait = server.wait
        self._dispatch = server.dispatcher.dispatch
        self._process = server._process_incoming
        server.dispatcher.dispatch = self._dispatch_on_the_board
        server._process_incoming = self._process_on_the_board
        # An oslo.messaging that knows limits releases them by itself.
        self._release = lambda: None
        if hasattr(server, 'limit'):
            server.limit = limit
            server.on_reconnect = on_reconnect
        else:
            create = server._create_listener
            server._create_listener = lambda: self._hold_back(
                create(), limit, on_reconnect)

    def start(self, **kwargs):
        self._server.start(**kwargs)

    def stop(self):
        self._stopped.set()
        self._server.stop()

    def _process_on_the_board(self, incoming):
        task = self._current.task = self._row.begin(_describe(incoming[0]))
        self._current.rest = 0
        try:
            self._process(incoming)
            self._stopped.wait(self._current.rest)
        finally:
            self._row.end(task)
            self._release()

    def _dispatch_on_the_board(self, incoming):
        task, failed = self._current.task, True
        try:
            result = self._dispatch(incoming)
            failed = False
            return result
        except messaging.ExpectedException:
            failed = False
            raise
        finally:
            if task.request:
                took = self._row.count(task, failed)
                if failed:
                    # A worker that fails at once would be free at once, and
                    # would get all that its busy siblings cannot take.
                    self._current.rest = self._board.took(self._row) - took
            task.stage = board.REPLYING

    def _hold_back(self, adapter, limit, on_reconnect):
        """Have a listener of an oslo.messaging without limits keep one."""
        listener = getattr(adapter, '_poll_style_listener', None)
        if not hasattr(getattr(listener, 'conn', None), '_consumers'):
            LOG.warning('This oslo.messaging, or its driver, is not known to '
                        'nova: a worker that is blocked goes on taking '
                        'requests')
            return adapter
        self._release = limit.release
        _Deliveries(listener, limit, on_reconnect)
        return adapter


class _Deliveries:
    """What the broker has delivered and nobody has acknowledged.

    Does in the listener of oslo.messaging's RabbitMQ driver what later
    versions do by themselves. All of it runs in the listener's thread.
    """

    def __init__(self, listener, limit, on_reconnect):
        self._listener = listener
        self._limit = limit
        self._on_reconnect = on_reconnect
        self._deliveries: collections.deque = collections.deque()
        conn = listener.conn
        # With none, the broker would send all that it has.
        conn.rabbit_qos_prefetch_count = max(1, conn.rabbit_qos_prefetch_count)
        self._consume = conn.consume
        conn.consume = self._consume_or_acknowledge
        for consumer in conn._consumers:
            self._keep(consumer)

    def _keep(self, consumer):
        begin = consumer.consume
        begun = False

        def consume(conn, tag):
            nonlocal begun
            # A channel that the broker has closed starts without a prefetch,
            # and what came by the old one is delivered to others by now.
            conn._set_qos(conn.channel)
            self._deliveries = collections.deque(
                delivery for delivery in self._deliveries
                if delivery[0] is not consumer)
            begin(conn, tag)
            if begun and consumer.type == 'fanout':
                self._on_reconnect()
            begun = True

        consumer.consume = consume
        consumer.callback = lambda message: self._deliveries.append(
            (consumer, message))

    def _consume_or_acknowledge(self, timeout=None):
        if self._deliveries:
            if self._limit.acquire(_THREAD_WAIT):
                self._listener(self._deliveries.popleft()[1])
                if not self._listener.incoming:
                    # A duplicate, or the connection is gone.
                    self._limit.release()
                return
            timeout = _CONNECTION_WAIT
        self._consume(timeout=timeout)


def _describe(incoming):
    """Request id, method and instance of a request, as bytes."""
    message, args = incoming.message, incoming.message.get('args') or {}
    if message.get('namespace') in PINGS:
        return b''
    return (f"{incoming.ctxt.get('request_id', '-')} {message.get('method')} "
            f'instance {_instance(args)}').encode()


def _instance(args):
    """The UUID of the first instance that a request is about, or '-'."""
    for name in _INSTANCES:
        value = args.get(name)
        if isinstance(value, list):
            value = value[0] if value else None
        if isinstance(value, dict):
            kind = value.get('nova_object.name', 'Instance')
            value = value.get('nova_object.data', value)
            value = value.get('uuid' if kind == 'Instance'
                              else 'instance_uuid')
        if value:
            return value
    return '-'
