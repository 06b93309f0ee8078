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

from oslo_utils import fixture as utils_fixture
import sqlalchemy as sa

from nova.conductor import manager as conductor_manager
from nova import context
from nova.db.main import api as db
from nova import exception
from nova import objects
from nova.objects import base
from nova import test

THEN = datetime.datetime(2026, 1, 1, 12, 0, 0)


class ServiceHeartbeatTestCase(test.TestCase):
    """Service.save() where report_count is all that has changed."""

    def setUp(self):
        super().setUp()
        self.ctxt = context.get_admin_context()
        self.clock = self.useFixture(utils_fixture.TimeFixture(THEN))
        # As the commands do.
        objects.Service.enable_min_version_cache()
        self.addCleanup(
            setattr, objects.Service, '_SERVICE_VERSION_CACHING', False)
        self.service = objects.Service(
            self.ctxt, host='a', binary='nova-compute', topic='compute',
            report_count=0)
        self.service.create()
        # Reads the version for the cache.
        self.service.save()

    def _get(self):
        return objects.Service.get_by_id(self.ctxt, self.service.id)

    def _statements(self):
        """The SQL statements that are sent from now on."""
        statements = []

        def record(conn, cursor, statement, parameters, ctxt, many):
            if statement != 'BEGIN':
                statements.append(statement.split()[0])

        engine = db.get_engine()
        sa.event.listen(engine, 'before_cursor_execute', record)
        self.addCleanup(
            sa.event.remove, engine, 'before_cursor_execute', record)
        return statements

    def _beat(self, service):
        """What the db driver of servicegroup does in each interval."""
        self.clock.advance_time_seconds(10)
        service.report_count += 1
        service.save()

    def assertReported(self, report_count, seconds):
        now = THEN + datetime.timedelta(seconds=seconds)
        record = self._get()
        self.assertEqual(report_count, record.report_count)
        for time in (record.last_seen_up, record.updated_at):
            self.assertEqual(now, time.replace(tzinfo=None))

    def test_one_statement(self):
        statements = self._statements()
        self._beat(self.service)
        self._beat(self.service)
        self.assertEqual(['UPDATE'] * 2, statements)
        self.assertReported(2, 20)
        self.assertEqual(2, self.service.report_count)
        self.assertEqual(set(), self.service.obj_what_changed())

    def test_by_way_of_nova_conductor(self):
        conductor = conductor_manager.ConductorManager()
        serializer = base.NovaObjectSerializer()

        def call(ctxt, service, *args):
            sent = serializer.serialize_entity(ctxt, service)
            received = serializer.deserialize_entity(ctxt, sent)
            with mock.patch.object(base.NovaObject, 'indirection_api', None):
                return conductor.object_action(ctxt, received, *args)

        service = self._get()
        statements = self._statements()
        with mock.patch.object(base.NovaObject, 'indirection_api') as api:
            api.object_action.side_effect = call
            self._beat(service)
            self._beat(service)
        self.assertEqual(2, api.object_action.call_count)
        self.assertEqual(['UPDATE'] * 2, statements)
        self.assertReported(2, 20)
        self.assertEqual(2, service.report_count)
        self.assertEqual(set(), service.obj_what_changed())

    def test_another_change_with_it(self):
        self.service.disabled_reason = 'why not'
        self._beat(self.service)
        self.assertReported(1, 10)
        self.assertEqual('why not', self._get().disabled_reason)

    def test_workers_that_share_a_record(self):
        workers = [self._get() for _worker in range(3)]
        self._beat(workers[0])
        self._beat(workers[1])
        self._beat(workers[2])
        self.assertReported(1, 10)
        for worker in workers:
            self.assertEqual(set(), worker.obj_what_changed())
        self._beat(workers[2])
        self.assertReported(2, 40)

    def test_after_an_outage(self):
        with mock.patch.object(db, 'service_report_state',
                               side_effect=test.TestingException):
            for _interval in range(3):
                self.assertRaises(
                    test.TestingException, self._beat, self.service)
        self._beat(self.service)
        self.assertReported(4, 40)

    def test_gone(self):
        self._get().destroy()
        self.assertRaises(
            exception.ServiceNotFound, self._beat, self.service)

    def test_too_old(self):
        objects.Service.clear_min_version_cache()
        with mock.patch.object(db, 'service_get_minimum_version',
                               return_value={'nova-compute': 100000}):
            self.assertRaises(
                exception.ServiceTooOld, self._beat, self.service)
        self.assertIsNone(self._get().last_seen_up)
