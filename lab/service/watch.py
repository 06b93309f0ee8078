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

"""The parent replaces a worker whose own messages do not run.

Workers and parent share two numbers a worker: its process, and how many of
its own messages have run. A worker is stuck when another one of the node has
got so many ahead of it. So no clock is needed, and nobody is replaced for an
outage of the broker or the database, where all of them stand still. The
price: the last one is not replaced, nor are all of them at once.
"""

import multiprocessing
import os
import signal
import threading
import time

from oslo_log import log as logging

LOG = logging.getLogger(__name__)

# Seconds between two looks at the workers.
INTERVAL = 0.5


class Watch:
    """What the workers of a node say, and what the parent makes of it.

    To be made before the fork.

    :param hosts: the worker hosts
    :param missed: how many messages another worker runs until one that has
        run none is replaced. After an outage of the broker this has to take
        longer than the last worker needs to connect again.
    """

    def __init__(self, hosts, missed):
        self._hosts = hosts
        self._missed = missed
        self._pids = multiprocessing.RawArray('q', len(hosts))
        self._beats = multiprocessing.RawArray('q', len(hosts))
        # Of each worker: what all had run when it last ran one.
        self._seen = [list(self._beats) for _host in hosts]

    def open(self, index):
        """In a worker: it starts, and is watched from now on."""
        self._pids[index] = os.getpid()

    def beat(self, index):
        """In a worker: an own message has run."""
        self._beats[index] += 1

    def close(self, index):
        """In a worker: it stops, however long that takes."""
        self._pids[index] = 0

    def start(self):
        """In the parent: watch them, in a thread."""
        lock = threading.Lock()
        # Whoever forks while the thread writes to the log would pass on a
        # lock of the log that nobody ever releases.
        os.register_at_fork(before=lock.acquire,
                            after_in_parent=lock.release,
                            after_in_child=lock.release)
        threading.Thread(target=self._run, args=(lock,), daemon=True).start()

    def _run(self, lock):
        while True:
            time.sleep(INTERVAL)
            with lock:
                for index in self.stuck():
                    self._kill(index)

    def stuck(self):
        """In the parent: look at the workers; the indexes of those to end."""
        beats = list(self._beats)
        found = []
        for index, seen in enumerate(self._seen):
            ahead = max(now - then for now, then in zip(beats, seen))
            if beats[index] == seen[index] and ahead < self._missed:
                continue
            if beats[index] == seen[index]:
                found.append(index)
            # Also of one that is to end: the next has as long to start.
            self._seen[index] = beats
        return found

    def _kill(self, index):
        pid = self._pids[index]
        try:
            # It may have ended, and its number be that of a stranger.
            running = pid and os.waitid(
                os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            running = False
        if running:
            LOG.error('Worker %(host)s (pid %(pid)d) is stuck: it has run '
                      'none of its messages for as long as others have run '
                      '%(missed)d; killing it',
                      {'host': self._hosts[index], 'pid': pid,
                       'missed': self._missed})
            # A stopped process ends of that as well.
            os.kill(pid, signal.SIGKILL)
