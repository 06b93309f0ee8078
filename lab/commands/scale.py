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

"""6400 identities on RabbitMQ and MariaDB, carried on to 100 000 on paper.

Their queues and records are real, and so is what nova does with them; there
are not as many processes. What a process holds, its connections above all, is
measured with a few real workers. Lines through all of it tell what breaks
first with more workers, and what then.
"""

import contextlib
import tempfile
import types

import kombu

from lab import commands
from lab import LabError
from lab.measure import identities
from lab.measure import idle
from lab.measure import pairs
from lab.measure import paper
from lab.measure import records
from lab.measure import start
from lab.servers import broker
from lab.servers import cloud
from lab.servers import database

PAPER = 100_000
REPORT_INTERVAL = 10

FULL = types.SimpleNamespace(
    workers=[640, 1600, 3200, 6400], real=[1, 4, 8], connections=[
        200, 400, 800])
QUICK = types.SimpleNamespace(
    workers=[64, 320, 640], real=[1, 2, 4], connections=[50, 100, 200])

# Of nobody's own choice: what others set, and how long somebody waits.
DESCRIPTORS = 65_536
MAX_CONNECTIONS = 10_000
PATIENCE = 60

# What Linux gives a connection on a network. On the loopback interface it is
# 30 times as much, and RabbitMQ makes a buffer of that size for each.
NETWORK = """
tcp_listen_options.sndbuf = 131072
tcp_listen_options.recbuf = 131072
"""

# As many lines as can be told apart in a picture.
SHOWN = 6


def add_arguments(parser):
    parser.add_argument('--quick', action='store_true',
                        help='fewer; within ten minutes')
    parser.add_argument('--workers', type=int, nargs='+', metavar='N',
                        help='three numbers of identities or more (default: '
                             '%s)' % ' '.join(map(str, FULL.workers)))
    commands.add_stock(parser)
    commands.add_mode(parser)
    parser.set_defaults(service='scheduler')


def checked(args):
    """What is to be measured.

    :raises LabError: when something is wrong with the arguments
    """
    sizes = QUICK if args.quick else FULL
    args.workers = sorted(set(args.workers or sizes.workers))
    if len(args.workers) < 3 or args.workers[0] < 1:
        raise LabError('--workers takes three different numbers or more, each '
                       'at least 1')
    if not cloud.has_worker_hosts():
        raise LabError('the installed nova has not got the series')
    args.mode = args.mode or cloud.modes()[0]
    args.stock = cloud.stock(args.stock)
    return sizes


def held_by_real(args, results, sizes):
    """What real workers hold.

    :returns: dict: stock and series -> list of (workers, ``idle.held``)
    """
    found = {}
    with contextlib.ExitStack() as stack:
        made = pairs.start_cloud(args, stack)
        for name, tree in (('stock', args.stock), ('series', None)):
            for workers in sizes:
                results.progress(f'{workers} real workers: {name}')
                with start.beating(made, args, tree, {}, workers):
                    found.setdefault(name, []).append(
                        (workers, idle.held(made)))
    rows = [[name, workers, *held.values()]
            for name, all_of in found.items() for workers, held in all_of]
    results.table('What real workers hold (with the client and the lab)',
                  ['', 'workers', *found['series'][0][1]], rows)
    return found


def sizes_of_connections(results, counts):
    """What a connection with a channel costs RabbitMQ.

    :returns: dict: processes, memory -> of one connection
    """
    points = []
    with broker.PrivateBroker(NETWORK) as private, \
            contextlib.ExitStack() as stack:
        for count in counts:
            results.progress(f'{count} connections')
            for _ in range(count - (points[-1][0] if points else 0)):
                connection = stack.enter_context(
                    kombu.Connection(private.url))
                connection.channel()
            points.append((count, private.sizes()))
    return {name: paper.Line([(count, size[name])
                              for count, size in points]).slope
            for name in points[0][1]}


def measure_identities(args, results):
    """Queues, list and ping, with each number of identities.

    :returns: list of dicts, and the limits of the broker
    """
    found = []
    for workers in args.workers:
        results.progress(f'{workers} identities')
        with broker.PrivateBroker() as private, \
                database.Database(private.transport_url,
                                  database.MariaDB()) as base, \
                identities.Identities(private, base, workers) as these:
            found.append({'queues': private.count('queues')}
                         | private.sizes()
                         | {'list': these.list(), 'ping': these.ping()})
            limits = private.limits()
    results.table(
        'Identities in RabbitMQ, and nova-manage worker',
        ['workers', 'queues', 'Erlang processes', 'RabbitMQ, MiB', 'list, s',
         'ping, s'],
        [[workers, row['queues'], row['processes'],
          row['memory'] / 2 ** 20, row['list'], row['ping']]
         for workers, row in zip(args.workers, found)])
    return found, limits


def rounds(args, results):
    """Election and heartbeats, on stock and with the series.

    :returns: what ``records.run`` does for the series, and how many
        heartbeats a second MariaDB can write
    """
    with tempfile.TemporaryDirectory(prefix='lab-scale-') as folder, \
            database.Database(broker.Broker().transport_url,
                              database.MariaDB()) as base:
        found = []
        for name, tree in (('stock', args.stock), ('series', None)):
            results.progress(f'election and heartbeats: {name}')
            found.append(records.run(base, folder, tree, args.workers))
        # The records of the last round are still there.
        updates = records.updates_a_second(base)
    columns = [('election: stock', 0, 'election'),
               ('series', 1, 'election'),
               ('heartbeat: stock', 0, 'heartbeat'), ('series', 1,
                                                      'heartbeat')]
    results.table(
        'Statements (rows read; seconds of work) of MariaDB in a round of all '
        'workers', ['workers', *(title for title, _, _ in columns)],
        [[workers, *('{:,.0f} ({:,.0f}; {:,.1f} s)'.format(
            *found[number][at][name]) for _, number, name in columns)]
         for at, workers in enumerate(args.workers)])
    return found[1], updates


def limits_of(args, real, connection, found, limits, election, updates):
    """All that is used up, the first one first."""
    def held(name):
        return paper.Line([(workers, row[name]) for workers, row in
                           real['series']])

    def points(value):
        return [(workers, value(workers, row, rounds)) for workers, row, rounds
                in zip(args.workers, found, election)]

    connections = held('RabbitMQ connections')
    made = [
        paper.Limit(
            'RabbitMQ: connections', points(
                lambda workers, *_: connections.at(workers)),
            DESCRIPTORS, 'LimitNOFILE of the packages',
            'workers cannot connect; stock is as far. Raise LimitNOFILE, or '
            'more nodes of RabbitMQ'),
        paper.Limit(
            'RabbitMQ: Erlang processes', points(
                lambda workers, row, _: row['processes'] + connections.at(
                    workers) * connection['processes']),
            limits['processes'], '+P of RabbitMQ',
            'the node of RabbitMQ ends. Raise +P, or a RabbitMQ for each '
            'cell'),
        paper.Limit(
            'RabbitMQ: memory, GiB', points(
                lambda workers, row, _: (row['memory'] + connections.at(
                    workers) * connection['memory']) / 2 ** 30),
            limits['memory'] / 2 ** 30, 'the watermark on this machine',
            'publishers are blocked; that is an excuse, so nobody is '
            'replaced. More memory, or more nodes'),
        paper.Limit(
            'MariaDB: connections', points(
                lambda workers, *_: held('MariaDB connections').at(workers)),
            MAX_CONNECTIONS, "kolla-ansible's max_connections",
            'workers cannot write their heartbeats; stock is as far. A '
            'proxy that shares connections'),
        paper.Limit(
            'MariaDB: heartbeats a second', points(
                lambda workers, *_: workers / REPORT_INTERVAL),
            updates, 'what this MariaDB writes, one after the other',
            'heartbeats are late, and sound workers seem down; stock is as '
            'far. A longer report_interval'),
        paper.Limit(
            'election: s of work for all to read all records', points(
                lambda workers, row, rounds: rounds['election'][2]),
            PATIENCE, 'a minute',
            'the database is busy with that in each interval of the '
            'discovery. A longer discover_hosts_in_cells_interval',
            square=True),
        paper.Limit(
            'nova-manage worker list, s', points(
                lambda workers, row, _: row['list']), PATIENCE, 'a minute',
            'somebody waits. --node'),
        paper.Limit(
            'nova-manage worker ping, s', points(
                lambda workers, row, _: row['ping']), PATIENCE, 'a minute',
            'somebody waits. --node'),
    ]
    return sorted(made, key=lambda limit: limit.workers)


def on_paper(args, results, made):
    most = args.workers[-1]
    results.table(
        f'On paper: lines through {len(args.workers)} sizes, up to {PAPER:,} '
        f'workers; what breaks first stands first',
        ['', f'at {most:,}', f'at {PAPER:,}', 'limit', 'which is',
         'reached at, workers', 'what then'],
        [[limit.what, float(limit.at(most)), float(limit.at(PAPER)),
          float(limit.most), limit.why, float(limit.workers), limit.then]
         for limit in made])
    first = made[0]
    results.note(f'What breaks first: {first.what}, at {first.workers:,.0f} '
                 f'workers ({first.most:,.0f}: {first.why}). Then '
                 f'{first.then}.')
    results.lines(
        'limits', 'How much of its limit is used: measured, then on paper; '
        'the %d that break first' % SHOWN,
        'workers', {'percent of the limit': {
            limit.what.partition(': s of')[0]: [
                (workers, limit.share(workers))
                for workers in (*args.workers, PAPER)]
            for limit in made[:SHOWN]}},
        marks=[(most, 'on paper from here')], scale='log')


def main(args, results):
    sizes = checked(args)
    database.MariaDB().check()
    real = held_by_real(args, results, sizes.real)
    connection = sizes_of_connections(results, sizes.connections)
    found, limits = measure_identities(args, results)
    results.save()
    election, updates = rounds(args, results)
    results.lines(
        'commands', 'nova-manage worker, with many workers', 'workers',
        {'seconds': {f'worker {name}': [
            (workers, row[name]) for workers, row in
            zip(args.workers, found)] for name in ('list', 'ping')}})
    on_paper(args, results, limits_of(
        args, real, connection, found, limits, election, updates))
    return 0
