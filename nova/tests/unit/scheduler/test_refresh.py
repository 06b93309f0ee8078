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
import time
from unittest import mock

from nova.scheduler import refresh
from nova import test


class RefreshTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.host_manager = mock.Mock(
            aggs_by_id={1: 'deleted'}, host_aggregates_map={'host': {1}},
            _instance_info={'host': 'instances'})
        self.manager = mock.Mock(host_manager=self.host_manager)
        refresh.at_first_use(self.manager)

    def use(self, age=5):
        with mock.patch.object(refresh, '_READ', time.monotonic() - age):
            self.manager.host_manager.update_aggregates('aggregates')

    def assert_read(self, times):
        for read in (self.host_manager._init_aggregates,
                     self.host_manager.refresh_cells_caches):
            self.assertEqual([mock.call()] * times, read.mock_calls)

    def test_not_used(self):
        self.assert_read(0)

    def test_right_after_the_start(self):
        def updated(aggregates):
            self.assert_read(1)
            self.assertEqual({}, self.host_manager.aggs_by_id)
            self.assertEqual({}, self.host_manager.host_aggregates_map)

        self.host_manager.update_aggregates.side_effect = updated
        self.use()
        self.host_manager.update_aggregates.assert_called_once_with(
            'aggregates')
        # Each worker would ask for those of each host.
        self.assertEqual({'host': 'instances'},
                         self.host_manager._instance_info)

    def test_once(self):
        early = self.manager.host_manager
        self.use()
        self.use()
        # What somebody still holds does not read again either.
        early.delete_aggregate('aggregate')
        self.assert_read(1)
        self.assertIs(self.host_manager, self.manager.host_manager)

    def test_several_at_a_time(self):
        reading, go_on = threading.Event(), threading.Event()

        def read():
            reading.set()
            go_on.wait(10)

        self.host_manager._init_aggregates.side_effect = read
        users = [threading.Thread(target=self.use) for _ in range(2)]
        users[0].start()
        self.assertTrue(reading.wait(10))
        users[1].start()
        self.host_manager.update_aggregates.assert_not_called()
        go_on.set()
        for user in users:
            user.join(10)
        self.assert_read(1)
        self.assertEqual(2, self.host_manager.update_aggregates.call_count)

    def test_again_after_an_error(self):
        self.host_manager._init_aggregates.side_effect = [
            ValueError('away'), None]
        self.assertRaises(ValueError, self.use)
        self.host_manager.update_aggregates.assert_not_called()
        self.use()
        self.assert_read(2)
        self.host_manager.update_aggregates.assert_called_once_with(
            'aggregates')

    def test_long_after_the_start(self):
        self.use(age=3600)
        self.assertEqual({}, self.host_manager._instance_info)
        self.host_manager._init_instance_info.assert_not_called()
