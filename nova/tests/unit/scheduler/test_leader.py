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

from oslo_utils import timeutils

from nova import context
from nova import objects
from nova.scheduler import leader
from nova import test


class LeaderTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.context = context.get_admin_context()
        self.records = {}
        self.up = set()
        self.get_by_binary = self.useFixture(test.fixtures.MockPatch(
            'nova.objects.ServiceList.get_by_binary',
            side_effect=self._get_by_binary)).mock
        self.get_one = self.useFixture(test.fixtures.MockPatch(
            'nova.objects.Service.get_by_host_and_binary',
            side_effect=self._get_one)).mock
        self.servicegroup_api = mock.Mock()
        self.servicegroup_api.service_is_up.side_effect = (
            lambda record: record.host in self.up)

    def _get_by_binary(self, context, binary):
        self.assertEqual('nova-scheduler', binary)
        return [record for record in self.records.values()
                if not record.disabled]

    def _get_one(self, context, host, binary):
        self.assertEqual('nova-scheduler', binary)
        return self.records.get(host)

    def _record(self, host, up=True, seen=0, created=0, disabled=False):
        now = timeutils.utcnow()
        self.records[host] = objects.Service(
            host=host, disabled=disabled,
            created_at=now - datetime.timedelta(seconds=created),
            last_seen_up=now - datetime.timedelta(seconds=seen)
            if seen is not None else None)
        if up:
            self.up.add(host)

    def _elections(self, *hosts):
        """An elector and its host for each of the workers."""
        return [(leader.Leader('nova-scheduler', self.servicegroup_api), host)
                for host in hosts]

    def _elect(self, elections):
        """The workers that lead after a round."""
        return [host for election, host in elections
                if election.elect(self.context, host) == host]

    def test_first_of_those_that_are_up(self):
        self._record('a', up=False)
        self._record('b')
        self._record('c')
        workers = self._elections('b', 'c')
        self.assertEqual(['b'], self._elect(workers))
        self.assertEqual(['b'], self._elect(workers))

    def test_disabled_does_not_lead(self):
        self._record('a', disabled=True)
        self._record('b')
        self.assertEqual(['b'], self._elect(self._elections('a', 'b')))

    def test_leader_that_gets_disabled_is_followed_no_longer(self):
        self._record('a')
        self._record('b')
        workers = self._elections('a', 'b')
        self.assertEqual(['a'], self._elect(workers))
        self.records['a'].disabled = True
        self.assertEqual(['b'], self._elect(workers))

    def test_follower_reads_one_record(self):
        self._record('a')
        self._record('b')
        follower, = self._elections('b')
        self.assertEqual([], self._elect([follower]))
        self.get_by_binary.reset_mock()
        self.assertEqual([], self._elect([follower]))
        self.get_by_binary.assert_not_called()
        self.get_one.assert_called_once_with(
            self.context, 'a', 'nova-scheduler')

    def test_others_of_a_node_look_at_its_first_worker(self):
        for host in ('n-worker-1', 'n-worker-2', 'n-worker-10', 'a-worker-1'):
            self._record(host)
        self.assertEqual([], self._elect(
            self._elections('n-worker-2', 'n-worker-10')))
        self.get_by_binary.assert_not_called()
        self.assertEqual(
            [mock.call(self.context, 'n-worker-1', 'nova-scheduler')] * 2,
            self.get_one.call_args_list)

    def test_first_worker_of_the_node_is_down(self):
        self._record('n-worker-1', up=False)
        self._record('n-worker-2')
        self._record('n-worker-3')
        workers = self._elections('n-worker-2', 'n-worker-3')
        for _round in range(2):
            self.assertEqual(['n-worker-2'], self._elect(workers))
        self.up.add('n-worker-1')
        workers += self._elections('n-worker-1')
        for _round in range(2):
            self.assertEqual(['n-worker-1'], self._elect(workers))

    def test_leader_changes(self):
        for host in ('a-worker-1', 'n-worker-1', 'n-worker-2'):
            self._record(host)
        workers = self._elections('n-worker-1', 'n-worker-2')
        self.assertEqual([], self._elect(workers))
        self.up.remove('a-worker-1')
        self.get_by_binary.reset_mock()
        self.assertEqual(['n-worker-1'], self._elect(workers))
        # Only by the one that has to know.
        self.get_by_binary.assert_called_once()

    def test_another_takes_over_and_the_first_comes_back(self):
        for host in 'abc':
            self._record(host)
        workers = self._elections('a', 'b', 'c')
        self.assertEqual(['a'], self._elect(workers))
        self.up.remove('a')
        # The old leader is stuck, or sees that it is taken for dead.
        self.assertEqual(['b'], self._elect(workers[1:]))
        self.assertEqual(['b'], self._elect(workers))
        # All know b. It is a that leads from now on, and only a.
        self.up.add('a')
        for _round in range(2):
            self.assertEqual(['a'], self._elect(workers))

    def test_newcomer_that_comes_first(self):
        self._record('b')
        self._record('c')
        workers = self._elections('b', 'c')
        self.assertEqual(['b'], self._elect(workers))
        self._record('a')
        workers += self._elections('a')
        for _round in range(2):
            self.assertEqual(['a'], self._elect(workers))

    def test_record_of_the_leader_is_deleted(self):
        self._record('a')
        self._record('b')
        workers = self._elections('b')
        self.assertEqual([], self._elect(workers))
        del self.records['a']
        self.assertEqual(['b'], self._elect(workers))

    def test_all_stale_elects_the_one_seen_last(self):
        self._record('a', up=False, seen=90000)
        self._record('b', up=False, seen=3600)
        self._record('c', up=False, seen=3700)
        self._record('d', up=False, seen=None, created=100000)
        self.assertEqual(['b'], self._elect(self._elections(*'abcd')))

    def test_all_stale_and_seen_at_once_elects_the_first(self):
        self.useFixture(test.fixtures.MockPatch(
            'oslo_utils.timeutils.utcnow',
            return_value=datetime.datetime(2026, 1, 1)))
        for host in 'cab':
            self._record(host, up=False, seen=3600)
        self.assertEqual(['a'], self._elect(self._elections(*'abc')))

    def test_no_records(self):
        self.assertEqual([], self._elect(self._elections('a')))
