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

"""Random faults on two nodes in use, and whether they did more harm than due.

What is done when follows from a seed alone, see ``plan``. Each request has a
name, and whoever runs it notes that, so in the end each one is accounted for.
"""

import collections
from concurrent import futures
import contextlib
import dataclasses
import functools
import json
import random
import re
import subprocess
import threading
import typing

import psutil

from lab import LabError
from lab.measure import pairs
from lab.measure import restarts
from lab import process
from lab import rpc
from lab.servers import cluster
from lab.servers import database
from lab.servers import galera

NODES = 2
WORKERS = restarts.WORKERS
CALLERS = 8
# Seconds that a caller waits for its answer, and before its next call. A
# worker that is replaced gives back what it holds before that.
TIMEOUT = 20
PAUSE = 0.05

# Few threads, so that a worker that is blocked is so at once.
SERVICE_DOWN_TIME = 8
CONF = {'DEFAULT': {'report_interval': 2,
                    'service_down_time': SERVICE_DOWN_TIME,
                    'periodic_fuzzy_delay': 0,
                    'executor_thread_pool_size': 4},
        'scheduler': {'worker_timeout': 10},
        'conductor': {'worker_timeout': 10}}

# Seconds between two faults.
GAP = (1, 4)
# Seconds in which a worker or a node gets no fault of the same scope again.
REST = {'worker': 5, 'node': 20, 'cloud': 5}
# Workers of a node that are hurt at a time.
MOST_HURT = 2

# Seconds after a worker was hurt within which it may still be killed for it:
# the parent has seen what it was like, and the stacks are written first.
KILLED_AFTER = 15
# Seconds after connections were closed within which what begins may run again:
# RabbitMQ may not have seen that it was acknowledged.
AGAIN_AFTER = 2
# Seconds until all have found another node, when one of a cluster is killed.
FAILOVER = 5
# Seconds that a start may take while the database is slow.
START = 30
# Requests that a worker may hold which it has not begun: what it prefetches,
# and without the companion the one that its listener has read.
HELD = {True: 2, False: 3}

# Seconds for all to be well, and answers in the end.
WELL = 120
ANSWERS = 50
INTERVAL = 0.25

# What the parents of both modes log: their pid, and that of the worker.
ENDED = re.compile(r'^\S+ \S+ (\d+) .*Child (\d+) (?:killed by|exited with)',
                   re.MULTILINE)
REPLACED = 'replacing it'


def _stop(stage, worker, seconds):
    stage.cloud.faults.stop(worker)
    return functools.partial(stage.cloud.faults.resume, worker)


def _hold_gil(stage, worker, seconds):
    # It ends by itself.
    stage.cloud.faults.hold_gil(worker, max(1, int(seconds)))


def _put(name, *arguments):
    """A fault of ``lab.faults`` that lasts until it is ended."""
    def act(stage, worker, seconds):
        getattr(stage.cloud.faults, name)(
            worker, *arguments, rpc.WORK[stage.cloud.topic])
        return functools.partial(stage.free, worker)
    return act


def _restart(stage, service, seconds):
    with stage.alone(service.node):
        stage.nodes.restart_one(service.node)


def _hup(stage, service, seconds):
    # It ends a service that has just been started.
    with stage.alone(service.node):
        service.hup()


def _lock(stage, target, seconds):
    stack = contextlib.ExitStack()
    stack.enter_context(stage.cloud.database.locked('services'))
    return stack.close


def _close(stage, target, seconds):
    stage.cloud.broker.ctl('close_all_connections', 'chaos')


def _lose_node(server):
    """A node of a cluster, which comes back in the end; one at a time.

    :param server: called with the stage; returns the cluster
    """
    def act(stage, target, seconds):
        found = server(stage)
        if any(not node.child for node in found.nodes):
            raise LabError('a node is away')
        # As all else, it follows from the seed.
        found.nodes[int(seconds) % len(found.nodes)].stop()
        return found.start
    return act


def _delete_record(stage, host, seconds):
    # As nova's API does.
    stage.cloud.database.execute(
        'main', 'UPDATE services SET deleted = id, deleted_at = '
        'UTC_TIMESTAMP() WHERE host = :host AND deleted = 0', host=host)


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is done, and what may come of it."""

    title: str
    #: Called with the stage, the target and the seconds; returns what ends
    #: it, or None.
    act: typing.Callable
    #: Whom it is done to: a ``worker``, a ``node``, the ``record`` of a
    #: worker, the ``cloud``.
    scope: str
    #: How long it lasts, at least and at most.
    seconds: tuple = (0, 0)
    #: Whether the worker may lose or fail what it has begun or holds, and be
    #: killed.
    hurts: bool = False
    #: Whether its processes are told to end; they lose nothing.
    ends: bool = False
    #: Whether a worker that starts ends, as it does on stock.
    ends_starts: bool = False
    #: What becomes of a call that is under way when it begins, whoever has it.
    costs: str | None = None


#: By their names.
FAULTS = {
    'kill': Fault('SIGKILL', lambda stage, worker, seconds: worker.kill(),
                  'worker', hurts=True, ends=True),
    'stop': Fault('SIGSTOP', _stop, 'worker', (1, 25), hurts=True),
    'gil': Fault('GIL held', _hold_gil, 'worker', (1, 25), hurts=True),
    'block': Fault('blocked', _put('block'), 'worker', (1, 25), hurts=True),
    'slow': Fault('slow', _put('slow', 0.5), 'worker', (1, 25)),
    'fail': Fault('failing', _put('fail'), 'worker', (1, 25), hurts=True),
    'term': Fault('SIGTERM',
                  lambda stage, worker, seconds: worker.terminate(),
                  'worker', ends=True),
    'hup': Fault('SIGHUP', _hup, 'node', ends=True),
    'restart': Fault('restart', _restart, 'node', ends=True),
    'lock': Fault('table locked', _lock, 'cloud', (1, 20)),
    'database': Fault('database connections killed',
                      lambda stage, target, seconds:
                      stage.cloud.database.kill_connections(), 'cloud',
                      ends_starts=True),
    'record': Fault('record deleted', _delete_record, 'record'),
    'close': Fault('broker connections closed', _close, 'cloud'),
}
if cluster.NODES > 1:
    FAULTS['rabbitmq'] = Fault(
        'node of RabbitMQ killed', _lose_node(
            lambda stage: stage.cloud.broker), 'cloud', (5, 20), costs='lost')
if galera.GALERA:
    FAULTS['galera'] = Fault(
        'node of Galera killed', _lose_node(
            lambda stage: stage.cloud.database.server), 'cloud', (5, 20),
        ends_starts=True, costs='failed')
# What is not acknowledged then runs again.
AGAIN = ('close', 'rabbitmq')

#: What is to be done: at which second, the name of the fault, the numbers of
#: the node and the worker, from 0 and 1 on, and for how many seconds.
Event = collections.namedtuple('Event', 'at fault node worker seconds')

#: What was done: to whom, a text; seconds since the start of the callers; the
#: pids of the processes, those of parents stand for their children.
Incident = collections.namedtuple('Incident', 'fault who began ended pids')

#: A worker process: its name, when it was seen that it had ended, None if it
#: lives, and when it was first seen.
Worker = collections.namedtuple('Worker', 'pid parent name ended began',
                                defaults=[0])

#: What came of it. ``counts`` is a dict: what -> number; ``violations`` are
#: lines, one each.
Verdict = collections.namedtuple('Verdict', 'counts violations')


def plan(seed, seconds):
    """What to do, of which all follows from the seed.

    :returns: list of ``Event``, in the order of their times
    """
    chance = random.Random(seed)
    names = sorted(FAULTS)
    events, at, until, hurt = [], 0, {}, []
    while True:
        at += chance.uniform(*GAP)
        name = chance.choice(names)
        node, worker = chance.randrange(NODES), 1 + chance.randrange(WORKERS)
        lasts = chance.uniform(*FAULTS[name].seconds)
        if at >= seconds:
            return events
        fault = FAULTS[name]
        target = {'node': (fault.scope, node),
                  'cloud': (fault.scope, name)}.get(
                      fault.scope, (fault.scope, node, worker))
        hurt = [(where, end) for where, end in hurt if end > at]
        if until.get(target, 0) > at or fault.hurts and sum(
                where == node for where, end in hurt) == MOST_HURT:
            continue
        lasts = min(lasts, seconds - at)
        until[target] = at + lasts + REST.get(fault.scope, 0)
        if fault.hurts:
            hurt.append((node, until[target]))
        events.append(Event(round(at, 2), name, node, worker,
                            round(lasts, 2)))


def told(incident):
    """An incident in a few words."""
    return '%s, %s, %.1f to %.1f s' % (
        FAULTS[incident.fault].title, incident.who, incident.began,
        incident.ended)


class Judge:
    """Whether anything happened that nothing which was done accounts for."""

    def __init__(self, calls, executions, workers, incidents, held):
        """Look at it.

        :param calls: list of ``rpc.Call``
        :param executions: list of ``lab.faults.Execution``; their times are in
            seconds since the start of the callers, as all here
        :param workers: list of ``Worker``, all that there were
        :param incidents: list of ``Incident``
        :param held: requests that a worker holds at most and has not begun
        """
        self.calls = {call.name: call for call in calls}
        self.ran = collections.defaultdict(list)
        for execution in sorted(executions, key=lambda each: each.at):
            self.ran[execution.name].append(execution)
        self.incidents = sorted(incidents, key=lambda each: each.began)
        self.workers = {each.pid: each for each in workers}
        self.hurting = [incident for incident in self.incidents
                        if FAULTS[incident.fault].hurts]
        # What each may still account for; who fails goes on at once.
        self.left = {incident: held for incident in self.hurting
                     if incident.fault != 'fail'}
        self.deaths = {each.pid: each.ended for each in workers
                       if each.ended is not None}
        self.violations = []
        self.counts = collections.Counter()

    def verdict(self):
        for call in sorted(self.calls.values(), key=lambda call: call.ended):
            self.counts[call.outcome] += 1
            if call.outcome != 'answered':
                self._judge_unanswered(call)
        for name, found in self.ran.items():
            if len(found) > 1:
                self._judge_repeated(name, found)
        for pid in sorted(self.deaths, key=self.deaths.get):
            self._judge_ended(self.workers[pid])
        return Verdict(dict(self.counts), self.violations)

    def _judge_unanswered(self, call):
        """It is lost or failed."""
        found = self.ran[call.name]
        begun = [each for each in found if each.at <= call.ended]
        if begun:
            # One that is stuck answers nothing, not even an error.
            what, allowed = 'begun', any(
                self._is_hurt(incident, each.pid, call)
                for incident in self.hurting for each in begun
                if (incident.fault == 'fail') == (call.outcome == 'failed'))
        else:
            what, allowed = 'held', (
                call.outcome == 'lost' and self._account(call, found))
        if allowed:
            self.counts[f'{call.outcome}, {what} by the hurt'] += 1
            return
        if any(FAULTS[incident.fault].costs == call.outcome and
               call.began - FAILOVER <= incident.began <= call.ended
               for incident in self.incidents):
            self.counts['lost or failed with a node'] += 1
            return
        self._violated('%s: call %s, %.1f to %.1f s, %s%s' % (
            call.outcome, call.name, call.began, call.ended,
            ', '.join('begun at %.1f s by %s, who was not hurt' % (
                each.at, self._name(each.pid)) for each in found)
            or 'never begun',
            # The rest of it is the traceback of the worker.
            ': ' + call.error.splitlines()[0] if call.outcome == 'failed'
            else ''), call.ended)

    def _is_hurt(self, incident, pid, call):
        """Whether an incident hurt a process while it had the call."""
        end = incident.ended
        if self.deaths.get(pid, end) <= end + KILLED_AFTER:
            end = max(end, self.deaths.get(pid, end))
        return (pid in incident.pids and call.began <= end
                and call.ended >= incident.began)

    def _account(self, call, found):
        """Whether one of the hurt may have held a call; it is its now.

        :param found: the executions, which came too late
        """
        # Those who begin it themselves have held it; those who have died
        # gave it to others.
        holders = sorted(self.left, key=lambda incident: not any(
            each.pid in incident.pids for each in found))
        for incident in holders:
            if self.left[incident] and any(
                    self._is_hurt(incident, pid, call)
                    for pid in incident.pids):
                self.left[incident] -= 1
                return True
        return False

    def _judge_repeated(self, name, found):
        self.counts['run again'] += 1
        # One that is stuck may hold it meanwhile, so it is the time before
        # that counts.
        if not all(any(incident.fault in AGAIN and incident.began <=
                       before.at <= incident.ended + AGAIN_AFTER
                       for incident in self.incidents)
                   for before in found[:-1]):
            self._violated('run %d times: call %s, %s' % (
                len(found), name, ', '.join(
                    '%.2f s by %s' % (execution.at, self._name(execution.pid))
                    for execution in found)), found[-1].at)

    def _judge_ended(self, worker):
        self.counts['workers ended'] += 1
        for incident in self.incidents:
            fault = FAULTS[incident.fault]
            if worker.ended >= incident.began and (
                    fault.ends and worker.pid in incident.pids or
                    fault.ends and worker.parent in incident.pids and
                    worker.ended <= incident.ended + KILLED_AFTER or
                    fault.ends_starts and
                    worker.ended - worker.began <= START and
                    worker.ended <= incident.ended + AGAIN_AFTER or
                    fault.hurts and worker.pid in incident.pids and
                    worker.ended <= incident.ended + KILLED_AFTER):
                return
        self._violated('ended: %s at %.1f s, who was not hurt' % (
            self._name(worker.pid), worker.ended), worker.ended)

    def _name(self, pid):
        found = self.workers.get(pid)
        return '%s (pid %d)' % (found.name if found else 'a worker', pid)

    def _violated(self, text, at):
        """Add a line, with what was done last before."""
        before = [incident for incident in self.incidents
                  if incident.began <= at]
        self.violations.append('%s; last fault before: %s' % (
            text, told(before[-1]) if before else 'none'))


class Stage(contextlib.ExitStack):
    """Two nodes of a service under callers, and what is done to them.

    Use it in a ``with``; what it starts is killed in the end.
    """

    def __init__(self, cloud, events, mode, tree=None, packages=(),
                 progress=lambda text: None):
        """Choose what is done to what.

        :param cloud: a running ``cloud.Cloud``, whose servers are its own, and
            whose ``topic`` is that of the service
        :param events: list of ``Event``
        :param mode: one of ``cloud.modes``
        :param tree: folder of the nova to run; the installed one if None
        :param packages: as for ``Cloud.scheduler``
        :param progress: called with a text for each event
        """
        super().__init__()
        self.cloud = cloud
        self.events = events
        self.mode = mode
        self.options = {'tree': tree, 'packages': packages}
        self.progress = progress
        self.incidents = []
        self.skipped = []
        self._over = threading.Event()
        self._alone = collections.defaultdict(threading.Lock)
        # Of all that there were: pid -> the process and the ``Worker``.
        self._workers = {}
        # Of each log, how many bytes.
        self._read = collections.Counter()

    def __enter__(self):
        self.cloud.faults.trace()
        self.nodes = restarts.Nodes(self.cloud, self.mode, self.cloud.topic,
                                    second=WORKERS, **self.options)
        self._wait_well()
        with contextlib.ExitStack() as stack:
            stack.callback(self._kill)
            client = stack.enter_context(
                self.cloud.client(self.cloud.topic))
            self.callers = stack.enter_context(rpc.Callers(
                client, CALLERS, TIMEOUT, pause=PAUSE, named=True,
                limit=float('inf'),
                call=functools.partial(rpc.Client.work, client)))
            # The first calls make connections and thread pools.
            self.callers.wait_answered(2 * CALLERS, WELL, self.cloud.log)
            self.push(stack.pop_all())
        return self

    def _kill(self):
        for service in self.nodes.schedulers:
            service.kill()

    def _wait_well(self):
        """Wait until all workers consume and all records are up."""
        for service in self.nodes.schedulers:
            service.wait_ready(WELL)
        hosts = set().union(*(service.record_hosts()
                              for service in self.nodes.schedulers))
        self.cloud.wait(
            lambda: hosts <= {
                record.host for record in self.cloud.services(
                    binary='nova-' + self.cloud.topic)
                if record.is_up(SERVICE_DOWN_TIME)},
            WELL, 'all records to be up')

    def run(self):
        """Do all there is to be done, end it, and wait until all is well.

        :returns: ``Verdict``
        """
        self._look()
        began = self.callers.elapsed()
        stuck = []
        with futures.ThreadPoolExecutor(1) as pool:
            done = threading.Event()
            watch = pool.submit(self._watch, done)
            try:
                self._do_all(began)
                try:
                    self._wait_well()
                    self.callers.wait_answered(ANSWERS, WELL)
                except LabError as error:
                    stuck.append('not healed: ' + error.line)
            finally:
                done.set()
            watch.result()
        self.callers.stop()
        self._look()
        return self._judged(stuck)

    def _do_all(self, began):
        with futures.ThreadPoolExecutor(len(self.events) + 1) as pool:
            running = []
            try:
                for event in self.events:
                    self._over.wait(began + event.at - self.callers.elapsed())
                    running.append(pool.submit(self._do, event))
                # Each lasts until then at most.
                futures.wait(running)
            finally:
                self._over.set()
            for each in running:
                each.result()

    def _do(self, event):
        fault = FAULTS[event.fault]
        service = self.nodes.schedulers[event.node]
        who, target, pids = self._target(event, service)
        at = self.callers.elapsed()
        try:
            if not target:
                raise LabError('%s is not there' % who)
            self.progress('%6.1f s: %s, %s%s' % (
                at, fault.title, who,
                ', for %.1f s' % event.seconds if event.seconds else ''))
            end = fault.act(self, target, event.seconds)
            self._over.wait(event.seconds)
            if end:
                end()
        except (LabError, psutil.NoSuchProcess, subprocess.CalledProcessError,
                database.exc.OperationalError,
                database.exc.InterfaceError) as error:
            # Others are done to it as well: it is gone, say.
            self.skipped.append('%s, %s: %s' % (
                fault.title, who, str(error).splitlines()[0]))
        # It may have done something all the same.
        self.incidents.append(Incident(
            event.fault, who, at, self.callers.elapsed(), frozenset(pids)))

    def _target(self, event, service):
        """A text, what the fault is done to or None, and the pids."""
        scope = FAULTS[event.fault].scope
        if scope == 'cloud':
            return 'all', scope, ()
        if scope == 'record':
            host = (service.worker_host(event.worker) if service.hosts else
                    service.node)
            return host, host, ()
        workers = service.workers()
        pids = {worker.pid for worker in workers.values()}
        if (event.fault == 'hup' and self.mode == 'eventlet' and
                not service.hosts):
            # The processes stay.
            pids = ()
        elif scope == 'node':
            # With those that it has just started.
            pids.add(service.pid)
        elif scope == 'worker':
            worker = workers.get(event.worker)
            return '%s worker %d' % (service.node, event.worker), worker, (
                {worker.pid} if worker else ())
        return service.node, service, pids

    @contextlib.contextmanager
    def alone(self, node):
        """Nobody else restarts a node meanwhile.

        :raises LabError: when somebody does
        """
        if not self._alone[node].acquire(blocking=False):
            raise LabError(node + ' is restarted')
        try:
            yield
        finally:
            self._alone[node].release()

    def free(self, worker):
        """End the faults of a worker, if it is still there."""
        if process.runs(worker):
            self.cloud.faults.free(worker)

    def _watch(self, done):
        while not done.wait(INTERVAL):
            self._look()

    def _look(self):
        """Find workers that have come and gone."""
        for service in self.nodes.schedulers:
            for number, worker in service.workers().items():
                if worker.pid != service.pid:
                    self._workers.setdefault(worker.pid, [worker, Worker(
                        worker.pid, service.pid, '%s worker %d' % (
                            service.node, number), None,
                        self.callers.elapsed())])
        for found in self._workers.values():
            if found[1].ended is None and not process.runs(found[0]):
                # Not before: a look takes its time, and so what has ended it
                # came first.
                found[1] = found[1]._replace(ended=self.callers.elapsed())
        for service in (*self.cloud.schedulers, *self.cloud.conductors):
            # Of one that came and went between two looks.
            for parent, pid in ENDED.findall(self._news(service)):
                self._workers.setdefault(int(pid), [None, Worker(
                    int(pid), int(parent), service.node,
                    self.callers.elapsed(), self.callers.elapsed())])

    def _news(self, service):
        """The lines that were logged since it was last asked."""
        with open(service.log_path, 'rb') as stream:
            stream.seek(self._read[service.log_path])
            whole, end, _rest = stream.read().rpartition(b'\n')
        self._read[service.log_path] += len(whole + end)
        return whole.decode(errors='replace')

    def workers(self):
        """All that there were up to now, a list of ``Worker``."""
        return [worker for _process, worker in self._workers.values()]

    def executions(self):
        """All up to now, list of ``lab.faults.Execution``."""
        return [each._replace(at=each.at - self.callers.began)
                for each in self.cloud.faults.executions()]

    def _judged(self, stuck):
        counts, violations = Judge(
            self.callers.calls(), self.executions(), self.workers(),
            self.incidents, HELD[bool(self.options['packages'])]).verdict()
        return Verdict(counts | {
            'faults': len(self.incidents) - len(self.skipped),
            'skipped': len(self.skipped),
            'replaced': self.cloud.log().count(REPLACED)}, violations + stuck)


def measure(args, events, tree, packages, stem, progress):
    """Do it to two nodes of a service, on servers of their own.

    :param args: ``mode``, and what ``pairs.start_cloud`` takes
    :param stem: path of two files: ``.log``, what the service logs, and
        ``.json``, what was done and what became of it; all else as for
        ``Stage``
    :returns: ``Verdict``
    """
    with contextlib.ExitStack() as stack:
        made = pairs.start_cloud(args, stack, CONF)
        try:
            stage = stack.enter_context(Stage(
                made, events, args.mode, tree, packages, progress))
            verdict = stage.run()
        finally:
            with open(stem + '.log', 'w') as stream:
                stream.write(made.log())
        with open(stem + '.json', 'w') as stream:
            json.dump(record(stage), stream, default=sorted, indent=1)
        return verdict


def record(stage):
    """What was done, and what became of what was not as usual."""
    calls = [call._asdict() for call in stage.callers.calls()
             if call.outcome != 'answered']
    executions = stage.executions()
    times = collections.Counter(each.name for each in executions)
    names = {call['name'] for call in calls}
    return {
        'skipped': stage.skipped,
        'incidents': [each._asdict() for each in stage.incidents],
        'workers': [worker._asdict() for worker in stage.workers()],
        'calls': calls,
        'executions': [each._asdict() for each in executions
                       if each.name in names or times[each.name] > 1],
    }
