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

"""The limit of oslo.messaging's RPC servers, for versions that have none.

Later versions of oslo.messaging have the limit in their RabbitMQ driver. Here
it is put into the listener of that driver, by private names. Remove this
module when nova requires such a version.
"""

import collections
import contextlib
import time

from oslo_log import log as logging

LOG = logging.getLogger(__name__)

# Seconds that a listener waits for a thread, and for its connection, in turn.
# So it sends heartbeats, and notices when the broker has gone.
_THREAD_WAIT = 0.1
_CONNECTION_WAIT = 0.001
# Seconds to find a host that answers. A silent one takes five and a pause, so
# with less each search would end at that host.
_RECONNECT_TIME = 10
# Seconds without a sign of the broker after which it may have given to others
# what it has delivered here: the connection may be half open. And seconds that
# the broker has to answer then.
_SILENCE = 1
_ANSWER_TIME = 5


def limit_listener(server, limit, on_reconnect):
    """Have the listener of an RPC server acquire a limit for each message.

    :param server: the oslo_messaging.RPCServer, not started yet
    :param limit: the ConcurrencyLimit, released when the message has run
    :param on_reconnect: called without arguments when the server consumes
        anew, as casts may have got lost meanwhile
    """
    create = server._create_listener

    def create_limited():
        adapter = create()
        listener = getattr(adapter, '_poll_style_listener', None)
        if hasattr(getattr(listener, 'conn', None), '_consumers'):
            _Deliveries(listener, limit, on_reconnect)
            process, submit = server._process_incoming, server._on_incoming
            server._process_incoming = lambda incoming: _release_after(
                limit, process, incoming)
            server._on_incoming = lambda incoming: _release_without_thread(
                limit, submit, incoming)
        else:
            LOG.warning('This oslo.messaging, or its driver, is not known to '
                        'nova: a worker that is blocked goes on taking '
                        'requests')
        return adapter

    server._create_listener = create_limited


def _release_after(limit, process, incoming):
    try:
        process(incoming)
    finally:
        limit.release()


def _release_without_thread(limit, submit, incoming):
    try:
        submit(incoming)
    except BaseException:
        limit.release()
        raise


class _Deliveries:
    """The messages that the broker has delivered and that wait for a thread.

    All of it runs in the listener's thread.
    """

    def __init__(self, listener, limit, on_reconnect):
        self._listener = listener
        self._limit = limit
        self._on_reconnect = on_reconnect
        self._deliveries: collections.deque = collections.deque()
        # When the broker last gave a sign, and whether to ask for one.
        self._heard, self._asks = 0.0, False
        conn = listener.conn
        kombu = conn.connection.connection
        self._drain, kombu.drain_events = (
            kombu.drain_events, self._ask_and_drain)
        self._consume = conn.consume
        conn.consume = self._consume_or_acknowledge
        # A host may refuse the fanout stream. What it has sent to the others
        # would go back then, as often as it does.
        conn.connection._consumers = dict(sorted(
            conn._consumers.items(), key=lambda item: item[0].type != 'fanout'
        ))
        for consumer in conn._consumers:
            self._keep(consumer)

    def _keep(self, consumer):
        begin, declare = consumer.consume, consumer.declare
        begun = False
        # Hosts, one after the other.
        refused_by: list = []

        def declare_with_prefetch(conn):
            declare(conn)
            # With none, the broker would send all that it has.
            conn.rabbit_qos_prefetch_count = max(
                1, conn.rabbit_qos_prefetch_count)
            # A channel that the broker has closed starts without a prefetch,
            # also where it has done so in the declaration.
            conn._set_qos(conn.channel)

        def consume(conn, tag):
            nonlocal begun
            # py-amqp may have opened the same channel again, and a stream is
            # read on from another offset than that of its declaration.
            consumer._declared_on = None
            # What came by an old channel is delivered to others by now, but a
            # stream goes on behind the last message that it has delivered.
            lost = [message for other, message in self._deliveries
                    if other is consumer]
            if lost and isinstance(consumer.next_stream_offset, int):
                consumer.next_stream_offset = (
                    lost[0]._raw_message.headers['x-stream-offset'])
            self._deliveries = collections.deque(
                delivery for delivery in self._deliveries
                if delivery[0] is not consumer)
            try:
                begin(conn, tag)
            except conn.connection.channel_errors as exc:
                if (exc.code, exc.method_name) != (
                        406, 'Basic.consume') or not _leave(
                            conn.connection, refused_by):
                    raise
                raise conn.connection.recoverable_connection_errors[0](
                    str(exc)) from exc
            refused_by.clear()
            # What one consumer delivers while others begin would wait for the
            # next event of the connection. So consume() returns once they have
            # begun.
            conn._consume_loop_stopped = True
            if begun and consumer.type == 'fanout':
                self._on_reconnect()
            begun = True

        consumer.declare = declare_with_prefetch
        consumer.consume = consume
        consumer.callback = lambda message: self._deliver(consumer, message)

    def _deliver(self, consumer, message):
        self._heard = time.monotonic()
        self._deliveries.append((consumer, message))

    def _consume_or_acknowledge(self, timeout=None):
        conn = self._listener.conn.connection
        if conn._new_tags:
            # Until the consumers begin anew, what they had delivered is not
            # ours.
            timeout = _RECONNECT_TIME
        elif self._deliveries:
            silent = time.monotonic() - self._heard > _SILENCE
            if not silent and self._limit.acquire(0):
                try:
                    self._listener(self._deliveries.popleft()[1])
                finally:
                    if not self._listener.incoming:
                        # A duplicate, or the connection is gone.
                        self._limit.release()
                return
            if self._limit.acquire(_THREAD_WAIT):
                # The broker may have taken it back meanwhile. The connection
                # tells.
                self._limit.release()
                self._asks = silent
            timeout = _CONNECTION_WAIT
        try:
            self._consume(timeout=timeout)
        finally:
            conn._consume_loop_stopped = self._listener._shutdown.is_set()

    def _ask_and_drain(self, **kwargs):
        if self._asks:
            self._asks = False
            conn = self._listener.conn.connection
            with contextlib.suppress(AttributeError):
                conn.channel.connection.sock.settimeout(_ANSWER_TIME)
            try:
                conn._set_qos(conn.channel)
            except TimeoutError as exc:
                # The driver takes that for a pause. After this error it
                # connects again.
                raise conn.connection.recoverable_connection_errors[0](
                    f'no answer: {exc}') from exc
            conn.set_transport_socket_timeout()
            self._heard = time.monotonic()
        return self._drain(**kwargs)


def _leave(connection, refused_by):
    """Whether another host may accept a consumer that this one refuses.

    A host that has no running replica of a stream, as just after its restart,
    would refuse the consumer again. With kombu 5.7 an error takes the
    connection to the next host. Older versions connect to the same one again.

    :param refused_by: the hosts that have refused the consumer, to add to
    """
    host = connection.hostname, connection.port
    if refused_by[-1:] == [host]:
        connection.maybe_switch_next()
    refused_by.append(host)
    if len(refused_by) <= 2 * len(connection.alt):
        return True
    # Whoever listens pauses then.
    refused_by.clear()
    return False
