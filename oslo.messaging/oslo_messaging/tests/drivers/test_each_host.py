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

from unittest import mock

import kombu
import testscenarios

import oslo_messaging
from oslo_messaging._drivers import common as rpc_common
from oslo_messaging._drivers import impl_rabbit
from oslo_messaging.tests import utils as test_utils

load_tests = testscenarios.load_tests_apply_scenarios


class TestEachHost(test_utils.BaseTestCase):

    scenarios = [
        ('one host', {'hosts': 1, 'retry': 0, 'attempts': 1}),
        ('no retry', {'hosts': 3, 'retry': 0, 'attempts': 3}),
        ('fewer retries', {'hosts': 3, 'retry': 1, 'attempts': 3}),
        ('as many retries as hosts', {'hosts': 3, 'retry': 3, 'attempts': 4}),
    ]

    def test_each_is_asked(self):
        url = oslo_messaging.TransportURL.parse(self.conf, 'rabbit://' + (
            ','.join(f'host{n}' for n in range(self.hosts))))
        asked = []

        def refuse(connection):
            asked.append(connection.hostname)
            raise ConnectionRefusedError()

        with mock.patch('kombu.connection.Connection._connection_factory',
                        side_effect=refuse, autospec=True), \
                mock.patch('kombu.utils.functional.sleep'):
            self.assertRaises(
                kombu.exceptions.OperationalError, impl_rabbit.Connection,
                self.conf, url, rpc_common.PURPOSE_SEND, self.retry)

        self.assertEqual(self.attempts, len(asked))
        self.assertEqual(self.hosts, len(set(asked)))
