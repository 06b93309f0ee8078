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

"""A stuck worker is seen, costs few requests, and is replaced.

With callers at full speed, so that there are always more requests than it may
hold.
"""

import ddt

from tests.integration import base
from tests.integration import stuck


@ddt.ddt
class ReplacedTestCase(stuck.StuckTestCase):

    PAUSE = 0

    @ddt.data(*base.MODES)
    def test_seen_bounded_and_replaced(self, mode):
        self.begin(mode, stuck.SMALL_POOL, stuck.REPLACE)
        # A process that reads no more holds what it prefetched.
        for number, fault, *args in ((1, self.made.faults.stop),
                                     (2, self.made.faults.hold_gil, 120)):
            self.fault(number, fault, *args)
            self.check_goodput()
            self.wait_down()
            self.wait_replaced(stacks=number != 1)
            self.check_goodput()
            self.check_lost()
        # One that reads but cannot run.
        self.fault(3, self.made.faults.block, base.WORK[self.topic])
        self.wait_down()
        self.wait_replaced()
        self.check_goodput()
        self.check_bounded()
        # One that has run but cannot reply: it may only be that its callers
        # are gone, so it has the time that oslo.messaging takes to notice.
        self.fault(1, self.made.faults.hang_reply)
        self.wait_down()
        self.check_goodput()
        self.check_bounded()
        self.assertEqual(self.before, self.pids(self.scheduler))
