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
from oslo_messaging._drivers import amqp as rpc_amqp
from oslo_messaging._drivers import common as rpc_common
from oslo_messaging._drivers import impl_rabbit
from oslo_messaging.tests import utils as test_utils


class TestUnreadRequests(test_utils.BaseTestCase):
    """What a listener reads when nobody processes it any more."""

    def setUp(self):
        super().setUp()
        self.config(heartbeat_timeout_threshold=0,
                    group='oslo_messaging_rabbit')
        transport = oslo_messaging.get_rpc_transport(self.conf,
                                                     'kombu+memory:////')
        self.addCleanup(transport.cleanup)
        self.driver = transport._driver
        self.target = oslo_messaging.Target(topic='topic', server='server')
        self.received = []
        self.listener = self.driver.listen(self.target, 1, None)
        self.listener.start(self.received.extend)
        self.addCleanup(self.listener.cleanup)

    def deliver(self):
        """Have the listener read a request, as its connection does.

        :returns: what the broker is told about it
        """
        message = {'method': 'method', 'args': {}}
        rpc_amqp._add_unique_id(message)
        raw = mock.Mock(payload=rpc_common.serialize_msg(message))
        self.listener._poll_style_listener(impl_rabbit.RabbitMessage(raw))
        return raw

    def test_serving(self):
        raw = self.deliver()

        raw.ack.assert_called_once_with()
        self.listener.stop()
        self.assertEqual(1, len(self.received))

    def test_stopped(self):
        self.listener.stop()

        raw = self.deliver()

        raw.ack.assert_not_called()
        self.assertEqual([], self.listener._poll_style_listener.poll())
