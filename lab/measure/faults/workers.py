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

"""Faults of the workers themselves."""

import time

from lab.measure.faults import fault
from lab.measure.faults import stage as stages

# Seconds by which a clock jumps, and after which it is right again.
JUMP = 3600
JUMPED = 15
# For longer than anybody looks.
FOR_EVER = 300


def stuck(put):
    """A fault of one worker, which stays.

    :param put: called with a ``lab.faults.Faults``; returns a method and its
        arguments but for the worker
    """
    return lambda stage: stage.get_stuck(*put(stage.faults))


def _slow(stage):
    worker = stage.scheduler.workers()[stages.STUCK]
    stage.faults.slow(worker, 0.5, stages.WORK)
    time.sleep(15)
    stage.faults.free(worker)


def _clock(stage):
    # The clock of a node is that of all its processes.
    for seconds in (JUMP, 0):
        for process in stage.processes():
            stage.faults.jump(process, seconds)
        time.sleep(seconds and JUMPED)


FAULTS = (
    fault.Fault('killed', 'a worker killed', stuck(
        lambda faults: [lambda worker: worker.kill()]), 15),
    fault.Fault('stopped', 'a worker stopped', stuck(
        lambda faults: [faults.stop])),
    fault.Fault('blocked', 'its pool blocked', stuck(
        lambda faults: [faults.block, stages.WORK])),
    fault.Fault('gil', 'its GIL held', stuck(
        lambda faults: [faults.hold_gil, FOR_EVER])),
    fault.Fault('memory', 'out of memory', stuck(
        lambda faults: [faults.exhaust, stages.WORK])),
    fault.Fault('slow', 'slow, 0.5 s a call', _slow, 8, ends=True,
                visible=False),
    fault.Fault('clock', 'clock 1 h ahead', _clock, 12, ends=True),
)
