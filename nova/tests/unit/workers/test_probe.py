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
import http.server
import io
import os
import socket
import subprocess
import sys
import threading
from unittest import mock

import ddt
from oslo_serialization import jsonutils

from nova import test
from nova.workers import probe

WELL = {'status': 'pass', 'output': None, 'serving': 2, 'workers': [
    {'host': 'n-worker-1', 'output': None},
    {'host': 'n-worker-2', 'output': None}]}
WARN = {**WELL, 'status': 'warn', 'output': '1 of 2 workers serve',
        'serving': 1, 'workers': [
            {'host': 'n-worker-1', 'output': 'has begun no message'},
            {'host': 'n-worker-2', 'output': None}]}
NONE = {**WARN, 'output': 'an outage: gone', 'serving': 0}
FAIL = {**NONE, 'status': 'fail', 'output': 'no worker gets on'}


@ddt.ddt
class ProbeTestCase(test.NoDBTestCase):

    def probe(self, *args):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = probe.main(args)
            except SystemExit as exc:
                code = exc.code
        return code, out.getvalue(), err.getvalue()

    def answer(self, told):
        self.useFixture(test.fixtures.MockPatchObject(
            probe, '_ask', return_value=told))

    @ddt.data((WELL, 0, 0, 0), (WARN, 11, 0, 0), (NONE, 12, 0, 12),
              (FAIL, 10, 10, 10), ({}, 13, 0, 13), ([], 13, 0, 13),
              ({'workers': 1, 'serving': 1}, 13, 0, 13))
    @ddt.unpack
    def test_codes(self, told, code, liveness, readiness):
        self.answer(told)
        self.assertEqual(code, self.probe('unix:///x')[0])
        self.assertEqual(liveness, self.probe('--liveness', 'unix:///x')[0])
        self.assertEqual(readiness, self.probe('--readiness', 'unix:///x')[0])

    @ddt.data((TimeoutError(), 14, 10), (BlockingIOError(), 14, 10),
              (ConnectionRefusedError(), 13, 0), (FileNotFoundError(), 13, 0),
              (ConnectionResetError(), 13, 0), (PermissionError(), 13, 0))
    @ddt.unpack
    def test_no_answer(self, exc, code, liveness):
        self.useFixture(test.fixtures.MockPatchObject(
            probe, '_ask', side_effect=exc))
        self.assertEqual(code, self.probe('unix:///x')[0])
        found, out, err = self.probe('--liveness', 'unix:///x')
        self.assertEqual((liveness, ''), (found, out))
        self.assertEqual(1, err.count('\n'))

    def test_told(self):
        ask = self.useFixture(test.fixtures.MockPatchObject(
            probe, '_ask', return_value=WELL)).mock
        self.assertEqual((0, '2 of 2 serve\n', ''), self.probe('unix:///x'))
        ask.return_value = WARN
        self.assertEqual(
            'n-worker-1: has begun no message\n1 of 2 workers serve\n'
            '1 of 2 serve\n', self.probe('unix:///x')[2])

    @ddt.data('', 'unix', 'http://x', 'tcp://', 'tcp://127.0.0.1',
              'tcp://127.0.0.1:x', 'tcp://127.0.0.1:99999', 'unix:/run/x',
              '/run/nova/x.sock', 'unix://', 'unix:///' + 'x' * 200)
    def test_not_valid(self, uri):
        # Or a check with a typing error would pass for ever.
        for args in ((), ('--liveness',), ('--readiness',)):
            code, out, err = self.probe(*args, uri)
            self.assertEqual((2, ''), (code, out))
            self.assertIn(f'{uri!r} is no unix:///PATH or tcp://', err)

    @ddt.data((), ('--liveness',), ('unix:///x', 'y'), ('--x', 'unix:///x'),
              ('--liveness', '--readiness', 'unix:///x'))
    def test_bad_usage(self, args):
        self.assertEqual(2, self.probe(*args)[0])

    @ddt.data(b'', b'hello\n', b'HTTP/1.1 404 Not Found\r\n\r\nno',
              b'HTTP/1.1 200 OK\r\n\r\n{"workers": ', b'\x00' * 100)
    def test_somebody_else_answers(self, answer):
        server = socket.create_server(('127.0.0.1', 0))
        self.addCleanup(server.close)

        def serve():
            with server.accept()[0] as sock:
                sock.recv(4096)
                sock.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        self.assertEqual(13, self.probe(
            f'tcp://127.0.0.1:{server.getsockname()[1]}')[0])

    def test_over_tcp(self):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200 if self.path == '/workers' else 404)
                self.end_headers()
                self.wfile.write(jsonutils.dumps(WARN).encode())

            def log_message(self, *args):
                pass

        server = http.server.HTTPServer(('127.0.0.1', 0), Handler)
        self.addCleanup(server.server_close)
        threading.Thread(target=server.handle_request, daemon=True).start()
        self.assertEqual(11, self.probe(
            f'tcp://127.0.0.1:{server.server_port}')[0])

    def test_host_that_is_not_there(self):
        # Or behind a firewall: no service, so nothing to start again.
        self.useFixture(test.fixtures.MockPatch(
            'socket.create_connection', side_effect=TimeoutError))
        self.assertEqual(13, self.probe('tcp://192.0.2.1:1')[0])
        self.assertEqual(0, self.probe('--liveness', 'tcp://192.0.2.1:1')[0])

    def test_somebody_who_speaks_first(self):
        server = socket.create_server(('127.0.0.1', 0))
        self.addCleanup(server.close)
        done = threading.Event()
        self.addCleanup(done.set)

        def serve():
            with server.accept()[0] as sock:
                sock.sendall(b'SSH-2.0-OpenSSH\r\n')
                done.wait(60)

        threading.Thread(target=serve, daemon=True).start()
        code, out, err = self.probe('tcp://127.0.0.1:%d' %
                                    server.getsockname()[1])
        self.assertEqual(13, code)
        self.assertIn('SSH-2.0', err)

    def test_somebody_who_does_not_answer(self):
        self.useFixture(test.fixtures.MockPatchObject(probe, '_TIMEOUT', 1))
        server = socket.create_server(('127.0.0.1', 0))
        self.addCleanup(server.close)
        self.assertEqual(14, self.probe(
            f'tcp://127.0.0.1:{server.getsockname()[1]}')[0])

    @ddt.data('/dev/full', None)
    def test_nobody_reads(self, stdout):
        # In a process, as Python flushes once more at its end.
        with contextlib.ExitStack() as stack:
            if stdout:
                writer = stack.enter_context(open(stdout, 'w'))
            else:
                reader, writer = os.pipe()
                os.close(reader)
                stack.callback(os.close, writer)
            for told, code in ((WELL, 0), (FAIL, 10)):
                done = subprocess.run(
                    [sys.executable, '-c',
                     'import sys\nfrom nova.workers import probe\n'
                     f'probe._ask = lambda uri: {told!r}\n'
                     'sys.exit(probe.main(["unix:///x"]))'],
                    stdout=writer, stderr=writer)
                self.assertEqual(code, done.returncode)

    def test_closed_streams(self):
        self.answer(FAIL)
        with mock.patch.object(sys, 'stderr', None):
            self.assertEqual(10, probe.main(['unix:///x']))

    def test_imports_the_standard_library_alone(self):
        done = subprocess.run(
            [sys.executable, '-c', 'import sys\nfrom nova.workers import probe'
             '\nprint(*sys.modules)'], capture_output=True, text=True)
        ours = {name for name in done.stdout.split()
                if name.startswith('nova')}
        self.assertEqual({'nova', 'nova.workers', 'nova.workers.probe'}, ours)
        for name in ('oslo_config', 'eventlet', 'psutil', 'oslo_messaging'):
            self.assertNotIn(name, done.stdout.split())
