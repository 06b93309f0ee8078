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

"""One Service, W workers, each under its worker host.

The Service is built once, in the parent, whatever the number of workers. Each
worker is a small service around it, which the process launcher of
oslo.service forks, and forks again when its process dies. As that is the same
object each time, a worker keeps its name for life, in both concurrency modes.
"""

import os
import sys

from oslo_log import log as logging
import oslo_messaging as messaging
from oslo_service import service
from oslo_utils import importutils

from nova import baserpc
import nova.conf
from nova import rpc
from nova.workers import identity

# cotyledon brings it for the titles of its own; without it a worker has the
# command line as its title.
setproctitle = importutils.try_import('setproctitle')

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)


class Worker(service.ServiceBase):
    """Worker ``number`` of ``workers``: a Service bound to its worker host.

    Made in the parent and started in the child. Until then the Service is the
    one that all workers of the node share and carries the name of the node.

    :param server: the nova.service.Service of the node
    :param number: which worker this is, from 1
    :param workers: how many there are on the node
    """

    def __init__(self, server, number, workers):
        self.server = server
        self.number = number
        self.workers = workers
        self.node = server.host
        self.host = identity.worker_host(server.host, number)
        # The launcher of the eventlet mode sets it.
        self.backdoor_port = None
        self._node_rpcserver = None

    def start(self):
        self._bind()
        self.server.start()
        self._serve_node_address()

    def stop(self):
        if not self._answers_for_the_server:
            return
        self.server.stop()
        # Last, as a probe that gets no answer during a graceful shutdown
        # would end it.
        if self._node_rpcserver is not None:
            self._node_rpcserver.stop()
            self._node_rpcserver.wait()

    def wait(self):
        self.server.wait()

    def reset(self):
        if self._answers_for_the_server:
            self.server.reset()

    @property
    def _answers_for_the_server(self):
        # The launcher of the eventlet mode stops and resets what it launched
        # in the parent as well. There all workers share the Service, so only
        # the first passes it on.
        return self._node_rpcserver is not None or self.number == 1

    def _bind(self):
        self.server.host = self.host
        self.server.backdoor_port = self.backdoor_port
        manager = self.server.manager
        manager.host = self.host
        manager.notifier = rpc.get_notifier(manager.service_name, self.host)
        if setproctitle is not None:
            # Probes look for the name of the binary, so it comes first.
            setproctitle.setproctitle(f'{self.server.binary}: {self.host}')
        LOG.info('Starting worker %(number)d of %(workers)d of %(binary)s on '
                 'node %(node)s as %(host)s (pid %(pid)d)',
                 {'number': self.number, 'workers': self.workers,
                  'binary': self.server.binary, 'node': self.node,
                  'host': self.host, 'pid': os.getpid()})

    def _serve_node_address(self):
        """Answer what is sent to the node address, a liveness probe say.

        All live workers of the node do, from one queue, so it takes one of
        them for the node to be alive.
        """
        # The topic queue of this RPC server is the queue of the node address.
        # Its own name has to differ from that of the other workers and to be
        # no longer than the worker host.
        target = messaging.Target(
            topic=identity.node_topic(self.server.topic, self.node),
            server=f'worker-{self.number}')
        self._node_rpcserver = rpc.get_server(target, [
            baserpc.BaseRPCAPI(self.server.manager.service_name,
                               self.backdoor_port)])
        self._node_rpcserver.start()


def check(topic):
    """Stop the start of the command if ``[DEFAULT] host`` does not do.

    :param topic: the RPC topic of the service
    :raises: SystemExit with 1, after one line in the log
    """
    try:
        identity.check(topic, CONF.host)
    except ValueError as exc:
        LOG.error('%s', exc)
        sys.exit(1)


def launch(server, workers):
    """Fork the workers of a node.

    :param server: the nova.service.Service, built but not started
    :param workers: how many workers to start, at least 1
    :returns: the launcher; its wait() keeps the workers running
    """
    launcher = service.ProcessLauncher(CONF, restart_method='mutate')
    for number in range(1, workers + 1):
        launcher.launch_service(Worker(server, number, workers), workers=1)
    return launcher
