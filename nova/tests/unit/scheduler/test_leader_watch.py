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

import threading

from nova.scheduler import leader
from nova import test


class WatchTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.warned = threading.Event()
        self.useFixture(test.fixtures.MockPatchObject(
            leader.LOG, 'warning', side_effect=self._warn))
        self.timers = []
        timer = threading.Timer
        self.useFixture(test.fixtures.MockPatchObject(
            threading, 'Timer', side_effect=lambda *args: (
                self.timers.append(timer(*args)) or self.timers[0])))

    def _warn(self, message, values):
        self.message = message % values
        self.warned.set()

    def test_hangs(self):
        self.flags(service_down_time=0)
        with leader.watch('a'):
            self.assertTrue(self.warned.wait(10))
        self.assertIn('The discovery of hosts on a has not ended after 0 '
                      'seconds', self.message)

    def assertEnded(self):
        timer, = self.timers
        timer.join(10)
        self.assertFalse(timer.is_alive())
        self.assertFalse(self.warned.is_set())

    def test_ends(self):
        self.flags(service_down_time=3600)
        with leader.watch('a'):
            self.assertTrue(self.timers[0].is_alive())
            # It must not keep a process that stops.
            self.assertTrue(self.timers[0].daemon)
        self.assertEnded()

    def test_fails(self):
        self.flags(service_down_time=3600)

        def fail():
            with leader.watch('a'):
                raise test.TestingException

        self.assertRaises(test.TestingException, fail)
        self.assertEnded()
