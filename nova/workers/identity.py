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

"""The name of one worker process of a service.

Worker n of the service on a node runs under the worker host
``<node>-worker-<n>``, n from 1. Everything that needs that name, or needs to
read one, comes here.
"""

import re
import typing as ty

from oslo_config import cfg

import nova.conf

CONF = nova.conf.CONF

# AMQP 0-9-1 carries queue names as short strings: at most 255 bytes.
MAX_QUEUE_LENGTH = 255

#: The binaries whose workers have worker hosts, and their RPC topics.
TOPICS = {'nova-scheduler': 'scheduler', 'nova-conductor': 'conductor'}

#: The RPC server name under which all workers of a node listen at the node
#: address. No host has such a name, so nobody calls one.
NODE_SERVER = '@'

# Only the last suffix is interpreted: the name of a node may itself look like
# a worker host (Kubernetes nodes are named like 'k8s-worker-1').
_WORKER_HOST = re.compile(r'(?P<node>.+)-worker-(?P<number>[1-9][0-9]*)')

# The worker host of this process, once it is bound to one.
_own: str | None = None


class WorkerId(ty.NamedTuple):
    """What a worker host says: the node and the number of the worker."""
    node: str
    number: int


def worker_host(node: str, number: int) -> str:
    """The worker host of worker ``number`` (from 1) on a node."""
    return f'{node}-worker-{number}'


def parse(host: str) -> WorkerId | None:
    """The node and number a worker host is made of.

    :returns: a WorkerId; None if the name does not look like a worker host. A
        node may have such a name as well, so the caller has to know from
        elsewhere which of the two it is.
    """
    match = _WORKER_HOST.fullmatch(host)
    if match is None:
        return None
    return WorkerId(match['node'], int(match['number']))


def bind(host: str) -> None:
    """Let this process be the worker with that worker host."""
    global _own
    _own = host


def own_host() -> str:
    """The worker host of this process; ``[DEFAULT] host`` if it has none."""
    return _own or CONF.host


def node_topic(topic: str, node: str) -> str:
    """The topic whose queue gets what is sent to the node address.

    oslo.messaging's AMQP drivers send a message for a server to the queue
    ``<topic>.<server>``. So whoever listens on a topic of that name gets what
    is sent to the RPC server ``<node>``.
    """
    return f'{topic}.{node}'


def check(topic: str, node: str) -> None:
    """Make sure that the workers of a node can have a worker host.

    :param topic: the RPC topic of the service
    :param node: the value of ``[DEFAULT] host``
    :raises: ValueError, with one line for the operator, if the name is
        so long that the name of a queue does not fit into AMQP
    """
    # The longest name is that of the fanout queue of the node address: what
    # oslo.messaging appends to it is longer than '-worker-' and any number.
    # As a worker's queue fits, its host fits into services.host (255) too.
    longest = (MAX_QUEUE_LENGTH - len(node_topic(topic, '')) -
               len('_fanout_') - _longest_suffix())
    length = len(node.encode())
    if length > longest:
        raise ValueError(
            f'[DEFAULT] host has {length} bytes, but with more than {longest} '
            f'the queues of its workers have no valid names; use a shorter '
            f'name, or set [{topic}] worker_hosts to false')


def _longest_suffix():
    """How many bytes oslo.messaging appends to the name of a fanout queue."""
    uuid = 32
    try:
        rabbit = CONF.oslo_messaging_rabbit
        if not rabbit.use_queue_manager:
            return uuid
        # And a number, which may well have five digits.
        return max(uuid, len(
            f'{rabbit.hostname}:{rabbit.processname}:12345'.encode()))
    except cfg.NoSuchOptError:
        # Not RabbitMQ, or an oslo.messaging from before it had that.
        return uuid
