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

"""The start and the memory of 1, 8, 32 and 64 workers."""

import contextlib
import functools
import time

from lab.measure import pairs
from lab.spread import Spread

TITLE = 'Start until all consume, and memory of all processes'

# Seconds after the first heartbeats, when each has loaded what they take.
SETTLE = 10


def add_arguments(group):
    group.add_argument('--workers', type=int, nargs='+', metavar='N',
                       help='(default: 1 8 32 64, or 1 8)')


def variants(args, stack):
    made = pairs.start_cloud(args, stack)
    for workers in args.workers:
        yield from pairs.compared(
            args, functools.partial(measure, made, args, workers),
            f', {workers} workers' if workers > 1 else ', 1 worker',
            x=workers)


def measure(made, args, workers, tree, conf):
    # Or the records of before would be those that are waited for.
    made.database.execute('main', 'DELETE FROM services')
    began = time.monotonic()
    with pairs.serving(made, args, tree, conf, workers=workers) as scheduler:
        seconds, used = time.monotonic() - began, pairs.cpu_seconds(scheduler)
        wait_heartbeats(made, scheduler)
        # The same age for all, as the memory grows with it.
        time.sleep(SETTLE)
        idle = memory(scheduler)
        # Who was never called has not loaded what a call takes.
        with pairs.calling(made):
            pass
        used_pss, used_uss = memory(scheduler)
    return {'start, s': seconds, 'start, CPU s': used,
            'PSS, MiB': idle[0], 'USS, MiB': idle[1],
            'PSS after calls, MiB': used_pss,
            'USS after calls, MiB': used_uss}


def memory(scheduler):
    """PSS and USS of all processes, in MiB."""
    found = [child.memory_full_info() for child in scheduler.tree()]
    return [sum(getattr(info, name) for info in found) / 2 ** 20
            for name in ('pss', 'uss')]


def wait_heartbeats(made, scheduler):
    """Wait until each record of a scheduler has its first heartbeat."""
    hosts = scheduler.record_hosts()
    made.wait(lambda: hosts <= made.up(binary=scheduler.binary), 120,
              'heartbeats')


@contextlib.contextmanager
def beating(made, args, tree, conf, workers):
    """A scheduler like ``pairs.serving``, after its first heartbeats."""
    made.database.execute('main', 'DELETE FROM services')
    with pairs.serving(made, args, tree, conf, workers=workers) as scheduler:
        wait_heartbeats(made, scheduler)
        yield scheduler


def pictures(results, found, measured):
    """Memory and start against workers, if there is more than one size."""
    if len({variant.x for variant in found}) < 2:
        return
    panels = {}
    for y in ('PSS, MiB', 'start, s'):
        series = panels.setdefault(y, {})
        for variant in found:
            series.setdefault(variant.label, []).append(
                (variant.x, Spread(row[y] for row in measured[variant.name])))
    results.lines('cost', 'What workers cost: memory of all processes, '
                  'and start', 'workers', panels)
