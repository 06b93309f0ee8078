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

"""Random faults on two nodes in use; what is lost or killed without a cause.

Two nova-schedulers, or nova-conductors, of three workers are under eight
callers. For a time, which follows from a seed alone, workers are killed,
stopped, blocked, slow or failing, nodes are restarted, tables are locked,
connections and records are lost. Then all of it is ended, and everybody has to
be well again. What is allowed: a hurt worker loses what it had begun or held,
and is killed; around closed connections requests run twice; where a node of a
cluster is killed, a call that is under way may be lost or fail. All else is a
violation, each told in a line; ends with 1 if there is one with the series.

What the service logged, and what was done, is written beside the table.
"""

import collections
import os
import random

from lab import commands
from lab import LabError
from lab.measure import chaos
from lab.servers import cloud

COLUMNS = ('faults', 'skipped', 'answered', 'failed',
           'failed, begun by the hurt', 'lost', 'lost, begun by the hurt',
           'lost, held by the hurt', 'lost or failed with a node', 'run again',
           'workers ended', 'replaced')
# Violations that are told of each.
MOST_TOLD = 50


def add_arguments(parser):
    parser.add_argument('--seconds', type=int, default=600, metavar='S',
                        help='of faults (default: %(default)s)')
    parser.add_argument('--seed', type=int, metavar='N',
                        help='of what is done when (default: any)')
    commands.add_mode(parser)
    parser.add_argument('--without-companion', action='store_true',
                        help='with the oslo.messaging of the release')
    parser.add_argument('--stock', action='store_true',
                        help='the same to stock nova too, to compare with')
    commands.add_service(parser)


def main(args, results):
    if args.seconds < 1:
        raise LabError('--seconds is at least 1')
    seed = random.randrange(10 ** 6) if args.seed is None else args.seed
    args.mode = args.mode or cloud.modes()[0]
    events = chaos.plan(seed, args.seconds)
    title = (f'nova-{args.service}, seed {seed}, {args.mode}, '
             f'{args.seconds} s')
    results.progress(f'{title}: {len(events)} faults')
    kinds = {'series': (cloud.find_tree(), () if args.without_companion else
                        (cloud.companion(),))}
    if args.stock:
        kinds['stock'] = cloud.stock_tree(), ()
    verdicts = {}
    for kind, (tree, packages) in kinds.items():
        results.progress(kind)
        verdicts[kind] = chaos.measure(
            args, events, tree, packages,
            os.path.join(results.folder, f'{results.command}-{kind}'),
            results.progress)
        results.progress(told(kind, title, verdicts[kind]))
    show(results, title, verdicts)
    return 1 if verdicts['series'].violations else 0


def show(results, title, verdicts):
    """The table, and a line for each violation and for all.

    :param results: ``lab.results.Results``
    :param title: what was done
    :param verdicts: dict: series or stock -> ``chaos.Verdict``
    """
    results.table(
        f'Random faults: {title}', ('', *COLUMNS, 'violations'),
        [[kind, *(verdict.counts.get(column, 0) for column in COLUMNS),
          len(verdict.violations)] for kind, verdict in verdicts.items()])
    for kind, (_counts, violations) in verdicts.items():
        for line in violations[:MOST_TOLD]:
            results.note(f'{kind}: {line}')
        if violations[MOST_TOLD:]:
            results.note(f'{kind}: and {len(violations) - MOST_TOLD} more')
    for kind, verdict in verdicts.items():
        results.note(told(kind, title, verdict))


def told(kind, title, verdict):
    """A verdict in one line; all else as for ``show``."""
    counts = collections.Counter(verdict.counts)
    calls = sum(counts[each] for each in ('answered', 'failed', 'lost'))
    return (f'{kind}, {title}: {counts["faults"]} faults, {calls} calls, '
            f'{counts["lost"]} lost, {counts["run again"]} run again, '
            f'{counts["workers ended"]} workers ended; '
            f'{len(verdict.violations)} violations.')
