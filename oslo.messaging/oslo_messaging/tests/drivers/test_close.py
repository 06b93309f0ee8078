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


class TestClose(test_utils.BaseTestCase):

    def test_broker_that_does_not_answer(self):
        self.config(heartbeat_timeout_threshold=0,
                    group='oslo_messaging_rabbit')
        transport = oslo_messaging.get_rpc_transport(self.conf,
                                                     'kombu+memory:////')
        self.addCleanup(transport.cleanup)
        listener = transport._driver.listen(
            oslo_messaging.Target(topic='topic', server='server'), 1, None)
        broker = mock.Mock()
        connection = listener._poll_style_listener.conn.connection
        connection.channel.connection = mock.Mock(sock=broker)

        with mock.patch('kombu.Queue.delete', broker.delete), \
                mock.patch('kombu.Connection.maybe_close_channel',
                           broker.close_channel):
            listener.cleanup()

        self.assertEqual([mock.call.settimeout(2),
                          mock.call.delete(nowait=True),
                          mock.call.close_channel(mock.ANY)],
                         broker.mock_calls)
