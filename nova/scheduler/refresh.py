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
import threading
import time

# Before the parent read it: when the parent imported this module.
_READ = time.monotonic()

# Seconds for which the instances that the parent read are good to begin with.
# To read those of all hosts again would cost each worker a query per host, and
# the computes send what keeps them true, by default every two minutes.
_INSTANCES_ARE_GOOD = 60

# Seconds that a request waits for another one that reads. That one may hang in
# a connection that is half open, and whoever reads next uses another one.
_PATIENCE = 10


def at_first_use(manager):
    """Have a manager read again, before it uses it, what may have changed.

    To be called when casts reach this process, and before it runs the first.
    Costs nothing until a request or a cast needs it, so that idle workers do
    not each connect to the API database. If it fails, so does that request,
    and the next one tries again.

    :param manager: the nova.scheduler.manager.SchedulerManager
    """
    manager.host_manager = _Stale(
        manager.host_manager, _READ + _INSTANCES_ARE_GOOD)


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
        # Of who reads, and of who puts it into its place.
        self._lock = threading.Lock()
        self._place = threading.Lock()

    def __getattr__(self, name):
        if self._stale:
            locked = self._lock.acquire(timeout=_PATIENCE)
            try:
                self._refresh()
            finally:
                if locked:
                    self._lock.release()
        return getattr(self.latest, name)

    def _refresh(self):
        if not self._stale:
            return
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
            # Casts have been applied since another one has read it.
            if self._stale:
                self.latest = fresh
                self._stale = False
