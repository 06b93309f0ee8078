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

import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))

# Changes with each fault, which ends the ones before.
current = [None]


def hold_gil(seconds):
    import ctypes
    # Unlike CDLL, PyDLL does not release the GIL for the call. Only a signal
    # ends it early, and what is left is returned.
    sleep = ctypes.PyDLL(None).sleep
    left = int(seconds)
    while left:
        left = sleep(left)


def block():
    _replace_ping(float('inf'))


def slow(seconds):
    _replace_ping(seconds)


def free():
    current[0] = None


def _replace_ping(seconds):
    from nova import baserpc
    api = baserpc.BaseRPCAPI
    original = getattr(api.ping, 'original', api.ping)
    fault = current[0] = object()

    def ping(self, context, arg):
        end = time.monotonic() + seconds
        # time.sleep is looked up at each call, so under eventlet it is the
        # green one: the pool hangs, but not the process.
        while current[0] is fault and time.monotonic() < end:
            time.sleep(min(0.05, seconds))
        return original(self, context, arg)

    ping.original = original
    api.ping = ping


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
chain()
