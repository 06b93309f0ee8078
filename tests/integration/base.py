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

"""What the integration tests share: real processes, broker and database."""

import atexit
import functools
import os
import re
import shutil
import tempfile
import urllib.parse

import fixtures
import testtools

from lab import __main__ as lab_main
from lab.faults import middlebox
from lab.measure import pairs
from lab import results as lab_results
from lab import rpc
from lab.servers import broker
from lab.servers import cloud
from lab.servers import cluster
from lab.servers import database
from lab.servers import galera
from lab.servers import placement

MODES = cloud.modes()
NODE = 'scheduler-node-1'

# Small, so that a test takes seconds, with room for a loaded machine.
REPORT_INTERVAL = 2
SERVICE_DOWN_TIME = 6
WORKER_TIMEOUT = 10
CALL_TIMEOUT = 5
# How many callers there are, and the seconds that each waits before a call:
# others use this machine too.
CALLERS = 8
PAUSE = 0.05
# Until a record is down, and until somebody has looked at it since.
RETIRED = 2 * SERVICE_DOWN_TIME + REPORT_INTERVAL + 15

# Methods that requests go through which fill pools, and that are not the one
# that probes call.
WORK = rpc.WORK

CONF = {'DEFAULT': {'report_interval': REPORT_INTERVAL,
                    'service_down_time': SERVICE_DOWN_TIME,
                    'periodic_fuzzy_delay': 0}}

# As kolla-ansible sets it; RabbitMQ 3.10 has what they need.
KOLLA = {'oslo_messaging_rabbit': cluster.OPTIONS}

# What eventlet says of a pipe of oslo.service's when a parent ends, with
# Python 3.13 and 3.14 and on stock too.
EVENTLET_ENDS = re.compile(
    r"""^Exception ignored (?:in:|while .*) <_io\.TextIOWrapper mode='r'.*
Traceback \(most recent call last\):
  File ".*/eventlet/greenio/py3\.py", line \d+, in close
TypeError: 'NoneType' object is not callable
""", re.MULTILINE)

_databases = {}


@functools.cache
def rabbitmq():
    """The broker of all tests of this process; None if there is none.

    One of their own where RabbitMQ is installed, so that tests in several
    processes, or somebody else's nova, share no queues.
    """
    if not broker.PrivateBroker.available():
        local = broker.Broker()
        return local if local.answers() else None
    return _started(cluster.private())


@functools.cache
def mariadb():
    """The MariaDB of all tests of this process; None if there is none.

    One of their own where MariaDB is installed: the services of several
    tests at a time take more connections than Debian's has for all.
    """
    if not database.PrivateMariaDB.available():
        local = database.MariaDB()
        return local if local.answers() else None
    return _started(galera.private())


def _started(server):
    atexit.register(server.__exit__)
    server.start()
    return server


def missing():
    """Why the integration tests cannot run here, in one line; or None."""
    if rabbitmq() is None:
        what = 'no RabbitMQ is installed, and none answers at 127.0.0.1:5672'
    elif mariadb() is None:
        what = 'no MariaDB is installed, and none answers at 127.0.0.1:3306'
    else:
        return None
    return (what + '; on Debian: apt-get install rabbitmq-server '
            'mariadb-server')


def shared_database(server=None):
    """Synced databases, made once for all tests of this process.

    :param server: a lab.servers.database.MariaDB; the one of all tests if None
    """
    key = server and server.port
    if key not in _databases:
        made = database.Database(rabbitmq().transport_url, server or mariadb())
        made.__enter__()
        if server is None:
            atexit.register(made.__exit__)
        _databases[key] = made
    return _databases[key]


@functools.cache
def shared_placement(shared):
    """Placement on a ``shared_database``, started once for all tests.

    It takes as much of the machine to start as a nova-scheduler.
    """
    folder = tempfile.mkdtemp(prefix='lab-placement-')
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = placement.Placement(folder, shared.urls['placement'])
    atexit.register(made.kill)
    return made


# The built tree of nova; and nova without the series, beside it or beside
# another built tree that is named.
tree = cloud.built_tree
stock_tree = cloud.stock_tree


def companion(nova=None):
    """The built tree of the companion.

    :param nova: the built tree of nova that it is for; that of all tests if
        None
    """
    return (nova or tree()) + '-oslo.messaging'


def release(name):
    """The built tree of nova for another release, and its programs.

    :returns: two folders; or None if they have not been made
    """
    build = os.path.dirname(tree())
    found = tuple(os.path.join(build, *parts)
                  for parts in ((name,), ('env', name, 'bin')))
    return found if all(map(os.path.isdir, found)) else None


class LabTestCase(testtools.TestCase):
    """Runs a service with workers for real, nova-scheduler if not another."""

    BINARY = 'nova-scheduler'

    @property
    def topic(self):
        return self.BINARY.removeprefix('nova-')

    def services(self, made):
        """The records of the service."""
        return made.services(binary=self.BINARY)

    def setUp(self):
        super().setUp()
        reason = missing()
        if reason and os.environ.get('CI') == 'true':
            self.fail(reason)
        elif reason:
            self.skipTest(reason)

    def cloud(self, conf=None, private_broker=None, private_database=None):
        """A control plane without schedulers, for the time of the test.

        :param conf: configuration of all schedulers, on top of CONF
        """
        shared = shared_database(private_database)
        used = private_broker or rabbitmq()
        shared.map_broker(used.transport_url)
        made = self.enterContext(cloud.Cloud(
            broker=used, conf=pairs.merged(CONF, conf or {}), database=shared,
            # What a test has stopped, another one needs.
            placement=None if private_database else shared_placement(shared)))
        self.addOnException(lambda exc_info: self.addDetail(
            'scheduler log', testtools.content.text_content(made.log())))
        return made

    def start(self, made, topic=None, **kwargs):
        """Start a service and wait until it serves and is up.

        :param topic: of another service than that of the test
        """
        kwargs.setdefault('node', NODE)
        service = getattr(made, topic or self.topic)(**kwargs)
        service.wait_ready()
        self.wait_up(made, service)
        return service

    def start_all(self, made, workers, mode):
        """Start all services that have workers, each on a node of its own."""
        return [self.start(made, topic, node=f'{topic}-node-1',
                           workers=workers, mode=mode) for topic in WORK]

    def wait_up(self, made, service, timeout=30):
        made.wait(lambda: service.record_hosts() <= self.up(
            made, binary=service.binary), timeout,
            'the records of all workers to be up')

    @classmethod
    def up(cls, made, binary=None):
        """The hosts whose records have had a heartbeat lately."""
        return made.up(SERVICE_DOWN_TIME, binary=binary or cls.BINARY)

    def end(self, service, seconds):
        """SIGTERM ends a service and all of its processes; its code."""
        processes = service.tree()
        service.process.terminate()
        code = service.process.wait(seconds)
        self.assertEqual([], [process for process in processes
                              if process.is_running()])
        return code

    def run_lab(self, *arguments):
        """Run a command of the lab; its code and what it has found."""
        module, args = lab_main.parse([
            *arguments, '--output', self.useFixture(fixtures.TempDir()).path])
        results = lab_results.Results(args.command, args.arguments,
                                      args.output)
        return module.main(args, results), results

    def check_no_traceback(self, log):
        """The log of services has none, but for one that is eventlet's."""
        self.assertNotIn('Traceback', EVENTLET_ENDS.sub('', log))

    def callers(self, made, timeout, call=rpc.Client.work):
        """Callers of the service that leave time for what else runs here.

        :param timeout: seconds that they wait for an answer
        :param call: what they call, with a client and the timeout
        """
        client = self.enterContext(made.client(self.topic))
        return rpc.Callers(client, CALLERS, timeout, pause=PAUSE,
                           call=functools.partial(call, client))

    @staticmethod
    def pids(scheduler):
        return {n: worker.pid for n, worker in scheduler.workers().items()}

    def block(self, made, service, client, pool, *numbers):
        """Have requests take up all threads of workers, for good.

        :param pool: how many threads each has
        """
        for n in numbers:
            worker = service.workers()[n]
            made.faults.block(worker, WORK[service.topic()])
            for _request in range(pool):
                client.cast_work(service.worker_host(n))
            made.wait(
                lambda: made.faults.state(worker)['running'] >= pool, 10,
                f'all {pool} threads of worker {n} to be busy')

    def middlebox(self, url):
        """A box before a server.

        To be made before the cloud, so that what is ended with the cloud can
        still reach the server by way of it.

        :param url: of the server
        :returns: the box, and the URL by way of it
        """
        made = self.enterContext(
            middlebox.Middlebox(urllib.parse.urlsplit(url).port))
        return made, made.url(url)
