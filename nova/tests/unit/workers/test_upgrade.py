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

import datetime
from unittest import mock

import ddt
from oslo_upgradecheck import upgradecheck
from oslo_utils import timeutils

from nova.cmd import status
from nova import context
from nova import exception
from nova import objects
from nova import test
from nova.workers import upgrade

# The longest name that does, and one that does not.
LONGEST = 'n.' * 102 + 'n'
LONG = LONGEST + 'n'


class UpgradeTestCase:

    def check(self):
        """Run it as nova-status does; return the code and the details."""
        function, kwargs = dict(status.UpgradeCommands._upgrade_checks)[
            'Worker hosts']
        result = function(status.UpgradeCommands(), **kwargs)
        return result.code, result.details

    def assertSuccess(self):
        self.assertEqual((upgradecheck.Code.SUCCESS, None), self.check())

    def assertWarning(self, *texts):
        code, details = self.check()
        self.assertEqual(upgradecheck.Code.WARNING, code)
        for text in texts:
            self.assertIn(text, details)
        return details


@ddt.ddt
class ThisNodeTestCase(UpgradeTestCase, test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.results = {}
        self.useFixture(test.fixtures.MockPatch(
            'nova.context.scatter_gather_all_cells',
            side_effect=lambda ctxt, function: self.results))

    @ddt.data('scheduler-node-1', 'k8s-worker-1', LONGEST, '::1')
    def test_success(self, host):
        self.flags(host=host)
        self.assertSuccess()

    def test_settings(self):
        self.flags(host='n', transport_url='fake:///?'
                   'rabbit_qos_prefetch_count=50')
        details = self.assertWarning(
            'transport_url sets rabbit_qos_prefetch_count to 50: ')
        self.assertNotIn('[DEFAULT] host', details)

    @ddt.data('amqp_durable_queues', 'rabbit_quorum_queue')
    def test_queues_that_are_not_durable(self, option):
        self.flags(host='n', transport_url='rabbit://')
        self.assertWarning('The queues of RabbitMQ are not durable')
        self.flags(**{option: True}, group='oslo_messaging_rabbit')
        self.assertSuccess()

    def test_url_with_durable_queues(self):
        self.flags(host='n', transport_url='rabbit:///?'
                   'amqp_durable_queues=true')
        self.assertSuccess()

    def test_url_that_is_not_valid(self):
        self.flags(host='n', transport_url='rabbit://[')
        self.assertSuccess()

    @ddt.data(1, 2)
    def test_settings_that_do(self, prefetch):
        self.flags(host='n', transport_url='fake:///?'
                   f'rabbit_qos_prefetch_count={prefetch}')
        self.assertSuccess()

    def test_too_long(self):
        self.flags(host=LONG)
        details = self.assertWarning(
            'nova-scheduler would not start on this node: [DEFAULT] host has '
            '206 bytes', 'nova-conductor would not start on this node: ',
            'Set another [DEFAULT] host')
        self.assertNotIn('these names', details)

    def test_too_long_without_worker_hosts(self):
        self.flags(host=LONG)
        self.results = {'up': [('nova-scheduler', LONG, None)]}
        self.flags(worker_hosts=False, group='scheduler')
        self.assertNotIn('nova-scheduler', self.assertWarning(
            'nova-conductor would not start on this node: '))

    def test_not_valid(self):
        with mock.patch.object(upgrade, 'CONF') as conf:
            type(conf).host = mock.PropertyMock(
                side_effect=ValueError('it is not valid'))
            self.assertWarning('not start on this node: it is not valid.')

    def test_option_that_is_not_valid(self):
        with mock.patch.object(upgrade, 'CONF') as conf:
            conf.host = 'n'
            type(conf.__getitem__.return_value).worker_hosts = (
                mock.PropertyMock(side_effect=ValueError('no boolean')))
            self.assertWarning('nova-scheduler would not start on this node: '
                               'no boolean.')

    def test_cells_that_do_not_answer(self):
        self.results = {'down': context.did_not_respond_sentinel,
                        'broken': exception.NovaException(),
                        'up': [('nova-conductor', LONG, None),
                               ('nova-scheduler', 'n', None)]}
        details = self.assertWarning(f'its workers: {LONG}. Set')
        self.assertNotIn('nova-scheduler', details)


class RecordsTestCase(UpgradeTestCase, test.TestCase):

    def record(self, host, binary='nova-scheduler', cell='cell1', seen=0):
        with context.target_cell(context.get_admin_context(),
                                 self.cell_mappings[cell]) as cctxt:
            record = objects.Service(
                cctxt, host=host, binary=binary, topic=binary[5:],
                last_seen_up=timeutils.utcnow() -
                datetime.timedelta(seconds=seen))
            record.create()
        return record

    def test_none(self):
        self.assertSuccess()

    def test_success(self):
        self.record(LONGEST, seen=3600)
        # The worker of a node whose name is as long as it may be.
        self.record(LONGEST + '-worker-1')
        self.assertSuccess()

    def test_too_long(self):
        self.record(LONG, cell='cell0')
        self.record('n')
        self.record('a' * 206)
        details = self.assertWarning(
            f'its workers: {"a" * 206}, {LONG}. Set another')
        self.assertNotIn('this node', details)

    def test_same_name_twice(self):
        self.record(LONG, cell='cell0')
        self.record(LONG)
        self.assertWarning(f'its workers: {LONG}. Set')

    def test_name_clashes(self):
        for host in ('n1', 'n1-worker-1', 'n1-worker-12', 'k8s-worker-1'):
            self.record(host)
        self.assertWarning('n1 and n1-worker-1, n1 and n1-worker-12. Set')

    def test_cells_do_not_clash(self):
        # Each has a message broker and a database of its own.
        self.record('n1', 'nova-conductor')
        self.record('n1-worker-1', 'nova-conductor', cell='cell0')
        self.assertSuccess()
        self.record('n1-worker-1', 'nova-conductor')
        # Nor does an old record there hide a clash here.
        self.record('n1', 'nova-conductor', cell='cell0', seen=3600)
        self.assertWarning('n1 and n1-worker-1. Set')

    def test_upgrade_of_the_node_under_way(self):
        # Its own record is not written any more.
        self.record('n1', seen=35)
        self.record('n1-worker-1')
        self.assertSuccess()

    def test_workers_of_the_other_binary_are_no_clash(self):
        self.record('n1')
        self.record('n1-worker-1', 'nova-conductor')
        self.assertSuccess()

    def test_others(self):
        self.record(LONG, 'nova-compute')
        self.record(LONG).destroy()
        self.assertSuccess()
