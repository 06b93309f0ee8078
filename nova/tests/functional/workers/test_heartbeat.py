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
from nova import servicegroup
from nova.tests.functional.workers import test_scheduler


class HeartbeatTestCase(test_scheduler.WorkersTestCase):

    def beat(self, worker):
        """Have a worker write its heartbeat, and maybe those of others."""
        seen = self.records()[worker.host].last_seen_up
        self.ping(worker)
        record = self.records()[worker.host]
        self.assertNotEqual(seen, record.last_seen_up)
        return record

    def ping(self, worker):
        """Have a worker send its self-ping, and run it."""
        heartbeat = worker.server.servicegroup_api
        heartbeat._ping()
        for _attempt in range(1200):
            if heartbeat._sent is None:
                return
            time.sleep(0.05)
        self.fail('The self-ping did not run.')

    def test_written_into_the_own_record(self):
        workers = self.start_workers()
        self.flags(service_down_time=60)
        api = servicegroup.API()
        for worker in workers:
            before = self.records()[worker.host]
            record = self.beat(worker)
            self.assertTrue(api.service_is_up(record))
            self.assertGreater(record.report_count, before.report_count)
            self.assertGreaterEqual(record.updated_at, record.last_seen_up)
            self.assertEqual((before.id, before.version, before.created_at),
                             (record.id, record.version, record.created_at))
        self.assertEqual(
            {worker.host for worker in workers},
            {host for host, record in self.records().items()
             if record.last_seen_up})

    def test_one_writes_for_all(self):
        workers = self.start_workers()
        for worker in workers:
            self.beat(worker)
        before = self.records()
        for worker in workers[:-1]:
            self.ping(worker)
            # Which the last one does, once its self-ping runs.
            self.assertEqual(before[worker.host].report_count,
                             self.records()[worker.host].report_count)
        self.beat(workers[-1])
        for host, record in self.records().items():
            self.assertEqual(before[host].report_count + 1,
                             record.report_count)

    def test_not_written_for_one_that_takes_no_messages(self):
        workers = self.start_workers()
        self.beat(workers[1])
        workers[1].server.rpcserver.stop()
        before = self.records()[workers[1].host].last_seen_up
        workers[1].server.servicegroup_api._ping()
        self.beat(workers[0])
        self.assertEqual(
            before, self.records()[workers[1].host].last_seen_up)

    def test_record_that_was_deleted_comes_back(self):
        worker, = self.start_workers(1)
        self.beat(worker)
        old = self.records()[worker.host]
        old.destroy()
        self.flags(service_down_time=60)
        self.ping(worker)
        new = self.records()[worker.host]
        self.assertNotEqual(old.id, new.id)
        self.assertTrue(servicegroup.API().service_is_up(new))
        self.beat(worker)
        self.assertEqual(1, self.stdlog.logger.output.count(
            f'created it again as record {new.id}'))

    def test_same_host_twice(self):
        # Both are worker 1 of the same node, and use one record.
        first = self.start_worker(1, 1)
        self.boards.clear()
        second = self.start_worker(1, 1)
        for worker in (first, second):
            before = self.records()[first.host]
            worker.server.servicegroup_api._pinged()
            self.assertGreater(self.records()[first.host].report_count,
                               before.report_count)


class TimerTestCase(test_scheduler.WorkersTestCase):

    REPORT_INTERVAL = 1

    def wait_for_heartbeat(self, worker, after=None):
        """Wait for the record to have a later heartbeat than before.

        :param after: a nova.objects.Service
        :returns: the record as it is then
        """
        for _attempt in range(2400):
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
