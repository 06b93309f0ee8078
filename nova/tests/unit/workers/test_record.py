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

import threading
from unittest import mock

from oslo_db import exception as db_exc

from nova import context
from nova import objects
from nova import servicegroup
from nova import test
from nova.workers import record


class RecordTestCase(test.TestCase):

    def setUp(self):
        super().setUp()
        self.context = context.get_admin_context()
        self.driver = servicegroup.API()

    def worker(self):
        """One of several processes of the same name, if called again."""
        found = self.find()
        if found is None:
            found = objects.Service(
                self.context, host='n-worker-1', binary='nova-scheduler',
                topic='scheduler', report_count=0)
            found.create()
        server = mock.Mock(service_ref=found, model_disconnected=False)
        server.record = record.Record(server)
        found.save = server.record.write
        return server

    def find(self):
        return objects.Service.get_by_host_and_binary(
            self.context, 'n-worker-1', 'nova-scheduler')

    def beat(self, *servers):
        for server in servers:
            # What the db driver does.
            self.driver.report_state(server)

    def logged(self, text):
        return self.stdlog.logger.output.count(text)

    def test_write(self):
        server = self.worker()
        before = self.find()
        self.beat(server, server)
        after = self.find()
        self.assertEqual(before.report_count + 2, after.report_count)
        self.assertIsNotNone(after.last_seen_up)
        self.assertEqual((before.id, before.version),
                         (after.id, after.version))
        self.assertEqual(0, self.logged('Record'))

    def test_write_without_reading(self):
        server = self.worker()
        with mock.patch.object(
                objects.Service, 'get_by_host_and_binary') as read:
            self.beat(server, server)
        read.assert_not_called()

    def test_deadlock_is_retried(self):
        server = self.worker()
        query = record.main_db_api.model_query
        with mock.patch.object(record.main_db_api, 'model_query',
                               side_effect=self._deadlock_once(query)):
            self.beat(server)
        self.assertIsNotNone(self.find().last_seen_up)

    @staticmethod
    def _deadlock_once(query):
        results = [db_exc.DBDeadlock]

        def model_query(*args, **kwargs):
            if results:
                raise results.pop()
            return query(*args, **kwargs)

        return model_query

    def test_deleted_record_comes_back(self):
        server = self.worker()
        self.beat(server)
        old = self.find()
        old.destroy()
        self.beat(server, server, server)
        new = self.find()
        self.assertNotEqual(old.id, new.id)
        self.assertEqual(('n-worker-1', 'nova-scheduler', 'scheduler'),
                         (new.host, new.binary, new.topic))
        self.assertIsNotNone(new.last_seen_up)
        self.assertEqual(1, self.logged(
            f'Record {old.id} of nova-scheduler on host n-worker-1 was '
            f'deleted while the worker is alive; created it again as record '
            f'{new.id}'))
        self.assertEqual(0, self.logged('another process'))

    def test_check(self):
        # With a driver that does not write it.
        server = self.worker()
        self.assertTrue(server.record.check())
        self.find().destroy()
        self.assertFalse(server.record.check())
        self.assertTrue(server.record.check())
        self.assertEqual(1, self.logged('created it again'))

    def test_two_own_messages_at_a_time(self):
        server = self.worker()
        threads = [threading.Thread(target=self.beat, args=[server] * 5)
                   for _n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(0, self.logged('another process'))
        self.assertEqual(10, self.find().report_count)

    def test_two_processes_of_a_name(self):
        first, second = self.worker(), self.worker()
        for _interval in range(5):
            self.beat(first, second)
        self.assertEqual(1, self.logged(
            f'Record {first.service_ref.id} of nova-scheduler on host '
            'n-worker-1 is kept up by another process as well'))

    def test_restart(self):
        for _process in range(3):
            server = self.worker()
            self.beat(server, server)
        self.assertEqual(0, self.logged('another process'))

    def test_answer_that_got_lost(self):
        server = self.worker()
        self.beat(server)
        write = record._write

        def written(*args):
            write(*args)
            raise db_exc.DBConnectionError

        for _outage in range(3):
            with mock.patch.object(record, '_write', side_effect=written):
                self.beat(server)
            self.beat(server, server)
        self.assertEqual(0, self.logged('another process'))
        count = self.find().report_count
        self.beat(server)
        self.assertEqual(count + 1, self.find().report_count)
