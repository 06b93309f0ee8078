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

"""One of three workers is stopped, or its dispatch pool of 8 is blocked.

Callers call at full speed; the worker is stuck 10 seconds after the start.
"""

import functools

from lab.measure import pairs
from lab.spread import Spread

TITLE = 'One of three workers stuck, eight callers who wait 5 s'

# Seconds that a point of the picture stands for.
STEP = 2
# Seconds after which the callers of the first lost calls have given up, and
# what is answered from then on is what the others are left with.
GIVEN_UP = 2 * pairs.TIMEOUT


def add_arguments(group):
    group.add_argument('--fault', nargs='+', choices=['stopped', 'blocked'],
                       help='(default: both, or stopped)')
    group.add_argument('--interval', type=int, default=10, metavar='SECONDS',
                       help='report_interval (default: 10)')
    group.add_argument('--seconds', type=int, metavar='N',
                       help='how long to look at it (default: 40, or 30)')


def variants(args, stack):
    made = pairs.start_cloud(args, stack)
    conf = {'DEFAULT': {'report_interval': args.interval,
                        'service_down_time': 6 * args.interval,
                        'executor_thread_pool_size': 8}}
    for fault in args.fault:
        yield from pairs.compared(
            args, functools.partial(measure, made, args, fault, conf),
            f', {fault}', x=fault)


def measure(made, args, fault, conf, tree, more):
    faults = made.faults
    put, end = ((faults.stop, faults.resume) if fault == 'stopped' else
                (faults.block, faults.free))
    with pairs.serving(made, args, tree,
                       pairs.merged(more, conf)) as scheduler, \
            pairs.calling(made, pairs.TIMEOUT) as callers:
        began = callers.elapsed()
        healthy = pairs.healthy_rate(callers)
        worker = scheduler.workers()[2]
        at = callers.elapsed()
        put(worker)
        try:
            callers.rate(args.seconds)
            callers.stop()
        finally:
            # So that it ends in an orderly way.
            end(worker)
    until = at + args.seconds
    rate = callers.counts(at + GIVEN_UP, until).answered / (
        args.seconds - GIVEN_UP)
    # Those made in time are lost that much later.
    lost, lost_later = (sum(callers.counts(
        at, until + pairs.TIMEOUT, began=since)[1:]) for since in (0, at))
    return {'healthy, calls/s': healthy, 'stuck, calls/s': rate,
            'goodput of healthy': rate / healthy,
            'lost': lost, 'of these, made after': lost_later,
            'timeline': [
                [since + STEP / 2, callers.counts(
                    began + since, began + since + STEP).answered / STEP]
                # The last one is whole.
                for since in range(0, pairs.RATE + args.seconds - STEP + 1,
                                   STEP)]}


def pictures(results, found, measured):
    """Calls answered over time, side by side for each fault."""
    panels = {}
    for variant in found:
        rounds = [row['timeline'] for row in measured[variant.name]]
        panels.setdefault(f'calls/s, worker 2 {variant.x}', {})[
            variant.label] = [
                (points[0][0], Spread(rate for _, rate in points))
                for points in zip(*rounds)]
    results.lines(
        'stuck', 'Calls answered with one of three workers stuck', 'seconds',
        panels,
        marks=[(pairs.RATE, 'stuck')])
