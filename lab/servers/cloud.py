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

"""A small control plane: databases, Placement, and services of nova."""

import contextlib
import fcntl
import glob
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile

import amqp.exceptions
import psutil

from lab import faults as lab_faults
from lab import LabError
from lab import process
from lab import rpc
from lab.servers import broker as lab_broker
from lab.servers import database as lab_database
from lab.servers import placement as lab_placement


def has_worker_hosts(tree=None, binary='nova-scheduler'):
    """Whether a nova tree has the series: a worker host for each worker.

    :param tree: folder of the tree; the installed nova if None
    :param binary: the service that is asked about
    """
    path = _path_in(tree, 'cmd', binary.partition('-')[2] + '.py')
    if not os.path.exists(path):
        return False
    with open(path) as stream:
        return 'launch=launch' in stream.read()


def find_tree():
    """The nova to run: the installed one, or the tree built last.

    In an environment that tools/run.py has made, the installed one is the
    tree of its release.

    :returns: a folder, or None for the installed one
    :raises LabError: when none of them has the series
    """
    if has_worker_hosts():
        return None
    built = [path for path in glob.glob(
        os.path.join(process.ROOT, 'build', '*'))
        if has_worker_hosts(path)]
    if built:
        return max(built, key=os.path.getmtime)
    raise LabError('no nova with the series: build one with '
                   '"python3 tools/series.py build 2026.2"')


def built_tree(tree=None):
    """The folder that tools/series.py has built a nova tree in.

    :param tree: folder of a tree; the installed nova if None
    :raises LabError: when it is not one of those, but of a wheel, say
    """
    tree = os.path.dirname(_path_in(tree))
    if not os.path.isdir(os.path.join(tree, '.git')):
        raise LabError('%s was not built by tools/series.py, so there is no '
                       'stock nova beside it: name one with --stock' % tree)
    return tree


def stock_tree(tree=None):
    """Stock nova beside a built tree: the commit it is based on.

    Made when it is not there yet; a matter of seconds.

    :param tree: as for ``built_tree``
    :returns: folder of a nova tree
    :raises LabError: when it cannot be made
    """
    tree = built_tree(tree)
    with contextlib.ExitStack() as stack:
        # Tests in several processes want it at the same time.
        stack.callback(os.close, lock := os.open(tree, os.O_RDONLY))
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _stock_beside(tree)


def stock(tree=None):
    """The nova without the series that something is measured on.

    :param tree: the folder that was asked for; ``stock_tree()`` if None
    :returns: its folder
    :raises LabError: when there is no nova in it, or one with the series
    """
    tree = tree or stock_tree()
    if (not os.path.isdir(os.path.join(tree, 'nova'))
            or has_worker_hosts(tree)):
        raise LabError('%s is no nova without the series' % tree)
    return tree


def companion(tree=None):
    """The oslo.messaging with the companion series.

    :param tree: the folder that was asked for; that of the release if None
    :returns: its folder
    :raises LabError: when there is none in it
    """
    tree = tree or built_tree() + '-oslo.messaging'
    if not os.path.isdir(os.path.join(tree, 'oslo_messaging')):
        raise LabError('there is no oslo.messaging in ' + tree)
    return tree


def _stock_beside(tree):
    folder = os.path.join(os.path.dirname(tree),
                          'stock-' + os.path.basename(tree))
    git = ['git', '-c', 'safe.directory=*', '-C', tree]
    found = subprocess.run([*git, 'rev-parse', '--verify', 'base^{commit}'],
                           capture_output=True, text=True)
    if found.returncode:
        raise LabError('%s has no commit "base": build it again' % tree)
    stamp = os.path.join(folder, '.base')
    if os.path.exists(stamp):
        with open(stamp) as stream:
            if stream.read() == found.stdout:
                return folder
        shutil.rmtree(folder)
    with tempfile.TemporaryDirectory(
            # Those of the tools are deleted by the next of them.
            prefix='.stock-', dir=os.path.dirname(tree)) as scratch:
        archive = os.path.join(scratch, 'tar')
        made = os.path.join(scratch, 'tree')
        os.mkdir(made)
        for command in ([*git, 'archive', '--output', archive,
                         '--format', 'tar', 'base'],
                        ['tar', '-x', '-f', archive, '-C', made]):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise LabError('%s failed' % command[0], done.stderr)
        with open(os.path.join(made, '.base'), 'w') as stream:
            stream.write(found.stdout)
        # Renamed into place, so that it is there whole or not at all.
        os.rename(made, folder)
    return folder


def modes(tree=None):
    """The concurrency modes that nova-scheduler has, the usual one first.

    Before 2025.2 it always patches, and runs its RPC server in eventlet.

    :param tree: folder of a nova tree; the installed nova if None
    """
    with open(_path_in(tree, 'rpc.py')) as stream:
        if 'concurrency_mode_threading' in stream.read():
            return ('threading', 'eventlet')
    return ('eventlet',)


def mode_env(mode=None, tree=None):
    """The environment variables that choose a concurrency mode.

    :param mode: one of ``modes``; the first of them if None
    :param tree: as for ``modes``
    :raises LabError: when the tree does not have that mode
    """
    found = modes(tree)
    mode = mode or found[0]
    if mode not in found:
        raise LabError('mode is %s, not %s' % (' or '.join(found), mode))
    return {'OS_NOVA_DISABLE_EVENTLET_PATCHING':
            'true' if mode == 'threading' else 'false'}


def _stop_conf(tree):
    with open(_path_in(tree, 'scheduler', 'manager.py')) as stream:
        sleeps = 'time.sleep(sleep_time)' in stream.read()
    # 2026.1 takes all of this time to stop, and nobody here waits minutes.
    return {'DEFAULT': {'manager_shutdown_timeout': 1}} if sleeps else {}


def _path_in(tree, *parts):
    if tree is None:
        spec = importlib.util.find_spec('nova')
        tree = os.path.dirname(spec.submodule_search_locations[0])
    return os.path.join(tree, 'nova', *parts)


class Service(process.Child):
    """A running service of nova that has workers."""

    def __init__(self, binary, broker, node, worker_count, hosts, *args):
        """Start it.

        :param binary: nova-scheduler or nova-conductor
        :param broker: the ``broker.Broker`` that it consumes from
        :param node: the value of its ``[DEFAULT] host``
        :param worker_count: how many workers it is configured to have
        :param hosts: whether they have worker hosts
        :param args: as for ``process.Child``
        """
        self.binary = binary
        self.broker = broker
        self.node = node
        self.worker_count = worker_count
        self.hosts = hosts
        super().__init__(*args)

    def topic(self):
        """The topic that it serves, also its section of the configuration."""
        return self.binary.partition('-')[2]

    def worker_host(self, n):
        return '%s-worker-%d' % (self.node, n)

    def queue(self, n):
        """The name of the queue of worker n alone (of all, on stock)."""
        return '%s.%s' % (
            self.topic(), self.worker_host(n) if self.hosts else self.node)

    @property
    def numbers(self):
        return range(1, self.worker_count + 1)

    def record_hosts(self):
        """The hosts of its records: one a worker, or that of the node."""
        if not self.hosts:
            return {self.node}
        return set(map(self.worker_host, self.numbers))

    def workers(self):
        """The worker processes by their numbers.

        With worker hosts a number is what the process's title says; stock
        workers have none and are counted in the order of their start.

        :returns: dict of ``psutil.Process``
        """
        try:
            children = list(filter(process.runs, self.process.children()))
        except psutil.NoSuchProcess:
            return {}
        if not self.hosts:
            if not children and self.worker_count == 1:
                # In eventlet mode a single one is not forked.
                return {1: self.process} if self.running() else {}
            children.sort(key=lambda child: (child.create_time(), child.pid))
            return dict(enumerate(children, 1))
        found = {}
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                match = re.fullmatch(
                    '%s: %s-worker-([0-9]+)' % (
                        self.binary, re.escape(self.node)),
                    ' '.join(child.cmdline()).rstrip())
                if match:
                    found[int(match.group(1))] = child
        return found

    def consuming(self):
        """The numbers of the workers that consume from their own queues.

        Stock workers share one queue, so as many as it has consumers.
        """
        queues = self.broker.queues([self.queue(n) for n in self.numbers])
        if not self.hosts:
            consumers = queues[0][1] if queues[0] else 0
            return list(self.numbers)[:consumers]
        return [n for n, found in zip(self.numbers, queues)
                if found and found[1]]

    def wait_ready(self, timeout=60):
        """Wait until each worker consumes.

        :param timeout: seconds
        :raises LabError: when not in time, or when the process has ended
        """
        # Those that consume are not asked again and again: with many
        # workers that would be much of what the machine does meanwhile.
        left = list(self.numbers)

        def ready():
            if not self.running():
                raise LabError('%s has ended with %d' % (
                    self.binary, self.returncode), self.log())
            # A machine that starts many workers may answer late; whether it
            # does in the end is for the timeout. So it is where the broker
            # closes connections.
            with contextlib.suppress(OSError, amqp.exceptions.AMQPError):
                if self.hosts:
                    del left[:self.broker.consumed(
                        [self.queue(n) for n in left])]
                else:
                    left[:] = list(self.numbers)[len(self.consuming()):]
                return not left and len(self.workers()) == self.worker_count

        process.wait(ready, timeout, '%d workers of %s to consume' % (
            self.worker_count, self.node), self.log)
        return self

    def hup(self):
        """Have it read its configuration again."""
        self.process.send_signal(signal.SIGHUP)

    def reload(self, timeout=60):
        """Have it read its configuration again, and wait until all have.

        Workers are started anew, but in the eventlet mode.

        :param timeout: seconds
        :raises LabError: when not in time
        """
        before, taken = self.workers().values(), self._hups_taken()
        self.hup()
        process.wait(
            lambda: not any(worker.is_running() for worker in before) or
            self._hups_taken() >= taken + len(before), timeout,
            'the workers to take the SIGHUP', self.log)
        self.wait_ready(timeout)

    def _hups_taken(self):
        """How many times a worker said that it took a SIGHUP."""
        # oslo.service of 2025.1 takes it for SIG_UNBLOCK, which is 1 too.
        return len(re.findall('Child caught SIG(HUP|_UNBLOCK), handling|'
                              'Resetting worker ', self.log()))

    def queue_names(self):
        """The names of the queues it may leave on the broker."""
        own = '%s.%s' % (self.topic(), self.node)
        return [self.topic(), own, own + '.@', *(
            '%s.%s' % (self.topic(), self.worker_host(n))
            for n in self.numbers)]


class Cloud:
    """Databases, Placement and a broker for nova-schedulers.

    Use it in a ``with``: what it starts is ended, and its queues, databases
    and files are deleted, at the end. Fanout and reply queues have random
    names; the broker drops them after ``rpc.QUEUE_TTL`` seconds.
    """

    def __init__(self, broker=None, database=None, conf=None,
                 placement=None):
        """Choose what it runs on.

        :param broker: a ``broker.Broker``; the local one if None
        :param database: a ``database.Database`` somebody else has made and
            drops, to be reset now; one of its own if None, on the local
            MariaDB if it answers
        :param conf: configuration of all schedulers, as for ``scheduler``
        :param placement: a ``placement.Placement`` somebody else has started
            on that database; one of its own if None
        """
        self.broker = broker or lab_broker.Broker()
        self.database = database
        self.conf = conf or {}
        self.folder = None
        self.placement = placement
        self.schedulers = []
        self.conductors = []
        self.computes = []
        self._names = {'scheduler'}
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        """Start the control plane, yet without a scheduler.

        :raises LabError: when the broker does not answer or already serves
            another nova-scheduler
        """
        if not self.broker.answers():
            raise LabError('no RabbitMQ answers at ' + self.broker.url)
        found = self.broker.queue('scheduler')
        if found and found[1]:
            raise LabError('another nova-scheduler is on this broker: the '
                           'queue "scheduler" has %d consumers' % found[1])
        with contextlib.ExitStack() as stack:
            self.folder = tempfile.mkdtemp(prefix='lab-cloud-')
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            if self.database is None:
                server = lab_database.MariaDB()
                self.database = stack.enter_context(lab_database.Database(
                    self.broker.transport_url,
                    server if server.answers() else None))
            else:
                self.database.reset()
            stack.callback(self._delete_queues)
            if self.placement is None:
                self.placement = stack.enter_context(
                    lab_placement.Placement(
                        self.folder, self.database.urls['placement']))
            self.faults = lab_faults.Faults(self.folder)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc):
        self._stack.close()

    def _delete_queues(self):
        with contextlib.suppress(OSError):
            # A test may have stopped its broker, and its queues with it.
            self.broker.delete(sorted(self._names))

    def config_file(self, name, *layers):
        """Write a configuration file of nova.

        :param name: of the file, and the value of ``[DEFAULT] host``
        :param layers: section -> option -> value; later layers win
        :returns: its path
        """
        return process.write_conf(os.path.join(self.folder, name + '.conf'),
                                  self._base_conf(name), *layers)

    def _base_conf(self, node):
        urls = self.database.urls
        conf = {
            'DEFAULT': {
                'host': node,
                'transport_url': self.broker.transport_url,
                'state_path': self.folder,
                # Into the process's stderr, our log, which then has all in
                # the order it came: log lines, warnings, thread dumps.
                'use_stderr': 'true',
            },
            'api_database': {'connection': urls['api']},
            'database': {'connection': urls['main']},
            'placement': self.placement.conf(),
            'oslo_concurrency': {
                'lock_path': os.path.join(self.folder, 'lock')},
            'oslo_messaging_rabbit': {
                'rabbit_transient_queues_ttl': rpc.QUEUE_TTL,
                **self.broker.options},
        }
        if node.startswith('compute-'):
            del conf['api_database'], conf['database']
        return conf

    def scheduler(self, node='scheduler-node-1', *args, **options):
        """Start a nova-scheduler; as for ``_start``."""
        return self._start(
            'nova-scheduler', self.schedulers, node, *args, **options)

    def conductor(self, node='conductor-node-1', *args, **options):
        """Start a nova-conductor; as for ``_start``."""
        return self._start(
            'nova-conductor', self.conductors, node, *args, **options)

    def _start(self, binary, running, node, workers=3, mode=None, tree=None,
               conf=None, hosts=None, packages=(), programs=None,
               broker=None):
        """Start a service; ``wait_ready`` waits until it serves.

        :param running: the list that it becomes part of
        :param node: the value of ``[DEFAULT] host``, another one for each
            kind of service
        :param workers: the number of its workers
        :param mode: one of ``modes``; the first of them if None
        :param tree: folder of the nova to run; the installed one if None
        :param conf: more configuration: section -> option -> value
        :param hosts: whether its workers have worker hosts; by default,
            whether the tree has the series
        :param packages: folders with packages to use in place of the
            installed ones, the companion say
        :param programs: folder of the programs of another environment
        :param broker: the ``broker.Broker`` that it is configured to
            consume from; the cloud's if None
        :returns: ``Service``
        """
        if hosts is None:
            hosts = has_worker_hosts(tree, binary)
        path = self.config_file(
            node, _stop_conf(tree),
            {binary.partition('-')[2]: {'workers': workers}},
            self.conf, conf or {})
        service = self._stack.enter_context(Service(
            binary, broker or self.broker, node, workers, hosts,
            [lab_database.program(binary, programs), '--config-file', path],
            os.path.join(self.folder, node + '.log'),
            {**mode_env(mode, tree), **self.faults.env,
             'PYTHONPATH': process.nova_path(
                 tree, lab_faults.INJECT, *packages)}))
        running.append(service)
        if service.broker is self.broker:
            self._names.update(service.queue_names())
        return service

    def compute(self, host, *layers, mode=None, tree=None):
        """Start a nova-compute with the fake driver.

        It has no database: whatever it reads and writes passes a conductor.

        :param host: the value of ``[DEFAULT] host``; compute-N
        :param layers: more configuration, as for ``config_file``
        :param mode: as for ``scheduler``
        :param tree: as for ``scheduler``
        :returns: ``process.Child``
        """
        self.database.map_host(host)
        state = os.path.join(self.folder, host)
        os.mkdir(state)
        path = self.config_file(host, self.conf, {'DEFAULT': {
            'compute_driver': 'fake.FakeDriver', 'state_path': state}},
            *layers)
        child = self._stack.enter_context(process.Child(
            [lab_database.program('nova-compute'), '--config-file', path],
            os.path.join(self.folder, host + '.log'),
            dict(mode_env(mode, tree),
                 PYTHONPATH=process.nova_path(tree))))
        self.computes.append(child)
        return child

    def fill(self, service, number, threads):
        """Block a worker, and have pings take up all of its threads.

        :param service: a ``Service``
        :param number: of the worker
        :param threads: how many it has
        """
        worker = service.workers()[number]
        self.faults.block(worker)
        server = (service.worker_host(number) if service.hosts else
                  service.node)

        def busy():
            return self.faults.state(worker)['running'] >= threads

        with rpc.Client(service.broker.transport_url, service.topic(),
                        self._options()) as client:
            def send():
                client.cast_ping(server)
                return busy()

            if service.hosts:
                for _request in range(threads):
                    client.cast_ping(server)
            # Where they share it, the others take their part, and answer.
            self.wait(busy if service.hosts else send, 60,
                      'all threads of a worker to be busy')

    def client(self, topic=rpc.TOPIC):
        """An RPC client of its own; use it in a ``with``."""
        return rpc.Client(self.broker.callers_url, topic, self._options())

    def _options(self):
        rabbit = {**self.broker.options,
                  **self.conf.get('oslo_messaging_rabbit', {})}
        return {name: rabbit[name] for name in rpc.SHARED if name in rabbit}

    def services(self, deleted=False, binary='nova-scheduler'):
        """The records of a binary; see ``Database.services``."""
        return [record for record in self.database.services(deleted)
                if record.binary == binary]

    def up(self, seconds=float('inf'), **options):
        """The hosts whose records have had a heartbeat in so many seconds.

        :param options: as for ``services``
        """
        return {record.host for record in self.services(**options)
                if record.last_seen_up and record.is_up(seconds)}

    def log(self):
        """The logs of all services with workers, one after the other."""
        # Two of one node, one after the other, have one log.
        logs = {child.log_path: child.log
                for child in (*self.conductors, *self.schedulers)}
        return ''.join(log() for log in logs.values())

    def wait(self, condition, timeout, what):
        """Wait for a condition; see ``process.wait``."""
        return process.wait(condition, timeout, what, self.log)
