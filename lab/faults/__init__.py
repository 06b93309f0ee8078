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

import json
import os
import shutil
import signal
import tempfile

from lab import process

SIGNAL = signal.SIGRTMIN + 5
INJECT = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'inject')
VARIABLE = 'LAB_FAULTS'


class Faults:
    """The faults of some processes, each a ``psutil.Process``.

    A fault of a Python worker is in when the method returns: the worker has
    taken it. ``stop`` and ``resume`` need nothing of the worker.
    """

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix='lab-faults-')

    def env(self):
        """What to add to the environment of the process."""
        return {VARIABLE: self.folder}

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

    def block(self, worker):
        """Let each ``ping`` wait until ``free``: the pool fills with them.

        Only the dispatch pool hangs; all else in the process runs.
        """
        self._put(worker, 'block')

    def slow(self, worker, seconds):
        """Let each ``ping`` take seconds: a busy worker, but a sound one."""
        self._put(worker, 'slow', seconds=seconds)

    def free(self, worker):
        """End ``block`` and ``slow``, also for calls under way."""
        self._put(worker, 'free')

    def _put(self, worker, fault, **parameters):
        path = os.path.join(self.folder, str(worker.pid))
        # Renamed into place, so it is read whole.
        with open(path + '.new', 'w') as stream:
            json.dump(dict(parameters, fault=fault), stream)
        os.rename(path + '.new', path)
        worker.send_signal(SIGNAL)
        process.wait(lambda: not os.path.exists(path), 10,
                     'process %d to take the fault %s' % (worker.pid, fault))

    def close(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
