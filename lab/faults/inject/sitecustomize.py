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

"""Executes faults in the process that imports it; see ``lab.faults``.

Imported before everything else in the process, so it imports as little as
it can: above all nothing that eventlet has to patch first.
"""

import _thread
import errno
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))

# What runs ``work`` and ``look_up`` of ``lab.rpc.Client``: module -> class and
# methods. The first argument is the context of the request.
TRACED = {
    'nova.scheduler.manager': ('SchedulerManager', (
        'delete_aggregate', 'sync_instance_info')),
    'nova.conductor.manager': ('ConductorManager', (
        'object_class_action_versions',))}

# As they are now: eventlet's own are for pipes, and no threads.
write = os.write
start_new_thread = _thread.start_new_thread

# What calls wait for; another fault takes its place and ends it.
current = [None]

# One entry for each call that runs, the most there were, and one for each that
# has ended. What threads do to a list is atomic.
running = []
peak = [0]
ended = []

# What leaks, and by how many seconds the clock is ahead.
memory = []
ahead = [0]

# The names of aggregates that were cast, in the order of their arrival.
casts = []


def hold_gil(seconds):
    import ctypes
    # Unlike CDLL, PyDLL does not release the GIL for the call. Who locks a
    # mutex once more waits until the time of the wall clock that is given. A
    # signal does not end that, as it would end sleep(): Python code would run
    # then, and other threads would get the GIL.
    libc = ctypes.PyDLL(None)
    mutex = ctypes.create_string_buffer(64)
    end = divmod(time.clock_gettime_ns(time.CLOCK_REALTIME), 10 ** 9)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_timedlock(mutex, (ctypes.c_long * 2)(
        end[0] + int(seconds), end[1]))


def block(method):
    _replace(_owner(method), method, float('inf'))


def slow(method, seconds):
    _replace(_owner(method), method, seconds)


def fail(method):
    _replace(_owner(method), method, 0, error=lambda: OSError(
        errno.EMFILE, os.strerror(errno.EMFILE)))


def find_no_host(method):
    import oslo_messaging

    from nova import exception

    def expected():
        try:
            raise exception.NoValidHost(reason='Placement does not answer')
        except exception.NoValidHost:
            raise oslo_messaging.ExpectedException()

    _replace(_owner(method), method, 0, error=expected)


def hang_reply():
    from oslo_messaging._drivers import amqpdriver
    # A cast has no reply to be sent.
    _replace(amqpdriver.AMQPIncomingMessage, 'reply', float('inf'),
             lambda message: message.msg_id)


def exhaust(method):
    import resource
    with open('/proc/self/status') as stream:
        used = next(int(line.split()[1]) << 10 for line in stream
                    if line.startswith('VmData:'))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + (64 << 20), hard))
    owner = _owner(method)
    original = getattr(owner, method)

    def leak(self, *args, **kwargs):
        memory.append(bytearray(8 << 20))
        return original(self, *args, **kwargs)

    setattr(owner, method, leak)


def jump(seconds):
    import datetime

    from oslo_utils import timeutils
    if not hasattr(timeutils.utcnow, 'original'):
        time.time = _ahead(time.time, lambda: ahead[0])
        time.time_ns = _ahead(time.time_ns, lambda: int(ahead[0] * 1e9))
        timeutils.utcnow = _ahead(
            timeutils.utcnow, lambda: datetime.timedelta(seconds=ahead[0]))
    ahead[0] = seconds


def _ahead(original, offset):
    def now(*args, **kwargs):
        return original(*args, **kwargs) + offset()

    now.original = original
    return now


def hang_start():
    from nova import service
    original = service.Service.start
    path = os.path.join(os.environ['LAB_FAULTS'], 'hang_start')
    with open(path, 'w'):
        pass

    def start(self):
        try:
            os.remove(path)
        except FileNotFoundError:
            # Another process was the first.
            return original(self)
        while True:
            time.sleep(1)

    service.Service.start = start


def hold_gil_at_stop(seconds):
    from nova import service
    service.Service.stop = lambda self: hold_gil(seconds)


def connect():
    import sqlalchemy
    from sqlalchemy import pool

    from nova.db.main import api
    engine = sqlalchemy.create_engine(
        api.get_engine().url, poolclass=pool.NullPool)

    def run():
        while True:
            memory.append(engine.connect())

    # It ends with the error of the one that is refused. Not here: under
    # eventlet nothing that waits may run in a handler of signals.
    start_new_thread(run, ())


def release(calls):
    current[0].tickets.extend([None] * calls)


def free():
    current[0] = None


def watch():
    from nova.scheduler import host_manager
    original = host_manager.HostManager.update_aggregates

    def update_aggregates(self, aggregates):
        original(self, aggregates)
        casts.extend(aggregate.name for aggregate in aggregates)

    host_manager.HostManager.update_aggregates = update_aggregates


def tell(path):
    import gc
    # Other services than the scheduler know no aggregates.
    kind = getattr(sys.modules.get('nova.scheduler.host_manager'),
                   'HostManager', ())
    # What was frozen before the fork is not listed.
    gc.unfreeze()
    known = {aggregate.name for found in gc.get_objects()
             if isinstance(found, kind)
             for aggregate in list(found.aggs_by_id.values())}
    with open(path + '.new', 'w') as stream:
        json.dump({'aggregates': sorted(known), 'casts': list(casts),
                   'running': len(running), 'peak': peak[0],
                   'ended': len(ended)}, stream)
    os.rename(path + '.new', path)


class Wait:
    """What calls of a method wait for: some time, or a ticket each."""

    def __init__(self, seconds, error=None):
        self.seconds = seconds
        # Makes the error that they end with; none if None.
        self.error = error
        self.tickets = []

    def over(self, began):
        if (current[0] is not self or
                time.monotonic() - began >= self.seconds):
            return True
        try:
            self.tickets.pop()
            return True
        except IndexError:
            return False


def _owner(method):
    """The class whose method it is."""
    from nova import baserpc
    if method == 'ping':
        return baserpc.BaseRPCAPI
    # Not the scheduler's manager, which calls its own: nova keeps what it
    # found there. What is not loaded is of another service.
    for module, name in (('nova.scheduler.host_manager', 'HostManager'),
                         ('nova.conductor.manager', 'ComputeTaskManager'),
                         ('nova.conductor.manager', 'ConductorManager')):
        owner = getattr(sys.modules.get(module), name, None)
        if hasattr(owner, method):
            return owner
    raise AttributeError(method)


def _replace(owner, name, seconds, concerned=lambda self: True, error=None):
    original = getattr(owner, name)
    original = getattr(original, 'original', original)
    fault = current[0] = Wait(seconds, error)

    def method(self, *args, **kwargs):
        running.append(None)
        peak[0] = max(peak[0], len(running))
        try:
            began = time.monotonic()
            # time.sleep is looked up at each call, so under eventlet it is
            # the green one: the pool hangs, but not the process.
            while concerned(self) and not fault.over(began):
                time.sleep(min(0.05, seconds))
            if fault.error and current[0] is fault:
                raise fault.error()
            return original(self, *args, **kwargs)
        finally:
            running.pop()
            ended.append(None)

    method.original = original
    setattr(owner, name, method)


class Tracer:
    """Has the methods traced in each process that imports their modules.

    The parent does before it forks, so no worker runs one before.
    """

    def find_spec(self, name, path=None, target=None):
        """Find a module as all others do; called by each import."""
        if name not in TRACED:
            return None
        owner, methods = TRACED.pop(name)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            for method in methods:
                _trace(getattr(module, owner), method)

        spec.loader.exec_module = exec_module
        return spec


def _trace(owner, name):
    original = getattr(owner, name)

    def method(self, context, *args, **kwargs):
        line = '%s %d %.6f\n' % (context.request_id, os.getpid(),
                                 time.monotonic())
        # One write each, so the lines of all processes stay whole.
        trace = os.open(os.environ['LAB_TRACE'],
                        os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            write(trace, line.encode())
        finally:
            os.close(trace)
        return original(self, context, *args, **kwargs)

    method.__name__ = name
    setattr(owner, name, method)


def handle(signum, frame):
    path = os.path.join(os.environ['LAB_FAULTS'], str(os.getpid()))
    with open(path) as stream:
        parameters = json.load(stream)
    # Says that it is taken; holding the GIL, nothing more could be said.
    os.remove(path)
    globals()[parameters.pop('fault')](**parameters)


def chain():
    """Import the sitecustomize that ours has taken the place of."""
    paths = [path for path in sys.path if os.path.abspath(path) != HERE]
    spec = importlib.machinery.PathFinder.find_spec('sitecustomize', paths)
    if spec and spec.loader:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


if 'LAB_FAULTS' in os.environ:
    signal.signal(signal.SIGRTMIN + 5, handle)
if 'LAB_TRACE' in os.environ:
    sys.meta_path.insert(0, Tracer())
chain()
