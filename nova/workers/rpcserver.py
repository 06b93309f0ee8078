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

"""The RPC server of a worker: it knows how busy it is, and it can pause.

oslo.messaging acknowledges a request as soon as it has read it, and puts it
into a dispatch pool whose backlog has no limit. So a worker whose pool is
blocked goes on taking its share of all requests for ever. This module lets it
see that, and leave the requests to the other workers.
"""

import threading
import time

from oslo_log import log as logging

from nova import rpc

LOG = logging.getLogger(__name__)


class RPCServer:
    """What nova.rpc.get_server() returns, but one that can pause.

    :param target: the oslo_messaging.Target to serve, whose server is the
        worker host
    :param endpoints: see nova.rpc.get_server()
    :param serializer: see nova.rpc.get_server()
    :param on_begin: called without arguments whenever a message begins to run
    """

    def __init__(self, target, endpoints, serializer, on_begin):
        self._target = target
        self._endpoints = endpoints
        self._serializer = serializer
        self._on_begin = on_begin
        self._lock = threading.Lock()
        self._stopped = False
        self._pausing = None
        #: Whether it takes no messages for the time being.
        self.paused = False
        #: When a message last began to run, in seconds of time.monotonic().
        self.begun = time.monotonic()
        self._make()

    def _make(self):
        self._server = rpc.get_server(
            self._target, self._endpoints, self._serializer)
        self._dispatcher = _CountingDispatcher(
            self._server.dispatcher, self._begin)
        self._server.dispatcher = self._dispatcher

    def start(self):
        self._server.start()

    def stop(self):
        with self._lock:
            self._stopped = True
        self._server.stop()

    def wait(self):
        self._server.wait()

    @property
    def full(self):
        """Whether a message that is read now has to wait for another."""
        return self._dispatcher.running >= self._pool_size

    @property
    def _pool_size(self):
        return self._server.conf.executor_thread_pool_size

    def pause(self):
        """Take no more messages; those that were read stay.

        Returns at once. What the broker has sent, but was not read, goes back
        to it, so that others get it. Does nothing once stopped for good.
        """
        with self._lock:
            if self._stopped or self.paused:
                return
            self.paused = True
            LOG.warning(
                'Worker %(host)s takes no more requests: all %(threads)d '
                'threads of its dispatch pool are busy and have begun '
                'nothing for %(seconds)d seconds',
                {'host': self._target.server, 'threads': self._pool_size,
                 'seconds': time.monotonic() - self.begun})
            # In a thread, as the listener may be about to reconnect.
            self._pausing = _spawn(self._close, self._server)

    def resume(self):
        """Take messages again, with a new dispatch pool.

        Returns at once. Threads of the old pool may be blocked still. What
        they run, and what waits for them, is done if and when they get free.
        Does nothing once stopped for good.
        """
        with self._lock:
            if self._stopped or not self.paused:
                return
            _spawn(self._finish, self._server)
            self._make()
            self.paused = False
            _spawn(self._start_again, self._server, self._pausing)

    def _begin(self):
        self.begun = time.monotonic()
        self._on_begin()

    def _close(self, server):
        """Stop a server, without the wait for what it runs."""
        server.stop()
        # Until it is closed, the broker goes on sending to the connection.
        server.listener.cleanup()

    def _finish(self, server):
        """Let a closed server run what it has read."""
        server.stop()
        server.wait()

    def _start_again(self, server, pausing):
        # Nothing new shall go the old way.
        pausing.join()
        server.start()
        LOG.info('Worker %s takes requests again', self._target.server)


class _CountingDispatcher:
    """Counts the messages that run in the threads of one dispatch pool."""

    def __init__(self, dispatcher, on_begin):
        self._dispatcher = dispatcher
        self._on_begin = on_begin
        self._lock = threading.Lock()
        self.running = 0

    def dispatch(self, incoming):
        with self._lock:
            self.running += 1
        try:
            self._on_begin()
            return self._dispatcher.dispatch(incoming)
        finally:
            with self._lock:
                self.running -= 1


def _spawn(function, *args):
    """Run a function in a thread, and log what it raises."""
    def run():
        try:
            function(*args)
        except Exception:
            LOG.exception('Unexpected error in a pausing RPC server')

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
