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

"""What is told of the workers, and what health checks make of it.

The commands are those of scheduler-workers-monitoring.rst. They say that a
restart helps when all workers are stuck, or none runs, and never else.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time

import ddt

from lab.servers import broker
from lab.servers import database
from tests.integration import base

PROGRAM = os.path.join(os.path.dirname(sys.executable), 'nova-worker-probe')
POOL = 2
CONF = {'DEFAULT': {'executor_thread_pool_size': POOL}}
# Seconds until all workers count as stuck: until they are down, and a trial
# has succeeded. On a busy machine the first one takes too long.
STUCK = 5 * (base.SERVICE_DOWN_TIME + 15)
# For how many seconds threads that are busy may run a request.
LONG = base.SERVICE_DOWN_TIME + 10
# The longest time that a worker with free threads may be about to connect to
# the broker again, and a trial that fails.
OUTAGE = base.SERVICE_DOWN_TIME + 30 + 15 + 15
# The supervisor's START_TIME.
START = 30

WELL, FAIL, WARN, NONE_SERVES, NO_SERVICE, SILENT = 0, 10, 11, 12, 13, 14


class Connection(http.client.HTTPConnection):

    def __init__(self, path, timeout=10):
        super().__init__('localhost', timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)
        self.sock.settimeout(self.timeout)


class HealthBase(base.LabTestCase):

    def cloud(self, conf=None, *args, **kwargs):
        made = super().cloud({**CONF, **(conf or {})}, *args, **kwargs)
        self.path = os.path.join(made.folder, 'health.sock')
        self.uri = 'unix://' + self.path
        made.conf['healthcheck'] = {'uri': self.uri}
        return made

    def get(self, path):
        """The code, the type and the text of an answer."""
        with contextlib.closing(Connection(self.path)) as connection:
            connection.request('GET', path)
            answer = connection.getresponse()
            return (answer.status, answer.headers['Content-Type'],
                    answer.read().decode())

    def workers(self):
        return json.loads(self.get('/workers')[2])

    def probe(self, *args, **kwargs):
        """The code of the probe, and what it tells."""
        kwargs.setdefault('stdout', subprocess.PIPE)
        done = subprocess.run(
            [PROGRAM, *args, self.uri], text=True, stderr=subprocess.STDOUT,
            timeout=60, **kwargs)
        return done.returncode, done.stdout

    def liveness(self, path=None, **kwargs):
        """Whether the documented liveness command says to restart it."""
        done = subprocess.run(
            ['sh', '-c', f'nova-worker-probe --liveness {self.uri}; '
             'test $? -ne 10'], text=True, capture_output=True, timeout=60,
            env={**os.environ, 'PATH': path or os.pathsep.join(
                [os.path.dirname(PROGRAM), os.environ['PATH']])}, **kwargs)
        return done.returncode != 0

    def stay_alive(self, seconds, until=lambda: False):
        """For some time no health check says that a restart helps."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            self.assertFalse(self.liveness(), self.probe())
            with contextlib.suppress(OSError):
                self.assertEqual(200, self.get('/health')[0])
            time.sleep(0.5)

    def wait_code(self, made, code, timeout, *args):
        made.wait(lambda: self.probe(*args)[0] == code, timeout,
                  f'the probe to end with {code}')


@ddt.ddt
class StatesTestCase(HealthBase):

    @ddt.data(*base.MODES)
    def test_healthy_stuck_and_stopping(self, mode):
        made = self.cloud({'DEFAULT': {
            **CONF['DEFAULT'], 'long_rpc_timeout': LONG}})
        self.assertFalse(self.liveness())
        self.assertEqual(NO_SERVICE, self.probe()[0])
        service = getattr(made, self.topic)(
            node=base.NODE, workers=3, mode=mode)
        self.stay_alive(60, lambda: self.probe('--readiness')[0] == WELL)
        service.wait_ready()
        self.wait_up(made, service)

        self.assertEqual((WELL, '3 of 3 serve\n'), self.probe())
        code, kind, text = self.get('/health')
        self.assertEqual((200, 'application/health+json'), (code, kind))
        told = json.loads(text)
        self.assertEqual(('pass', self.BINARY, base.NODE), (
            told['status'], told['description'], told['notes']['host']))
        self.assertEqual({'node', *service.record_hosts()},
                         set(told['checks']))
        self.assertEqual(0o660, stat.S_IMODE(os.stat(self.path).st_mode))
        self.assertEqual(
            self.pids(service),
            {n: worker['pid'] for n, worker in enumerate(
                self.workers()['workers'], 1)})

        client = self.enterContext(made.client(self.topic))
        self.block(made, service, client, POOL, 1)
        self.wait_code(made, WARN, STUCK)
        self.assertFalse(self.liveness())
        self.assertEqual(WELL, self.probe('--readiness')[0])
        self.assertEqual(200, self.get('/health')[0])
        first, second, third = self.workers()['workers']
        self.assertEqual(
            (0, 1, 1, POOL),
            (first['up'], second['up'], third['up'], first['busy']))
        self.assertGreater(first['oldest']['seconds'], 0)

        workers = service.workers()
        for n in (2, 3):
            made.faults.stop(workers[n])
        self.wait_code(made, FAIL, STUCK, '--liveness')
        self.assertTrue(self.liveness())
        self.assertEqual(FAIL, self.probe()[0])
        # Whether anybody reads it does not matter.
        with open('/dev/full', 'w') as full:
            self.assertEqual(FAIL, self.probe(stdout=full)[0])
        self.assertEqual(503, self.get('/health')[0])
        for n in (2, 3):
            made.faults.resume(workers[n])
        self.wait_code(made, WARN, STUCK)
        self.assertFalse(self.liveness())
        with open('/dev/full', 'w') as full:
            self.assertEqual(WELL, self.probe('--liveness', stdout=full)[0])

        # The blocked worker keeps its parent from stopping.
        service.process.send_signal(signal.SIGTERM)
        made.wait(lambda: {2, 3}.isdisjoint(service.workers()), 30,
                  'the others to end')
        self.assertTrue(service.running())
        self.stay_alive(5)
        workers[1].kill()
        made.wait(lambda: not service.running(), 30, 'the parent to end')
        self.assertFalse(self.liveness())
        self.assertEqual(NO_SERVICE, self.probe()[0])


@ddt.ddt
class HealthTestCase(HealthBase):

    @ddt.data(*base.MODES)
    def test_busy_with_long_requests(self, mode):
        # A restart would lose them, and nobody said that they are too long.
        made = self.cloud()
        service = self.start(made, workers=2, mode=mode)
        client = self.enterContext(made.client())
        for number in (1, 2):
            self.block(made, service, client, POOL, number)
        self.wait_code(made, NONE_SERVES, STUCK)
        self.stay_alive(base.SERVICE_DOWN_TIME + 20)

    @ddt.data(*base.MODES)
    def test_reload_and_lost_requests(self, mode):
        made = self.cloud()
        service = self.start(made, workers=2, mode=mode)
        client = self.enterContext(made.client())
        self.block(made, service, client, POOL, 1)
        pids = self.pids(service)
        service.workers()[1].kill()
        made.wait(lambda: self.pids(service).get(1, pids[1]) != pids[1], 30,
                  'the worker to be back')
        made.wait(lambda: self.workers()['serving'] == 2, 30, 'both to serve')
        told = self.workers()
        self.assertEqual(
            [(service.worker_host(1), 'delete_aggregate')] * POOL,
            [(lost['host'], lost['method']) for lost in told['lost']])
        self.assertEqual(POOL, told['workers'][0]['lost'])
        self.assertEqual(1, told['workers'][0]['restarts']['other'])
        service.hup()
        self.stay_alive(10)
        made.wait(lambda: self.probe()[0] == WELL, 60, 'all to serve')

    @ddt.data(*base.MODES)
    def test_hostile_clients(self, mode):
        made = self.cloud()
        service = self.start(made, workers=1, mode=mode)
        files = len(os.listdir(f'/proc/{service.pid}/fd'))
        with contextlib.ExitStack() as stack:
            for data in (b'', b'GET /hea', b'GET /health HTTP/1.1\r\n',
                         b'x' * 5000) * 100:
                sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                sock.connect(self.path)
                sock.settimeout(5)
                with contextlib.suppress(OSError):
                    sock.sendall(data)
            began = time.monotonic()
            self.assertEqual((WELL, '1 of 1 serve\n'), self.probe())
            self.assertLess(time.monotonic() - began, 2)
        with contextlib.suppress(OSError):
            connection = Connection(self.path)
            connection.request('GET', '/health', headers={
                f'x-{n}': 'x' * 1000 for n in range(1000)})
            connection.getresponse()
        # A worker that is forked meanwhile has none of the sockets.
        pid, = self.pids(service).values()
        connection = Connection(self.path)
        connection.connect()
        service.workers()[1].kill()
        made.wait(lambda: self.pids(service).get(1, pid) != pid, 30,
                  'the worker to be back')
        pid, = self.pids(service).values()
        with open('/proc/net/unix') as stream:
            ours = {line.split()[6] for line in stream if self.path in line}
        self.assertGreater(len(ours), 1)
        for name in os.listdir(f'/proc/{pid}/fd'):
            with contextlib.suppress(OSError):
                target = os.readlink(f'/proc/{pid}/fd/{name}')
                self.assertNotIn(target, {f'socket:[{n}]' for n in ours})
        connection.close()
        made.wait(lambda: len(os.listdir(
            f'/proc/{service.pid}/fd')) <= files, 10, 'all to be dropped')
        self.check_no_traceback(service.log())

    def test_parent_hangs(self):
        made = self.cloud()
        service = self.start(made, workers=1)
        made.faults.stop(service.process)
        self.assertEqual(SILENT, self.probe()[0])
        self.assertTrue(self.liveness())

    @ddt.data(*base.MODES)
    def test_broker_away(self, mode):
        box, url = self.middlebox(base.rabbitmq().transport_url)
        made = self.cloud({'DEFAULT': {**CONF['DEFAULT'],
                                       'transport_url': url}})
        self.start(made, workers=2, mode=mode)
        box.refuse()
        self.stay_alive(OUTAGE, lambda: 'outage' in (
            self.workers()['output'] or ''))
        self.assertIn('outage', self.workers()['output'])
        self.assertIn(self.probe()[0], (WARN, NONE_SERVES))
        self.stay_alive(10)
        box.restore()
        self.wait_code(made, WELL, 60)

    @ddt.data(*base.MODES)
    def test_database_away(self, mode):
        private = self.enterContext(database.PrivateMariaDB())
        made = self.cloud(private_database=private)
        self.start(made, workers=2, mode=mode)
        private.freeze()
        self.addCleanup(private.thaw)
        self.stay_alive(OUTAGE, lambda: 'outage' in (
            self.workers()['output'] or ''))
        self.assertIn('outage', self.workers()['output'])
        self.stay_alive(10)

    @ddt.data(*base.MODES)
    def test_wrong_type_of_queues(self, mode):
        private = self.enterContext(broker.PrivateBroker())
        made = self.cloud(private_broker=private)
        self.start(made, workers=2, mode=mode).stop()
        service = made.scheduler(
            node=base.NODE, workers=2, mode=mode,
            conf={'oslo_messaging_rabbit': {'rabbit_quorum_queue': True}})
        made.wait(lambda: 'PRECONDITION_FAILED' in service.log(), 60,
                  'a worker to fail')
        self.stay_alive(START + 15)
        self.assertEqual(NONE_SERVES, self.probe()[0])
        # A start of each in ten seconds, not one after the other.
        self.assertIn("in the way", service.log())
        self.assertLess(service.log().count('Cannot start worker'),
                        2 * (START + 15) / 10 + 4)
        self.check_no_traceback(service.log())

    @ddt.data(*base.MODES)
    def test_queue_of_the_node_address_in_the_way(self, mode):
        # No request must be taken by a worker that cannot serve that.
        private = self.enterContext(broker.PrivateBroker())
        made = self.cloud(private_broker=private)
        # It has made the queue of the topic.
        self.start(made, workers=1, mode=mode, node='another').stop()
        private.declare(f'scheduler.{base.NODE}')
        service = made.scheduler(node=base.NODE, workers=2, mode=mode)
        made.wait(lambda: 'in the way' in service.log(), 60,
                  'a worker to fail')
        with made.client() as client:
            client.cast_work()
        self.stay_alive(15)
        service.stop()
        made.wait(lambda: private.queue('scheduler')[0] == 1, 30,
                  'the request to be there')
        self.check_no_traceback(service.log())

    def test_wrong_configuration(self):
        made = self.cloud()
        for uri, text in (('unix://run/nova.sock', 'is neither unix:///PATH'),
                          ('tcp://127.0.0.1', 'tcp://ADDRESS:PORT')):
            service = made.scheduler(node=base.NODE, workers=1,
                                     conf={'healthcheck': {'uri': uri}})
            made.wait(lambda: not service.running(), 60, 'it to end')
            self.assertEqual(1, service.returncode)
            self.assertIn(text, service.log())
            self.check_no_traceback(service.log())
        self.assertFalse(self.liveness())
        # What cannot be used does not keep it from serving.
        self.start(made, workers=1, conf={'healthcheck': {
            'uri': f'unix:///nowhere/x.sock,{self.uri}'}})
        self.assertEqual(WELL, self.probe()[0])
        self.assertEqual(1, made.log().count('unix:///nowhere/x.sock, and'))

    def test_no_program_and_another_python(self):
        made = self.cloud()
        service = self.start(made, workers=1)
        made.faults.stop(service.process)
        self.assertTrue(self.liveness())
        self.assertFalse(self.liveness('/usr/bin:/bin'))
        # The one of the system, which has no nova.
        path = os.path.join(made.folder, 'nova-worker-probe')
        with open(PROGRAM) as program, open(path, 'w') as stream:
            stream.write('#!/usr/bin/env -S python3 -I\n' + program.read())
        os.chmod(path, 0o755)
        self.assertFalse(self.liveness(made.folder + ':/usr/bin:/bin'))

    @ddt.data(*base.MODES)
    def test_stock_again(self, mode):
        made = self.cloud()
        self.start(made, workers=2, mode=mode).stop()
        self.assertTrue(os.path.exists(self.path))
        made.scheduler(node=base.NODE, workers=2, mode=mode,
                       tree=base.stock_tree()).wait_ready()
        self.assertEqual(NO_SERVICE, self.probe()[0])
        self.stay_alive(5)

    def test_no_worker_runs(self):
        # As where a container cannot write to it. cotyledon's thread in the
        # parent ends.
        made = self.cloud()
        programs = os.path.join(made.folder, 'programs')
        os.mkdir(programs)
        path = os.path.join(programs, 'nova-scheduler')
        with open(path, 'w') as stream:
            real = os.path.join(os.path.dirname(PROGRAM), 'nova-scheduler')
            stream.write(
                "#!/bin/sh\nexec unshare --mount sh -c 'mount -t tmpfs -o ro "
                f"none /dev/shm && exec {real} \"$@\"' sh \"$@\"\n")
        os.chmod(path, 0o755)
        service = made.scheduler(node=base.NODE, workers=2, mode='threading',
                                 programs=programs)
        made.wait(lambda: os.path.exists(self.path), 60, 'it to tell')
        self.wait_code(made, FAIL, START + 15)
        self.assertTrue(service.running())
        self.assertTrue(self.liveness())
