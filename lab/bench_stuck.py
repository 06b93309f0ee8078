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

"""What one stuck worker of three costs: stock beside series.

``python -m lab.bench_stuck --stock TREE [--rounds N]``, where TREE is a stock
nova tree (the commit ``base`` of a built one). Each round measures every
variant once, one after the other, so that what else the machine does falls on
all of them. Rates are calls answered a second by eight callers; ratios are to
the variant's own healthy rate, as median (least to most).
"""

import argparse
import statistics
import sys

import prettytable

from lab import cloud
from lab import database
from lab import LabError
from lab import rpc

CALL_TIMEOUT = 5
INTERVAL = 2
PREFETCH = 'rabbit_qos_prefetch_count'


def variants(stock, mode):
    """name -> (tree, configuration, fault)."""
    found = {}
    for fault in ('stopped', 'blocked'):
        found[f'stock, {fault}'] = (stock, {}, fault)
        found[f'stock, prefetch 4, {fault}'] = (
            stock, {'oslo_messaging_rabbit': {PREFETCH: 4}}, fault)
        for count in (1, 4, 16, 0) if fault == 'stopped' else (4,):
            found[f'series, prefetch {count or "unlimited"}, {fault}'] = (
                None, {'oslo_messaging_rabbit': {PREFETCH: count}}, fault)
    return found


def measure(made, tree, conf, fault, mode):
    """One variant, once.

    :returns: calls a second when healthy; the same with a stuck worker, from
        when a series worker has had the time to help itself; calls lost in
        the 30 seconds after the fault; of these, how many were made after it
    """
    conf = dict(conf, DEFAULT={
        'report_interval': INTERVAL, 'service_down_time': 8,
        'executor_thread_pool_size': 8 if fault == 'blocked' else 64})
    with made.scheduler(mode=mode, tree=tree, conf=conf) as scheduler:
        scheduler.wait_ready()
        with made.client() as client, rpc.Callers(
                client, 8, CALL_TIMEOUT) as callers:
            callers.rate(7)
            healthy = callers.rate(8)
            worker = scheduler.workers()[2]
            at = callers.elapsed()
            if fault == 'stopped':
                made.faults.stop(worker)
            else:
                made.faults.block(worker)
            callers.rate(2 * INTERVAL + CALL_TIMEOUT + 3)
            stuck = callers.rate(30 - (callers.elapsed() - at))
            callers.stop()
            until = at + 30 + CALL_TIMEOUT
            return (healthy, stuck, callers.counts(at, until).lost,
                    callers.counts(at, until, began=at).lost)


def spread(values, form):
    return f'{form} ({form} to {form})' % (
        statistics.median(values), min(values), max(values))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--stock', required=True, metavar='TREE')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--mode', default='threading',
                        choices=('threading', 'eventlet'))
    args = parser.parse_args()
    found = variants(args.stock, args.mode)
    results = {name: [] for name in found}
    with cloud.Cloud() as made:
        for number in range(1, args.rounds + 1):
            for name, variant in found.items():
                print(f'round {number} of {args.rounds}: {name}',
                      file=sys.stderr)
                results[name].append(measure(made, *variant, args.mode))
    table = prettytable.PrettyTable([
        'variant', 'healthy, calls/s', 'stuck / healthy', 'lost in 30 s',
        'of these, made after'])
    table.align = 'l'
    for name, rows in results.items():
        table.add_row([
            name, spread([row[0] for row in rows], '%d'),
            spread([row[1] / row[0] for row in rows], '%.2f'),
            spread([row[2] for row in rows], '%d'),
            spread([row[3] for row in rows], '%d')])
    print(table)


if __name__ == '__main__':
    try:
        main()
    except (LabError, database.exc.OperationalError) as exc:
        sys.exit(f'bench_stuck: {exc}')
