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

"""What a nova-scheduler costs and gives: stock beside series.

``python -m lab.measure.bench COMMAND --stock TREE``, where TREE is a stock
nova tree (the commit ``base`` of a built one). Each round measures every
variant once, one after the other and every other round backwards, so that what
else the machine does falls on all of them. A cell is the median of the rounds
(least to most); below a variant that is compared with another one stand the
ratios of the same rounds.
"""

import argparse
import collections
import contextlib
import functools
import json
import os
import random
import signal
import statistics
import sys
import time

import prettytable

from lab.faults import proxy
from lab import LabError
from lab.measure import restarts as lab_restarts
from lab import process
from lab import rpc
from lab.servers import broker
from lab.servers import cloud
from lab.servers import computes
from lab.servers import database

CALLERS = 8
# Seconds a caller waits for its answer, where some are to be lost.
TIMEOUT = 5
# Seconds of calls before a rate is measured, and of the measured ones.
WARM_UP = 3
RATE = 10
# Seconds of each rate after a fault.
WIDTH = 5

# measure: callable that returns a dict: column -> a number or some of them;
# base: the name of the variant to compare with
Variant = collections.namedtuple('Variant', 'name measure base',
                                 defaults=[None])


def merged(*confs):
    """One configuration of several: section -> option -> value."""
    result = {}
    for conf in confs:
        for section, options in conf.items():
            result.setdefault(section, {}).update(options)
    return result


def kinds(args):
    """Name, tree and configuration of stock and series."""
    yield 'stock', args.stock, {}
    found = [('stock', args.stock, count) for count in args.stock_prefetch]
    found += [('series', None, count) for count in args.prefetch]
    for name, tree, count in found:
        yield (f'{name}, prefetch {count or "unlimited"}', tree,
               {'oslo_messaging_rabbit': {'rabbit_qos_prefetch_count':
                                          count}})
    if not args.prefetch:
        yield 'series', None, {}


def start_cloud(args, stack, conf=None):
    """A cloud with a broker of its own, ended with the stack.

    :param conf: configuration of all schedulers
    """
    if not broker.PrivateBroker.available():
        raise LabError('no RabbitMQ is installed')
    private = stack.enter_context(broker.PrivateBroker())
    if args.delay:
        private = stack.enter_context(
            proxy.delayed(private, args.delay / 1000))
    return stack.enter_context(cloud.Cloud(private, conf=conf))


@contextlib.contextmanager
def serving(made, args, tree, conf, **options):
    """A scheduler that serves; its queues do not outlive it."""
    with made.scheduler(mode=args.mode, tree=tree, conf=conf,
                        **options) as scheduler:
        yield scheduler.wait_ready()
    made.broker.delete(scheduler.queue_names())


@contextlib.contextmanager
def calling(made, timeout=30, call=rpc.Client.ping):
    """Callers at full speed, warmed up.

    :param call: what they call, with a client and the timeout
    """
    with made.client() as client, rpc.Callers(
            client, CALLERS, timeout,
            call=lambda timeout: call(client, timeout=timeout)) as callers:
        # The first calls connect, and let the workers do so.
        process.wait(lambda: callers.counts().answered >= 2 * CALLERS, 120,
                     'calls to be answered', made.log)
        callers.rate(WARM_UP)
        yield callers


def healthy_rate(callers):
    """Calls answered a second when all is well.

    :raises LabError: when there is none, and so nothing to compare with
    """
    rate = callers.rate(RATE)
    if not rate:
        raise LabError('no call was answered in %d s' % RATE)
    return rate


def percentiles(seconds):
    """The median and the 99th percentile of sorted seconds, in ms."""
    return [1000 * seconds[len(seconds) * percent // 100]
            for percent in (50, 99)] if seconds else [float('inf')] * 2


def stuck(args, stack):
    """one of three workers stopped, or its dispatch pool of 8 blocked"""
    made = start_cloud(args, stack)
    for interval in args.interval:
        for fault in args.fault:
            for name, tree, conf in kinds(args):
                yield Variant(
                    f'{name}; {fault}, report_interval {interval}',
                    functools.partial(
                        measure_stuck, made, args, tree, merged(conf, {
                            'DEFAULT': {'report_interval': interval,
                                        'service_down_time': 6 * interval,
                                        'executor_thread_pool_size': 8}}),
                        fault))


def measure_stuck(made, args, tree, conf, fault):
    faults = made.faults
    put, end = ((faults.stop, faults.resume) if fault == 'stopped' else
                (faults.block, faults.free))
    with serving(made, args, tree, conf) as scheduler, \
            calling(made, TIMEOUT) as callers:
        healthy = healthy_rate(callers)
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
    goodput = [callers.counts(at + since, at + since + WIDTH).answered
               / WIDTH / healthy for since in
               range(0, args.seconds - WIDTH + 1, WIDTH)]
    # Those made in time are lost that much later.
    lost = [callers.counts(at, until + TIMEOUT, began=began).lost
            for began in (0, at)]
    return {'healthy, calls/s': healthy,
            f'goodput of healthy in each {WIDTH} s': goodput,
            f'least after {WIDTH + TIMEOUT} s':
                min(goodput[1 + TIMEOUT // WIDTH:]),
            'lost': lost[0], 'of these, made after': lost[1]}


def slow(args, stack):
    """one of three workers takes 0.5 s a call, with two threads each"""
    made = start_cloud(args, stack)
    for name, tree, conf in kinds(args):
        yield Variant(name, functools.partial(
            measure_slow, made, args, tree, merged(conf, {
                'DEFAULT': {'executor_thread_pool_size': 2}})))


def measure_slow(made, args, tree, conf):
    with serving(made, args, tree, conf) as scheduler, \
            calling(made) as callers:
        healthy = healthy_rate(callers)
        worker = scheduler.workers()[2]
        made.faults.slow(worker, 0.5)
        # Its backlog builds up.
        callers.rate(WIDTH)
        since = callers.elapsed()
        rate = callers.rate(2 * RATE)
        p50, p99 = percentiles(callers.latencies(since))
        made.faults.free(worker)
        callers.stop()
    return {'healthy, calls/s': healthy, 'goodput of healthy': rate / healthy,
            'p50, ms': p50, 'p99, ms': p99, 'lost': callers.counts().lost}


def healthy(args, stack):
    """three sound workers: a call that does nothing, and the real one"""
    for name, tree, conf in kinds(args):
        # Each has a cloud of its own and is there all the time: nothing but
        # a few seconds is between what is compared.
        made = start_cloud(args, stack)
        nodes = computes.Computes(made, args.nodes)
        scheduler = stack.enter_context(serving(
            made, args, tree, merged(conf, computes.CONF)))
        with made.client() as client:
            nodes.sync(client)
        yield Variant(name, functools.partial(
            measure_healthy, made, scheduler, nodes),
            None if name == 'stock' else 'stock')


def measure_healthy(made, scheduler, nodes):
    row = {}
    for name, call in (('ping', rpc.Client.ping), ('select', nodes.select)):
        with calling(made, call=call) as callers:
            since, used = callers.elapsed(), cpu_seconds(scheduler)
            rate = healthy_rate(callers)
            used = cpu_seconds(scheduler) - used
            latencies = callers.latencies(since)
        counts = callers.counts()
        if counts.lost or counts.failed:
            raise LabError('%d calls were lost and %d failed' % counts[1:],
                           scheduler.log())
        row.update({f'{name}, calls/s': rate,
                    f'{name}, CPU ms a call': 1000 * used / len(latencies)})
    row['select, p50, ms'], row['select, p99, ms'] = percentiles(latencies)
    # Or what it costs would grow with what was claimed before.
    nodes.forget()
    return row


def cpu_seconds(scheduler):
    """What its processes have used up to now."""
    return sum(times.user + times.system for times in
               (found.cpu_times() for found in scheduler.tree()))


def start(args, stack):
    """eight workers: seconds until all consume, memory of all processes"""
    return compared(args, stack, measure_start)


def measure_start(made, args, tree, conf):
    began = time.monotonic()
    with serving(made, args, tree, conf, workers=8) as scheduler:
        seconds, used = time.monotonic() - began, cpu_seconds(scheduler)
        # By then each had its first heartbeat, and loaded what that takes.
        time.sleep(15)
        memory = [found.memory_full_info() for found in scheduler.tree()]
    return {'start, s': seconds, 'start, CPU s': used,
            'PSS, MiB': sum(info.pss for info in memory) / 2 ** 20,
            'USS, MiB': sum(info.uss for info in memory) / 2 ** 20}


def stop(args, stack):
    """three workers: seconds from SIGTERM to the parent's exit"""
    return compared(args, stack, measure_stop)


def measure_stop(made, args, tree, conf):
    row = {}
    for name in ('idle', f'under {CALLERS} callers'):
        with contextlib.ExitStack() as stack:
            scheduler = stack.enter_context(serving(made, args, tree, conf))
            if name == 'idle':
                # An idle listener of oslo.messaging looks up every five
                # seconds, so it depends on when it is told to stop.
                time.sleep(WARM_UP + random.uniform(5, 10))
            else:
                stack.enter_context(calling(made, TIMEOUT))
            began = time.monotonic()
            scheduler.process.send_signal(signal.SIGTERM)
            process.wait(lambda: not scheduler.running(), 120,
                         'nova-scheduler to end', scheduler.log)
            row[f'{name}, s'] = time.monotonic() - began
    return row


def restarts(args, stack):
    """calls that are lost where workers stop; two nodes, 3 and 1 workers"""
    made = start_cloud(args, stack, merged(*args.set))
    for name, tree, conf in kinds(args):
        for suffix, packages in (('', ()), (' with the companion',
                                            (args.companion,))):
            yield Variant(name + suffix, functools.partial(
                measure_restarts, made, args, tree, conf, packages))


def measure_restarts(made, args, tree, conf, packages):
    row = dict.fromkeys(lab_restarts.Nodes.EVENTS.values(), 0)
    nodes = lab_restarts.Nodes(made, args.mode, tree=tree, conf=conf,
                               packages=packages)
    answered = 0
    for event, name in lab_restarts.Nodes.EVENTS.items():
        for _time in range(args.times):
            with calling(made, 12, rpc.Client.work) as callers:
                getattr(nodes, event)()
                process.wait(
                    lambda: callers.counts().answered >= args.calls, 600,
                    f'{args.calls} answers', made.log)
            counts = callers.counts()
            row[name] += counts.lost + counts.failed
            answered += counts.answered
            if event == 'scale_down':
                nodes.scale_up()
    nodes.stop()
    return {f'{name}, lost': lost for name, lost in row.items()
            } | {'calls answered': answered}


def compared(args, stack, measure):
    """Stock and series as they are, started anew for each round."""
    made = start_cloud(args, stack)
    for name, tree, conf in kinds(args):
        yield Variant(name, functools.partial(
            measure, made, args, tree, conf),
            None if name == 'stock' else 'stock')


MEASUREMENTS = {measurement.__name__: measurement
                for measurement in (stuck, slow, healthy, start, stop,
                                    restarts)}


def run(variants, rounds):
    """Measure all variants.

    :returns: dict: name of the variant -> a list with a dict for each round
    """
    results = {variant.name: [] for variant in variants}
    for number in range(rounds):
        for variant in variants[::-1 if number % 2 else 1]:
            print(f'round {number + 1} of {rounds}: {variant.name}',
                  file=sys.stderr, flush=True)
            results[variant.name].append(variant.measure())
    return results


def cell(values):
    """The median of some rounds, and from where to where."""
    if isinstance(values[0], list):
        return ' '.join(shown(statistics.median(each))
                        for each in zip(*values))
    return '%s (%s to %s)' % tuple(map(shown, (
        statistics.median(values), min(values), max(values))))


def shown(value):
    return f'{value:.0f}' if value >= 100 else f'{value:.3g}'


def table(variants, results):
    """A table of what ``run`` returns."""
    columns = list(results[variants[0].name][0])
    made = prettytable.PrettyTable(['variant', *columns], align='l')
    for variant in variants:
        rows = results[variant.name]
        made.add_row([variant.name] + [
            cell([row[column] for row in rows]) for column in columns])
        if variant.base:
            made.add_row([f'/ {variant.base}'] + [
                cell([row[column] / base[column] for row, base in
                      zip(rows, results[variant.base])])
                for column in columns])
    return made


def at_least(least):
    def number(text):
        if int(text) < least:
            raise ValueError
        return int(text)
    return number


def setting(text):
    """Configuration from SECTION.OPTION=VALUE, as argparse takes it."""
    name, found, value = text.partition('=')
    section, _, option = name.partition('.')
    if not (section and option and found):
        raise ValueError
    return {section: {option: value}}


def parse():
    parser = argparse.ArgumentParser(
        prog='python -m lab.measure.bench',
        description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest='command', required=True)
    for name, measurement in MEASUREMENTS.items():
        command = commands.add_parser(name, help=measurement.__doc__)
        command.add_argument('--stock', required=True, metavar='TREE',
                             help='folder of a nova without the series')
        command.add_argument('--rounds', type=at_least(1), default=5,
                             metavar='N')
        command.add_argument('--mode', default='threading',
                             choices=('threading', 'eventlet'))
        command.add_argument(
            '--stock-prefetch', type=at_least(0), nargs='*', metavar='N',
            default=[4] if measurement in (stuck, slow) else [],
            help='measure stock with each of these as well')
        command.add_argument(
            '--prefetch', type=at_least(0), nargs='+', default=[], metavar='N',
            help="measure the series with each of these (0: unlimited), "
                 "and not with its default")
        command.add_argument('--delay', type=float, default=0, metavar='MS',
                             help='how far the broker is away: what each '
                                  'way takes more, in milliseconds')
        command.add_argument('--json', action='store_true',
                             help='write all that was measured, as JSON')
        if measurement is stuck:
            faults = ['stopped', 'blocked']
            command.add_argument('--fault', nargs='+', default=faults,
                                 choices=faults)
            command.add_argument('--interval', type=at_least(1), nargs='+',
                                 default=[2, 10], metavar='SECONDS',
                                 help='report_interval')
            command.add_argument('--seconds', type=at_least(15), default=30,
                                 help='how long to look at it')
        if measurement is healthy:
            command.add_argument('--nodes', type=at_least(1), default=50,
                                 metavar='N', help='number of compute nodes')
        if measurement is restarts:
            command.add_argument('--companion', required=True, metavar='TREE',
                                 help='folder of the built oslo.messaging')
            command.add_argument('--times', type=at_least(1), default=1,
                                 metavar='N', help='of each in a round')
            command.add_argument('--calls', type=at_least(1), default=5000,
                                 metavar='N', help='answered around each')
            command.add_argument('--set', nargs='*', default=[], type=setting,
                                 metavar='SECTION.OPTION=VALUE',
                                 help='configuration of all')
            command.add_argument('--only', metavar='VARIANT',
                                 help='leave out all others')
    args = parser.parse_args()
    if (not os.path.isdir(os.path.join(args.stock, 'nova'))
            or cloud.has_worker_hosts(args.stock)):
        parser.error(f'{args.stock} is no nova without the series')
    if not cloud.has_worker_hosts():
        parser.error('the installed nova has not got the series')
    return args


def main():
    args = parse()
    with contextlib.ExitStack() as stack:
        variants = list(MEASUREMENTS[args.command](args, stack))
        if getattr(args, 'only', None):
            variants = [variant for variant in variants
                        if variant.name == args.only]
            if not variants:
                raise LabError(f'--only is {args.only}, which is no variant')
        results = run(variants, args.rounds)
    print(json.dumps(results) if args.json else table(variants, results))


if __name__ == '__main__':
    try:
        main()
    except (LabError, database.exc.OperationalError) as exc:
        sys.exit(f'bench: {exc}')
