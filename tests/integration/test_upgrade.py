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

"""A rolling upgrade from the release before, with its own dependencies.

The databases are those of the newer release, which are to be upgraded first.
"""

import ddt

from lab import rpc
from tests.integration import base

OLD = '2026.1'
NODES = ('scheduler-node-1', 'scheduler-node-2')
# Seconds for a node to end or to serve.
TIMEOUT = 90


@ddt.ddt
class UpgradeTestCase(base.LabTestCase):

    def setUp(self):
        super().setUp()
        self.old = base.release(OLD)
        if self.old is None:
            self.skipTest(f'no environment of {OLD}: "tools/run.py --release '
                          f'{OLD} short" makes it')

    def start_old(self, node, stock):
        tree, programs = self.old
        return self.made.scheduler(
            node=node, workers=2, programs=programs,
            tree=base.stock_tree(tree) if stock else tree,
            packages=[base.companion(tree)])

    def start_new(self, node):
        return self.made.scheduler(node=node, workers=2,
                                   packages=[base.companion()])

    @ddt.data(True, False)
    def test_from(self, stock):
        self.made = self.cloud()
        old = {node: self.start_old(node, stock).wait_ready(TIMEOUT)
               for node in NODES}
        expected = set()
        client = self.enterContext(self.made.client())
        with rpc.Callers(client, 8, 12, call=client.work) as callers:
            for node, scheduler in old.items():
                callers.wait_answered(200, 60, self.made.log)
                scheduler.stop(TIMEOUT)
                expected |= self.start_new(node).wait_ready(
                    TIMEOUT).record_hosts()
            callers.wait_answered(200, 60, self.made.log)
        self.assertEqual((0, 0), callers.counts()[1:])
        self.made.wait(
            lambda: {record.host for record in self.made.services()} ==
            expected, base.RETIRED, f'the records to be those of {expected}')
        self.check_no_traceback(self.made.log())
