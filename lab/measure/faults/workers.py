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

import psutil

from lab.measure.faults import fault
from lab.measure.faults import stage as stages

# Seconds by which a clock jumps, and after which it is right again.
JUMP = 3600
JUMPED = 15
# Seconds that all workers fail.
FAILING = 30
# For longer than anybody looks.
FOR_EVER = 300

# Callers at full speed, for twice as many threads as there are.
BUSY = {'callers': 16, 'pause': 0, 'pool': 2, 'work': 0.5}


def stuck(name, *args):
    """A fault of one worker, which stays: a method of ``lab.faults.Faults``.

    :param args: of the method, but for the worker
    """
    return lambda stage: stage.get_stuck(getattr(stage.faults, name), *args)


def _all_blocked(stage):
    stage.may_end(stage.scheduler)
    for worker in stage.scheduler.workers().values():
        stage.faults.block(worker, stages.WORK)


def _slow(stage):
    worker = stage.scheduler.workers()[stages.STUCK]
    stage.faults.slow(worker, 0.5, stages.WORK)
    time.sleep(15)
    stage.faults.free(worker)


def _all_fail(stage):
    # Those that take the places of workers would fail too.
    for process in stage.processes():
        stage.faults.fail(process, stages.WORK)
    time.sleep(FAILING)
    for process in stage.processes():
        stage.faults.slow(process, stage.fault.work, stages.WORK)


def _find_no_host(stage):
    worker = stage.scheduler.workers()[stages.STUCK]
    stage.faults.find_no_host(worker, stages.WORK)
    time.sleep(FAILING)
    stage.faults.slow(worker, stage.fault.work, stages.WORK)


def _hang_before_serving(stage):
    scheduler = stage.scheduler
    before = {worker.pid for worker in scheduler.workers().values()}
    stage.faults.hang_start(scheduler.process)
    worker = stage.get_stuck(psutil.Process.kill)

    def successors():
        found = {worker.pid for worker in scheduler.workers().values()}
        return worker.pid not in found and found - before

    stage.faulty |= stage.cloud.wait(successors, stages.READY,
                                     'the worker to be forked again')


def _hang_at_stop(stage):
    stage.get_stuck(stage.faults.hold_gil_at_stop, FOR_EVER).terminate()


def _clock(stage):
    # The clock of a node is that of all its processes.
    for seconds in (JUMP, 0):
        for process in stage.processes():
            stage.faults.jump(process, seconds)
        time.sleep(seconds and JUMPED)


FAULTS = (
    fault.Fault('killed', 'a worker killed',
                lambda stage: stage.get_stuck(psutil.Process.kill), 15),
    fault.Fault('stopped', 'a worker stopped', stuck('stop')),
    fault.Fault('blocked', 'its pool blocked', stuck('block', stages.WORK)),
    fault.Fault('single-blocked', 'the only worker blocked',
                stuck('block', stages.WORK), 30, workers=1),
    fault.Fault('all-blocked', 'all workers blocked', _all_blocked, 75,
                pool=2),
    fault.Fault('gil', 'its GIL held', stuck('hold_gil', FOR_EVER)),
    fault.Fault('memory', 'out of memory', stuck('exhaust', stages.WORK)),
    fault.Fault('slow', 'slow, 0.5 s a call', _slow, 8, ends=True,
                visible=False),
    fault.Fault('failing-idle', 'it fails, others idle',
                stuck('fail', stages.WORK), 60, pool=2, pause=0.2),
    fault.Fault('failing-busy', 'it fails, others busy',
                stuck('fail', stages.WORK), 60, **BUSY),
    fault.Fault('finds-no-host', 'it finds no host, others busy',
                _find_no_host, 10, ends=True, visible=False, **BUSY),
    fault.Fault('failing-alike', 'all workers fail', _all_fail, 10, ends=True,
                quick_errors=True, visible=False, **BUSY),
    fault.Fault('hangs-at-start', 'it hangs before it serves',
                _hang_before_serving, 60),
    fault.Fault('hangs-at-stop', 'it hangs while it stops', _hang_at_stop, 45,
                conf={'DEFAULT': {'graceful_shutdown_timeout': 10,
                                  'manager_shutdown_timeout': 5}}),
    fault.Fault('clock', 'clock 1 h ahead', _clock, 12, ends=True),
)
