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

"""Fresh memory for a worker that was forked long after its parent started.

What the scheduler knows of cells, aggregates and instances is read when its
manager is built, and casts keep it true from then on. But it is the parent of
the workers that builds the manager, and the parent gets no casts.
"""

import threading
import time

# When the parent read it, as workers are forked from it.
_READ = time.monotonic()

# Seconds for which the instances that it read are good to begin with. To read
# those of all hosts again would cost each worker a query per host, and the
# computes send what keeps them true, by default every two minutes.
_INSTANCES_ARE_GOOD = 60


def at_first_use(manager):
    """Have a manager read again, before it uses it, what may have changed.

    To be called when casts reach this process, and before it runs the first.
    Costs nothing until a request or a cast needs it, so that idle workers do
    not each connect to the API database. If it fails, so does that request,
    and the next one tries again.

    :param manager: the nova.scheduler.manager.SchedulerManager
    """
    manager.host_manager = _Stale(manager)


class _Stale:
    """Takes the place of a manager's host_manager until somebody uses it."""

    def __init__(self, manager):
        self._manager = manager
        self._host_manager = manager.host_manager
        self._lock = threading.Lock()

    def __getattr__(self, name):
        with self._lock:
            if self._manager.host_manager is self:
                _refresh(self._host_manager)
                self._manager.host_manager = self._host_manager
        return getattr(self._host_manager, name)


def _refresh(host_manager):
    host_manager.refresh_cells_caches()
    host_manager.aggs_by_id.clear()
    host_manager.host_aggregates_map.clear()
    host_manager._init_aggregates()
    if time.monotonic() - _READ > _INSTANCES_ARE_GOOD:
        # Those of a host are read when they are needed or its compute casts.
        host_manager._instance_info.clear()
