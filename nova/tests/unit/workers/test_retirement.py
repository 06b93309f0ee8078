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

import ddt
from oslo_service import loopingcall

from nova import context
from nova import exception
from nova import objects
from nova import test
from nova.workers import retirement


@ddt.ddt
class RetirementTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.context = context.get_admin_context()
        self.records = []
        self.own = objects.Service(
            id=99, host='x', binary='nova-scheduler', forced_down=False)
        self.up = {'x'}
        self.destroyed = []
        self.get_by_binary = self.useFixture(test.fixtures.MockPatch(
            'nova.objects.ServiceList.get_by_binary',
            side_effect=self._get_by_binary)).mock
        self.useFixture(test.fixtures.MockPatch(
            'nova.objects.ServiceList.get_by_host',
            side_effect=lambda ctxt, host: [
                r for r in self.records if r.host == host]))
        self.useFixture(test.fixtures.MonkeyPatch(
            'nova.objects.Service.destroy', self._destroy))
        self.get_by_id = self.useFixture(test.fixtures.MockPatch(
            'nova.objects.Service.get_by_id',
            side_effect=self._get_by_id)).mock
        self.mapped = set()
        self.flags(connection='sqlite://', group='api_database')
        self.useFixture(test.fixtures.MockPatch(
            'nova.objects.HostMapping.get_by_host',
            side_effect=self._get_mapping))
        api = self.useFixture(test.fixtures.MockPatchObject(
            retirement.servicegroup, 'API')).mock
        api.return_value.service_is_up.side_effect = (
            lambda record: record.host in self.up)

    def _get_by_binary(self, ctxt, binary, include_disabled):
        self.assertTrue(include_disabled)
        return [self.own] + [r for r in self.records if r.binary == binary]

    def _get_by_id(self, ctxt, record_id):
        for record in self.records:
            if record.id == record_id:
                return record
        raise exception.ServiceNotFound(service_id=record_id)

    def _get_mapping(self, ctxt, host):
        if host not in self.mapped:
            raise exception.HostMappingNotFound(name=host)

    def _destroy(self, record):
        if record not in self.records:
            raise exception.ServiceNotFound(service_id=record.id)
        self.records.remove(record)
        self.destroyed.append(record.host)

    def record(self, host, binary='nova-scheduler', up=False,
               forced_down=False):
        self.records.append(objects.Service(
            id=len(self.records) + 1, host=host, binary=binary,
            forced_down=forced_down))
        if up:
            self.up.add(host)

    def retire(self, node='n', workers=2):
        self.server = mock.Mock(binary='nova-scheduler', host='x')
        retired = retirement.Retirement(self.server, node, workers)
        self.assertEqual(['x'], retired.retire(self.context))
        return retired.retire(self.context)

    def test_the_record_of_before_the_upgrade(self):
        for host in ('n', 'n-worker-1', 'n-worker-2'):
            self.record(host)
        self.assertEqual([], self.retire())
        self.assertEqual(['n'], self.destroyed)
        self.assertEqual(1, self.stdlog.logger.output.count('Retired n: '))

    def test_after_a_scale_down(self):
        for number in range(1, 12):
            self.record(f'n-worker-{number}')
        self.assertEqual([], self.retire())
        self.assertEqual([f'n-worker-{number}' for number in range(3, 12)],
                         self.destroyed)

    def test_never_while_it_is_up(self):
        self.record('n', up=True)
        self.record('n-worker-3', up=True)
        self.assertEqual(['n', 'n-worker-3'], self.retire())
        self.assertEqual([], self.destroyed)
        self.up = {'x'}
        self.assertEqual([], self.retire())
        self.assertEqual(['n', 'n-worker-3'], self.destroyed)

    def test_own_record_is_forced_down(self):
        # So it tells nothing.
        self.record('n-worker-3')
        self.up.clear()
        self.own.forced_down = True
        server = mock.Mock(binary='nova-scheduler', host='x')
        retired = retirement.Retirement(server, 'n', 2)
        for _look in range(3):
            self.assertEqual(['x'], retired.retire(self.context))
        self.assertEqual([], self.destroyed)

    def test_after_an_outage(self):
        self.record('n-worker-3')
        self.up.clear()
        server = mock.Mock(binary='nova-scheduler', host='x')
        retired = retirement.Retirement(server, 'n', 2)
        for _look in range(2):
            self.assertEqual(['x'], retired.retire(self.context))
        # It is up first; another one may be so in a moment.
        self.up.add('x')
        self.assertEqual(['x'], retired.retire(self.context))
        self.assertEqual([], self.destroyed)
        self.assertEqual([], retired.retire(self.context))
        self.assertEqual(['n-worker-3'], self.destroyed)

    def test_compute_of_another_cell(self):
        # Its node has no other service in the database of this one.
        self.record('n-worker-3')
        self.mapped.add('n-worker-3')
        self.assertEqual([], self.retire())
        self.assertEqual([], self.destroyed)

    def test_up_since_it_was_read(self):
        self.record('n-worker-3')
        now = objects.Service(id=1, host='y', forced_down=False)
        self.up.add('y')
        self.get_by_id.side_effect = [now]
        self.assertEqual(['n-worker-3'], self.retire())
        self.assertEqual([], self.destroyed)

    def test_no_api_database(self):
        # As of the conductor of a cell.
        self.flags(connection=None, group='api_database')
        self.mapped.add('n-worker-3')
        self.record('n-worker-3')
        self.assertEqual([], self.retire())
        self.assertEqual(['n-worker-3'], self.destroyed)

    def test_forced_down_is_not_down(self):
        self.record('n', forced_down=True)
        self.assertEqual(['n'], self.retire())

    @ddt.data('n1', 'n-worker-1', 'n-worker-2', 'm', 'm-worker-3',
              'n1-worker-3', 'n-worker-03', 'n-worker-3x', 'n-worker-',
              'x-n-worker-3', 'n-worker-1-worker-3', 'N-worker-3')
    def test_not_ours_or_not_gone(self, host):
        self.record(host)
        self.assertEqual([], self.retire())
        self.assertEqual([], self.destroyed)

    def test_other_binary(self):
        self.record('n', binary='nova-conductor')
        self.record('n-worker-3', binary='nova-conductor')
        self.assertEqual([], self.retire())
        self.assertEqual([], self.destroyed)

    def test_node_that_is_named_like_a_worker_has_workers(self):
        # k8s-worker-9 is not worker 9 of k8s, but the stock record of a node.
        for host in ('k8s-worker-9', 'k8s-worker-9-worker-1',
                     'k8s-worker-8'):
            self.record(host)
        self.assertEqual([], self.retire('k8s'))
        self.assertEqual(['k8s-worker-8'], self.destroyed)

    def test_node_that_is_named_like_a_worker_has_other_services(self):
        self.record('k8s-worker-9')
        self.record('k8s-worker-9', binary='nova-compute')
        self.assertEqual([], self.retire('k8s'))
        self.assertEqual([], self.destroyed)

    def test_worker_of_another_binary_makes_no_node(self):
        # Or each would keep the other's for ever.
        self.record('n-worker-3')
        self.record('n-worker-3', binary='nova-conductor')
        self.assertEqual([], self.retire())
        self.assertEqual(['n-worker-3'], self.destroyed)
        self.assertEqual(['nova-conductor'],
                         [record.binary for record in self.records])

    def test_node_has_workers_of_another_binary(self):
        self.record('k8s-worker-9')
        self.record('k8s-worker-9-worker-1', binary='nova-conductor')
        self.assertEqual([], self.retire('k8s'))
        self.assertEqual([], self.destroyed)

    def test_own_node_has_other_services(self):
        self.record('n')
        self.record('n', binary='nova-conductor')
        self.retire()
        self.assertEqual(['n'], self.destroyed)

    def test_another_was_faster(self):
        self.record('n')
        self.record('n-worker-3')
        records = [self.own, *self.records]
        self.get_by_binary.side_effect = None
        self.get_by_binary.return_value = records
        for _worker in range(2):
            self.assertEqual([], self.retire())
        self.assertEqual(['n', 'n-worker-3'], self.destroyed)
        self.assertEqual(2, self.stdlog.logger.output.count('Retired'))

    def test_looked_at_until_nothing_is_left(self):
        self.flags(service_down_time=60)
        server = mock.Mock(binary='nova-scheduler', host='x')
        retire = retirement.Retirement(server, 'n', 2)
        retire.start()
        server.tg.add_timer_args.assert_called_once_with(60, retire._run)
        self.record('n', up=True)
        retire._run()
        retire._run()
        self.up = {'x'}
        self.assertRaises(loopingcall.LoopingCallDone, retire._run)

    def test_error_is_no_end(self):
        retire = retirement.Retirement(
            mock.Mock(binary='nova-scheduler'), 'n', 2)
        with mock.patch.object(retire, 'retire',
                               side_effect=test.TestingException):
            retire._run()
        self.assertIn('Unexpected error', self.stdlog.logger.output)
