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

import oslo_messaging
from oslo_messaging.tests import utils as test_utils


class TestUndeliverable(test_utils.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.config(heartbeat_timeout_threshold=0,
                    group='oslo_messaging_rabbit')
        transport = oslo_messaging.get_rpc_transport(self.conf,
                                                     'kombu+memory:////')
        self.addCleanup(transport.cleanup)
        self.context = transport._driver._get_connection()
        self.addCleanup(self.context.close)
        self.connection = self.context.connection
        self.confirmed = []

    def _publish(self, producer, body, **kwargs):
        """What kombu does with a broker that knows no queue 'missing'."""
        if kwargs['mandatory'] and kwargs['routing_key'] == 'missing':
            for callback in producer.channel.events['basic_return']:
                callback(Exception('NO_ROUTE'), '', 'missing', body)
        self.confirmed.append(body)

    def test_raised_once_confirmed(self):
        with mock.patch('kombu.messaging.Producer.publish', autospec=True,
                        side_effect=self._publish):
            self.assertRaises(oslo_messaging.MessageUndeliverable,
                              self.connection.direct_send, 'missing', 'first')
            self.connection.direct_send('there', 'second')

        self.assertEqual(['first', 'second'], self.confirmed)
