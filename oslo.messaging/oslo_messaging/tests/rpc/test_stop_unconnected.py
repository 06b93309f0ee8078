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

import oslo_messaging
from oslo_messaging.tests import utils as test_utils


class TestStopUnconnected(test_utils.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.transport = oslo_messaging.get_rpc_transport(self.conf, 'fake:')
        self.answers = threading.Event()
        self.addCleanup(self.answers.set)
        self.cleaned_up = threading.Event()
        self.listener = mock.Mock()
        self.listener.cleanup.side_effect = self.cleaned_up.set
        self.transport._listen = mock.Mock(side_effect=self.listen)
        self.server = oslo_messaging.get_rpc_server(
            self.transport,
            oslo_messaging.Target(topic='topic', server='server'), [])

    def listen(self, *args):
        self.answers.wait(30)
        return self.listener

    def start(self):
        """Start the server, which waits for the messaging backend."""
        thread = threading.Thread(target=self.server.start)
        thread.start()
        self.wait_for(lambda: self.transport._listen.called)
        return thread

    def wait_for(self, condition):
        for _ in range(300):
            if condition():
                return
            threading.Event().wait(0.1)
        self.fail('not in 30 seconds')

    def test_stop_does_not_wait(self):
        starting = self.start()

        self.server.stop(timeout=5)
        self.server.wait(timeout=5)

        self.wait_for(lambda: not starting.is_alive())
        self.assertIsNone(self.server.listener)
        # What was connected too late is closed.
        self.listener.cleanup.assert_not_called()
        self.answers.set()
        self.assertTrue(self.cleaned_up.wait(30))
        self.listener.start.assert_not_called()

    def test_start_again(self):
        self.start()
        self.server.stop(timeout=5)
        self.server.wait(timeout=5)
        self.answers.set()
        self.assertTrue(self.cleaned_up.wait(30))
        self.cleaned_up.clear()

        self.server.start()

        self.listener.start.assert_called_once_with(self.server._on_incoming)
        self.server.stop()
        self.listener.stop.assert_called_once_with()
        self.server.wait()
        self.listener.cleanup.assert_called_with()

    def test_start_raises_what_the_backend_does(self):
        self.transport._listen.side_effect = ConnectionRefusedError

        self.assertRaises(ConnectionRefusedError, self.server.start)
