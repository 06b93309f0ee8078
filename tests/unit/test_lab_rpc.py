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

"""What became of requests, short of those who run them."""

import time

import oslo_messaging
import testtools

from lab import faults
from lab import rpc


class TestRan(testtools.TestCase):

    def call(self, name, outcome='answered'):
        return rpc.Call(1, 2, outcome, name, None)

    def test_ran(self):
        calls = [self.call('once'), self.call('twice'),
                 self.call('begun', 'lost'), self.call('never', 'lost'),
                 self.call('not sent', 'failed'), self.call('cast')]
        executions = [faults.Execution(name, 7, 1.5) for name in (
            'once', 'twice', 'begun', 'another', 'twice')]
        self.assertEqual((['twice'], ['never', 'cast'], ['begun']),
                         rpc.ran(calls, executions))


class TestCallers(testtools.TestCase):

    def calls(self, call):
        with rpc.Callers(None, 2, call=call, named=True, pause=0.01
                         ) as callers:
            while len(callers.calls()) < 6:
                time.sleep(0.01)
        return callers.calls()

    def test_names(self):
        names = []
        calls = self.calls(lambda timeout, name: names.append(name))
        self.assertEqual(sorted(names), sorted(call.name for call in calls))
        self.assertEqual(len(names), len(set(names)))
        self.assertEqual({('answered', None)}, {call[2::2] for call in calls})

    def test_outcomes(self):
        for error, outcome in ((oslo_messaging.MessagingTimeout('late'),
                                'lost'), (OSError('late'), 'failed')):
            def call(timeout, name):
                raise error

            self.assertEqual({(outcome, 'late')},
                             {call[2::2] for call in self.calls(call)})

    def test_resting(self):
        with rpc.Callers(None, 2, call=lambda timeout: None, pause=0.01
                         ) as callers:
            callers.wait_answered(2)
            with callers.resting():
                # Those under way have ended once nothing more is counted.
                count = None
                while count != len(callers.calls()):
                    count = len(callers.calls())
                    time.sleep(0.1)
            callers.wait_answered(2)
            with callers.resting():
                callers.stop()
        self.assertEqual([], [thread for thread in callers._threads
                              if thread.is_alive()])
