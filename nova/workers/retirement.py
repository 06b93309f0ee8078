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

"""Removing the records of workers that are gone.

Some records outlive what they stand for: the record that the node had before
its workers got worker hosts, and after a scale-down the records of the workers
with the highest numbers. They would stay in the service list as down.
"""

import contextlib

from oslo_log import log as logging
from oslo_service import loopingcall

import nova.conf
from nova import context
from nova import exception
from nova import objects
from nova import servicegroup
from nova.workers import identity

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)


def has_others(ctxt, host):
    """Whether services that have no workers are on that host.

    Those of the same database, and computes of any cell.
    """
    if CONF.api_database.connection:
        with contextlib.suppress(exception.HostMappingNotFound):
            objects.HostMapping.get_by_host(ctxt, host)
            return True
    return any(record.binary not in identity.TOPICS
               for record in objects.ServiceList.get_by_host(ctxt, host))


class Retirement:
    """Removes the records of workers that a node no longer has.

    :param server: the nova.service.Service of a worker
    :param node: the node of the worker
    :param workers: how many workers the node has
    """

    def __init__(self, server, node, workers):
        self._server = server
        self._node = node
        self._workers = workers
        self._servicegroup_api = servicegroup.API()
        # Whether this worker was up at the last look.
        self._up = False

    def start(self):
        """Retire what is down, and look again until nothing is left."""
        self._server.tg.add_timer_args(CONF.service_down_time, self._run)

    def _run(self):
        try:
            left = self.retire(context.get_admin_context())
        except Exception:
            # Try again, while the timer would end with an exception.
            LOG.exception('Unexpected error while retiring workers')
            return
        if not left:
            raise loopingcall.LoopingCallDone()

    def retire(self, ctxt):
        """Remove the records of workers that are gone and down.

        An outage of the database has the records of all services go down. So
        nothing is removed unless this worker is up, and was up at the last
        look: a service that is alive has then had the time to be up again.

        :param ctxt: a nova.context.RequestContext
        :returns: the hosts to look at again: those that are up or forced
            down, and the own one if it is too early to remove anything
        """
        records = objects.ServiceList.get_by_binary(
            ctxt, self._server.binary, include_disabled=True)
        was_up, self._up = self._up, any(
            record.host == self._server.host and
            self._servicegroup_api.service_is_up(record)
            for record in records)
        if not (was_up and self._up):
            return [self._server.host]
        nodes = {worker.node for worker in
                 (identity.parse(record.host) for record in records) if worker}
        left = []
        for record in records:
            if not self._is_gone(record.host):
                continue
            if record.host != self._node and (
                    record.host in nodes or self._is_node(ctxt, record)):
                # Another node whose name looks like one of our worker hosts.
                continue
            try:
                # It may be up since all of them were read.
                if not self._is_down(
                        objects.Service.get_by_id(ctxt, record.id)):
                    left.append(record.host)
                    continue
                record.destroy()
            except exception.ServiceNotFound:
                # An operator was faster.
                continue
            LOG.info('Retired %(host)s: removed record %(id)d of %(binary)s, '
                     'as node %(node)s has %(workers)d workers and the record '
                     'was down',
                     {'host': record.host, 'id': record.id,
                      'binary': record.binary, 'node': self._node,
                      'workers': self._workers})
        return left

    def _is_gone(self, host):
        """Whether a host was this node's but is none of its workers now."""
        worker = identity.parse(host)
        return host == self._node or (
            worker is not None and worker.node == self._node and
            worker.number > self._workers)

    def _is_node(self, ctxt, record):
        """Whether other services show that the host of a record is a node's.

        Those without worker hosts have it, or others have a worker there.
        """
        return has_others(ctxt, record.host) or bool(
            objects.ServiceList.get_by_host(
                ctxt, identity.worker_host(record.host, 1)))

    def _is_down(self, record):
        # Forced down says nothing about whether the service is alive.
        return not (record.forced_down or
                    self._servicegroup_api.service_is_up(record))
