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

import contextlib
import errno
import http.client
import os
import pathlib
import re
import socket
import stat
import threading
import time
from unittest import mock

import ddt
from oslo_serialization import jsonutils
from oslo_service import _options

from nova import test
from nova.workers import board
from nova.workers import health
from nova.workers import supervisor

HOSTS = ['n-worker-1', 'n-worker-2']
UUID = '9e6a5a5c-0000-4000-8000-000000000001'
# Prometheus has to see a counter before it is 1.
RESTARTS = dict.fromkeys(('stuck', 'failing', 'reload', 'other'), 0)


class HealthBase(test.NoDBTestCase):

    def setUp(self):
        super().setUp()
        # As the launcher of a service does.
        supervisor.CONF.register_opts(_options.service_opts)
        self.children = {11, 12}
        self.useFixture(test.fixtures.MockPatchObject(
            supervisor, 'is_child', self.children.__contains__))
        self.folder = self.useFixture(test.fixtures.TempDir())
        self.path = self.folder.join('s')
        self.flags(uri=['unix://' + self.path], group='healthcheck')
        self.board = board.Board(HOSTS, threads=3)
        self.parent = supervisor.Supervisor(
            self.board, 0, mock.sentinel.attempt)
        for pid, row in enumerate(self.board.rows, 11):
            row.open()
            row.pid, row.threads = pid, 2
            row.enter(board.SERVING)
        self.row = self.board.rows[0]
        self.health = self.made()

    def made(self):
        return health.Health(self.parent, 'nova-scheduler', 'n')

    def pass_time(self, seconds):
        """What has happened was so many seconds ago."""
        for watched in self.parent.watched:
            watched.row.since -= seconds
            watched.served -= seconds
            for task in watched.row.tasks:
                task.since -= seconds if task.since else 0
        self.parent._works -= seconds


class WorkersTestCase(HealthBase):

    def setUp(self):
        # Seconds count only if a test says so, however slow the machine is.
        self.clock = mock.Mock(wraps=time)
        self.clock.monotonic.return_value = time.monotonic()
        for module in (board, health, supervisor):
            self.useFixture(test.fixtures.MockPatchObject(
                module, 'time', self.clock))
        super().setUp()

    def statuses(self):
        told = self.health.workers()
        return (told['status'], told['serving'],
                *(worker['status'] for worker in told['workers']))

    def test_healthy(self):
        self.assertEqual(('pass', 2, 'pass', 'pass'), self.statuses())
        told = self.health.workers()
        self.assertEqual(('nova-scheduler', 'n', None, []), (
            told['service'], told['node'], told['output'], told['lost']))
        worker = told['workers'][0]
        self.assertEqual(
            ('n-worker-1', 11, 'serving', 2, 0, None, 0, RESTARTS),
            tuple(worker[key] for key in (
                'host', 'pid', 'state', 'threads', 'busy', 'oldest', 'begun',
                'restarts')))

    def test_requests(self):
        task = self.row.begin(
            f'req-1 build_instances instance {UUID}'.encode())
        self.row.begin(b'')
        task.since -= 7
        worker = self.health.workers()['workers'][0]
        self.assertEqual((2, 1, 0), (
            worker['busy'], worker['begun'], worker['failed']))
        oldest = worker['oldest']
        self.assertEqual(('req-1', 'build_instances', UUID), (
            oldest['request_id'], oldest['method'], oldest['instance']))
        self.assertAlmostEqual(7, oldest['seconds'], delta=1)
        # Another thread counts and enters the next stage, one by one.
        self.row.count(task, True)
        for stage in (board.RUNNING, board.REPLYING):
            task.stage = stage
            worker = self.health.workers()['workers'][0]
            self.assertEqual((1, 1), (worker['begun'], worker['failed']))

    def test_stuck(self):
        self.row.begin(b'r m instance -')
        self.pass_time(61)
        self.board.rows[1].end(self.board.rows[1].begin(b''))
        self.assertEqual(('warn', 1, 'warn', 'pass'), self.statuses())
        told = self.health.workers()
        self.assertEqual('1 of 2 workers serve', told['output'])
        self.assertIn('has begun no message for 61 seconds',
                      told['workers'][0]['output'])
        self.assertEqual(0, told['workers'][0]['up'])

    def test_failing(self):
        self.pass_time(61)
        self.assertEqual(('warn', 0, 'warn', 'warn'), self.statuses())
        self.parent.failing = True
        self.assertEqual(('fail', 0, 'fail', 'fail'), self.statuses())

    def test_outage(self):
        self.parent.outage = 'broker gone'
        self.assertEqual('warn', self.statuses()[0])
        self.assertEqual('an outage: broker gone',
                         self.health.workers()['output'])

    def test_without_heartbeats(self):
        self.flags(report_interval=0)
        self.pass_time(1000)
        self.assertEqual(('pass', 2, 'pass', 'pass'), self.statuses())

    def test_starting_and_stopping(self):
        self.row.enter(board.STARTING)
        self.assertEqual(('pass', 1, 'pass', 'pass'), self.statuses())
        self.row.enter(board.STOPPING)
        self.assertEqual(('pass', 1, 'pass', 'pass'), self.statuses())
        # It may take its time, and one that starts may not.
        self.pass_time(45)
        self.assertEqual(('pass', 1, 'pass', 'pass'), self.statuses())
        self.parent.look(self.clock.monotonic())
        self.row.enter(board.STARTING)
        self.assertEqual(('pass', 1, 'pass', 'pass'), self.statuses())
        self.parent.watched[0].served -= 45
        self.assertEqual(('warn', 1, 'warn', 'pass'), self.statuses())

    def test_gone(self):
        self.row.begin(b'r m instance -')
        self.children.remove(11)
        self.assertEqual(('pass', 1, 'pass', 'pass'), self.statuses())
        worker = self.health.workers()['workers'][0]
        self.assertEqual((None, 'down', 0, None, None), tuple(
            worker[key] for key in ('pid', 'state', 'busy', 'oldest',
                                    'since')))
        self.pass_time(45)
        self.assertEqual(('warn', 1, 'warn', 'pass'), self.statuses())

    def test_restarts(self):
        self.row.open()
        self.row.open()
        self.parent.watched[0].reasons['stuck'] += 1
        self.assertEqual({**RESTARTS, 'stuck': 1, 'other': 1},
                         self.health.workers()['workers'][0]['restarts'])
        # The new ones have not started yet.
        self.parent.watched[0].reasons['reload'] += 1
        self.assertEqual({**RESTARTS, 'stuck': 1, 'reload': 1, 'other': 1},
                         self.health.workers()['workers'][0]['restarts'])
        self.parent.watched[1].reasons['stuck'] += 1
        self.assertEqual({**RESTARTS, 'stuck': 1},
                         self.health.workers()['workers'][1]['restarts'])

    def test_lost(self):
        for request in (f'req-1 build_instances instance {UUID}',
                        f'req-2 select_destinations instance {UUID}',
                        'req-3 build_instances instance -', ''):
            self.row.tasks[0].stage = 0
            self.row._free = list(self.row.tasks)
            self.row.begin(request.encode())
            self.row.open()
        told = self.health.workers()
        self.assertEqual(
            [('n-worker-1', 'req-1', 'build_instances', UUID),
             ('n-worker-1', 'req-2', 'select_destinations', UUID),
             ('n-worker-1', 'req-3', 'build_instances', '-')],
            [tuple(lost[key] for key in ('host', 'request_id', 'method',
                                         'instance'))
             for lost in told['lost']])
        first, second, third = (lost['what_to_do'] for lost in told['lost'])
        self.assertIn(f'openstack server set --state error {UUID}', first)
        self.assertTrue(second.startswith('nothing'))
        self.assertTrue(third.startswith('nothing'))
        self.assertEqual((3, 3), tuple(
            told['workers'][0][key] for key in ('lost', 'begun')))

    def test_health(self):
        told = self.health.health()
        self.assertEqual(
            ('pass', '1.0', 'nova-scheduler', {'host': 'n'}),
            tuple(told[key] for key in ('status', 'version', 'description',
                                        'notes')))
        self.assertEqual({'node', *HOSTS}, set(told['checks']))
        for check in told['checks'].values():
            self.assertEqual('pass', check['status'])
            self.assertRegex(check['time'], r'^\d{4}-.*T.*\+00:00$')
            self.assertNotIn('output', check)
        self.parent.outage = 'gone'
        self.assertEqual('an outage: gone',
                         self.health.health()['checks']['node']['output'])

    def test_metrics(self):
        self.row.end(self.row.begin(b'r m instance -'))
        self.row.begin(b'r m instance -')
        lines = self.health.metrics().splitlines()
        label = 'service="nova-scheduler",hostname="n-worker-1"'
        for line in ('openstack_nova_workers{service="nova-scheduler",'
                     'hostname="n"} 2',
                     'openstack_nova_worker_up{%s} 1' % label,
                     'openstack_nova_worker_busy_threads{%s} 1' % label,
                     *('openstack_nova_worker_restarts_total{%s,reason="%s"} 0'
                       % (label, reason) for reason in RESTARTS)):
            self.assertIn(line, lines)
        # Each family is announced once, before its values.
        family = None
        for line in lines:
            if found := re.match('# HELP (.*?) .', line):
                family = found[1]
            elif line.startswith('#'):
                self.assertRegex(line, f'^# TYPE {family} (gauge|counter)$')
            else:
                self.assertTrue(line.startswith(family + '{'), line)


@ddt.ddt
class ServeTestCase(HealthBase):

    def setUp(self):
        super().setUp()
        # However slow the machine is.
        self.flags(service_down_time=3600)
        self.useFixture(test.fixtures.MockPatchObject(
            health, 'REQUEST_TIME', 600))

    def start(self):
        self.useFixture(test.fixtures.MockPatch('os.register_at_fork'))
        self.health = self.made()
        self.health.start()
        self.addCleanup(self.health.close)
        self.wait(lambda: not self.health._missing)

    def wait(self, condition):
        end = time.monotonic() + 120
        while not condition():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)

    def connect(self):
        sock = socket.socket(socket.AF_UNIX)
        self.addCleanup(sock.close)
        sock.settimeout(30)
        sock.connect(self.path)
        return sock

    def get(self, path, method='GET'):
        connection = http.client.HTTPConnection('localhost')
        connection.sock = self.connect()
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers['Content-Type'], answer.read()

    def test_answers(self):
        self.start()
        code, kind, body = self.get('/health')
        self.assertEqual((200, 'application/health+json'), (code, kind))
        self.assertEqual('pass', jsonutils.loads(body)['status'])
        code, kind, body = self.get('/workers')
        self.assertEqual((200, 'application/json'), (code, kind))
        self.assertEqual(2, jsonutils.loads(body)['serving'])
        code, kind, body = self.get('/metrics')
        self.assertEqual((200, 'text/plain; version=0.0.4'),
                         (code, kind))
        self.assertIn(b'\nopenstack_nova_worker_up{', body)
        self.assertEqual(b'', self.get('/health', 'HEAD')[2])
        self.assertEqual(200, self.get('/health?from=balancer')[0])
        self.assertEqual(404, self.get('/')[0])
        self.assertEqual(405, self.get('/health', 'POST')[0])
        self.parent.failing = True
        # Within half a second it is told again as it was.
        self.wait(lambda: self.get('/health')[0] == 503)

    def test_mode(self):
        self.start()
        self.assertEqual(0o660, stat.S_IMODE(os.stat(self.path).st_mode))
        self.assertEqual(['s'], os.listdir(self.folder.path))

    def test_over_tcp(self):
        with socket.create_server(('127.0.0.1', 0)) as sock:
            port = sock.getsockname()[1]
        self.flags(uri=[f'tcp://localhost:{port}'], group='healthcheck')
        self.start()
        connection = http.client.HTTPConnection('127.0.0.1', port)
        self.addCleanup(connection.close)
        connection.request('GET', '/health')
        self.assertEqual(200, connection.getresponse().status)

    def test_binary_in_the_path(self):
        self.path = self.folder.join('nova-scheduler.sock')
        self.flags(uri=['unix://' + self.folder.join('{binary}.sock')],
                   group='healthcheck')
        self.start()
        self.assertEqual(200, self.get('/health')[0])

    def test_stale_socket(self):
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:
            sock.bind(self.path)
        self.start()
        self.assertEqual(200, self.get('/health')[0])

    def test_left_by_one_that_was_killed(self):
        # In a container the process has the same id each time.
        left = f'{self.path}.{os.getpid()}'
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(left)
        self.start()
        self.assertEqual(200, self.get('/health')[0])
        self.assertFalse(os.path.exists(left))

    def test_in_use(self):
        self.useFixture(test.fixtures.MockPatchObject(
            supervisor, 'INTERVAL', 0.01))
        other = socket.socket(socket.AF_UNIX)
        other.bind(self.path)
        # Each try leaves a connection that waits.
        other.listen(4096)
        self.addCleanup(other.close)
        self.useFixture(test.fixtures.MockPatch('os.register_at_fork'))
        self.health = self.made()
        self.health.start()
        self.addCleanup(self.health.close)
        line = f'Cannot answer at [healthcheck] uri unix://{self.path}'
        self.wait(lambda: line in self.stdlog.logger.output)
        self.assertTrue(self.health._missing)
        other.close()
        self.wait(lambda: not self.health._missing)
        self.assertEqual(200, self.get('/health')[0])
        self.assertEqual(1, self.stdlog.logger.output.count(line))

    def test_file_in_its_place(self):
        # A wrong path must lose nothing.
        path = pathlib.Path(self.path)
        path.write_text('x')
        self.assertIn('is not a socket', str(self.assertRaises(
            OSError, health._bind, f'unix://{path}')))
        self.assertEqual('x', path.read_text())
        self.assertEqual(['s'], os.listdir(self.folder.path))

    def test_socket_of_another_user(self):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(self.path)
        self.useFixture(test.fixtures.MockPatch(
            'socket.socket.connect_ex', return_value=errno.EACCES))
        self.assertIn('Permission denied', str(self.assertRaises(
            OSError, health._bind, f'unix://{self.path}')))

    def test_folder_in_its_place(self):
        self.useFixture(test.fixtures.MockPatchObject(
            supervisor, 'INTERVAL', 0.01))
        os.mkdir(self.path)
        self.useFixture(test.fixtures.MockPatch('os.register_at_fork'))
        self.health = self.made()
        self.health.start()
        self.addCleanup(self.health.close)
        self.wait(lambda: 'is not a socket' in self.stdlog.logger.output)
        os.rmdir(self.path)
        self.wait(lambda: not self.health._missing)
        self.assertEqual(200, self.get('/health')[0])
        self.assertEqual(['s'], os.listdir(self.folder.path))
        self.assertEqual(1, self.stdlog.logger.output.count('Cannot answer'))

    def test_nobody_asked(self):
        self.flags(uri=[], group='healthcheck')
        with mock.patch.object(threading, 'Thread') as thread:
            self.made().start()
        thread.assert_not_called()

    @ddt.data(b'', b'GET /health HTTP/1.1\r\n', b'\xff' * 100)
    def test_slow(self, data):
        self.start()
        sock = self.connect()
        sock.sendall(data)
        self.assertEqual(200, self.get('/health')[0])
        self.useFixture(test.fixtures.MockPatchObject(
            health, 'REQUEST_TIME', 0.2))
        self.assertEqual(b'', sock.recv(100))

    def test_too_long(self):
        self.start()
        sock = self.connect()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _part in range(100):
                sock.sendall(b'x' * 10000)
            self.assertEqual(b'', sock.recv(100))
        self.assertEqual(200, self.get('/health')[0])

    def test_request_in_parts(self):
        self.start()
        sock = self.connect()
        for part in (b'GET /hea', b'lth HTTP/1.1\r\nHost: x\r', b'\n\r\n'):
            sock.sendall(part)
            time.sleep(0.05)
        self.assertTrue(sock.recv(100).startswith(b'HTTP/1.1 200 OK\r\n'))

    def test_many_connections(self):
        self.start()
        socks = [self.connect() for _n in range(health.CONNECTIONS + 20)]
        self.assertEqual(200, self.get('/health')[0])
        # The oldest had to go.
        self.assertEqual(b'', socks[0].recv(1))

    def suspend(self):
        """Have it stop while a client is told.

        :returns: the client's socket, and an event that has it go on
        """
        told = self.health.workers
        asked, go_on = threading.Event(), threading.Event()

        def workers():
            asked.set()
            go_on.wait(30)
            return told()

        self.useFixture(test.fixtures.MockPatchObject(
            self.health, 'workers', workers))
        sock = self.connect()
        sock.sendall(b'GET /workers HTTP/1.0\r\n\r\n')
        self.assertTrue(asked.wait(30))
        return sock, go_on

    def test_burst(self):
        self.start()
        sock, go_on = self.suspend()
        clients = [sock]
        for _number in range(200):
            clients.append(self.connect())
            clients[-1].sendall(b'GET /health HTTP/1.0\r\n\r\n')
        go_on.set()
        for sock in clients:
            self.assertEqual(b'HTTP/1.1 200', sock.recv(12))

    def test_asked_while_suspended(self):
        self.start()
        sock = self.connect()
        _other, go_on = self.suspend()
        sock.sendall(b'GET /health HTTP/1.0\r\n\r\n')
        # The time of all clients is over when it goes on.
        self.useFixture(test.fixtures.MockPatchObject(
            health, 'REQUEST_TIME', -1))
        self.useFixture(test.fixtures.MockPatchObject(
            supervisor, 'INTERVAL', 0))
        go_on.set()
        self.assertEqual(b'HTTP/1.1 200', sock.recv(12))

    def test_long_answer(self):
        self.start()
        with mock.patch.object(self.health, 'metrics', return_value=(
                'x' * 5000000)):
            self.assertEqual(5000000, len(self.get('/metrics')[2]))

    def test_host_in_other_letters(self):
        self.start()
        with mock.patch.object(self.health, 'metrics', return_value='\xfc'):
            self.assertEqual('\xfc'.encode(), self.get('/metrics')[2])

    def test_error_does_not_end_it(self):
        self.useFixture(test.fixtures.MockPatchObject(
            supervisor, 'INTERVAL', 0.01))
        self.start()
        with mock.patch.object(self.health, 'metrics', side_effect=KeyError):
            sock = self.connect()
            sock.sendall(b'GET /metrics HTTP/1.1\r\n\r\n')
            self.wait(lambda: 'Error while telling how the workers are' in
                      self.stdlog.logger.output)
        self.assertEqual(200, self.get('/health')[0])

    def test_closed_in_a_child(self):
        self.health = self.made()
        self.health.start()
        self.wait(lambda: not self.health._missing)
        client = self.connect()
        self.wait(lambda: self.health._connections())
        ours = {key.fd for key in self.health._selector.get_map().values()}
        pid = os.fork()
        if not pid:
            os._exit(sum(os.path.exists(f'/proc/self/fd/{fd}') for fd in ours))
        self.assertEqual(0, os.waitpid(pid, 0)[1])
        self.assertEqual(200, self.get('/health')[0])
        client.close()
        self.health.close()


class SystemdTestCase(HealthBase):

    def setUp(self):
        super().setUp()
        path = self.folder.join('notify')
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(path)
        self.sock.setblocking(False)
        self.addCleanup(self.sock.close)
        self.useFixture(test.fixtures.EnvironmentVariable(
            'NOTIFY_SOCKET', path))
        self.useFixture(test.fixtures.EnvironmentVariable(
            'WATCHDOG_USEC', '1000000'))
        self.useFixture(test.fixtures.EnvironmentVariable(
            'WATCHDOG_PID', str(os.getpid())))
        self.health = self.made()

    def tell(self):
        now = time.monotonic()
        self.parent.looked = now
        self.health._tell_systemd(now)
        try:
            return set(self.sock.recv(4096).decode().splitlines())
        except BlockingIOError:
            return set()

    def test_launcher_does_not_tell(self):
        self.assertNotIn('NOTIFY_SOCKET', os.environ)

    def test_path_of_the_socket(self):
        path = self.folder.join('a@b')
        self.sock.close()
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.sock.close)
        self.sock.bind(path)
        self.sock.setblocking(False)
        self.health._systemd = path
        self.assertIn('READY=1', self.tell())

    def test_ready_when_one_serves(self):
        for row in self.board.rows:
            row.enter(board.STARTING)
        self.assertEqual({'STATUS=0 of 2 workers serve', 'WATCHDOG=1'},
                         self.tell())
        self.row.enter(board.SERVING)
        self.assertEqual({'READY=1', 'STATUS=1 of 2 workers serve',
                          'WATCHDOG=1'}, self.tell())
        self.assertEqual({'WATCHDOG=1'}, self.tell())
        self.row.enter(board.STARTING)
        self.assertEqual({'STATUS=0 of 2 workers serve', 'WATCHDOG=1'},
                         self.tell())

    def test_ready_when_none_does_for_long(self):
        for row in self.board.rows:
            row.enter(board.STARTING)
        self.health._began -= 31
        self.assertIn('READY=1', self.tell())

    def test_no_watchdog_where_a_restart_helps(self):
        self.tell()
        self.parent.failing = True
        self.assertEqual(
            {'STATUS=no worker gets on, and a restart helps'}, self.tell())
        self.parent.failing = False
        self.assertIn('WATCHDOG=1', self.tell())
        self.parent.looked -= 6
        self.health._tell_systemd(time.monotonic())
        self.assertRaises(BlockingIOError, self.sock.recv, 4096)

    def test_watchdog_of_another_process(self):
        self.useFixture(test.fixtures.EnvironmentVariable(
            'WATCHDOG_PID', '1'))
        self.useFixture(test.fixtures.EnvironmentVariable(
            'NOTIFY_SOCKET', self.folder.join('notify')))
        self.health = self.made()
        self.assertNotIn('WATCHDOG=1', self.tell())

    def test_nobody_reads(self):
        self.sock.close()
        self.health._tell_systemd(time.monotonic())

    def test_not_under_systemd(self):
        self.useFixture(test.fixtures.EnvironmentVariable('NOTIFY_SOCKET'))
        self.made()._tell_systemd(time.monotonic())
