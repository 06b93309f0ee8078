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

from unittest import mock

from nova.scheduler import refresh
from nova import test


class RefreshTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.host_manager = mock.Mock(
            aggs_by_id={1: 'deleted'}, host_aggregates_map={'host': {1}},
            _instance_info={'host': 'instances'})

    def refresh(self, age):
        with mock.patch.object(refresh.time, 'monotonic',
                               return_value=refresh._READ + age):
            refresh.refresh(self.host_manager)

    def test_right_after_the_start(self):
        self.refresh(5)
        self.assertEqual({}, self.host_manager.aggs_by_id)
        self.assertEqual({}, self.host_manager.host_aggregates_map)
        self.host_manager._init_aggregates.assert_called_once_with()
        self.host_manager.refresh_cells_caches.assert_called_once_with()
        # Each worker would ask for those of each host.
        self.assertEqual({'host': 'instances'},
                         self.host_manager._instance_info)

    def test_long_after_the_start(self):
        self.refresh(3600)
        self.assertEqual({}, self.host_manager._instance_info)
        self.host_manager._init_instance_info.assert_not_called()
