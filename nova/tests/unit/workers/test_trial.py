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

import errno
import functools
import gc
import os
import signal
import time
from unittest import mock

import ddt
from oslo_db import exception as db_exc
from oslo_messaging import opts as messaging_opts
import sqlalchemy as sa

import nova.conf
from nova import context
from nova import objects
from nova import test
from nova.workers import trial

CONF = nova.conf.CONF


def _fail(*args):
    raise ValueError(*args)


class UntoldError(Exception):

    def __str__(self):
        raise ValueError('no text')


def _fail_untold():
    raise UntoldError()


def _hang():
    time.sleep(600)


@ddt.ddt
class TrialTestCase(test.NoDBTestCase):
    """Each with a real process."""

    def start(self, function, *args):
        self.trial = trial.Trial(functools.partial(function, *args))
        self.pid = self.trial._pid

    def error(self):
        """Wait until the trial has ended, and tell why it has failed."""
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        self.assertTrue(self.trial.ended)
        # Nothing is left of it.
        self.assertRaises(ChildProcessError, os.waitpid, self.pid, 0)
        return self.trial.error

    def test_success(self):
        self.start(lambda *args: self.assertEqual((1, 2), args), 1, 2)
        self.assertIsNone(self.error())

    @ddt.data((('refused\nby the broker',), 'refused'),
              ((), 'ValueError()'),
              (('x' * 5000,), 'x' * 4096),
              (('a\udc80b',), 'a?b'))
    @ddt.unpack
    def test_failure(self, args, error):
        self.start(_fail, *args)
        self.assertEqual(error, self.error())

    def test_error_that_cannot_be_told(self):
        # It must not go on as a second parent.
        self.start(_fail_untold)
        self.assertEqual('no answer in 15 seconds', self.error())

    def test_exit(self):
        # It is not the process of the service that ends.
        self.start(os.sys.exit, 'bye')
        self.assertEqual('bye', self.error())

    @mock.patch.object(trial, 'TIME', 1)
    def test_no_answer(self):
        self.start(_hang)
        self.assertEqual('no answer in 1 seconds', self.error())

    @mock.patch.object(trial, 'TIME', 1)
    def test_stopped(self):
        self.start(_hang)
        os.kill(self.pid, signal.SIGSTOP)
        for _look in range(1000):
            if self.trial.ended:
                break
            time.sleep(0.1)
        self.assertEqual('no answer in 1 seconds', self.trial.error)

    def test_killed(self):
        self.start(_hang)
        self.assertFalse(self.trial.ended)
        os.kill(self.pid, signal.SIGKILL)
        self.assertEqual('no answer in 15 seconds', self.error())

    def test_somebody_else_has_waited_for_it(self):
        self.start(_hang)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.assertTrue(self.trial.ended)
        self.assertEqual('no answer in 15 seconds', self.trial.error)

    def test_parent_ends(self):
        reader, writer = os.pipe()
        for fd in (reader, writer):
            self.addCleanup(os.close, fd)
        self.start(lambda: [os.write(writer, b'x'), _hang()])
        os.read(reader, 1)
        os.close(self.trial._reader)
        _pid, status = os.waitpid(self.pid, 0)
        self.assertEqual(signal.SIGIO, os.WTERMSIG(status))

    def test_no_process(self):
        gc.collect()
        files = len(os.listdir('/proc/self/fd'))
        with mock.patch.object(os, 'fork', side_effect=OSError(
                errno.EAGAIN, os.strerror(errno.EAGAIN))):
            self.start(_hang)
        self.assertTrue(self.trial.ended)
        self.assertIn('no process: ', self.trial.error)
        self.assertEqual(files, len(os.listdir('/proc/self/fd')))

    def test_is_no_worker_to_the_launcher(self):
        # That waits for its process group, and its own handlers of signals
        # would have a copy of it stop the workers.
        reader, writer = os.pipe()
        for fd in (reader, writer):
            self.addCleanup(os.close, fd)
        handler = signal.signal(signal.SIGTERM, lambda *args: None)
        self.addCleanup(signal.signal, signal.SIGTERM, handler)
        self.start(lambda: [os.write(writer, b'%d' % os.getpgid(0)), _hang()])
        self.assertEqual(self.pid, int(os.read(reader, 10)))
        os.kill(self.pid, signal.SIGTERM)
        self.assertIn('no answer', self.error())

    def lacks_connection(self, number):
        """As pymysql, SQLAlchemy and oslo.db have it."""
        try:
            raise sa.exc.OperationalError(
                'SELECT 1', {}, sa.exc.DBAPIError(
                    '', {}, Exception(number, 'Too many connections')))
        except sa.exc.OperationalError as exc:
            raise db_exc.DBConnectionError(exc)

    @ddt.data(1040, 1203, 1226)
    def test_no_connection_is_left(self, number):
        self.start(self.lacks_connection, number)
        self.assertEqual(trial.NO_CONNECTION, self.error())

    def test_database_is_away(self):
        self.start(self.lacks_connection, 2003)
        self.assertIn('2003', self.error())


class AttemptTestCase(test.TestCase):

    def setUp(self):
        super().setUp()
        self.context = context.get_admin_context()
        self.record = objects.Service(
            self.context, host='n-worker-1', binary='nova-scheduler',
            topic='scheduler')
        self.record.create()
        self.take_message = self.useFixture(test.fixtures.MockPatchObject(
            trial, '_take_message')).mock
        self.cells = self.useFixture(test.fixtures.MockPatch(
            'nova.objects.CellMappingList.get_all')).mock

    def attempt(self):
        trial.attempt('scheduler', 'nova-scheduler',
                      ['n-worker-1', 'n-worker-2'])

    def found(self):
        return objects.Service.get_by_id(self.context, self.record.id)

    def test_attempt(self):
        self.flags(connection='sqlite://', group='api_database')
        before = self.found()
        self.attempt()
        self.take_message.assert_called_once_with('scheduler')
        self.cells.assert_called_once()
        after = self.found()
        # It has committed, and nobody is up by that.
        self.assertIsNotNone(after.updated_at)
        self.assertEqual((before.last_seen_up, before.report_count),
                         (after.last_seen_up, after.report_count))

    def test_without_an_api_database(self):
        # As the conductor of a cell.
        self.flags(connection=None, group='api_database')
        self.attempt()
        self.cells.assert_not_called()

    def test_all_records(self):
        # Somebody may have locked one of them.
        second = objects.Service(
            self.context, host='n-worker-2', binary='nova-scheduler',
            topic='scheduler')
        second.create()
        self.attempt()
        second = objects.Service.get_by_id(self.context, second.id)
        self.assertIsNotNone(second.updated_at)

    def test_record_that_is_deleted(self):
        self.record.destroy()
        self.attempt()

    def test_commits_hang(self):
        # What reads gets on, but no heartbeat is written.
        engine = trial.main_db_api.get_engine(context=self.context)

        def fail(conn):
            raise db_exc.DBError('read only')

        sa.event.listen(engine, 'commit', fail)
        self.addCleanup(sa.event.remove, engine, 'commit', fail)
        self.assertRaises(db_exc.DBError, self.attempt)

    def test_api_database_is_away(self):
        self.flags(connection='sqlite://', group='api_database')
        # Heartbeats go to the other one, and prove nothing.
        self.cells.side_effect = db_exc.DBConnectionError(
            Exception(1040, 'Too many connections'))
        exc = self.assertRaises(RuntimeError, self.attempt)
        self.assertIn('API database: ', str(exc))
        self.assertFalse(trial._lacks_connection(exc))

    def test_broker_is_away(self):
        self.take_message.side_effect = test.TestingException
        self.assertRaises(test.TestingException, self.attempt)
        self.assertIsNone(self.found().updated_at)


@ddt.ddt
class TakeMessageTestCase(test.NoDBTestCase):

    def test_take_message(self):
        # What else the process has is a copy, so the trial may close it.
        CONF.register_opts(
            dict(messaging_opts.list_opts())['oslo_messaging_rabbit'],
            'oslo_messaging_rabbit')
        tried = trial.Trial(
            functools.partial(trial._take_message, 'scheduler'))
        os.waitid(os.P_PID, tried._pid, os.WEXITED | os.WNOWAIT)
        self.assertTrue(tried.ended)
        self.assertIsNone(tried.error)

    @ddt.data((False, 30), (True, 1800))
    @ddt.unpack
    def test_queue_that_is_left(self, stream, seconds):
        CONF.register_opts(
            dict(messaging_opts.list_opts())['oslo_messaging_rabbit'],
            'oslo_messaging_rabbit')
        self.flags(rabbit_stream_fanout=stream, group='oslo_messaging_rabbit')

        def check():
            trial._take_message('scheduler')
            self.assertEqual(
                seconds,
                CONF.oslo_messaging_rabbit.rabbit_transient_queues_ttl)

        tried = trial.Trial(check)
        os.waitid(os.P_PID, tried._pid, os.WEXITED | os.WNOWAIT)
        self.assertTrue(tried.ended)
        self.assertIsNone(tried.error)

    def test_message_of_an_earlier_trial(self):
        endpoint = trial._Endpoint()
        for token in ('theirs', 'ours'):
            endpoint.arrive(None, token)
        with mock.patch.object(trial, '_Endpoint', return_value=endpoint):
            with mock.patch.object(trial.uuidutils, 'generate_uuid',
                                   return_value='ours'):
                with mock.patch.multiple(trial, rpc=mock.DEFAULT,
                                         CONF=mock.DEFAULT):
                    trial._take_message('scheduler')
        self.assertTrue(endpoint.tokens.empty())
