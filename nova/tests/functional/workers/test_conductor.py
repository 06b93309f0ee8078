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

from nova.compute import utils as compute_utils
from nova import context
from nova import exception
from nova import objects
from nova.tests import fixtures as nova_fixtures
from nova.tests.functional.workers import test_heartbeat
from nova.tests.functional.workers import test_scheduler


class ConductorWorkersMixin:
    """The same with the workers of nova-conductor."""

    BINARY = 'nova-conductor'
    REQUEST = ('provider_fw_rule_get_all', '3.0')


class WorkerHostsTestCase(ConductorWorkersMixin,
                          test_scheduler.WorkerHostsTestCase):

    def instance(self):
        instance = objects.Instance(
            self.context, user_id='u', project_id='p',
            uuid=test_scheduler.INSTANCE)
        instance.create()
        return instance

    def test_publisher_of_notifications(self):
        self.flags(notification_format='both', group='notifications')
        notifier = self.useFixture(nova_fixtures.NotificationFixture(self))
        worker = self.start_workers(2)[1]
        manager = worker.server.manager.compute_task_mgr
        notifier.reset()
        instance = self.instance()
        # As when there is no host for a server that is rebuilt.
        try:
            raise exception.NoValidHost(reason='')
        except exception.NoValidHost as exc:
            manager._set_vm_state_and_notify(
                self.context, instance.uuid, 'rebuild_server',
                {'vm_state': 'error', 'task_state': None}, exc,
                self.request_spec())
        publishers = {n.publisher_id for n in notifier.notifications}
        self.assertEqual(
            {'compute_task.scheduler-node-1-worker-2'}, publishers)
        self.assertEqual(
            {'nova-conductor:scheduler-node-1-worker-2'},
            {n['publisher_id'] for n in notifier.versioned_notifications})

    def test_host_of_action_events_and_faults(self):
        worker = self.start_workers(2)[1]
        self.assertEqual(
            worker.host, worker.server.manager.compute_task_mgr.host)
        instance = self.instance()
        compute_utils.add_instance_fault_from_exc(
            self.context, instance, exception.NoValidHost(reason=''))
        self.assertEqual(
            worker.host, objects.InstanceFault.get_latest_for_instance(
                context.get_admin_context(), instance.uuid).host)


class HeartbeatTestCase(ConductorWorkersMixin,
                        test_heartbeat.HeartbeatTestCase):
    pass
