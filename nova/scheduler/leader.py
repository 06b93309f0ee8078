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

"""Which of the schedulers discover hosts: the leader, and a deputy."""

import contextlib
import threading
import time

from oslo_log import log as logging

import nova.conf
from nova import objects

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)


def elect(context, host, servicegroup_api):
    """Elect the leader and its deputy among the schedulers that are up.

    All schedulers look at the same records and the same clock, so all elect
    the same two without talking to each other. The leader is the first one.
    A leader that hangs or fails in the discovery is up all the same, and the
    records do not tell, so somebody else discovers hosts as well: the deputy,
    which is another one of the other schedulers in each interval.

    :param context: a nova.context.RequestContext
    :param host: the host of the scheduler that asks, which leads if none is
        up, as after a restart of the whole cloud
    :param servicegroup_api: the nova.servicegroup.API that tells who is up
    :returns: the host of the leader and that of the deputy, which is the
        leader if there is no other
    """
    records = objects.ServiceList.get_by_binary(context, 'nova-scheduler')
    hosts = sorted(record.host for record in records
                   if servicegroup_api.service_is_up(record)) or [host]
    others = hosts[1:] or hosts
    # With 0 oslo.service runs the task once a minute.
    interval = CONF.scheduler.discover_hosts_in_cells_interval or 60
    return hosts[0], others[int(time.time() / interval) % len(others)]


@contextlib.contextmanager
def watch(host):
    """Log a warning if a discovery has not ended after service_down_time.

    :param host: the host of the scheduler that discovers
    """
    timer = threading.Timer(CONF.service_down_time, LOG.warning, [
        'The discovery of hosts on %(host)s has not ended after %(seconds)d '
        'seconds. Until it does, only other schedulers discover hosts.',
        {'host': host, 'seconds': CONF.service_down_time}])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
