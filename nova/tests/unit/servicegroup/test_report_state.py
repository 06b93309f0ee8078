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

"""servicegroup.API.report_state(), with each of the drivers."""

from unittest import mock

from oslo_db import exception as db_exc

from nova import context
from nova.db.main import api as db
from nova import objects
from nova import servicegroup
from nova import test


class DbReportStateTestCase(test.TestCase):

    def setUp(self):
        super().setUp()
        self.flags(servicegroup_driver='db')
        self.servicegroup_api = servicegroup.API()
        self.records = [self._create(f'n-worker-{n}') for n in (1, 2, 3)]
        self.ids = [record.id for record in self.records]
        self.others = [(record.id, record.host)
                       for record in self.records[1:]]
        self.service = mock.Mock(
            service_ref=self.records[0], topic='conductor',
            model_disconnected=False)

    def _create(self, host):
        record = objects.Service(
            context.get_admin_context(), host=host, binary='nova-conductor',
            topic='conductor', report_count=0)
        record.create()
        return record

    def _report(self, others=()):
        return self.servicegroup_api.report_state(self.service, others)

    def _counts(self):
        return [objects.Service.get_by_id(
            context.get_admin_context(), id).report_count for id in self.ids]

    def test_by_itself(self):
        self.assertEqual(set(), self._report())
        self.assertEqual(set(), self._report())
        self.assertEqual([2, 0, 0], self._counts())

    def test_with_others(self):
        with mock.patch.object(
                db, 'service_report_state',
                side_effect=db.service_report_state) as mock_report:
            self.assertEqual(set(), self._report(self.others))
        # In one commit.
        mock_report.assert_called_once_with(mock.ANY, set(self.ids))
        self.assertEqual([1, 1, 1], self._counts())

    def test_gone(self):
        self.records[1].destroy()
        self.assertEqual({self.ids[1]}, self._report(self.others))
        self.records[0].destroy()
        self.assertEqual(set(self.ids[:2]), self._report(self.others))
        self.assertNotIn('is gone', self.stdlog.logger.output)
        self.ids = self.ids[2:]
        self.assertEqual([2], self._counts())

    def test_database_is_away(self):
        with mock.patch.object(db, 'service_report_state',
                               side_effect=db_exc.DBConnectionError):
            self.assertIsNone(self._report(self.others))
        self.assertTrue(self.service.model_disconnected)
        self.assertEqual([0, 0, 0], self._counts())
        self.assertEqual(set(), self._report(self.others))
        self.assertFalse(self.service.model_disconnected)
        self.assertEqual([1, 1, 1], self._counts())
        log = self.stdlog.logger.output
        self.assertEqual(
            1, log.count('Unexpected error while reporting service status'))
        self.assertEqual(
            1, log.count('Recovered from being unable to report status.'))


class McReportStateTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.keys = {}
        client = self.useFixture(test.fixtures.MockPatch(
            'nova.cache_utils.get_memcached_client')).mock.return_value
        client.set.side_effect = self._set
        client.get.side_effect = self.keys.get
        self.away = False
        self.flags(servicegroup_driver='mc')
        self.servicegroup_api = servicegroup.API()
        self.records = [
            objects.Service(id=n, topic='conductor', host=f'n-worker-{n}',
                            forced_down=False)
            for n in (1, 2, 3)]
        self.others = [(2, 'n-worker-2'), (3, 'n-worker-3')]
        self.service = mock.Mock(
            service_ref=self.records[0], topic='conductor',
            model_disconnected=False)

    def _set(self, key, value):
        if self.away:
            raise test.TestingException
        self.keys[key] = value

    def _up(self):
        return [record.id for record in self.records
                if self.servicegroup_api.service_is_up(record)]

    def test_by_itself(self):
        self.assertEqual(
            set(), self.servicegroup_api.report_state(self.service))
        self.assertEqual([1], self._up())

    def test_with_others(self):
        self.assertEqual(set(), self.servicegroup_api.report_state(
            self.service, self.others))
        self.assertEqual([1, 2, 3], self._up())

    def test_memcached_is_away(self):
        self.away = True
        for _interval in range(2):
            self.assertIsNone(self.servicegroup_api.report_state(
                self.service, self.others))
        self.assertEqual([], self._up())
        self.away = False
        self.assertEqual(set(), self.servicegroup_api.report_state(
            self.service, self.others))
        self.assertEqual(1, self.stdlog.logger.output.count(
            'Lost connection to memcache server'))
