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

    :param args: the arguments for nova.rpc.get_server()
    :param on_begin: called without arguments whenever a message begins to run
    """

    def __init__(self, *args, on_begin):
        self._args = args
        self._on_begin = on_begin
        self._lock = threading.Lock()
        self._stopped = False
        #: Whether it takes no messages for the time being.
        self.paused = False
        #: When a message last began to run, in seconds of time.monotonic().
        self.begun = time.monotonic()
        self._make()

    def _make(self):
        self._server = rpc.get_server(*self._args)
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
    def pool_size(self):
        """How many messages can run at the same time."""
        return self._server.conf.executor_thread_pool_size

    @property
    def full(self):
        """Whether a message that is read now has to wait for another."""
        return self._dispatcher.running >= self.pool_size

    def pause(self):
        """Take no more messages; those that were read stay.

        Returns at once. Messages that the broker has sent but that were not
        read, at most the prefetch count, are not acknowledged.

        :returns: whether it pauses; False once it was stopped for good
        """
        with self._lock:
            if self._stopped:
                return False
            self.paused = True
            # It waits for the listener, which may be about to reconnect.
            _spawn(self._server.stop)
            return True

    def resume(self):
        """Take messages again, with a new dispatch pool.

        Returns at once. Threads of the old pool may be blocked still. What
        they run, and what waits for them, is done if and when they get free.

        :returns: whether it resumes; False once it was stopped for good
        """
        with self._lock:
            if self._stopped:
                return False
            _spawn(_finish, self._server)
            self._make()
            self.paused = False
            _spawn(self._server.start)
            return True

    def _begin(self):
        self.begun = time.monotonic()
        self._on_begin()


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


def _finish(server):
    try:
        server.stop()
        server.wait()
    except Exception:
        LOG.exception('Error while closing a paused RPC server')


def _spawn(function, *args):
    threading.Thread(target=function, args=args, daemon=True).start()
