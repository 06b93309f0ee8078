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

"""Each fault against stock and series: calls lost, who sees it, who heals it.

One after the other, each fault is put into a nova-scheduler of three workers
under eight callers, if it does not need others, on a RabbitMQ and a MariaDB of
the lab's own. It is seen when the record of the worker is down or when the log
says that something is wrong; it is healed when the callers have 80 % of their
answers again, and all workers consume and all records are up. Killed wrongly
are those whose process ended though nothing was wrong with them. Restarts are
of two nodes, with callers at full speed.

Ends with 1, and a line for each fault in which the series is worse than stock:
if more calls were lost or failed (by more than 3 and 10 %, and also of all
calls), more were run twice, it was healed later (by more than 5 s and 10 %),
anybody was killed wrongly or a record was left over; also if it was not healed
with the series while it was looked at, or if something could not be measured.
What nova-scheduler logged, and how it was at each time, is written beside the
tables.
"""

import math
import os

from lab import commands
from lab.measure import faults
from lab.measure.faults import stage
from lab.measure.faults import verdicts
from lab.servers import cloud

# What there is in ten minutes.
QUICK = ('stopped', 'blocked', 'rabbitmq-restart', 'sighup')

NAMES = {fault.name: fault for fault in faults.FAULTS}
# In the picture, of what could not be measured.
NOTHING = math.nan
STOCK, SERIES = KINDS = 'stock', 'series'


def add_arguments(parser):
    parser.add_argument('--only', metavar='FAULT', nargs='+',
                        choices=NAMES, help='one or some of ' +
                        ', '.join(NAMES))
    parser.add_argument('--quick', action='store_true',
                        help=f'{", ".join(QUICK)}; within ten minutes')
    parser.add_argument('--companion', metavar='TREE', nargs='?', const='',
                        help='have the series run with the companion in all '
                             'faults, and not only where a fault is about '
                             'that (default: the folder of the release)')
    parser.add_argument('--series', metavar='TREE',
                        help='folder of a nova with some of the changes, up '
                             'to a stage for example (default: the built '
                             'tree)')
    commands.add_mode(parser)
    commands.add_stock(parser)


def main(args, results):
    only = args.only or (QUICK if args.quick else NAMES)
    chosen = [fault for name, fault in NAMES.items() if name in only]
    trees = {STOCK: cloud.stock(args.stock),
             SERIES: args.series or cloud.find_tree()}
    everywhere = args.companion is not None
    companion = cloud.companion(args.companion) if everywhere or any(
        fault.companion for fault in chosen) else None
    outcomes = {}
    failed = []
    with stage.servers() as servers:
        for fault in chosen:
            for kind, tree in trees.items():
                stem = f'{results.command}-{fault.name}-{kind}'
                packages = [companion] if kind == SERIES and (
                    everywhere or fault.companion) else []
                try:
                    outcomes[fault.name, kind] = faults.measure(
                        servers, fault, args.mode, tree, packages,
                        os.path.join(results.folder, stem))
                except Exception as error:
                    # Hours may have gone into the others.
                    failed.append(f'Not measured: {fault.title}, {kind}: '
                                  f'{getattr(error, "line", repr(error))}.')
                    results.progress(failed[-1])
                else:
                    results.progress(f'{fault.title}, {kind}: ' + told(
                        outcomes[fault.name, kind]))
    show(results, chosen, outcomes)
    wrong = failed + list(harm(chosen, outcomes))
    for line in wrong:
        results.note(line)
    return 1 if wrong else 0


def harm(chosen, outcomes):
    """A line for each fault in which the series did harm, or nothing.

    :param chosen: list of ``Fault``
    :param outcomes: dict: (name of a fault, kind) -> ``verdicts.Outcome``
    """
    for fault in chosen:
        ours = outcomes.get((fault.name, SERIES))
        if ours is None:
            continue
        # What is harm by itself is told also where stock was not measured.
        stock = outcomes.get((fault.name, STOCK), ours)
        found = '; '.join(verdicts.worse(fault, stock, ours))
        if found:
            yield f'With the series, {fault.title}: {found}.'


def show(results, chosen, outcomes):
    """The tables and the picture.

    :param results: ``lab.results.Results``; the rest as for ``harm``
    """
    def rows(faults, *cells):
        for fault in faults:
            found = [outcomes.get((fault.name, kind)) for kind in KINDS]
            yield [fault.title] + [
                cell(fault, outcome) if outcome else '-'
                for cell in cells for outcome in found]

    def columns(*names):
        return ['fault'] + [f'{name}: {kind}'
                            for name in names for kind in KINDS]

    def bad(name, kind):
        outcome = outcomes.get((name, kind))
        return outcome.bad if outcome else NOTHING

    results.table(
        'Calls, from the fault on',
        columns('answered', 'lost', 'failed', 'run twice',
                'goodput of healthy'),
        rows(chosen,
             lambda fault, outcome: outcome.answered,
             lambda fault, outcome: outcome.lost,
             lambda fault, outcome: outcome.failed,
             lambda fault, outcome: outcome.twice,
             lambda fault, outcome: round(outcome.goodput, 2)))
    results.table(
        'Seen and healed',
        columns('seen, s', 'healed, s', 'killed wrongly', 'records left over'),
        rows(chosen,
             lambda fault, outcome: seconds(outcome.seen)
             if fault.visible else '-',
             lambda fault, outcome: seconds(outcome.healed),
             lambda fault, outcome: len(outcome.wrongly),
             lambda fault, outcome: len(outcome.left)))
    errors = [fault for fault in chosen if any(
        outcomes[fault.name, kind].failed for kind in KINDS
        if (fault.name, kind) in outcomes)]
    if errors:
        results.table(
            'Errors', columns('failed, of all calls', 'after, s (median)'),
            rows(errors,
                 lambda fault, outcome: round(
                     outcome.part(outcome.failed), 2),
                 lambda fault, outcome: '-' if outcome.error is None
                 else round(outcome.error, 2)))
    if any(fault.ends for fault in chosen):
        results.note(
            'These faults end, so goodput is until then, and healed is since '
            'then: ' +
            ', '.join(fault.title for fault in chosen if fault.ends) + '.')
    results.bars(
        'lost', 'Calls lost or failed', 'calls',
        [fault.title for fault in chosen],
        {kind: [bad(fault.name, kind) for fault in chosen]
         for kind in KINDS}, 'symlog')


def told(outcome):
    """An outcome in one line."""
    return (f'{outcome.answered} calls answered, {outcome.lost} lost, '
            f'{outcome.failed} failed, {outcome.twice} run twice; '
            f'seen: {seconds(outcome.seen)}; '
            f'healed: {seconds(outcome.healed)}; killed wrongly: '
            f'{len(outcome.wrongly)}; left over: {len(outcome.left)}')


def seconds(value):
    """As they stand in a table; a tenth is as long as a look takes."""
    return 'never' if value is None else round(value, 1)
