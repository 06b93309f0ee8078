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

"""A minute of random faults, as ``lab chaos`` does them."""

from testtools.content import text_content

from tests.integration import base


class ChaosTestCase(base.LabTestCase):

    def test_no_more_harm_than_due(self):
        # Two minutes with the start of all and the time to be well again.
        code, results = self.run_lab('chaos', '--seconds', '60')
        # With the seed, to have the same faults again.
        self.addDetail('chaos', text_content(results.markdown()))
        self.assertEqual(0, code)
        table, = (found for found in results.contents if 'table' in found)
        row = dict(zip(table['columns'], table['rows'][0]))
        self.assertGreater(row['faults'], 5)
        self.assertGreater(row['answered'], 500)
