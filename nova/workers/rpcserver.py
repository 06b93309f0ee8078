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
    """

    def __init__(self):
        self._changed = threading.Condition()
        self._running = 0
        #: How many messages may run at a time; none before open().
        self.size = 0

    @property
    def full(self):
        """Whether a message that comes now has to wait for another."""
        return self._running >= self.size

    def open(self, size):
        """Let so many messages run at a time, or more if it is lifted."""
        self._resize(max(size, self.size))

    def lift(self):
        """Let all that was read go to the dispatch pool."""
        self._resize(float('inf'))

    def wait_until_idle(self, timeout=None):
        """Wait until nothing runs, or for so many seconds at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running, timeout)

    def wait_until_free(self, timeout=None):
        """Wait until a message may run; whether one may."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.full, timeout)

    def acquire(self, timeout=None):
        """A message is about to run, unless it has to wait for longer."""
        with self._changed:
            free = self.wait_until_free(timeout)
            self._running += free
        return free

    def release(self):
        """A message has run."""
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def _resize(self, size):
        with self._changed:
            self.size = size
            self._changed.notify_all()


class RPCServer:
    """An oslo_messaging.RPCServer under a bound, as nova's Service uses it.

    :param server: the oslo_messaging.RPCServer
    :param bound: the Bound
    :param on_start: called without arguments once the broker sends to it
    :param on_begin: called without arguments whenever a message begins to run
    """

    def __init__(self, server, bound, on_start=lambda: None,
                 on_begin=lambda: None):
        self._server = server
        self._bound = bound
        self._on_start = on_start
        self._on_begin = on_begin
        self.wait = server.wait
        self.release = bound.release
        if hasattr(server, 'limit'):
            server.limit = self
        elif hasattr(server, '_on_incoming'):
            self._hook_into(server)
        else:
            LOG.warning('This oslo.messaging is not known to nova: a worker '
                        'that is blocked goes on taking requests')

    def start(self):
        self._server.start()
        self._on_start()

    def stop(self):
        """Read no more, and let what was read run before the manager ends."""
        self._bound.lift()
        self._server.stop()
        self._bound.wait_until_idle(STOP_TIME)

    def acquire(self, timeout=None):
        """A message is about to run; as the method of a semaphore."""
        if begins := self._bound.acquire(timeout):
            self._on_begin()
        return begins

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
            # Here, so that the next one is not even read.
            self._bound.wait_until_free()

        def process_incoming(incoming):
            try:
                process(incoming)
            finally:
                self.release()

        server._on_incoming = on_incoming
        server._process_incoming = process_incoming
