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

import threading
from unittest import mock

import testscenarios

import oslo_messaging
from oslo_messaging.tests import utils as test_utils

load_tests = testscenarios.load_tests_apply_scenarios


class TestLimitPrefetch(test_utils.BaseTestCase):

    limit = None

    scenarios = [
        ('no limit, unlimited', {'configured': 0, 'expected': None}),
        ('no limit', {'configured': 3, 'expected': 3}),
        ('limit, unlimited', {'limit': threading.Semaphore(),
                              'configured': 0, 'expected': 1}),
        ('limit', {'limit': threading.Semaphore(),
                   'configured': 3, 'expected': 3}),
    ]

    def test_prefetch_count(self):
        self.config(heartbeat_timeout_threshold=0,
                    rabbit_qos_prefetch_count=self.configured,
                    group='oslo_messaging_rabbit')
        transport = oslo_messaging.get_rpc_transport(self.conf,
                                                     'kombu+memory:////')
        self.addCleanup(transport.cleanup)
        server = oslo_messaging.get_rpc_server(
            transport, oslo_messaging.Target(topic='topic', server='server'),
            [], limit=self.limit)
        set_to = []
        consuming = threading.Event()

        with mock.patch.multiple(
                'kombu.transport.memory.Channel',
                basic_qos=lambda channel, size, count, all: set_to.append(
                    count),
                basic_consume=lambda *args, **kwargs: consuming.set()):
            server.start()
            self.addCleanup(server.wait)
            self.addCleanup(server.stop)
            self.assertTrue(consuming.wait(30))

        self.assertEqual(self.expected, set_to[-1] if set_to else None)
