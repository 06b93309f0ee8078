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

"""The lab knows of each request which worker has begun it, and how often."""

import functools
import itertools

import ddt

from lab import rpc
from tests.integration import base


@ddt.ddt
class TracedTestCase(base.LabTestCase):

    @ddt.data(*itertools.product(base.MODES, (False, True)))
    @ddt.unpack
    def test_requests(self, mode, stock):
        made = self.cloud()
        made.faults.trace()
        service = self.start(made, workers=2, mode=mode,
                             tree=base.stock_tree() if stock else None)
        client = self.enterContext(made.client(self.topic))
        before = self.pids(service)
        with rpc.Callers(client, pause=0.05, named=True,
                         call=functools.partial(rpc.Client.work, client)
                         ) as callers:
            callers.wait_answered(50)
            # Its place is taken by a process that is forked now.
            victim = service.workers()[2]
            made.faults.block(victim, base.WORK[self.topic])
            made.wait(lambda: made.faults.state(victim)['running'], 20,
                      'a request to be blocked')
            victim.kill()
            made.wait(lambda: before[2] not in self.pids(service).values(),
                      30, 'the worker to be gone')
            service.wait_ready()
            callers.wait_answered(50)
        found = made.faults.executions()
        ran = rpc.ran(callers.calls(), found)
        self.assertEqual([], ran.twice)
        # Begun by the one that was killed.
        self.assertNotEqual([], ran.begun)
        for name in ran.begun:
            self.assertEqual([before[2]], [
                execution.pid for execution in found
                if execution.name == name])
        answered = {call.name for call in callers.calls()
                    if call.outcome == 'answered'}
        self.assertEqual(set(), answered & set(ran.never))
        self.assertLess(100, len(answered))
        self.assertEqual({*before.values(), *self.pids(service).values()},
                         {execution.pid for execution in found})

        # What is sent twice is run twice, and casts are known by name too.
        name = rpc.request_id()
        for _time in range(2):
            client.cast_work(name=name)
        made.wait(lambda: [execution.name for execution in
                           made.faults.executions()].count(name) == 2, 20,
                  'both casts to be run')


class ConductorTracedTestCase(TracedTestCase):

    BINARY = 'nova-conductor'
