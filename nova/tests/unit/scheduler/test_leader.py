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

import threading
from unittest import mock

from nova import context
from nova import objects
from nova.scheduler import leader
from nova.scheduler import manager
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
        return leader.elect(self.context, 'b', self.servicegroup_api)

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

    def test_each_other_one_is_deputy_for_an_interval(self):
        self._services('b', 'a', 'c')
        self.assertEqual(['b', 'c'] * 3,
                         [host for _, host in self._intervals(6)])

    def test_one_other_is_always_deputy(self):
        self._services('b', 'a')
        self.assertEqual([('a', 'b')] * 3, self._intervals(3))

    def test_same_for_the_whole_interval(self):
        self._services('a', 'b', 'c')
        for now, deputy in ((0, 'b'), (299, 'b'), (300, 'c'), (599.9, 'c')):
            self.now.return_value = now
            self.assertEqual(('a', deputy), self._elect())

    def test_down(self):
        self._services('a', 'b', 'c')
        self.down.add('a')
        self.assertEqual([('b', 'c')] * 2, self._intervals(2))

    def test_all_down(self):
        # One of them may be gone for good.
        self._services('b', 'a')
        self.down.update('ab')
        self.assertEqual(('b', 'b'), self._elect())

    def test_no_records(self):
        self.assertEqual(('b', 'b'), self._elect())

    def test_interval_of_oslo_service(self):
        self.flags(discover_hosts_in_cells_interval=0, group='scheduler')
        self._services('a', 'b', 'c')
        for now, deputy in ((0, 'b'), (59, 'b'), (60, 'c'), (119, 'c')):
            self.now.return_value = now
            self.assertEqual(('a', deputy), self._elect())


class DiscoverTestCase(test.NoDBTestCase):

    def test_leader_and_deputy(self):
        for name in ('scheduler.client.report.report_client_singleton',
                     'scheduler.host_manager.HostManager'):
            self.useFixture(test.fixtures.MockPatch(f'nova.{name}'))
        self.useFixture(test.fixtures.MockPatchObject(
            leader, 'elect', return_value=('a', 'c')))
        watch = self.useFixture(test.fixtures.MockPatchObject(
            leader, 'watch')).mock
        scheduler = manager.SchedulerManager()
        discovered = []
        self.useFixture(test.fixtures.MockPatch(
            'nova.objects.host_mapping.discover_hosts',
            lambda ctxt: discovered.append(scheduler.host)))
        for scheduler.host in 'abc':
            scheduler._discover_hosts_in_cells(context.get_admin_context())
        self.assertEqual(['a', 'c'], discovered)
        self.assertEqual([mock.call('a'), mock.call('c')],
                         watch.call_args_list)


class WatchTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.warned = threading.Event()
        self.useFixture(test.fixtures.MockPatchObject(
            leader.LOG, 'warning', side_effect=self._warn))
        self.timers = []
        timer = threading.Timer
        self.useFixture(test.fixtures.MockPatchObject(
            threading, 'Timer', side_effect=lambda *args: (
                self.timers.append(timer(*args)) or self.timers[0])))

    def _warn(self, message, values):
        self.message = message % values
        self.warned.set()

    def test_hangs(self):
        self.flags(service_down_time=0)
        with leader.watch('a'):
            self.assertTrue(self.warned.wait(60))
        self.assertIn('The discovery of hosts on a has not ended after 0 '
                      'seconds', self.message)

    def assertEnded(self):
        timer, = self.timers
        timer.join(60)
        self.assertFalse(timer.is_alive())
        self.assertFalse(self.warned.is_set())

    def test_ends(self):
        self.flags(service_down_time=3600)
        with leader.watch('a'):
            self.assertTrue(self.timers[0].is_alive())
            # It must not keep a process that stops.
            self.assertTrue(self.timers[0].daemon)
        self.assertEnded()

    def test_fails(self):
        self.flags(service_down_time=3600)

        def fail():
            with leader.watch('a'):
                raise test.TestingException

        self.assertRaises(test.TestingException, fail)
        self.assertEnded()
