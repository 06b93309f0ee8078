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

"""The service that a fault is put into, under callers, and who watches it.

It is watched for a time that is the same for whatever nova runs. All of it is
on servers of the lab's own, so that they can be stopped as well.
"""

from concurrent import futures
import contextlib
import functools
import statistics
import tempfile
import threading
import types
import urllib.parse

import amqp.exceptions
import kombu.exceptions

from lab.faults import middlebox
from lab import LabError
from lab.measure.faults import verdicts
from lab.measure import pairs
from lab.measure import restarts
from lab import rpc
from lab.servers import cloud
from lab.servers import cluster
from lab.servers import database
from lab.servers import galera
from lab.servers import placement

NODE = 'scheduler-node-1'
# The number of the worker that gets stuck, if there are as many.
STUCK = 2

# Seconds that a caller waits for an answer.
TIMEOUT = 5

SERVICE_DOWN_TIME = 8
CONF = {'DEFAULT': {'report_interval': 2,
                    'service_down_time': SERVICE_DOWN_TIME,
                    'periodic_fuzzy_delay': 0}}

# The method of the scheduler that runs ``Client.work``.
WORK = rpc.WORK['scheduler']

# Seconds of calls before what they are when all is well, and of that.
WARM_UP = 2
HEALTHY = 4
# How much of what the callers ask for has to be answered then, and how often
# that is looked at.
ENOUGH = 0.8
LOOKS = 5
# Seconds between two looks.
INTERVAL = 0.5

# Seconds for a service to serve.
READY = 120


@contextlib.contextmanager
def servers():
    """RabbitMQ, MariaDB and Placement, which are shared by all runs."""
    # Semi-synchronous replication needs a binary log.
    with cluster.private() as broker, \
            galera.private(['--log-bin=binlog']) as mariadb, \
            database.Database(broker.transport_url, mariadb) as databases, \
            tempfile.TemporaryDirectory(prefix='lab-placement-') as folder, \
            placement.Placement(folder, databases.urls['placement']) as api:
        # No request of the callers' needs the last one.
        yield types.SimpleNamespace(broker=broker, mariadb=mariadb,
                                    database=databases, placement=api)


class Stage(contextlib.ExitStack):
    """A nova-scheduler under callers, for one fault.

    Use it in a ``with``; what it starts is killed in the end.
    """

    def __init__(self, servers, fault, mode=None, tree=None, packages=()):
        """Choose what is measured.

        :param servers: as ``servers`` has them
        :param fault: a ``Fault``
        :param mode: one of ``cloud.modes``; the first of them if None
        :param tree: folder of the nova to run; the installed one if None
        :param packages: folders, as for ``cloud.Cloud.scheduler``
        """
        super().__init__()
        self.servers = servers
        self.fault = fault
        self.mode = mode or cloud.modes(tree)[0]
        self.options = {'tree': tree, 'packages': packages}
        #: Configuration of the service: section -> option -> value.
        self.conf = pairs.merged(
            CONF, {'DEFAULT': {'executor_thread_pool_size': fault.pool},
                   'scheduler': {'worker_timeout': fault.worker_timeout}},
            fault.conf)
        self.boxes = {}
        self.nodes = None
        # The pids that may end, and the hosts that are to be seen down.
        self.faulty = set()
        self.hosts = set()
        # The hosts whose records may stay, though nobody runs there any more.
        self.may_stay = set()
        self.looks = []
        # The ids of requests that nobody waits for.
        self._casts = []
        # The logs, as far as they were looked at, and what they said.
        self._read = {}
        self._said = False

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def _start(self):
        for kind in self.fault.boxes:
            self._put_box(kind)
        self.cloud = self.enter_context(cloud.Cloud(
            self.servers.broker, self.servers.database, self.conf,
            self.servers.placement))
        self.faults.trace()
        self.enter_context(self.fault.around(self))
        self.callback(self._kill)
        if self.fault.nodes:
            self.nodes = restarts.Nodes(self.cloud, self.mode, **self.options)
        else:
            self.start()
        self.cloud.wait(lambda: self._is_sound(self._up()), READY,
                        'the records to be up')
        for process in self.processes() if self.fault.work else ():
            self.faults.slow(process, self.fault.work, WORK)
        self.client = self.enter_context(self.cloud.client())
        self.callers = self.enter_context(rpc.Callers(
            self.client, self.fault.callers, TIMEOUT, pause=self.fault.pause,
            call=functools.partial(self.fault.call, self.client), named=True))
        # The first calls make connections and thread pools.
        self.callers.wait_answered(2 * self.fault.callers, READY,
                                   self.cloud.log)
        self.callers.rate(WARM_UP)
        self.healthy = self._healthy()

    def _healthy(self):
        """The calls answered a second when all is well.

        Where the callers leave time, that is known to be what they ask for,
        so wait a while for what else the machine does.
        """
        fault = self.fault
        wanted = ENOUGH * fault.callers / (fault.pause + fault.work) if (
            fault.pause) else 0
        rates = []
        while True:
            rates.append(self.callers.rate(HEALTHY))
            if rates[-1] >= wanted or len(rates) == LOOKS:
                break
        if not max(rates):
            raise LabError('no call was answered in %d s' % (LOOKS * HEALTHY),
                           self.cloud.log())
        return max(rates)

    def _put_box(self, kind):
        servers = self.servers
        urls = servers.database.urls
        if kind == 'broker':
            url = servers.broker.transport_url
            for port in servers.broker.ports:
                box = self._box('broker %d' % port, port)
                url = box.url(url)
            self.conf['DEFAULT']['transport_url'] = url
            return
        box = self._box(kind, urllib.parse.urlsplit(urls['main']).port)
        self.callback(servers.database.map_cell, urls['main'])
        servers.database.map_cell(box.url(urls['main']))
        if kind == 'database':
            for section, name in (('database', 'main'),
                                  ('api_database', 'api')):
                self.conf[section] = {'connection': box.url(urls[name])}

    def _box(self, name, port):
        box = self.boxes[name] = self.enter_context(middlebox.Middlebox(port))
        return box

    def _kill(self):
        for scheduler in self.schedulers:
            scheduler.kill()

    # For a fault.

    @property
    def schedulers(self):
        """The running ones."""
        return [scheduler for scheduler in (
            self.nodes.schedulers if self.nodes else self.cloud.schedulers)
            if scheduler.running()]

    @property
    def scheduler(self):
        return self.schedulers[0]

    @property
    def faults(self):
        return self.cloud.faults

    def start(self):
        """Start a nova-scheduler on the node, and wait until it serves."""
        return self.cloud.scheduler(
            node=NODE, workers=self.fault.workers, mode=self.mode,
            **self.options).wait_ready(READY)

    def processes(self):
        """The parent, and the workers, each once."""
        found = [self.scheduler.process, *self.scheduler.workers().values()]
        return {process.pid: process for process in found}.values()

    def get_stuck(self, function, *args):
        """Have a worker get stuck.

        :param function: called with it and the rest
        """
        number = min(STUCK, self.fault.workers)
        worker = self.scheduler.workers()[number]
        self.faulty.add(worker.pid)
        self.hosts = {self.scheduler.worker_host(number)
                      if self.scheduler.hosts else NODE}
        function(worker, *args)
        return worker

    def may_end(self, *schedulers):
        """That the workers of some schedulers end is part of the fault."""
        for scheduler in schedulers:
            self.faulty.update(
                worker.pid for worker in scheduler.workers().values())

    def cast(self, count):
        """Send requests that nobody waits for."""
        for _time in range(count):
            name = rpc.request_id()
            self.client.cast_work(name=name)
            self._casts.append(name)

    def begun(self):
        """How many of the ``cast`` requests were begun."""
        return len(self._casts) - len(self._ran().never)

    def _ran(self, calls=()):
        return rpc.ran([*calls, *(
            rpc.Call(None, None, 'answered', name, None)
            for name in self._casts)], self.faults.executions())

    # What comes of it.

    def run(self):
        """Put the fault in, and watch.

        :returns: ``verdicts.Outcome``
        """
        fault, callers = self.fault, self.callers
        self._log(self._read)
        before = dict(self._read)
        self.hosts = self._expected()
        self.looks = [self._look()]
        done = threading.Event()
        with futures.ThreadPoolExecutor(1) as pool:
            watch = pool.submit(self._watch, done)
            try:
                began = callers.elapsed()
                fault.act(self)
                ended = callers.elapsed()
                # Or until the watch has failed.
                futures.wait([watch], fault.after)
            finally:
                done.set()
            watch.result()
        callers.stop()
        self.looks.append(self._look())
        looks, log = self.looks, self._log(before)
        calls = [call for call in callers.calls() if call.ended >= began]
        counts = callers.counts(began)
        errors = [call.ended - call.began for call in calls
                  if call.outcome == 'failed']
        begun = self.begun()
        lasted = (began, ended if fault.ends else looks[-2].at)
        return verdicts.Outcome(
            answered=counts.answered + begun,
            lost=counts.lost + len(self._casts) - begun,
            failed=counts.failed,
            twice=len(self._ran(calls).twice),
            goodput=callers.counts(*lasted).answered / (lasted[1] - lasted[0])
            / self.healthy,
            error=statistics.median(errors) if errors else None,
            seen=verdicts.seconds_until_seen(looks, self.hosts, began),
            healed=verdicts.seconds_until_healed(
                looks[:-1], ended if fault.ends else began,
                # How many are answered at full speed depends on what else
                # the machine does.
                verdicts.WELL if fault.pause or fault.work else verdicts.ILL),
            wrongly=verdicts.killed_wrongly(looks, log, self.faulty),
            left=sorted({record.host for record in self.cloud.services()}
                        - self._expected() - self.may_stay))

    def _watch(self, done):
        while not done.wait(INTERVAL):
            self.looks.append(self._look())

    def _look(self):
        up = self._up()
        workers = {
            worker.pid: '%s worker %d' % (scheduler.node, number)
            for scheduler in self.schedulers
            for number, worker in scheduler.workers().items()
            # It has none while it starts or stops.
            if self.mode == 'eventlet' or worker.pid != scheduler.pid}
        at = self.callers.elapsed()
        answered = self.callers.counts(at - verdicts.WIDTH, at).answered
        # Where requests fail, logs grow fast: each part is looked at once.
        self._said = self._said or bool(
            verdicts.SAYS.search(self._log(self._read)))
        return verdicts.Look(
            at, up, self._said, self._is_sound(up),
            answered / verdicts.WIDTH / self.healthy, workers)

    def _up(self):
        """The hosts whose records are up; None as long as nobody can ask."""
        try:
            return {record.host for record in self.cloud.services()
                    if record.is_up(SERVICE_DOWN_TIME)}
        except (database.exc.OperationalError, database.exc.InterfaceError):
            return None

    def _expected(self):
        """The hosts that have a record."""
        return set().union(*(scheduler.record_hosts()
                             for scheduler in self.schedulers))

    def _is_sound(self, up):
        if (up is None or not self._expected() <= up or
                not self.fault.well(self)):
            return False
        try:
            return all(
                len(found) == scheduler.worker_count
                for scheduler in self.schedulers
                for found in (scheduler.workers(), scheduler.consuming()))
        except (OSError, amqp.exceptions.AMQPError,
                kombu.exceptions.OperationalError):
            return False

    def _log(self, marks):
        """What was logged since some time.

        :param marks: path of a log -> its size then; that of now afterwards
        """
        parts = []
        # Two of one node have one log.
        for path in sorted({scheduler.log_path
                            for scheduler in self.cloud.schedulers}):
            with open(path, 'rb') as stream:
                stream.seek(marks.get(path, 0))
                parts.append(stream.read())
                marks[path] = stream.tell()
        return b''.join(parts).decode(errors='replace')
