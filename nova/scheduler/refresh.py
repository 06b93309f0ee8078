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

"""Fresh memory for a worker that has missed casts.

What the scheduler knows of cells, aggregates and instances is read when its
manager is built, and casts keep it true from then on. But it is the parent of
the workers that builds the manager, and the parent gets no casts. Nor does a
worker whose fanout queue was gone for a while.
"""

import collections
import copy
import os
import threading
import time

from oslo_log import log as logging

LOG = logging.getLogger(__name__)

# When the parent forked the first worker, with what the parent had read.
_FORKED: float | None = None

# Seconds from then on for which the instances that the parent read are good.
# To read those of all hosts again would cost each worker a query per host, and
# the computes send what keeps them true, by default every two minutes.
_INSTANCES_ARE_GOOD = 60

# Seconds that requests and casts wait at first for what is read. Then they go
# on with what the worker knows: the database may be away, or hang. Whoever
# comes so many seconds later has it read again, over another connection.
_PATIENCE = 10
_AGAIN = 30

# What changes, by casts or after a SIGHUP, what is read.
_CHANGES = ('update_aggregates', 'delete_aggregate', 'refresh_cells_caches')


def _note_first_fork():
    global _FORKED
    _FORKED = _FORKED or time.monotonic()


os.register_at_fork(before=_note_first_fork)


def at_first_use(manager):
    """Have a manager read again, before it uses it, what may have changed.

    To be called when casts reach this process, and before it runs the first.
    Costs nothing until a request or a cast needs it, so that idle workers do
    not each connect to the API database. While that does not answer, the
    manager goes on with what it knows.

    :param manager: the nova.scheduler.manager.SchedulerManager
    """
    manager.host_manager = _Stale(
        manager.host_manager,
        (_FORKED or time.monotonic()) + _INSTANCES_ARE_GOOD)


def mark_stale(manager):
    """The same in a worker that may have missed casts since then.

    To be called when casts reach this process again, from any thread, at any
    time: requests that run at that moment keep what they use. Its instances
    stay: the computes tell of what has changed within two minutes, while to
    read those of all hosts again would slow down requests until then.

    :param manager: a nova.manager.Manager; nothing happens unless it is that
        of the scheduler
    """
    host_manager = getattr(manager, 'host_manager', None)
    if isinstance(host_manager, _Stale):
        until = (host_manager._instances_until if host_manager._stale
                 else float('inf'))
        manager.host_manager = _Stale(host_manager.latest, until)


class _Stale:
    """Takes the place of a HostManager, and reads again when it is used.

    :param latest: the HostManager
    :param instances_until: until when its instances are good, as a value of
        time.monotonic()
    """

    def __init__(self, latest, instances_until):
        self.latest = latest
        self._instances_until = instances_until
        self._stale = True
        # Of who begins to read, and of who puts it into its place.
        self._place = threading.Lock()
        # When the last one has begun to read, whether that has ended, and
        # whether what the worker knows has changed meanwhile.
        self._began, self._ended = float('-inf'), threading.Event()
        self._missed = False
        # Until when all wait for that.
        self._until = 0.0

    def __getattr__(self, name):
        if not self._stale:
            return getattr(self.latest, name)
        with self._place:
            now = time.monotonic()
            self._until = self._until or now + _PATIENCE
            began = now - self._began > _AGAIN
            if began:
                self._began, self._missed = now, False
                self._ended = threading.Event()
                self._start(self._ended)
        self._ended.wait(max(0, self._until - now))
        with self._place:
            # What is read since a change has begun already contains it.
            self._missed = self._missed or name in _CHANGES and not began
            return getattr(self.latest, name)

    def _start(self, ended):
        try:
            threading.Thread(target=self._refresh, args=[ended],
                             daemon=True).start()
        except RuntimeError:
            # There can be no more threads.
            ended.set()

    def _refresh(self, ended):
        try:
            # Another object, as requests may be using this one.
            fresh = copy.copy(self.latest)
            fresh.refresh_cells_caches()
            fresh.aggs_by_id = {}
            fresh.host_aggregates_map = collections.defaultdict(set)
            fresh._init_aggregates()
            if time.monotonic() > self._instances_until:
                # Those of a host are read when they are needed or its compute
                # casts.
                fresh._instance_info = {}
            with self._place:
                if self._ended is ended and not self._missed:
                    self.latest, self._stale = fresh, False
        except Exception as exc:
            LOG.warning('Cannot read cells and aggregates again, and go on '
                        'with those of before: %s', exc)
        finally:
            ended.set()
