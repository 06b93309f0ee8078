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

import datetime
import itertools
from unittest import mock

import ddt
from oslo_utils import timeutils

from nova import context
from nova import objects
from nova import test
from nova.workers import name_clash


@ddt.ddt
class NameClashTestCase(test.TestCase):

    def setUp(self):
        super().setUp()
        # The database driver sleeps too.
        time = self.useFixture(test.fixtures.MockPatchObject(
            name_clash, 'time')).mock
        self.sleep = time.sleep
        time.monotonic.side_effect = itertools.count()
        self.flags(report_interval=10)

    def add(self, host, seen=0, binary='nova-scheduler'):
        now = timeutils.utcnow()
        record = objects.Service(
            context.get_admin_context(), host=host, binary=binary,
            topic=binary[5:], report_count=0,
            last_seen_up=now - datetime.timedelta(seconds=seen))
        record.create()
        return record

    def check(self, node, workers=3):
        name_clash.check('nova-scheduler', node, workers)

    def test_alone(self):
        self.check('n1')
        self.check('n1-worker-1')
        self.sleep.assert_not_called()

    def test_own_workers_are_up(self):
        # It has just been stopped.
        self.add('n1-worker-1')
        self.add('n1-worker-2')
        self.check('n1')
        self.sleep.assert_not_called()

    def test_node_that_is_called_like_a_worker_of_this_one(self):
        self.add('n1-worker-2-worker-5')
        exc = self.assertRaises(ValueError, self.check, 'n1')
        self.assertIn('[DEFAULT] host is n1, but node n1-worker-2',
                      str(exc))
        # With so few workers it is not.
        self.check('n1', 1)
        self.check('n')

    @ddt.data({'seen': 3600}, {'binary': 'nova-conductor'})
    def test_that_is_not_there(self, record):
        self.add('n1-worker-2-worker-5', **record)
        self.check('n1')

    def test_node_that_is_called_like_a_live_worker(self):
        record = self.add('n1-worker-2')
        # Its worker goes on writing heartbeats.
        self.sleep.side_effect = lambda seconds: self.beat(record)
        exc = self.assertRaises(ValueError, self.check, 'n1-worker-2')
        self.assertIn('[DEFAULT] host is n1-worker-2, but that is the name of '
                      'worker 2 of nova-scheduler on node n1', str(exc))

    def test_node_without_worker_hosts_that_is_called_like_a_worker(self):
        record = self.add('n1-worker-2')
        # This shows that it is not the record of a worker of this node.
        self.add('n1-worker-2', binary='nova-compute')
        self.sleep.side_effect = lambda seconds: self.beat(record)
        exc = self.assertRaises(ValueError, self.check, 'n1')
        self.assertIn('[DEFAULT] host is n1, but node n1-worker-2, whose '
                      'nova-scheduler is up', str(exc))
        # With so few workers it is not called like one.
        self.check('n1', 1)

    def test_compute_that_is_called_like_a_worker(self):
        self.add('n1-worker-2')
        self.add('n1-worker-2', binary='nova-compute')
        # The workers of this node have just been stopped.
        self.check('n1')
        self.sleep.assert_called()

    @staticmethod
    def beat(record):
        record.report_count += 1
        with mock.patch.object(
                timeutils, 'utcnow', return_value=timeutils.utcnow() +
                datetime.timedelta(seconds=5)):
            record.save()

    def test_own_record_from_before_the_upgrade(self):
        # Nobody writes it any more, though it is up for a while.
        self.add('k8s-worker-2')
        self.check('k8s-worker-2')
        self.sleep.assert_called()

    def test_own_record_is_removed_meanwhile(self):
        record = self.add('k8s-worker-2')
        self.sleep.side_effect = lambda seconds: record.destroy()
        self.check('k8s-worker-2')
        self.sleep.assert_called_once()
