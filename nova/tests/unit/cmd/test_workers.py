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

import argparse
import contextlib
import io
from unittest import mock

import ddt
import fixtures
from oslo_config import cfg
from oslo_db import exception as db_exc
from oslo_serialization import jsonutils
from sqlalchemy import exc as sqla_exc

from nova.cmd import common as cmd_common
from nova.cmd import manage
from nova.cmd import workers
from nova import objects
from nova.objects import base as objects_base
from nova import test
from nova.workers import inventory

BOTH = ['nova-scheduler', 'nova-conductor']


@ddt.ddt
class WorkerCommandsTestCase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        self.flags(host='n')
        self.context = self.useFixture(fixtures.MockPatchObject(
            workers, '_context')).mock.return_value
        self.inventory = self.useFixture(fixtures.MockPatchObject(
            inventory, 'Inventory')).mock.return_value
        self.ping = self.useFixture(fixtures.MockPatchObject(
            inventory, 'ping')).mock
        self.inventory.workers.return_value = [
            self.worker('n', 9), self.worker('n', 10, up=False, age=9000.9)]

    @staticmethod
    def worker(node, number, up=True, age=3.7, disabled=False):
        host = f'{node}-worker-{number}' if number else node
        record = objects.Service(
            host=host, binary='nova-scheduler', disabled=disabled,
            forced_down=False)
        # As it comes from the database, where others write theirs.
        setattr(record, objects_base.get_attrname('version'), 73)
        return inventory.Worker(record, node, number, up, age)

    def manage(self, line):
        """What nova-manage does with a command line.

        :returns: the return code and what it writes to stdout and stderr
        """
        parser = argparse.ArgumentParser()
        cmd_common.add_command_parsers(
            parser.add_subparsers(),
            {'worker': manage.CATEGORIES['worker']})
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                namespace = parser.parse_args(['worker'] + line.split(' '))
                with mock.patch.object(cmd_common, 'CONF',
                                       mock.Mock(category=namespace)):
                    function, args, kwargs = cmd_common.get_action_fn()
                code = function(*args, **kwargs)
            except SystemExit as exc:
                code = exc.code
        return code, out.getvalue(), err.getvalue()

    @ddt.data(
        'list --binary nova-compute', 'list --format yaml', 'list --node=',
        'list n', 'ping n', 'ping --worker 0', 'ping --worker -1',
        'ping --worker x', 'ping --timeout 0', 'ping --timeout nan',
        'ping --timeout inf', 'ping --timeout 1e10', 'ping --timeout soon',
        'ping --node=',
        'retire', 'retire n', 'retire --node n --all-nodes',
        'retire --node=', 'retire --all-nodes --down-for -1',
        'retire --all-nodes --down-for x')
    def test_bad_usage(self, line):
        code, out, err = self.manage(line)
        self.assertEqual(2, code)
        self.assertEqual('', out)
        self.assertNotEqual('', err)
        self.inventory.retire.assert_not_called()
        self.ping.assert_not_called()

    @ddt.data('list --node', 'ping --node', 'retire --node')
    def test_host_that_is_not_valid(self, line):
        error = cfg.ConfigFileValueError('host is not valid')
        with mock.patch.object(workers, '_prepare'), \
                mock.patch.object(workers, 'CONF') as conf:
            type(conf).host = mock.PropertyMock(side_effect=error)
            self.assertEqual((2, '', f'{error}\n'), self.manage(line))

    @ddt.data('list', 'list --ping', 'ping', 'retire --all-nodes')
    def test_no_database(self, line):
        for exc in (db_exc.DBConnectionError('gone\naway'),
                    db_exc.DBNonExistentTable(table='services'),
                    db_exc.CantStartEngineError('gone'),
                    sqla_exc.ArgumentError('gone')):
            self.inventory.workers.side_effect = exc
            code, out, err = self.manage(line)
            self.assertEqual(4, code)
            self.assertEqual('', out)
            self.assertEqual(1, err.count('\n'))
            self.assertIn('The database cannot be reached', err)

    @ddt.data('list --ping', 'ping')
    def test_no_broker(self, line):
        self.ping.side_effect = inventory.BrokerUnreachable(reason='gone')
        self.assertEqual(
            (5, '', 'The message broker cannot be reached: gone\n'),
            self.manage(line))

    def test_list(self):
        self.inventory.workers.return_value += [self.worker('stock', None)]
        self.assertEqual((0, """\
+----------------+-------+--------+-------+------------+---------+
| Binary         | Node  | Worker | State | Heartbeat  | Version |
+----------------+-------+--------+-------+------------+---------+
| nova-scheduler | n     | 9      | up    | 3 s ago    | 73      |
| nova-scheduler | n     | 10     | down  | 9000 s ago | 73      |
| nova-scheduler | stock | -      | up    | 3 s ago    | 73      |
+----------------+-------+--------+-------+------------+---------+
""", ''), self.manage('list'))
        self.inventory.workers.assert_called_once_with(BOTH, None)
        self.ping.assert_not_called()

    def test_list_only_some(self):
        self.manage('list --binary nova-conductor --node m')
        self.manage('list --node')
        self.inventory.workers.assert_has_calls([
            mock.call(['nova-conductor'], 'm'),
            mock.call(BOTH, 'n')])

    def test_list_ping(self):
        self.ping.return_value = [inventory.Answer(1.25),
                                  inventory.Answer(error='no queue')]
        code, out, err = self.manage('list --ping')
        self.assertEqual((0, ''), (code, err))
        self.assertIn('| 1.2 ms   |', out)
        self.assertIn('| no queue |', out)
        self.ping.assert_called_once_with(
            mock.ANY, self.inventory.workers.return_value, 5)

    def test_list_json(self):
        self.inventory.workers.return_value = [
            self.worker('n', 1, disabled=True),
            self.worker('stock', None, up=False, age=None)]
        code, out, err = self.manage('list --format json')
        self.assertEqual((0, ''), (code, err))
        self.assertEqual([
            {'binary': 'nova-scheduler', 'node': 'n', 'worker': 1,
             'host': 'n-worker-1', 'state': 'disabled',
             'seconds_since_heartbeat': 3, 'version': 73},
            {'binary': 'nova-scheduler', 'node': 'stock', 'worker': None,
             'host': 'stock', 'state': 'down',
             'seconds_since_heartbeat': None, 'version': 73},
        ], jsonutils.loads(out))
        self.ping.return_value = [inventory.Answer(1.25),
                                  inventory.Answer(error='no queue')]
        rows = jsonutils.loads(self.manage('list --ping --format json')[1])
        self.assertEqual(
            [(1.2, None), (None, 'no queue')],
            [(row['answer_ms'], row['error']) for row in rows])

    def test_list_nothing(self):
        self.inventory.workers.return_value = []
        self.assertEqual(0, self.manage('list')[0])
        self.assertEqual((0, '[]\n', ''), self.manage('list --format json'))

    def test_ping(self):
        self.ping.return_value = [inventory.Answer(1), inventory.Answer(2)]
        self.assertEqual((0, '2 of 2 answered\n', ''), self.manage('ping'))
        self.inventory.workers.assert_called_once_with(
            BOTH, None, None)
        self.ping.assert_called_once_with(
            mock.ANY, self.inventory.workers.return_value, 5)

    def test_ping_only_some(self):
        self.manage('ping --node --worker 2 --timeout 0.5')
        self.manage('ping --node m --binary nova-conductor')
        self.inventory.workers.assert_has_calls([
            mock.call(BOTH, 'n', 2),
            mock.call(['nova-conductor'], 'm', None)])
        self.assertEqual([0.5, 5],
                         [call.args[2] for call in self.ping.mock_calls
                          if call.args])

    def test_ping_some_do_not_answer(self):
        self.ping.return_value = [
            inventory.Answer(1),
            inventory.Answer(error='no answer in 5 seconds')]
        self.assertEqual(
            (6, '1 of 2 answered\n',
             'nova-scheduler n-worker-10: no answer in 5 seconds\n'),
            self.manage('ping'))

    def test_ping_has_a_reply_queue_of_its_own(self):
        rabbit = 'oslo_messaging_rabbit'
        conf = cfg.ConfigOpts()
        conf.register_opts([cfg.BoolOpt('use_queue_manager'),
                            cfg.IntOpt('heartbeat_timeout_threshold')], rabbit)
        conf.register_opt(cfg.BoolOpt('debug'))
        conf([], default_config_files=[], default_config_dirs=[])
        for shared in (True, False):
            conf.set_override('use_queue_manager', shared, rabbit)
            with mock.patch.multiple(workers, CONF=conf, rpc=mock.DEFAULT
                                     ) as mocks:
                workers._prepare()
            self.assertFalse(conf[rabbit].use_queue_manager)
            # The transport was made when the configuration was read.
            self.assertEqual(
                [mock.call.cleanup(), mock.call.init(conf)] if shared else [],
                mocks['rpc'].mock_calls)

    def test_ping_none_known(self):
        self.inventory.workers.return_value = []
        self.assertEqual((3, '', 'No such worker is known\n'),
                         self.manage('ping'))
        self.ping.assert_not_called()

    def test_retire(self):
        self.inventory.workers.return_value = gone = [
            self.worker('n', None, up=False, age=9000),
            self.worker('n', 1),
            self.worker('n', 2, up=False, age=9000),
            self.worker('n', 3, up=False, age=100),
            self.worker('n', 4, up=False, age=9000)]
        gone[4].record.forced_down = True
        self.flags(service_down_time=60)
        left = 'Left nova-scheduler n-worker-3: down for 40 seconds\n'
        self.assertEqual(
            (0, f'Would retire nova-scheduler n-worker-2\n{left}'
             'Workers to retire: 1\n', ''),
            self.manage('retire --all-nodes --dry-run'))
        self.inventory.workers.assert_called_once_with(BOTH, None)
        self.inventory.retire.assert_called_once_with(gone[2], True)
        self.inventory.retire.reset_mock()
        self.assertEqual(
            (0, f'Retired nova-scheduler n-worker-2\n{left}'
             'Workers retired: 1\n', ''),
            self.manage('retire --node --binary nova-scheduler'))
        self.inventory.workers.assert_called_with(['nova-scheduler'], 'n')
        self.inventory.retire.assert_called_once_with(gone[2], False)

    def test_retire_down_for(self):
        self.inventory.workers.return_value = [
            self.worker('n', 1, up=False, age=100)]
        self.flags(service_down_time=60)
        self.inventory.retire.side_effect = [True, False]
        line = 'retire --node n --down-for '
        self.assertIn('Left nova-scheduler n-worker-1',
                      self.manage(line + '41')[1])
        self.assertEqual((0, 'Retired nova-scheduler n-worker-1\n'
                          'Workers retired: 1\n', ''),
                         self.manage(line + '40'))
        # Its node was faster, or it is up by now.
        self.assertEqual(
            (0, 'Left nova-scheduler n-worker-1: it is up, forced down or '
             'gone by now, or a compute has that name\n'
             'Workers retired: 0\n', ''),
            self.manage(line + '0'))


class ContextTestCase(test.NoDBTestCase):

    def test_database_has_to_answer_now(self):
        with mock.patch('nova.db.main.api.create_context_manager') as create:
            ctxt = workers._context()
        create.assert_called_once_with()
        create.return_value.configure.assert_called_once_with(max_retries=0)
        self.assertTrue(ctxt.is_admin)
        self.assertEqual(create.return_value, ctxt.db_connection)
