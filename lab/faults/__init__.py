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

"""Faults put into a real worker from outside.

The product has no hook for them. Python imports a ``sitecustomize`` which it
finds on PYTHONPATH: ours (``inject/``) installs a handler of a real-time
signal, which executes what stands in a file named after the process.
"""

import collections
import json
import os
import signal

from lab import process

SIGNAL = signal.SIGRTMIN + 5
INJECT = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'inject')
# Seconds until a worker has taken one, on a machine that is busy.
TAKEN = 30

#: That a worker began to run a request: ``name`` is the id of the request,
#: ``at`` the monotonic time, which is the same in all processes.
Execution = collections.namedtuple('Execution', 'name pid at')


class Faults:
    """The faults of some processes, each a ``psutil.Process``.

    A fault of a Python worker is in when the method returns: the worker has
    taken it. ``stop`` and ``resume`` need nothing of the worker.
    """

    def __init__(self, folder):
        self.folder = folder
        #: What to add to the environment of the process.
        self.env = {'LAB_FAULTS': folder}

    def trace(self):
        """Have the processes that start from now on trace requests.

        That is ``work`` and ``look_up`` of ``lab.rpc.Client``. Each worker,
        whenever it is forked, notes each request that it begins to run, for
        ``executions``. A worker with a fault does so before it waits or
        fails.
        """
        self.env['LAB_TRACE'] = os.path.join(self.folder, 'trace')

    def executions(self):
        """What was traced up to now.

        :returns: list of ``Execution``
        """
        try:
            with open(self.env['LAB_TRACE']) as stream:
                lines = stream.read().splitlines()
        except FileNotFoundError:
            return []
        return [Execution(name, int(pid), float(at))
                for name, pid, at in map(str.split, lines)]

    @staticmethod
    def stop(worker):
        """Stop the process: nothing of it runs, its connections stay."""
        worker.send_signal(signal.SIGSTOP)

    @staticmethod
    def resume(worker):
        """Continue a stopped process."""
        worker.send_signal(signal.SIGCONT)

    def hold_gil(self, worker, seconds):
        """Hold the GIL, as a C call that does not release it would.

        :param seconds: whole seconds
        """
        self._put(worker, 'hold_gil', seconds=seconds)

    def block(self, worker, method='ping'):
        """Let each call of a method wait until ``free``: the pool fills.

        Only the dispatch pool hangs; all else in the process runs.

        :param method: of the scheduler's host manager, which has one for
            most requests, of the conductor's managers, or ``ping``, which
            probes call
        """
        self._put(worker, 'block', method=method)

    def slow(self, worker, seconds, method='ping'):
        """Let each call take seconds: a busy worker, but a sound one."""
        self._put(worker, 'slow', seconds=seconds, method=method)

    def fail(self, worker, method='ping'):
        """Let each call raise at once, as where no file can be opened.

        :param method: as for ``block``
        """
        self._put(worker, 'fail', method=method)

    def find_no_host(self, worker, method='ping'):
        """Let each call end at once with NoValidHost, which nova expects.

        nova-scheduler finds no host where Placement cannot be reached.

        :param method: as for ``block``
        """
        self._put(worker, 'find_no_host', method=method)

    def hang_start(self, parent):
        """Let the next worker that a parent forks hang before it serves."""
        self._put(parent, 'hang_start')

    def hold_gil_at_stop(self, worker, seconds):
        """The same as ``hold_gil``, once the worker is told to stop."""
        self._put(worker, 'hold_gil_at_stop', seconds=seconds)

    def connect(self, worker):
        """Let it open connections to the main database, and keep them.

        As many as the database gives it; it may take seconds.
        """
        self._put(worker, 'connect')

    def hang_reply(self, worker):
        """Let each reply wait until ``free``: requests run but do not end."""
        self._put(worker, 'hang_reply')

    def exhaust(self, worker, method='ping'):
        """Let each call leak memory, up to a limit it is given: 64 MiB more.

        What needs more than is left then raises MemoryError. (Where it is the
        kernel that runs out of memory, it kills the process.)

        :param method: as for ``block``
        """
        self._put(worker, 'exhaust', method=method)

    def jump(self, worker, seconds):
        """Set its wall clock; what is monotonic goes on as before.

        That is ``time.time`` and oslo.utils' ``utcnow``, which is what nova
        reads; C code and other processes have the right time.

        :param seconds: by which it is ahead of the right one from now on
        """
        self._put(worker, 'jump', seconds=seconds)

    def release(self, worker, calls=1):
        """Let so many of the calls that wait go on."""
        self._put(worker, 'release', calls=calls)

    def free(self, worker):
        """End all of these faults, also for calls under way."""
        self._put(worker, 'free')

    def watch(self, worker):
        """Have it remember the fanout casts of aggregates for ``state``."""
        self._put(worker, 'watch')

    def state(self, worker):
        """What there is to know about the process.

        :returns: dict: ``aggregates``, the sorted names that its scheduler
            knows; ``casts``, the names that were cast since ``watch``, in the
            order in which they were run; ``running``, ``peak`` and ``ended``,
            how many calls of the methods with a fault run now, ran at a time
            at most, and have ended
        """
        path = os.path.join(self.folder, '%d.state' % worker.pid)
        self._put(worker, 'tell', path=path)
        process.wait(lambda: os.path.exists(path), TAKEN,
                     'the state of process %d' % worker.pid)
        with open(path) as stream:
            state = json.load(stream)
        os.remove(path)
        return state

    def _put(self, worker, fault, **parameters):
        path = os.path.join(self.folder, str(worker.pid))
        # Renamed into place, so it is read whole.
        with open(path + '.new', 'w') as stream:
            json.dump(dict(parameters, fault=fault), stream)
        os.rename(path + '.new', path)
        worker.send_signal(SIGNAL)
        process.wait(lambda: not os.path.exists(path), TAKEN,
                     'process %d to take the fault %s' % (worker.pid, fault))
