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

"""Electing the one worker in the cloud that does what one has to do."""

from nova import objects
from nova.workers import identity


class Leader:
    """The leader among the services of a binary: the first one that is up.

    All look at the same records, so all elect the same leader without talking
    to each other.

    :param binary: the binary of the services to elect among
    :param servicegroup_api: the nova.servicegroup.API that tells who is up
    """

    def __init__(self, binary, servicegroup_api):
        self._binary = binary
        self._servicegroup_api = servicegroup_api
        self._last = None

    def elect(self, context, host):
        """The host of the leader, as far as ``host`` has to know it.

        ``host`` leads if, and only if, it is what is returned.

        :param context: a nova.context.RequestContext
        :param host: the host of the service that asks
        :returns: a host of the binary's services; None if it has none
        """
        # While one that comes before this host is up, this host is not the
        # leader, whoever is. So a follower reads one record, not all. Reading
        # all of them in all W workers would be W x W rows at each interval,
        # or at each start and each change of the leader if all of them had to
        # find it: the others of a node look at its first worker.
        for other in (self._last, _first_of_the_node(host)):
            if (other is not None and other < host and
                    self._is_up(context, other)):
                self._last = other
                return other
        self._last = self._elect(context)
        return self._last

    def _is_up(self, context, host):
        record = objects.Service.get_by_host_and_binary(
            context, host, self._binary)
        return (record is not None and not record.disabled and
                self._servicegroup_api.service_is_up(record))

    def _elect(self, context):
        records = objects.ServiceList.get_by_binary(context, self._binary)
        up = [record.host for record in records
              if self._servicegroup_api.service_is_up(record)]
        if up:
            return min(up)
        # Nobody has sent a heartbeat for long: the whole cloud was down. The
        # one seen last is the likeliest to be back, while the first might be
        # a record whose worker is gone for good.
        records = sorted(records, key=lambda record: record.host)
        last_seen = max(
            records, default=None,
            key=lambda record: record.last_seen_up or record.created_at)
        return last_seen.host if last_seen is not None else None


def _first_of_the_node(host):
    worker = identity.parse(host)
    return identity.worker_host(worker.node, 1) if worker else None
