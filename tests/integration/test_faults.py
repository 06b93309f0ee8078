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

"""One fault, as ``lab faults`` measures it on stock and on the series."""

from testtools.content import text_content

from lab.measure.faults import fault
from tests.integration import base


class FaultsTestCase(base.LabTestCase):

    def test_blocked(self):
        code, results = self.run_lab('faults', '--only', 'blocked')
        self.assertEqual(0, code)
        row = {column: cell for found in results.contents
               if 'table' in found
               for column, cell in zip(found['columns'], found['rows'][0])}
        for column, cell in row.items():
            self.addDetail(column, text_content(str(cell)))
        self.assertEqual('its pool blocked', row['fault'])
        # Each of the callers goes on losing its calls to it.
        self.assertGreater(row['lost: stock'], 2 * fault.Fault.callers)
        self.assertLess(row['goodput of healthy: stock'], 0.3)
        self.assertEqual((0, 0), (row['run twice: stock'],
                                  row['run twice: series']))
        self.assertEqual(('never', 'never'),
                         (row['seen, s: stock'], row['healed, s: stock']))
        self.assertLess(row['lost: series'], row['lost: stock'] / 2)
        self.assertLess(row['seen, s: series'], 20)
        self.assertLess(row['healed, s: series'], 30)
