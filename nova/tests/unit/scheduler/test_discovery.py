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
from nova.scheduler import manager
from nova import test


class DiscoveryTestCase(test.NoDBTestCase):

    @mock.patch('nova.scheduler.client.report.report_client_singleton')
    @mock.patch('nova.scheduler.host_manager.HostManager')
    @mock.patch('nova.objects.ServiceList.get_by_binary')
    @mock.patch('nova.objects.host_mapping.discover_hosts')
    def test_while_all_are_down(self, discover, get_by_binary, *_mocks):
        # As after a restart of the cloud. The first one may be gone for good.
        get_by_binary.return_value = [
            objects.Service(host=host, forced_down=True) for host in 'ab']
        self.flags(host='b')
        scheduler = manager.SchedulerManager()
        scheduler._discover_hosts_in_cells(context.get_admin_context())
        discover.assert_called_once()
