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

"""Stock and series beside each other, on one machine, in turn.

Each round measures every variant once, one after the other and every other
round backwards, so that what else the machine does falls on all of them.
"""

import collections
import contextlib
import functools

from lab.faults import proxy
from lab import LabError
from lab import process
from lab import rpc
from lab.servers import broker
from lab.servers import cloud
from lab.servers import cluster
from lab.servers import database
from lab.servers import galera
from lab.spread import shown
from lab.spread import Spread

CALLERS = 8
# Seconds a caller waits for its answer, where some are to be lost.
TIMEOUT = 5
# Seconds of calls before a rate is measured, and of the measured ones.
WARM_UP = 3
RATE = 10

# measure: callable that returns a dict: column -> a number, or a list for a
# picture; base: the name of the variant to compare with; label and x: of the
# line and the point in a picture
Variant = collections.namedtuple('Variant', 'name measure base label x',
                                 defaults=[None, None, None])


def run(variants, rounds, progress):
    """Measure all variants.

    :param progress: called with a text that says what is measured next, and
        with what was measured
    :returns: dict: name of the variant -> a list with a dict for each round
    """
    measured = {variant.name: [] for variant in variants}
    for number in range(rounds):
        for variant in variants[::-1 if number % 2 else 1]:
            progress(f'round {number + 1} of {rounds}: {variant.name}')
            row = variant.measure()
            # Hours may have gone into it when a later one fails.
            progress('  ' + ', '.join(
                f'{column}: {shown(value)}' for column, value in row.items()
                if not isinstance(value, list)))
            measured[variant.name].append(row)
    return measured


def table(variants, measured):
    """What ``run`` returns, as the columns and the rows of a table.

    Below a variant that is compared stand the ratios of the same rounds.
    """
    columns = [column for column, value in
               measured[variants[0].name][0].items()
               if not isinstance(value, list)]
    rows = []
    for variant in variants:
        found = [[row[column] for row in measured[variant.name]]
                 for column in columns]
        rows.append([variant.name, *map(Spread, found)])
        if variant.base:
            base = [[row[column] for row in measured[variant.base]]
                    for column in columns]
            rows.append([f'/ {variant.base}', *map(Spread.ratios, found,
                                                   base)])
    return ['', *columns], rows


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
    for count in args.stock_prefetch:
        yield (f'stock, prefetch {count or "unlimited"}', args.stock,
               {'oslo_messaging_rabbit': {'rabbit_qos_prefetch_count':
                                          count}})
    yield 'series', None, {}


def compared(args, measure, suffix='', **details):
    """The variants of a measurement that stock is the base of.

    :param measure: called with the tree and the configuration
    :param suffix: of the variants' names
    :param details: more of each ``Variant``
    """
    for name, tree, conf in kinds(args):
        yield Variant(name + suffix, functools.partial(measure, tree, conf),
                      None if name == 'stock' else 'stock' + suffix,
                      name, **details)


def start_cloud(args, stack, conf=None, database_options=()):
    """A cloud with a broker and a MariaDB of its own, ended with the stack.

    :param conf: configuration of all services
    :param database_options: more arguments of that MariaDB
    """
    private = found = stack.enter_context(cluster.private())
    if getattr(args, 'delay', 0):
        found = broker.Broker(stack.enter_context(
            proxy.delayed(private.url, args.delay / 1000)))
    databases = stack.enter_context(database.Database(
        found.transport_url,
        stack.enter_context(galera.private(database_options))))
    made = stack.enter_context(cloud.Cloud(found, databases, conf))
    made.private_broker = private
    made.topic = args.service
    return made


@contextlib.contextmanager
def serving(made, args, tree, conf, topic=None, **options):
    """A service that serves; its queues do not outlive it.

    :param topic: of another service than the one that is asked for
    """
    with getattr(made, topic or args.service)(
            mode=args.mode, tree=tree, conf=conf, **options) as service:
        yield service.wait_ready(180)
    made.broker.delete(service.queue_names())


@contextlib.contextmanager
def calling(made, timeout=30, call=rpc.Client.ping):
    """Callers at full speed, warmed up.

    :param call: what they call, with a client and the timeout
    """
    with made.client(made.topic) as client, rpc.Callers(
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


def cpu_seconds(scheduler):
    """What its processes have used up to now."""
    return sum(times.user + times.system for times in
               (found.cpu_times() for found in scheduler.tree()))
