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

"""python -m lab.measure.records: what a round of all workers costs MariaDB.

Two rounds, with 1 to 6400 records of nova-scheduler that are all up, on stock
and with the series:

* election: each worker runs the periodic task of the host discovery once. The
  discovery itself is left out. With the series the first worker of each node
  reads all records in its first round, or when the leader has changed, and
  the later rounds are those of the steady state. Nodes have ten workers.
* heartbeat: each worker writes its heartbeat once, by the servicegroup driver.

Each tree runs its own code in a process of its own, with one connection to
the database. What is counted comes from the server's status of that session:
``Questions``, which are all statements, so also the COMMIT and ROLLBACKs that
go with a read or a write, but not the pings of the connection; and
``Rows_read``, the rows that the storage engine was asked for.

Where each reads all records, 6400 workers read 41 million rows. So only those
of one node do that, and the counts are scaled to all. These are marked with a
``*``; all others are what was counted.

On stock a record is that of a node, whose workers all elect and all write into
the one record. So the numbers for stock are those of as many nodes with one
worker each.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import types

import prettytable
import sqlalchemy

from lab import LabError
from lab.servers import broker
from lab.servers import cloud
from lab.servers import database
from lab.servers import placement

WORKERS = (1, 10, 100, 1000, 6400)
NODE = 'bench-records'
BINARY = 'nova-scheduler'

# Of more workers than ALL, only SAMPLE, which are a node's, do what reads all
# records.
ALL = 100
SAMPLE = 10


class Session:
    """Counts what a session asks of MariaDB."""

    def __init__(self, engine):
        self._engine = engine
        # A look counts as well: how much, a second one tells.
        self._look()
        before, after = self._look(), self._look()
        self._cost = [b - a for a, b in zip(before, after)]

    def _look(self):
        # All go one after the other, so the pool has one connection.
        connection = self._engine.raw_connection()
        try:
            with connection.cursor() as cursor:
                cursor.execute(
                    'SELECT CONNECTION_ID(), VARIABLE_VALUE '
                    'FROM information_schema.SESSION_STATUS WHERE '
                    "VARIABLE_NAME IN ('QUESTIONS', 'ROWS_READ') "
                    'ORDER BY VARIABLE_NAME')
                (session, questions), (_, rows) = cursor.fetchall()
        finally:
            connection.close()
        return session, int(questions), int(rows)

    def count(self, function, items, workers):
        """Call a function for each item, and count for all workers.

        :param items: one for each worker, or for some of them
        :returns: statements and rows read, and whether that is scaled
        """
        before = self._look()
        for item in items:
            function(item)
        session, *counted = (
            b - a - cost for a, b, cost in
            zip(before, self._look(), self._cost))
        if session:
            raise LabError('the connection to the database was lost')
        done = len(items)
        return [count * workers // done for count in counted], done < workers


def write_records(engine, workers):
    """Write the records, which are up because they are new."""
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text('DELETE FROM services'))
        connection.execute(sqlalchemy.text(
            'INSERT INTO services (created_at, host, `binary`, topic, '
            'report_count, disabled, deleted, forced_down, version, uuid) '
            "SELECT UTC_TIMESTAMP, CONCAT(:node, '-', LPAD((seq - 1) DIV 10, "
            "3, '0'), '-worker-', (seq - 1) MOD 10 + 1), :binary, "
            "'scheduler', 0, 0, 0, 0, 73, UUID() FROM seq_1_to_%d" % workers),
            {'node': NODE, 'binary': BINARY})


def measure(config, sizes):
    """Run the rounds for each number of workers, with the imported nova.

    Prints a list with a dict for each: round -> what Session.count returns.
    """
    from nova import config as nova_config
    from nova import context as nova_context
    from nova.db.main import api as db_api
    from nova import objects
    from nova.objects import host_mapping

    nova_config.parse_args(['nova-scheduler', '--config-file', config])
    objects.register_all()
    # As nova-scheduler does; it knows the version since its start.
    objects.Service.enable_min_version_cache()
    context = nova_context.get_admin_context()
    engine = db_api.get_engine(context=context)
    session = Session(engine)
    discoveries = []
    host_mapping.discover_hosts = discoveries.append
    results = []
    for workers in sizes:
        write_records(engine, workers)
        objects.Service.get_minimum_version(context, BINARY)
        results.append(dict(_rounds(context, session, discoveries, workers)))
    json.dump(results, sys.stdout)


def _rounds(context, session, discoveries, workers):
    import nova.conf
    from nova import objects
    from nova.scheduler import manager
    from nova import servicegroup

    conf = nova.conf.CONF
    servicegroup_api = servicegroup.API()
    # In the order in which all elect, so that the first one leads.
    records = sorted(objects.ServiceList.get_by_binary(context, BINARY),
                     key=lambda record: record.host)
    some = workers if workers <= ALL else SAMPLE
    managers = [types.SimpleNamespace(
        host=record.host, servicegroup_api=servicegroup_api)
        for record in records[:some]]

    def discover(one):
        # Stock knows a worker by [DEFAULT] host, and the series by its own.
        conf.set_override('host', one.host)
        manager.SchedulerManager._discover_hosts_in_cells(one, context)

    def election():
        del discoveries[:]
        counted = session.count(discover, managers, workers)
        if len(discoveries) != 1:
            raise LabError('%d workers lead' % len(discoveries))
        return counted

    if not cloud.has_worker_hosts(os.path.dirname(nova.__path__[0])):
        yield 'election', election()
    else:
        from nova.workers import heartbeat
        from nova.workers import leader

        for one in managers:
            one.leader = leader.Leader(BINARY, servicegroup_api)
        yield 'first', election()
        # All others now remember the same as the last one of these.
        managers += [types.SimpleNamespace(
            host=record.host, leader=copy.copy(managers[-1].leader))
            for record in records[some:]]
        yield 'later', election()
        # As nova.workers.heartbeat.Heartbeat.join does.
        for record in records:
            record.save = lambda record=record: heartbeat._save(
                context, record)

    yield 'heartbeat', session.count(
        servicegroup_api._driver._report_state,
        [types.SimpleNamespace(service_ref=record) for record in records],
        workers)
    # The driver only logs what fails.
    written = sum(record.report_count for record in
                  objects.ServiceList.get_by_binary(context, BINARY))
    if written != workers:
        raise LabError('%d heartbeats were written' % written)


def run(base, folder, tree, sizes):
    """Measure one tree, in a process that imports its nova.

    :returns: what ``measure`` prints
    :raises LabError: when it fails
    """
    config = os.path.join(folder, 'nova.conf')
    with open(config, 'w') as stream:
        stream.write(
            '[DEFAULT]\ntransport_url = fake:/\nservice_down_time = 3600\n'
            'log_file = %s\n[database]\nconnection = %s\n' % (
                os.path.join(folder, 'log'), base.urls['main']))
    env = dict(os.environ, OS_NOVA_DISABLE_EVENTLET_PATCHING='true',
               PYTHONPATH=database.nova_path(tree, placement.ROOT))
    done = subprocess.run(
        [sys.executable, '-m', 'lab.measure.records', '--measure', config,
         '--workers', *map(str, sizes)],
        env=env, text=True, capture_output=True, timeout=600)
    if done.returncode:
        raise LabError('the measurement ended with %d' % done.returncode,
                       done.stdout + done.stderr)
    return json.loads(done.stdout)


def cell(measured):
    """A round as it stands in the table."""
    (statements, rows), scaled = measured
    return '%s (%s)%s' % (f'{statements:,}', f'{rows:,}', '*' * scaled)


def compare(options):
    server = database.MariaDB()
    if not server.answers():
        raise LabError('no MariaDB answers at 127.0.0.1:%d' % server.port)
    ours = options.tree or cloud.find_tree()
    for tree, has in ((options.stock, False), (ours, True)):
        if cloud.has_worker_hosts(tree) != has:
            raise LabError('%s has %s worker hosts' % (
                tree, 'no' if has else 'got'))
    table = prettytable.PrettyTable(
        ['workers', 'election: stock', 'series, first', 'series, later',
         'heartbeat: stock', 'series'], align='r')
    with tempfile.TemporaryDirectory(prefix='lab-bench-') as folder, \
            database.Database(broker.Broker().transport_url, server) as base:
        results = [run(base, folder, tree, options.workers)
                   for tree in (options.stock, ours)]
    for workers, stock, series in zip(options.workers, *results):
        table.add_row([f'{workers:,}', *map(cell, (
            stock['election'], series['first'], series['later'],
            stock['heartbeat'], series['heartbeat']))])
    print('Database statements (and rows read) per round of all workers')
    print(table)
    print('* %d workers measured, scaled to all' % SAMPLE)


def main():
    parser = argparse.ArgumentParser(
        prog='python -m lab.measure.records', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--stock', help='folder of a nova without the series')
    parser.add_argument('--tree', help='folder of the nova with the series '
                                       '(default: the installed one)')
    parser.add_argument('--workers', type=int, nargs='+', default=WORKERS)
    parser.add_argument('--measure', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not (options.stock or options.measure):
        parser.error('--stock is needed')
    try:
        if options.measure:
            measure(options.measure, options.workers)
        else:
            compare(options)
    except LabError as error:
        print('Failed: %s' % error, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
