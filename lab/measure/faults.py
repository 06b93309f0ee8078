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

"""What a fault costs and who sees it, beside a nova that is as it was.

A ``Fault`` is put into a nova-scheduler under callers, and is watched for a
time that is the same for whatever nova runs. All of it is on servers of the
lab's own, so that they can be stopped as well.
"""

import collections
from concurrent import futures
import contextlib
import dataclasses
import functools
import json
import re
import statistics
import threading
import time
import typing
import urllib.parse

import amqp.exceptions
import kombu.exceptions

from lab.faults import middlebox
from lab import LabError
from lab.measure import restarts
from lab import rpc
from lab.servers import broker
from lab.servers import cloud
from lab.servers import database

NODE = 'scheduler-node-1'
WORKERS = 3
# The number of the worker that gets stuck.
STUCK = 2

CALLERS = 8
# Seconds that a caller waits for an answer, and before its next call. So few
# that one worker could answer them all: what else the machine does is not to
# be taken for a fault.
TIMEOUT = 5
PAUSE = 0.1

SERVICE_DOWN_TIME = 8
CONF = {'DEFAULT': {'report_interval': 2,
                    'service_down_time': SERVICE_DOWN_TIME,
                    'periodic_fuzzy_delay': 0,
                    'executor_thread_pool_size': 8},
        'scheduler': {'worker_timeout': 10}}

# The method of the scheduler that runs ``Client.work``.
WORK = 'delete_aggregate'

# Seconds that an outage lasts: longer than a stuck worker is let live.
OUTAGE = 15
# Seconds by which a clock jumps.
JUMP = 3600

# Seconds of calls before what they are when all is well, and of that.
WARM_UP = 2
HEALTHY = 4
# How much of what the callers ask for has to be answered then, and how often
# that is looked at.
ENOUGH = 0.8
LOOKS = 5
# Seconds between two looks, and of the goodput at each.
INTERVAL = 0.5
WIDTH = 2
# Goodput of healthy at which it is well again, and below which it is not.
WELL = 0.9
ILL = 0.5

# Seconds for a service to serve.
READY = 120

# What says in the log that something is wrong: the launchers of both modes,
# the series, oslo.messaging, and nova's database driver of the heartbeats.
SAYS = re.compile(
    r'Child \d+ (?:killed by|exited with)|replacing it|runs no messages, as|'
    r'takes no more requests|is unreachable|MemoryError|'
    r'Lost connection to backend for server|DBConnectionError')
ENDED = re.compile(r'Child (\d+) (?:killed by|exited with)|'
                   r'\(pid (\d+)\) has begun no message')

#: How it was at a time. ``at`` in seconds since the start of the callers;
#: ``up``, the hosts whose records are up, None if the database does not
#: answer; ``said``, whether the log said that
#: something is wrong; ``sound``, whether all workers consume and all records
#: are up; ``share``, the goodput of the last seconds, of healthy;
#: ``workers``, a dict: pid -> name.
Look = collections.namedtuple('Look', 'at up said sound share workers')

#: What a fault did. ``answered``, ``lost`` and ``failed`` are calls from its
#: begin on; ``goodput`` while it lasted, of healthy; ``seen`` and ``healed``
#: seconds, None for never; ``wrongly`` the names of the workers whose
#: processes ended though nothing was wrong with them; ``left`` the hosts of
#: records without a worker.
Outcome = collections.namedtuple(
    'Outcome', 'answered lost failed goodput seen healed wrongly left')


def seconds_until_seen(looks, hosts, since):
    """Seconds until a record was down, or until the log said so.

    :param looks: a list of ``Look``
    :param hosts: the hosts of the records that are looked at
    :param since: when the fault began
    :returns: None for never
    """
    for look in looks:
        down = look.up is not None and not hosts <= look.up
        if look.at >= since and (look.said or down):
            return look.at - since
    return None


def seconds_until_healed(looks, since):
    """Seconds until all was well, and stayed so.

    That is until a look from which on, half of the time at least, callers
    have their answers again, and at no time less than half of them.

    :param looks: a list of ``Look``
    :param since: when the fault ended, or began if it does not end
    :returns: None for never
    """
    # What a look sees began before it.
    looks = [look for look in looks if look.at - WIDTH >= since]
    ill = [number for number, look in enumerate(looks)
           if not look.sound or look.share < ILL]
    rest = looks[ill[-1] + 1 if ill else 0:]
    for number, look in enumerate(rest):
        if look.share >= WELL <= statistics.median(
                later.share for later in rest[number:]):
            return look.at - since
    return None


def killed_wrongly(looks, log, faulty):
    """The workers whose processes ended though nothing was wrong with them.

    :param looks: a list of ``Look``, the first one before the fault
    :param log: what was logged since
    :param faulty: the pids of those that may have ended
    :returns: their names, sorted
    """
    names = {}
    for look in looks:
        names.update(look.workers)
    ended = set(names) - set(looks[-1].workers)
    # One may come and go between two looks.
    ended |= {int(pid) for match in ENDED.findall(log) for pid in match if pid}
    return sorted(names.get(pid, f'pid {pid}') for pid in ended - set(faulty))


def left_over(hosts, expected):
    """The hosts of the records that have no worker, sorted."""
    return sorted(set(hosts) - set(expected))


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault, and how it is looked at."""

    name: str
    title: str
    #: Called with a ``Stage``; returns when the fault is over, if it ends.
    act: typing.Callable
    #: For how many seconds it is looked at after that.
    after: int = 25
    #: Whether it is over then, or stays.
    ends: bool = False
    #: Whether there are two nodes.
    nodes: bool = False
    #: What the schedulers reach by way of a box: ``broker``, ``database``.
    box: str = ''
    #: What the callers call.
    call: typing.Callable = rpc.Client.work
    #: Seconds that each of them waits before a call.
    pause: float = PAUSE
    #: Whether there is something to be seen.
    visible: bool = True


class Servers(contextlib.ExitStack):
    """RabbitMQ and MariaDB, which are shared by all runs."""

    def __enter__(self):
        """Start them.

        :raises LabError: when one of them is not installed
        """
        for name, kind in (('RabbitMQ', broker.PrivateBroker),
                           ('MariaDB', database.PrivateMariaDB)):
            if not kind.available():
                raise LabError('no %s is installed' % name)
        with contextlib.ExitStack() as stack:
            self.broker = stack.enter_context(broker.PrivateBroker())
            self.mariadb = stack.enter_context(database.PrivateMariaDB())
            self.database = stack.enter_context(database.Database(
                self.broker.transport_url, self.mariadb))
            self.push(stack.pop_all())
        return self


class Stage(contextlib.ExitStack):
    """A nova-scheduler under callers, for one fault.

    Use it in a ``with``; what it starts is killed in the end.
    """

    def __init__(self, servers, fault, mode=None, tree=None):
        """Choose what is measured.

        :param servers: ``Servers``
        :param fault: a ``Fault``
        :param mode: one of ``cloud.modes``; the first of them if None
        :param tree: folder of the nova to run; the installed one if None
        """
        super().__init__()
        self.servers = servers
        self.fault = fault
        self.mode = mode or cloud.modes(tree)[0]
        self.tree = tree
        self.nodes = None
        # The pids that may end, and the hosts that are to be seen down.
        self.faulty = set()
        self.hosts = set()
        self.looks = []

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def _start(self):
        self.box = None
        conf = {section: dict(options) for section, options in CONF.items()}
        if self.fault.box:
            self._put_box(conf)
        self.cloud = self.enter_context(cloud.Cloud(
            self.servers.broker, self.servers.database, conf))
        self.callback(self._kill)
        if self.fault.nodes:
            self.nodes = restarts.Nodes(self.cloud, self.mode, tree=self.tree)
        else:
            self.start()
        self.cloud.wait(lambda: self._is_sound(self._up()), READY,
                        'the records to be up')
        client = self.enter_context(self.cloud.client())

        self.callers = self.enter_context(rpc.Callers(
            client, CALLERS, TIMEOUT, pause=self.fault.pause,
            call=functools.partial(self.fault.call, client)))
        # The first calls make connections and thread pools.
        self.callers.wait_answered(2 * CALLERS, READY, self.cloud.log)
        self.callers.rate(WARM_UP)
        self.healthy = self._healthy()

    def _healthy(self):
        """The calls answered a second when all is well.

        Where the callers leave time, that is known to be what they ask for,
        so wait a while for what else the machine does.
        """
        rates = []
        while True:
            rates.append(self.callers.rate(HEALTHY))
            wanted = self.fault.pause and ENOUGH * CALLERS / self.fault.pause
            if rates[-1] >= wanted or len(rates) == LOOKS:
                break
        if not max(rates):
            raise LabError('no call was answered in %d s' % (LOOKS * HEALTHY),
                           self.cloud.log())
        return max(rates)

    def _put_box(self, conf):
        servers = self.servers
        urls = servers.database.urls
        url = (servers.broker.url if self.fault.box == 'broker' else
               urls['main'])
        self.box = self.enter_context(middlebox.Middlebox(
            urllib.parse.urlsplit(url).port))
        if self.fault.box == 'broker':
            conf['DEFAULT']['transport_url'] = self.box.url(
                servers.broker.transport_url)
            return
        self.callback(servers.database.map_cell, urls['main'])
        servers.database.map_cell(self.box.url(urls['main']))
        for section, name in (('database', 'main'), ('api_database', 'api')):
            conf[section] = {'connection': self.box.url(urls[name])}

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
            node=NODE, workers=WORKERS, mode=self.mode,
            tree=self.tree).wait_ready(READY)

    def get_stuck(self, function, *args):
        """Have a worker get stuck.

        :param function: called with it and the rest
        """
        worker = self.scheduler.workers()[STUCK]
        self.faulty.add(worker.pid)
        self.hosts = {self.scheduler.worker_host(STUCK)
                      if self.scheduler.hosts else NODE}
        function(worker, *args)
        return worker

    def may_end(self, *schedulers):
        """That the workers of some schedulers end is part of the fault."""
        for scheduler in schedulers:
            self.faulty.update(
                worker.pid for worker in scheduler.workers().values())

    # What comes of it.

    def run(self):
        """Put the fault in, and watch.

        :returns: ``Outcome``
        """
        fault, callers = self.fault, self.callers
        self._marks = {scheduler.log_path: len(scheduler.log())
                       for scheduler in self.cloud.schedulers}
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
        looks, log = self.looks, self._log()
        counts = callers.counts(began)
        lasted = (began, ended if fault.ends else looks[-2].at)
        return Outcome(
            *counts,
            callers.counts(*lasted).answered / (lasted[1] - lasted[0])
            / self.healthy,
            seconds_until_seen(looks, self.hosts, began),
            seconds_until_healed(looks[:-1], ended if fault.ends else began),
            killed_wrongly(looks, log, self.faulty),
            left_over((record.host for record in self.cloud.services()),
                      self._expected()))

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
        answered = self.callers.counts(at - WIDTH, at).answered
        return Look(at, up, bool(SAYS.search(self._log())),
                    self._is_sound(up), answered / WIDTH / self.healthy,
                    workers)

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
        if up is None or not self._expected() <= up:
            return False
        try:
            return all(
                len(found) == scheduler.worker_count
                for scheduler in self.schedulers
                for found in (scheduler.workers(), scheduler.consuming()))
        except (OSError, amqp.exceptions.AMQPError,
                kombu.exceptions.OperationalError):
            return False

    def _log(self):
        """What was logged since the fault began."""
        # Two of one node have one log.
        logs = {scheduler.log_path: scheduler
                for scheduler in self.cloud.schedulers}
        return ''.join(scheduler.log()[self._marks.get(path, 0):]
                       for path, scheduler in logs.items())


def _stuck(put):
    """A fault of one worker, which stays."""
    return lambda stage: stage.get_stuck(*put(stage.faults))


def _slow(stage):
    worker = stage.scheduler.workers()[STUCK]
    stage.faults.slow(worker, 0.5, WORK)
    time.sleep(OUTAGE)
    stage.faults.free(worker)


def _restart(name):
    def act(stage):
        server = getattr(stage.servers, name)
        server.stop()
        try:
            time.sleep(OUTAGE)
        finally:
            # Others use it next.
            server.start()
    return act


def _silent(stage):
    stage.box.silence()
    time.sleep(OUTAGE)
    stage.box.restore()


def _half_open(stage):
    stage.may_end(stage.scheduler)
    stage.box.abandon()


def _alarm(stage):
    watermark = 'set_vm_memory_high_watermark'
    stage.servers.broker.ctl(watermark, '0.000001')
    try:
        time.sleep(OUTAGE)
    finally:
        stage.servers.broker.ctl(watermark, '0.4')


def _terminate(stage):
    worker = stage.nodes.first.workers()[STUCK]
    stage.faulty.add(worker.pid)
    stage.nodes.terminate_worker()


def _hup(stage):
    if stage.mode == 'threading':
        # There it starts new ones.
        stage.may_end(stage.nodes.first)
    stage.nodes.hup()


def _rolling_restart(stage):
    stage.may_end(*stage.schedulers)
    stage.nodes.restart()


def _scale(stage):
    for workers in (5, 2):
        stage.may_end(stage.nodes.first)
        stage.nodes.scale(workers)


def _clock(stage):
    # The clock of a node is that of all its processes.
    for seconds in (JUMP, 0):
        for found in [stage.scheduler.process,
                      *stage.scheduler.workers().values()]:
            stage.faults.jump(found, seconds)
        time.sleep(seconds and OUTAGE)


def _same_name(stage):
    second = stage.start()
    time.sleep(OUTAGE)
    stage.may_end(second)
    second.stop()


#: In the order of the table.
FAULTS = (
    Fault('killed', 'a worker killed', _stuck(
        lambda faults: [lambda worker: worker.kill()]), 15),
    Fault('stopped', 'a worker stopped', _stuck(
        lambda faults: [faults.stop])),
    Fault('blocked', 'its pool blocked', _stuck(
        lambda faults: [faults.block, WORK])),
    Fault('gil', 'its GIL held', _stuck(
        lambda faults: [faults.hold_gil, 120])),
    Fault('memory', 'out of memory', _stuck(
        lambda faults: [faults.exhaust, WORK])),
    Fault('slow', 'slow, 0.5 s a call', _slow, 8, ends=True, visible=False),
    Fault('rabbitmq-restart', 'RabbitMQ restarted', _restart('broker'), 35,
          ends=True),
    Fault('rabbitmq-silent', 'RabbitMQ silent', _silent, 35, ends=True,
          box='broker'),
    Fault('rabbitmq-half-open', 'RabbitMQ, half-open', _half_open, 100,
          box='broker'),
    Fault('rabbitmq-alarm', 'RabbitMQ in alarm', _alarm, 35, ends=True),
    Fault('mariadb-restart', 'MariaDB restarted', _restart('mariadb'), 15,
          ends=True, call=rpc.Client.look_up),
    Fault('mariadb-silent', 'MariaDB silent', _silent, 20, ends=True,
          box='database', call=rpc.Client.look_up),
    Fault('mariadb-half-open', 'MariaDB, half-open', _half_open, 40,
          box='database', call=rpc.Client.look_up),
    Fault('sigterm', 'SIGTERM of a worker', _terminate, 10, ends=True,
          nodes=True, pause=0, visible=False),
    Fault('sighup', 'SIGHUP', _hup, 10, ends=True, nodes=True, pause=0,
          visible=False),
    Fault('rolling-restart', 'rolling restart', _rolling_restart, 15,
          ends=True, nodes=True, pause=0, visible=False),
    Fault('scale', 'scale 3 to 5 to 2', _scale, 30, ends=True, nodes=True,
          pause=0, visible=False),
    Fault('clock', 'clock 1 h ahead', _clock, 12, ends=True),
    Fault('same-name', 'two nodes of one name', _same_name, 40, ends=True,
          visible=False),
)


def measure(servers, fault, mode, tree, stem):
    """Put a fault into a nova-scheduler of its own.

    :param servers: ``Servers``; the rest as for ``Stage``
    :param stem: path of two files: ``.log``, what nova-scheduler logs, and
        ``.json``, all looks at it
    :returns: ``Outcome``
    :raises LabError: when it does not come that far
    """
    with Stage(servers, fault, mode, tree) as stage:
        try:
            return stage.run()
        finally:
            with open(stem + '.log', 'w') as stream:
                stream.write(stage.cloud.log())
            with open(stem + '.json', 'w') as stream:
                json.dump([look._asdict() for look in stage.looks], stream,
                          default=sorted, indent=1)
