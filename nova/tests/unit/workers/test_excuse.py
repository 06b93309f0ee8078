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

import errno
from unittest import mock

import ddt
from oslo_config import cfg

from nova import test
from nova.workers import excuse


class Thread:
    """A thread that runs when the test says so."""

    def __init__(self, target, daemon):
        assert daemon
        self.start = lambda: None
        Thread.run = staticmethod(target)


@ddt.ddt
class InquiryTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.now = 1000.0
        self.useFixture(test.fixtures.MonkeyPatch(
            'nova.workers.excuse.time.monotonic', lambda: self.now))
        self.useFixture(test.fixtures.MonkeyPatch(
            'nova.workers.excuse.threading.Thread', Thread))
        self.ask_broker = self.useFixture(test.fixtures.MockPatchObject(
            excuse, 'ask_broker')).mock
        self.ask_database = self.useFixture(test.fixtures.MockPatchObject(
            excuse, 'ask_database')).mock
        self.flags(connection='sqlite://main', group='database')
        self.flags(connection='sqlite://api', group='api_database')
        self.then = mock.Mock()

    def begin(self):
        self.inquiry = excuse.Inquiry('scheduler', 10, self.then)

    def test_nothing_is_away(self):
        self.begin()
        Thread.run()
        self.assertIsNone(self.inquiry.outage)
        self.ask_broker.assert_called_once_with('scheduler', self.then)
        self.assertEqual(
            ['sqlite://main', 'sqlite://api'],
            [call.args[0].connection
             for call in self.ask_database.call_args_list])
        # A heartbeat is written to the main database alone.
        self.assertEqual(
            ['UPDATE', 'SELECT'],
            [call.args[1].split()[0]
             for call in self.ask_database.call_args_list])
        # And it does not become so by and by.
        self.now += 100
        self.assertIsNone(self.inquiry.outage)

    @ddt.data(('the message broker', 'ask_broker', [OSError('no\nmore')]),
              ('the main database', 'ask_database', [OSError('no'), None]),
              ('the API database', 'ask_database', [None, OSError('no')]))
    @ddt.unpack
    def test_refused(self, name, function, effects):
        getattr(self, function).side_effect = effects
        self.begin()
        Thread.run()
        self.assertEqual(f'{name} does not answer: no', self.inquiry.outage)

    def test_error_without_a_text(self):
        self.ask_broker.side_effect = TimeoutError
        self.begin()
        Thread.run()
        self.assertEqual('the message broker does not answer: TimeoutError()',
                         self.inquiry.outage)

    @ddt.data(errno.EMFILE, errno.ENFILE, errno.ENOMEM)
    def test_error_that_a_new_process_has_not(self, number):
        def ask(*args):
            try:
                raise OSError(number, 'no more of them')
            except OSError:
                # As the drivers do.
                raise RuntimeError('cannot connect')

        for mock_ in (self.ask_broker, self.ask_database):
            mock_.side_effect = ask
            self.begin()
            Thread.run()
            self.assertIsNone(self.inquiry.outage)
            self.now += 100
            self.assertIsNone(self.inquiry.outage)
            mock_.side_effect = None

    def test_silent(self):
        def hang(*args):
            self.now += 9
            self.assertIsNone(self.inquiry.outage)
            self.now += 1
            self.assertEqual('the main database does not answer: no answer',
                             self.inquiry.outage)

        self.ask_database.side_effect = hang
        self.begin()
        Thread.run()

    def test_no_database(self):
        # As the conductor of a cell, without an API database.
        self.flags(connection=None, group='api_database')
        self.begin()
        Thread.run()
        self.assertEqual(1, self.ask_database.call_count)


class AskBrokerTestCase(test.NoDBTestCase):

    def test_broker(self):
        # The fake one takes whatever comes.
        then = mock.Mock()
        excuse.ask_broker('scheduler', then)
        then.assert_called_once()

    def test_connection_is_closed(self):
        with mock.patch.object(excuse.rpc, 'create_transport') as create:
            then = mock.Mock(side_effect=test.TestingException)
            with mock.patch.object(excuse.messaging, 'get_rpc_client'):
                self.assertRaises(test.TestingException, excuse.ask_broker,
                                  'scheduler', then)
        create.return_value.cleanup.assert_called_once_with()


@ddt.ddt
class AskDatabaseTestCase(test.NoDBTestCase):

    def options(self, connection, parameters=''):
        conf = cfg.ConfigOpts()
        conf.register_opts([cfg.StrOpt('connection'),
                            cfg.StrOpt('connection_parameters')])
        conf.set_override('connection', connection)
        conf.set_override('connection_parameters', parameters)
        return conf

    def test_database(self):
        excuse.ask_database(self.options('sqlite://'), 'SELECT 1', 5)

    def test_refused(self):
        self.assertRaises(
            excuse.sa.exc.OperationalError, excuse.ask_database,
            self.options('sqlite:////no/such/folder/file'), 'SELECT 1', 5)

    @ddt.data((0.4, 1), (5.5, 5))
    @ddt.unpack
    def test_limits(self, timeout, seconds):
        with mock.patch.object(excuse.sa, 'create_engine') as create:
            excuse.ask_database(self.options(
                'mysql+pymysql://u:p@h/nova?charset=utf8', 'ssl_ca=ca.pem'),
                'SELECT 1', timeout)
        self.assertEqual(
            'mysql+pymysql://u:p@h/nova?charset=utf8&ssl_ca=ca.pem',
            create.call_args.args[0].render_as_string(hide_password=False))
        self.assertEqual({'connect_timeout': seconds, 'read_timeout': seconds,
                          'write_timeout': seconds},
                         create.call_args.kwargs['connect_args'])


class ReconnectTimeTestCase(test.NoDBTestCase):

    def test_rabbit(self):
        with mock.patch.object(excuse, 'CONF') as conf:
            conf.oslo_messaging_rabbit.rabbit_interval_max = 5
            self.assertEqual(5, excuse.reconnect_time())

    def test_another_driver(self):
        with mock.patch.object(excuse, 'CONF', cfg.ConfigOpts()):
            self.assertEqual(30, excuse.reconnect_time())
