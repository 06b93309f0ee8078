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

from amqp import exceptions as amqp_ex

from oslo_messaging.tests.drivers import test_lost_consumers


class TestReconnect(test_lost_consumers.LostConsumersTestCase):

    def setUp(self):
        super().setUp()
        self.listener.limit = None
        self.told = []
        self.listener.on_reconnect = lambda: self.told.append(
            self.calls().count('basic_consume'))

    def test_not_called_at_first(self):
        self.listener.poll(timeout=0.5)

        self.assertIn('basic_consume', self.calls())
        self.assertEqual([], self.told)

    def test_called_once_all_consumers_are_back(self):
        self.listener.poll(timeout=0.5)
        self.errors.append(amqp_ex.ConnectionForced('closed'))
        self.listener.poll(timeout=2)
        self.listener.poll(timeout=0.5)

        # Three of them before, and three after that.
        self.assertEqual([6], self.told)

    def test_not_called_while_they_are_not(self):
        self.listener.poll(timeout=0.5)
        self.errors.append(amqp_ex.ConnectionForced('closed'))
        self.broker.basic_consume.side_effect = ConnectionResetError
        self.listener.poll(timeout=1)

        self.assertEqual([], self.told)

        self.broker.basic_consume.side_effect = None
        self.listener.poll(timeout=2)
        self.assertEqual(1, len(self.told))
