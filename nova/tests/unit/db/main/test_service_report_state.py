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
from unittest import mock

from oslo_db import exception as db_exc
from oslo_utils import fixture as utils_fixture
import sqlalchemy as sa

from nova import context
from nova.db.main import api as db
from nova import objects
from nova import test

THEN = datetime.datetime(2026, 1, 1, 12, 0, 0)


class ServiceReportStateTestCase(test.TestCase):

    def setUp(self):
        super().setUp()
        self.ctxt = context.get_admin_context()
        self.clock = self.useFixture(utils_fixture.TimeFixture(THEN))

    def _create(self, host, report_count=3):
        service = objects.Service(
            self.ctxt, host=host, binary='nova-conductor', topic='conductor',
            report_count=report_count)
        service.create()
        return service

    def _get(self, service):
        return objects.Service.get_by_id(self.ctxt, service.id)

    def _statements(self):
        """The SQL statements that are sent from now on."""
        statements = []

        def record(conn, cursor, statement, parameters, ctxt, many):
            if statement != 'BEGIN':
                statements.append(statement.split()[0])

        def commit(conn):
            statements.append('COMMIT')

        engine = db.get_engine()
        for event, function in (
                ('before_cursor_execute', record), ('commit', commit)):
            sa.event.listen(engine, event, function)
            self.addCleanup(sa.event.remove, engine, event, function)
        return statements

    def assertReported(self, service, report_count, seconds):
        now = THEN + datetime.timedelta(seconds=seconds)
        record = self._get(service)
        self.assertEqual(report_count, record.report_count)
        for time in (record.last_seen_up, record.updated_at):
            self.assertEqual(now, time.replace(tzinfo=None))

    def test_increments_each(self):
        services = [self._create('a', 3), self._create('b', 7)]
        other = self._create('c')
        self.clock.advance_time_seconds(10)
        statements = self._statements()
        ids = [service.id for service in services]
        self.assertEqual(ids, db.service_report_state(self.ctxt, ids[::-1]))
        self.assertEqual(['UPDATE', 'UPDATE', 'COMMIT'], statements)
        self.assertReported(services[0], 4, 10)
        self.assertReported(services[1], 8, 10)
        self.assertIsNone(self._get(other).last_seen_up)
        self.assertIsNone(self._get(other).updated_at)

    def test_changes_nothing_else(self):
        service = self._create('a')
        before = self._get(service).obj_to_primitive()['nova_object.data']
        db.service_report_state(self.ctxt, [service.id])
        after = self._get(service).obj_to_primitive()['nova_object.data']
        self.assertEqual(
            {'report_count', 'last_seen_up', 'updated_at'},
            {key for key in before if before[key] != after[key]})

    def test_tells_which_are_gone(self):
        gone, service = self._create('a'), self._create('b')
        gone.destroy()
        self.assertEqual([service.id], db.service_report_state(
            self.ctxt, [gone.id, service.id, 100500]))
        deleted = db.service_get(
            self.ctxt.elevated(read_deleted='yes'), gone.id)
        self.assertEqual(3, deleted.report_count)
        self.assertIsNone(deleted.last_seen_up)

    def test_up_to_a_count(self):
        service = self._create('a', 3)
        statements = self._statements()
        self.clock.advance_time_seconds(10)
        self.assertEqual([service.id], db.service_report_state(
            self.ctxt, [service.id], 5))
        self.assertEqual(['UPDATE', 'COMMIT'], statements)
        self.assertReported(service, 5, 10)
        self.clock.advance_time_seconds(10)
        # Another process of this service has come so far already.
        for report_count in (0, 4, 5):
            self.assertEqual([], db.service_report_state(
                self.ctxt, [service.id], report_count))
        self.assertReported(service, 5, 10)

    @mock.patch('time.sleep', new=mock.Mock())
    def test_deadlock(self):
        service = self._create('a')
        model_query, errors = db.model_query, [db_exc.DBDeadlock]

        def deadlock_once(*args, **kwargs):
            if errors:
                raise errors.pop()
            return model_query(*args, **kwargs)

        with mock.patch.object(db, 'model_query', side_effect=deadlock_once):
            self.assertEqual([service.id], db.service_report_state(
                self.ctxt, [service.id]))
        self.assertEqual(4, self._get(service).report_count)
