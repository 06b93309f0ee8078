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

"""What is tested of nova-scheduler's workers, with those of nova-conductor.

Outages, kolla's settings (test_messaging) and stops have both by themselves.
"""

from tests.integration import test_blocked
from tests.integration import test_health
from tests.integration import test_records
from tests.integration import test_replaced
from tests.integration import test_scheduler


class WorkerHostsTestCase(test_scheduler.WorkerHostsTestCase):

    BINARY = 'nova-conductor'


class BlockedTestCase(test_blocked.BlockedTestCase):

    BINARY = 'nova-conductor'


class ReplacedTestCase(test_replaced.ReplacedTestCase):

    BINARY = 'nova-conductor'


class WorkerRecordsTestCase(test_records.WorkerRecordsTestCase):

    BINARY = 'nova-conductor'


class StatesTestCase(test_health.StatesTestCase):

    BINARY = 'nova-conductor'
