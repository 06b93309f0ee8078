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
blocked goes on taking its share of all requests, and a slow worker collects
every caller in its backlog. Here a request waits with the broker
until a thread is free, so the broker gives it to another worker.
"""

import threading
import typing as ty

import oslo_messaging as messaging

from nova import exception
from nova.workers import board
from nova.workers import deliveries

# A thread whose request has failed rests for so many seconds at most.
MOST_REST = 60

# Every so many seconds the listener of the node address notices a stop, for
# which the worker waits a little longer than that.
NODE_POLL_TIME = 1

# The namespaces of messages that are no requests: pings of either kind.
PINGS = ('baseapi', 'worker')

# The casts that keep true what all nova-schedulers remember. They usually take
# no time, and succeed whatever is broken.
_NEWS = ('delete_aggregate', 'delete_instance_info', 'sync_instance_info',
         'update_aggregates', 'update_instance_info')

# The arguments of requests that name instances.
_INSTANCES = ('instance', 'instance_uuid', 'instances', 'instance_uuids',
              'spec_obj', 'request_specs', 'objinst')


class ConcurrencyLimit:
    """Lets no more messages run at a time than there are threads.

    A semaphore that the RPC servers of a worker share, in the form of
    oslo.messaging's ``limit``. No message runs before open().
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


class Share:
    """Lets an RPC server of a worker run few of the messages of its limit.

    What such a server takes has a thread of its own, so it cannot keep all of
    the limit while its threads are busy.

    :param limit: the ConcurrencyLimit of the worker
    :param size: how many messages may run at a time
    """

    def __init__(self, limit, size):
        self._limit = limit
        self._own = threading.Semaphore(size)

    def acquire(self, timeout=None):
        """The same as that of the limit."""
        if not self._own.acquire(timeout=timeout):
            return False
        if self._limit.acquire(timeout):
            return True
        self._own.release()
        return False

    def release(self):
        """A message has run."""
        self._limit.release()
        self._own.release()


class RPCServer:
    """An oslo_messaging.RPCServer under a limit, as nova's Service uses it.

    :param server: the oslo_messaging.RPCServer
    :param limit: the ConcurrencyLimit, or a Share of it
    :param node: the nova.workers.board.Board of the node
    :param row: the nova.workers.board.Row of the worker
    :param on_reconnect: called without arguments when the server consumes
        anew, as casts may have got lost meanwhile
    :param own: whether it is the RPC server of the worker, or that of the node
        address
    """

    def __init__(self, server, limit, node, row, on_reconnect=lambda: None,
                 own=True):
        self._server = server
        self._board = node
        self._row = row
        self._own = own
        self._current = threading.local()
        self._stopped = threading.Event()
        self.wait = server.wait
        self._dispatch = server.dispatcher.dispatch
        self._process = server._process_incoming
        server.dispatcher.dispatch = self._dispatch_on_the_board
        server._process_incoming = self._process_on_the_board
        if hasattr(server, 'limit'):
            server.limit = limit
            server.on_reconnect = on_reconnect
        else:
            deliveries.limit_listener(server, limit, on_reconnect)

    def start(self, **kwargs):
        self._server.start(**kwargs)
        if not self._own:
            # It would notice its stop after five seconds, by when the process
            # has ended, and would leave its fanout queue for half an hour.
            found: ty.Any = self._server.listener
            for name in ('_poll_style_listener', 'conn', 'connection'):
                found = getattr(found, name, None)
            if hasattr(found, '_poll_timeout'):
                found._poll_timeout = min(found._poll_timeout, NODE_POLL_TIME)

    def stop(self):
        self._stopped.set()
        self._server.stop()

    def _process_on_the_board(self, incoming):
        # The node address is for pings alone.
        task = self._current.task = self._row.begin(
            _describe(incoming[0]) if self._own else b'', self._own)
        self._current.rest = 0
        try:
            self._process(incoming)
            # The reply is sent, so nothing can be lost any more.
            task.request = b''
            self._stopped.wait(self._current.rest)
        finally:
            self._row.end(task)

    def _dispatch_on_the_board(self, incoming):
        task, error = self._current.task, None
        try:
            return self._dispatch(incoming)
        except BaseException as exc:
            error = exc
            raise
        finally:
            if task.request and not _is_news(incoming):
                failed, typical = _judge(error)
                took = self._row.count(task, failed, typical)
                if not typical:
                    # A worker that fails at once would be free at once, and
                    # would get all that its busy siblings cannot take.
                    self._current.rest = min(
                        MOST_REST, self._board.took(self._row)) - took
            task.stage = board.REPLYING


def _is_news(incoming):
    """Whether a request says nothing of how its worker is."""
    return (incoming.message.get('method') in _NEWS and
            not getattr(incoming, 'reply_q', None))


def _judge(error):
    """What a request that has raised this, or None, says of its worker.

    :returns: whether something is broken, and whether a request that succeeds
        takes as long
    """
    if not isinstance(error, messaging.ExpectedException):
        return error is not None, error is None
    # nova-conductor calls each error of an object's method expected, and
    # nova-scheduler finds no host if it cannot reach Placement.
    cause = error.exc_info[1]
    failed = not isinstance(cause, exception.NovaException)
    return failed, not (failed or isinstance(cause, exception.NoValidHost))


def _describe(incoming):
    """Request id, method and instance of a request, as bytes."""
    message = incoming.message
    if message.get('namespace') in PINGS:
        return b''
    try:
        instance = _instance(message.get('args') or {})
    except Exception:
        # The dispatcher refuses arguments that are not valid, and replies.
        instance = '-'
    return (f"{incoming.ctxt.get('request_id', '-')} {message.get('method')} "
            f'instance {instance}').encode(errors='replace')


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
