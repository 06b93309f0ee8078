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

from unittest import mock

from nova import context
from nova import objects
from nova.scheduler import leader
from nova import test

INTERVAL = 300


class ElectTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.flags(discover_hosts_in_cells_interval=INTERVAL,
                   group='scheduler')
        self.context = context.get_admin_context()
        self.now = self.useFixture(test.fixtures.MockPatch(
            'time.time', return_value=0)).mock
        self.records = self.useFixture(test.fixtures.MockPatch(
            'nova.objects.ServiceList.get_by_binary',
            return_value=[])).mock
        self.down = set()
        self.servicegroup_api = mock.Mock()
        self.servicegroup_api.service_is_up.side_effect = (
            lambda record: record.host not in self.down)

    def _services(self, *hosts):
        self.records.return_value = [
            objects.Service(host=host) for host in hosts]

    def _elect(self):
        return leader.elect(self.context, self.servicegroup_api)

    def _intervals(self, number):
        """Those elected in as many intervals, one after the other."""
        elected = []
        for _interval in range(number):
            elected.append(self._elect())
            self.now.return_value += INTERVAL
        return elected

    def test_first_leads(self):
        self._services('b', 'a', 'c')
        self.assertEqual({'a'}, {host for host, _ in self._intervals(10)})
        self.records.assert_called_with(self.context, 'nova-scheduler')

    def test_each_is_deputy_for_an_interval(self):
        self._services('b', 'a', 'c')
        self.assertEqual(['a', 'b', 'c'] * 3,
                         [host for _, host in self._intervals(9)])

    def test_same_for_the_whole_interval(self):
        self._services('a', 'b')
        for now, deputy in ((0, 'a'), (299, 'a'), (300, 'b'), (599.9, 'b')):
            self.now.return_value = now
            self.assertEqual(('a', deputy), self._elect())

    def test_down(self):
        self._services('a', 'b', 'c')
        self.down.add('a')
        self.assertEqual([('b', 'b'), ('b', 'c')] * 2, self._intervals(4))

    def test_all_down(self):
        self._services('b', 'a')
        self.down.update('ab')
        self.assertEqual([('a', 'a'), ('a', 'b')], self._intervals(2))

    def test_no_records(self):
        self.assertEqual((None, None), self._elect())

    def test_no_interval(self):
        # The task does not run then, but for tests.
        self.flags(discover_hosts_in_cells_interval=-1, group='scheduler')
        self._services('a', 'b')
        self.assertEqual(('a', 'a'), self._elect())
