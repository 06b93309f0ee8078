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

import os
import threading
import time
from unittest import mock

from nova import objects
from nova.scheduler import host_manager
from nova.scheduler import manager as scheduler_manager
from nova.scheduler import refresh
from nova import service
from nova import test


class RefreshBase(test.NoDBTestCase):
    """A SchedulerManager whose host_manager may be stale."""

    def setUp(self):
        super().setUp()
        self.cells = self.useFixture(test.fixtures.MockPatch(
            'nova.objects.CellMappingList.get_all',
            side_effect=lambda context: objects.CellMappingList())).mock
        self.stored = {}
        self.read = self.useFixture(test.fixtures.MockPatch(
            'nova.objects.AggregateList.get_all',
            side_effect=lambda context: list(self.stored.values()))).mock
        self.useFixture(test.fixtures.MockPatchObject(
            host_manager.HostManager, '_init_instance_info'))
        self.store(1, 'a', 'b')
        self.manager = mock.Mock(host_manager=host_manager.HostManager())
        self.manager.host_manager._instance_info = {'a': 'of the parent'}
        self.forked = self.manager.host_manager
        self.read.reset_mock()
        self.cells.reset_mock()
        # What tells that one who reads has ended.
        self.readers = []
        start = refresh._Stale._start
        self.useFixture(test.fixtures.MockPatchObject(
            refresh._Stale, '_start', lambda stale, ended: (
                self.readers.append(ended), start(stale, ended))))
        self.start(age=5)

    def start(self, age):
        """Start a worker so many seconds after the first one."""
        self.manager.host_manager = self.forked
        with mock.patch.object(refresh, '_FORKED', time.monotonic() - age):
            refresh.at_first_use(self.manager)

    def aggregate(self, number, *hosts):
        return objects.Aggregate(id=number, hosts=list(hosts))

    def store(self, number, *hosts):
        """Change an aggregate in the database."""
        self.stored[number] = self.aggregate(number, *hosts)

    def cast(self, number, *hosts):
        self.manager.host_manager.update_aggregates(
            [self.aggregate(number, *hosts)])

    def known(self, host='a'):
        """The aggregates of a host that a request sees."""
        return [aggregate.id for aggregate in
                self.manager.host_manager._get_aggregates_info(host)]

    def assert_read(self, times):
        self.assertEqual(times, self.read.call_count)
        self.assertEqual(times, self.cells.call_count)

    def _hang(self):
        """Let the next one that reads wait for ``go_on``, then read as usual.

        :returns: an event that is set once it waits
        """
        hangs, self.go_on = threading.Event(), threading.Event()
        read = self.read.side_effect

        def hang(context):
            self.read.side_effect = read
            found = read(context)
            hangs.set()
            self.go_on.wait(60)
            return found

        self.read.side_effect = hang
        self.addCleanup(self.go_on.set)
        return hangs

    def patch(self, **values):
        for name, value in values.items():
            self.useFixture(test.fixtures.MockPatchObject(
                refresh, name, value))

    def wait_for_reader(self, number):
        """Wait until that one, of those that have begun to read, has ended."""
        self.assertTrue(self.readers[number - 1].wait(60))

    def _start(self, function, *args):
        thread = threading.Thread(target=function, args=args)
        thread.start()
        self.addCleanup(thread.join, 10)
        return thread


class RefreshTestCase(RefreshBase):
    """What a SchedulerManager finds in its host_manager, and when."""

    def test_not_used(self):
        self.assert_read(0)

    def test_at_first_use(self):
        self.store(2, 'a')
        del self.stored[1]
        self.assertEqual([2], self.known())
        self.assertEqual([2], self.known())
        self.assert_read(1)

    def test_casts_from_then_on(self):
        self.store(2, 'a')
        self.cast(3, 'a')
        self.assertEqual([1, 2, 3], self.known())
        self.manager.host_manager.delete_aggregate(self.aggregate(1))
        self.assertEqual([2, 3], self.known())
        self.assert_read(1)

    def test_several_at_a_time(self):
        hangs = self._hang()
        known = []
        users = [self._start(lambda: known.append(self.known()))
                 for _user in range(3)]
        self.assertTrue(hangs.wait(60))
        self.assertEqual([], known)
        self.go_on.set()
        for user in users:
            user.join(60)
        self.assertEqual([[1]] * 3, known)
        self.assert_read(1)

    def test_one_that_reads_hangs(self):
        self.patch(_PATIENCE=0.1)
        hangs = self._hang()
        # A request uses what the worker knows.
        self.assertEqual([1], self.known())
        self.assertTrue(hangs.wait(60))
        self.store(2, 'a')
        self.assertEqual([1], self.known())
        self.assert_read(1)
        # Nobody waits for the next one.
        self.patch(_AGAIN=0)
        self.known()
        self.wait_for_reader(2)
        self.assertEqual([1, 2], self.known())
        self.cast(3, 'a')
        # What it has read is older than what the others use by now.
        self.go_on.set()
        self.wait_for_reader(1)
        self.assertEqual([1, 2, 3], self.known())
        self.assert_read(2)

    def test_one_that_reads_is_slow(self):
        self.patch(_PATIENCE=0.1)
        self.store(2, 'a')
        self._hang()
        self.assertEqual([1], self.known())
        self.go_on.set()
        self.wait_for_reader(1)
        self.assertEqual([1, 2], self.known())

    def test_cast_while_one_that_is_slow_reads(self):
        self.patch(_PATIENCE=0.1)
        self._hang()
        self.known()
        self.cast(3, 'a')
        # The cast would be lost.
        self.go_on.set()
        self.wait_for_reader(1)
        self.assertEqual([1, 3], self.known())

    def test_cells_are_read_while_one_that_is_slow_reads(self):
        self.patch(_PATIENCE=0.1)
        self._hang()
        self.known()
        # After a SIGHUP.
        self.manager.host_manager.refresh_cells_caches()
        self.go_on.set()
        self.wait_for_reader(1)
        self.assertIs(self.forked, self.manager.host_manager.latest)

    def test_cast_that_has_it_read(self):
        self.patch(_PATIENCE=0.1, _AGAIN=0)
        self._hang()
        self.known()
        self.store(2, 'a')
        self.cast(2, 'a')
        self.wait_for_reader(2)
        self.patch(_AGAIN=60)
        self.assertEqual([1, 2], self.known())
        self.assertIsNot(self.forked, self.manager.host_manager.latest)

    def test_again_after_an_error(self):
        read, self.read.side_effect = (
            self.read.side_effect, test.TestingException)
        self.store(2, 'a')
        # As with stock nova, the worker goes on with what it knows.
        self.cast(3, 'a')
        self.assertEqual([1, 3], self.known())
        self.assert_read(1)
        self.patch(_AGAIN=0)
        self.read.side_effect = read
        self.known()
        self.wait_for_reader(2)
        self.assertEqual([1, 2], self.known())
        self.assert_read(2)

    def test_no_more_threads(self):
        with mock.patch('threading.Thread.start', side_effect=RuntimeError):
            self.assertEqual([1], self.known())
        self.assert_read(0)

    def test_instances_right_after_the_start(self):
        # Each worker would ask for those of each host.
        self.assertEqual({'a': 'of the parent'},
                         self.manager.host_manager._instance_info)

    def test_instances_long_after_the_start(self):
        self.start(age=3600)
        self.assertEqual({}, self.manager.host_manager._instance_info)

    def test_instances_where_nothing_was_forked(self):
        self.manager.host_manager = self.forked
        with mock.patch.object(refresh, '_FORKED', None):
            refresh.at_first_use(self.manager)
        self.test_instances_right_after_the_start()

    def test_first_fork(self):
        # The parent of a large cloud reads for minutes before that.
        found = [time.monotonic()]
        with mock.patch.object(refresh, '_FORKED', None):
            for _fork in range(2):
                if not (pid := os.fork()):
                    os._exit(0)
                os.waitpid(pid, 0)
                found.append(refresh._FORKED)
        self.assertGreaterEqual(found[1], found[0])
        self.assertEqual(found[1], found[2])


class StartTestCase(test.NoDBTestCase):
    """That what is stale is dropped where a process starts."""

    def test_manager(self):
        manager = mock.Mock()
        scheduler_manager.SchedulerManager.pre_start_hook(manager, None)
        self.assertIsInstance(manager.host_manager, refresh._Stale)

    @mock.patch('nova.objects.Service.clear_min_version_cache')
    def test_service(self, clear):
        started = mock.Mock()
        started.basic_config_check.side_effect = test.TestingException
        self.assertRaises(
            test.TestingException, service.Service.start, started)
        clear.assert_called_once_with()
