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

"""Nodes that cannot run workers beside each other.

The node address of a node is the name of its RPC server. If the name of a node
is also a worker host of another node, as ``n1-worker-1`` is of ``n1``, both
listen on one queue, and each takes messages of the other. So the node that is
started second does not start, and says why.
"""

import time

import nova.conf
from nova import context
from nova import objects
from nova import servicegroup
from nova.workers import identity
from nova.workers import retirement

CONF = nova.conf.CONF


def check(binary, node, workers):
    """Make sure that no other live node takes the messages of this one.

    Takes up to one and a half report_interval if the name of the node looks
    like a worker host and there is a record of that name that is still up, or
    if services of other binaries have the name of one of its workers.

    :param binary: the binary of the services to look at
    :param node: the value of ``[DEFAULT] host``
    :param workers: how many workers the node is about to have
    :raises: ValueError, with one line for the operator, if another node does
    """
    api, ctxt = servicegroup.API(), context.get_admin_context()
    ours = {identity.worker_host(node, number)
            for number in range(1, workers + 1)}
    unclear = []
    for record in objects.ServiceList.get_by_binary(
            ctxt, binary, include_disabled=True):
        worker = identity.parse(record.host)
        if worker is None or not api.service_is_up(record):
            continue
        if worker.node in ours:
            raise _clash(node, worker.node, binary)
        # A node without worker hosts may have the name of a worker of ours.
        if record.host == node or record.host in ours and (
                retirement.has_others(ctxt, record.host)):
            unclear.append(record)
    kept = _kept_up(api, unclear)
    if kept is None:
        return
    worker = identity.parse(node) if kept.host == node else None
    if worker is None:
        raise _clash(node, kept.host, binary)
    raise ValueError(
        f'[DEFAULT] host is {node}, but that is the name of worker '
        f'{worker.number} of {binary} on node {worker.node}, which is up; one '
        f'of the two nodes has to have another name')


def _clash(node, other, binary):
    return ValueError(
        f'[DEFAULT] host is {node}, but node {other}, whose {binary} is up, '
        f'is called like a worker of it; one of the two nodes has to have '
        f'another name')


def _kept_up(api, records):
    """The first of the records that somebody else writes heartbeats into.

    :returns: None if there is none
    """
    seen = {record.host: api.get_updated_time(record) for record in records}
    end = time.monotonic() + 1.5 * CONF.report_interval
    while seen and time.monotonic() < end:
        time.sleep(0.5)
        for record in records:
            now = objects.Service.get_by_host_and_binary(
                context.get_admin_context(), record.host, record.binary)
            if now is None:
                seen.pop(record.host, None)
            elif api.get_updated_time(now) != seen.get(record.host):
                return now
    return None
