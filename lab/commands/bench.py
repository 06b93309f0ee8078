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

"""Stock and series side by side: calls, start and memory, idle, stuck.

Each round measures every variant once, one after the other and every other
round backwards. A cell is the median of the rounds (least to most); below a
variant that is compared with another one stand the ratios of the same rounds.
"""

import contextlib

from lab import commands
from lab import LabError
from lab.measure import computes
from lab.measure import healthy
from lab.measure import idle
from lab.measure import pairs
from lab.measure import restarts
from lab.measure import slow
from lab.measure import start
from lab.measure import stop
from lab.measure import stuck
from lab.servers import cloud

# Those first that are run when none is named.
MEASUREMENTS = {'healthy': healthy, 'start': start, 'idle': idle,
                'stuck': stuck, 'slow': slow, 'stop': stop,
                'restarts': restarts, 'computes': computes}
USUAL = ('healthy', 'start', 'idle', 'stuck')

# What is measured if nothing else is asked for, and with --quick.
FULL = {'rounds': 5, 'workers': [1, 8, 32, 64], 'seconds': 40, 'calls': 5000,
        'fault': ['stopped', 'blocked']}
QUICK = {'rounds': 1, 'workers': [1, 8], 'seconds': 30, 'calls': 1000,
         'fault': ['stopped']}
# Where stock is also measured with a small prefetch, unless it is to be
# quick.
STUCK = ('stuck', 'slow')
PREFETCH = [4]
# Callers end by themselves some time.
MOST_SECONDS = 500


def add_arguments(parser):
    parser.add_argument(
        'measurements', nargs='*', metavar='MEASUREMENT',
        help='; '.join(f'{name}: {module.__doc__.splitlines()[0]}'
                       for name, module in MEASUREMENTS.items())
        + f' (default: {" ".join(USUAL)})')
    parser.add_argument('--quick', action='store_true',
                        help='one round of less; within ten minutes')
    commands.add_stock(parser)
    parser.add_argument('--rounds', type=int, metavar='N',
                        help='(default: 5, or 1)')
    commands.add_mode(parser)
    commands.add_service(parser)
    parser.add_argument('--stock-prefetch', type=int, nargs='*', metavar='N',
                        help='measure stock with each of these as well '
                             '(default: 4 for stuck and slow)')
    parser.add_argument('--delay', type=float, default=0, metavar='MS',
                        help='how far the broker is away: what each way '
                             'takes more, in milliseconds')
    parser.add_argument('--only', metavar='VARIANT', nargs='+',
                        help='leave out all others')
    for name, module in MEASUREMENTS.items():
        if hasattr(module, 'add_arguments'):
            module.add_arguments(parser.add_argument_group(name))


def checked(args):
    """The names of the measurements; the other arguments are completed.

    :raises LabError: when something is wrong with them
    """
    names = args.measurements or USUAL
    for name in names:
        if name not in MEASUREMENTS:
            raise LabError('%s is no measurement, but %s are' % (
                name, ', '.join(MEASUREMENTS)))
    for name, value in (QUICK if args.quick else FULL).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for name, least in (('rounds', 1), ('nodes', 1), ('times', 1),
                        ('calls', 1), ('seconds', stuck.GIVEN_UP + 5),
                        ('interval', 1), ('delay', 0)):
        if not getattr(args, name) >= least:
            raise LabError('--%s is at least %d' % (name, least))
    for name, least in (('workers', 1), ('stock_prefetch', 0)):
        if any(value < least for value in getattr(args, name) or ()):
            raise LabError('--%s is at least %d' % (
                name.replace('_', '-'), least))
    if not cloud.has_worker_hosts():
        raise LabError('the installed nova has not got the series')
    if args.seconds > MOST_SECONDS:
        raise LabError('--seconds is at most %d' % MOST_SECONDS)
    args.mode = args.mode or cloud.modes()[0]
    args.stock = cloud.stock(args.stock)
    return names


def main(args, results):
    names = checked(args)
    prefetch = args.stock_prefetch
    for name in names:
        args.stock_prefetch = prefetch if prefetch is not None else (
            PREFETCH if name in STUCK and not args.quick else [])
        module = MEASUREMENTS[name]
        results.progress(f'{name}: {module.TITLE}')
        with contextlib.ExitStack() as stack:
            found = list(module.variants(args, stack))
            if args.only:
                found = [variant._replace(base=None) for variant in found
                         if variant.name in args.only]
                if not found:
                    raise LabError('--only names no variant of ' + name)
            measured = pairs.run(found, args.rounds, results.progress)
        results.table(f'{module.TITLE}; rounds: {args.rounds}',
                      *pairs.table(found, measured))
        if hasattr(module, 'pictures'):
            module.pictures(results, found, measured)
        # All of it can take an hour, and may be interrupted.
        results.save()
    return 0
