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

"""The heartbeat of a worker, through its timer, queue and record."""

import time

from oslo_db import exception as db_exc
import sqlalchemy as sa

from nova import context
from nova.db.main import api as main_db_api
from nova import objects
from nova.tests.functional.workers import test_scheduler


class HeartbeatTestCase(test_scheduler.WorkersTestCase):

    REPORT_INTERVAL = 1

    def wait_for_heartbeat(self, worker, after=None):
        """Wait for the record to have a later heartbeat than before.

        :param after: a nova.objects.Service
        :returns: the record as it is then
        """
        for _attempt in range(400):
            record = self.records().get(worker.host)
            if (record is not None and record.last_seen_up and
                    (after is None or record.id != after.id or
                     record.report_count > after.report_count)):
                return record
            time.sleep(0.05)
        self.fail('There was no heartbeat.')

    def test_deleted_record_comes_back(self):
        worker, = self.start_workers(1)
        for _time in range(2):
            before = self.wait_for_heartbeat(worker)
            before.destroy()
            after = self.wait_for_heartbeat(worker, before)
            self.assertNotEqual(before.id, after.id)
            self.assertEqual(before.topic, after.topic)
            self.assertEqual(before.version, after.version)
            # It is the one that heartbeats go into from now on.
            self.assertEqual(
                after.id, self.wait_for_heartbeat(worker, after).id)
        self.assertEqual(2, self.stdlog.logger.output.count(
            'created it again'))

    def test_deadlock_of_the_database(self):
        worker, = self.start_workers(1)
        before = self.wait_for_heartbeat(worker)
        deadlocks = []

        def deadlock_once(conn, cursor, statement, *args):
            if statement.startswith('UPDATE services') and not deadlocks:
                deadlocks.append(statement)
                raise db_exc.DBDeadlock()

        engine = main_db_api.get_engine(context=context.get_admin_context())
        sa.event.listen(engine, 'before_cursor_execute', deadlock_once)
        self.addCleanup(sa.event.remove, engine, 'before_cursor_execute',
                        deadlock_once)
        self.wait_for_heartbeat(worker, before)
        self.assertEqual(1, len(deadlocks))
        # So it was this heartbeat and not the next one.
        self.assertNotIn('while reporting service status',
                         self.stdlog.logger.output)
        self.assertEqual(1, len(objects.ServiceList.get_by_binary(
            self.context, 'nova-scheduler')))
