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
collects every caller in its backlog. Here the listener thread waits while all
threads are busy: it reads no more, the prefetch fills up, and the broker gives
the rest to other workers. Nothing is closed, so nothing gets lost.
"""

import threading
import time

from oslo_log import log as logging

LOG = logging.getLogger(__name__)

# Seconds that stop() waits for what was read to run to its end: what nova's
# defaults of graceful_shutdown_timeout and manager_shutdown_timeout leave.
STOP_TIME = 20


class Bound:
    """Lets no more messages run at a time than there are threads.

    Shared by the RPC servers of a worker. Nothing runs before open(), and
    there is no bound any more after lift(). A message runs until its reply is
    sent.

    :param on_begin: called without arguments whenever a message begins to run
    """

    def __init__(self, on_begin):
        self._on_begin = on_begin
        self._changed = threading.Condition()
        self._running = 0
        self._threads = 0
        #: How many messages may run at a time.
        self.size = 0
        #: When a message last began to run, in seconds of time.monotonic().
        self.begun = time.monotonic()

    @property
    def full(self):
        """Whether a message that comes now has to wait for another."""
        return self._running >= self.size

    def open(self):
        """Let messages run, as many at a time as a server has threads."""
        if not self.size:
            # Or it was stopped while it started.
            self._resize(self._threads)

    def lift(self):
        """Let all that was read go to the dispatch pool."""
        self._resize(float('inf'))

    def wait_until_idle(self, timeout=None):
        """Wait until nothing runs, or for so many seconds at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running, timeout)

    def acquire(self, timeout=None):
        """A message is about to run; as the method of a semaphore."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self.full, timeout):
                return False
            self._running += 1
        self.begun = time.monotonic()
        self._on_begin()
        return True

    def release(self):
        """A message has run; as the method of a semaphore."""
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def put_on(self, server):
        """Have the messages of an RPC server wait, before it is started."""
        self._threads = server.conf.executor_thread_pool_size
        if hasattr(server, 'limit'):
            server.limit = self
        elif hasattr(server, '_on_incoming'):
            self._hook_into(server)
        else:
            LOG.warning('This oslo.messaging is not known to nova: a worker '
                        'that is blocked goes on taking requests')

    def _hook_into(self, server):
        # For an oslo.messaging whose servers know no limit.
        submit, process = server._on_incoming, server._process_incoming

        def on_incoming(incoming):
            self.acquire()
            try:
                submit(incoming)
            except BaseException:
                self.release()
                raise
            with self._changed:
                # Here, so that the next one is not even read.
                self._changed.wait_for(lambda: not self.full)

        def process_incoming(incoming):
            try:
                process(incoming)
            finally:
                self.release()

        server._on_incoming = on_incoming
        server._process_incoming = process_incoming

    def _resize(self, size):
        with self._changed:
            self.size = size
            self._changed.notify_all()


class RPCServer:
    """An oslo_messaging.RPCServer under a bound, as nova's Service uses it.

    :param server: the oslo_messaging.RPCServer
    :param bound: the Bound
    :param on_start: called without arguments once the broker sends to it
    """

    def __init__(self, server, bound, on_start=lambda: None):
        self._server = server
        self._bound = bound
        self._on_start = on_start
        self.wait = server.wait
        bound.put_on(server)

    def start(self):
        self._server.start()
        self._on_start()

    def stop(self):
        """Read no more, and let what was read run before the manager ends."""
        self._bound.lift()
        self._server.stop()
        self._bound.wait_until_idle(STOP_TIME)
