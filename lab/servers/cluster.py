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

"""A cluster of RabbitMQ, whose nodes are started and lost one at a time."""

import os
import secrets

import psutil

from lab import LabError
from lab.servers import broker

# How many nodes the lab's own RabbitMQ has, unless told otherwise.
NODES = int(os.environ.get('LAB_BROKER_NODES', 1))

# What deployments set for a cluster.
OPTIONS = {'rabbit_quorum_queue': True, 'rabbit_transient_quorum_queue': True,
           'rabbit_stream_fanout': True, 'use_queue_manager': True,
           'rabbit_qos_prefetch_count': 50}

# As Kolla has it, but for the names.
CONF = """
cluster_formation.peer_discovery_backend = classic_config
cluster_partition_handling = pause_minority
"""
LOOK_UP = ('{ok, Queue} = rabbit_amqqueue:lookup('
           'rabbit_misc:r(<<"/">>, queue, <<"%s">>)), ')
NODE = 'cluster_formation.classic_config.nodes.%d = %s\n'


class Cluster(broker.PrivateBroker):
    """Several nodes, which clients know all of.

    The lab itself asks the first node that answers.
    """

    options = OPTIONS

    def __init__(self, conf='', count=3):
        """Choose the ports.

        :param conf: more text of their rabbitmq.conf
        :param count: of nodes
        """
        super().__init__()
        self.nodes = [broker.PrivateBroker() for _node in range(count)]
        self.url = self.nodes[0].url
        cookie = secrets.token_hex(20)
        for node in self.nodes:
            node.cookie = cookie
            node.conf = CONF + conf + ''.join(
                NODE % (number, other.name)
                for number, other in enumerate(self.nodes, 1))

    @property
    def transport_url(self):
        return _url(self.nodes)

    @property
    def callers_url(self):
        # Not of the first, which faults lose: callers that happen to be on a
        # node that is cut off lose all their calls, whoever serves.
        return _url(self.nodes[1:])

    @property
    def ports(self):
        return [node.port for node in self.nodes]

    @property
    def _running(self):
        return list(filter(_runs, self.nodes))

    def _connection(self):
        for node in self._running:
            if node.answers():
                return node._connection()
        raise OSError('no node of the cluster answers')

    def ctl(self, *arguments):
        return self._running[0].ctl(*arguments)

    def set_env(self, name, value):
        for node in self.nodes:
            node.set_env(name, value)

    def published(self):
        return sum(node.published() for node in self.nodes)

    def home(self, queue):
        """The node that has a queue, or its leader."""
        name, = self.ctl('eval', LOOK_UP % queue + 'amqqueue:qnode(Queue).')
        return next(node for node in self.nodes if node.name in name)

    def move(self, queue, other=None):
        """Have another node lead a quorum queue, any if None."""
        home = self.home(queue)
        if other is None:
            other = next(node for node in self.nodes if node is not home)
        self.ctl('eval', LOOK_UP % queue + 'rabbit_quorum_queue:'
                 "transfer_leadership(Queue, '%s')." % other.name)

    def cut_off(self, node):
        """Have a node and the others reach each other no more."""
        # Nodes whose cookies differ do not talk.
        self._of_others(node, 'erlang:set_cookie(Node, wrong)')
        self._of_others(node, 'erlang:disconnect_node(Node)')

    def join(self, node):
        """Have a node that was cut off reach the others again."""
        self._of_others(node, 'erlang:set_cookie(Node, erlang:get_cookie())')

    def _of_others(self, node, call):
        others = ','.join("'%s'" % other.name for other in self.nodes
                          if other is not node)
        node.ctl('eval', '[%s || Node <- [%s]].' % (call, others))

    def start(self, timeout=180):
        """Start the nodes that do not run, and wait until all answer.

        :param timeout: seconds for each
        :raises LabError: when one does not answer in time
        """
        away = [node for node in self.nodes if not node.child]
        for node in away:
            node.begin()
        for node in away:
            node.wait_answers(timeout)

    def stop(self):
        """End all nodes at once, as a crash would; their data stay."""
        for node in self.nodes:
            node.stop()

    def __exit__(self, *exc):
        for node in self.nodes:
            node.__exit__()


def _url(nodes):
    return 'rabbit://%s/' % ','.join(
        node.url.removeprefix('amqp://').rstrip('/') for node in nodes)


def _runs(node):
    child = node.child
    try:
        return child is not None and child.process.status() not in (
            psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        # Others ask while it is ended.
        return False


def private(conf=''):
    """A RabbitMQ of one's own, of as many nodes as the lab was told.

    :raises LabError: when there is none
    """
    if not broker.PrivateBroker.available():
        raise LabError('no RabbitMQ is installed')
    return Cluster(conf, NODES) if NODES > 1 else broker.PrivateBroker(conf)
