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
    for record in objects.ServiceList.get_by_binary(
            ctxt, binary, include_disabled=True):
        worker = identity.parse(record.host)
        if worker is None or not api.service_is_up(record):
            continue
        other = worker.node if worker.node in ours else None
        if record.host in ours and retirement.has_others(
                ctxt, record.host) and _is_kept_up(api, record):
            # That node has no worker hosts, and its service has no number.
            other = record.host
        if other:
            raise ValueError(
                f'[DEFAULT] host is {node}, but node {other}, whose '
                f'{binary} is up, is called like a worker of it; one of the '
                f'two nodes has to have another name')
        if record.host == node and _is_kept_up(api, record):
            raise ValueError(
                f'[DEFAULT] host is {node}, but that is the name of worker '
                f'{worker.number} of {binary} on node {worker.node}, which is '
                f'up; one of the two nodes has to have another name')


def _is_kept_up(api, record):
    """Whether somebody else writes heartbeats into a record."""
    seen = api.get_updated_time(record)
    end = time.monotonic() + 1.5 * CONF.report_interval
    while time.monotonic() < end:
        time.sleep(0.5)
        now = objects.Service.get_by_host_and_binary(
            context.get_admin_context(), record.host, record.binary)
        if now is None:
            return False
        if api.get_updated_time(now) != seen:
            return True
    return False
