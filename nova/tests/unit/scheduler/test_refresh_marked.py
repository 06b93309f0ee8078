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
from nova.tests.unit.scheduler import test_refresh


class MarkedTestCase(test_refresh.RefreshBase):
    """The same after a worker that may have missed casts was marked."""

    def test_not_used(self):
        refresh.mark_stale(self.manager)
        self.assert_read(0)

    def test_marked(self):
        self.assertEqual([1], self.known())
        for number in (2, 3):
            self.store(number, 'a')
            refresh.mark_stale(self.manager)
            self.assertEqual(list(range(1, number + 1)), self.known())
        refresh.mark_stale(self.manager)
        refresh.mark_stale(self.manager)
        self.assert_read(3)
        self.assertEqual([1, 2, 3], self.known())
        self.assert_read(4)

    def test_request_that_runs_meanwhile(self):
        aggregates = self.manager.host_manager.aggs_by_id
        before = self.manager.host_manager._get_aggregates_info
        self.store(2, 'a')
        del self.stored[1]
        refresh.mark_stale(self.manager)
        self.assertEqual([2], self.known())
        # It does not find an aggregate of a host missing.
        self.assertEqual([1], [found.id for found in before('a')])
        self.assertEqual([1], list(aggregates))

    def test_nothing_old_is_kept(self):
        self.known()
        refresh.mark_stale(self.manager)
        self.known()
        self.assertIsNot(self.forked, self.manager.host_manager.latest)
        self.assertEqual({1: self.stored[1]},
                         self.manager.host_manager.aggs_by_id)

    def test_marked_while_one_reads(self):
        hangs = self._hang()
        user = self._start(self.known)
        self.assertTrue(hangs.wait(60))
        self.store(2, 'a')
        refresh.mark_stale(self.manager)
        self.go_on.set()
        user.join(60)
        self.assertEqual([1, 2], self.known())
        self.assert_read(2)

    def test_instances_stay(self):
        # To read those of all hosts again would slow down requests.
        self.known()
        known = self.manager.host_manager.latest._instance_info = {'b': {}}
        refresh.mark_stale(self.manager)
        self.known()
        self.assertIs(known, self.manager.host_manager._instance_info)

    def test_instances_of_the_parent(self):
        # They are old, and are dropped at the first use all the same.
        self.start(age=3600)
        refresh.mark_stale(self.manager)
        self.known()
        self.assertEqual({}, self.manager.host_manager._instance_info)

    def test_manager_of_another_service(self):
        manager = mock.Mock(spec=['host'])
        refresh.mark_stale(manager)
        self.assertFalse(hasattr(manager, 'host_manager'))
