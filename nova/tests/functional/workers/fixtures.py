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

"""Fixtures to run several workers of a node in one process."""

from unittest import mock

import fixtures
from oslo_messaging._drivers import impl_fake

from nova.scheduler import manager
from nova import service
from nova.workers import identity
from nova.workers import launcher


class AMQPRouting(fixtures.Fixture):
    """Make oslo.messaging's fake driver route as its AMQP drivers do.

    To them a server is part of the routing key: what is sent to server s of
    topic t goes to the queue 't.s', and whoever listens on a topic of that
    name gets it. The fake driver keeps topics and servers apart.
    """

    def _setUp(self):
        get_server_queue = impl_fake.FakeExchange._get_server_queue

        def routed(exchange, topic, server):
            shared = (f'{topic}.{server}', None)
            if shared in exchange._topic_queues:
                return exchange._topic_queues[shared]
            return get_server_queue(exchange, topic, server)

        self.useFixture(fixtures.MonkeyPatch(
            'oslo_messaging._drivers.impl_fake.FakeExchange.'
            '_get_server_queue', routed))


class WorkerFixture(fixtures.Fixture):
    """One worker of a service, started in this process.

    A worker binds the Service that it has in its process, so here each has
    one of its own.

    :param node_board: the nova.workers.board.Board of the node
    :ivar worker: the nova.workers.launcher.Worker
    :ivar server: its nova.service.Service
    """

    def __init__(self, node_board, node, number, report_interval=0,
                 binary='nova-scheduler'):
        # There is no parent that would want stacks.
        watched = mock.Mock(row=node_board.rows[number - 1])
        self._args = (number, len(node_board.rows), node_board, watched)
        self._binary = binary
        self._node = node
        self._report_interval = report_interval

    def _setUp(self):
        if hasattr(manager, 'thread_pool_factory'):
            # Since 2026.2, stopping the manager leaves the thread pools of
            # the whole process without a way back.
            self.useFixture(fixtures.MonkeyPatch(
                'nova.thread_pool_factory.shutdown_all_executors',
                lambda: None))
        # The last one that is started stands for the process.
        self.useFixture(fixtures.MonkeyPatch(
            'nova.workers.identity._own', None))
        self.server = service.Service.create(
            host=self._node, binary=self._binary,
            topic=identity.TOPICS[self._binary],
            report_interval=self._report_interval)
        self.worker = launcher.Worker(self.server, *self._args)
        # Tells in an answer who gave it.
        self.worker.backdoor_port = self.worker.number
        with mock.patch.object(launcher, 'setproctitle', new=None):
            self.worker.start()
        self.addCleanup(self.worker.stop)
