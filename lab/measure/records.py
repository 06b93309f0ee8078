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

"""What a round of all workers costs MariaDB: the election, the heartbeats.

With many records of nova-scheduler that are all up, on stock and with the
series:

* election: each worker runs the periodic task of the host discovery once. The
  discovery itself is left out.
* heartbeat: each worker writes its heartbeat once, by the servicegroup driver:
  with the series one worker of a node for all. Nodes have 64 workers.

Each tree runs its own code in a process of its own, with one connection to
the database. What is counted comes from the server's status of that session:
``Questions``, which are all statements, so also the COMMIT and ROLLBACKs that
go with a read or a write, but not the pings of the connection; and
``Rows_read``, the rows that the storage engine was asked for.

As each reads all records to elect, 6400 workers read 41 million rows. So only
some do that, and the counts are scaled to all.

On stock a record is that of a node, whose workers all elect and all write into
the one record. So the numbers for stock are those of as many nodes with one
worker each.
"""

import json
import os
import sys
import time
import types

import sqlalchemy

from lab import LabError
from lab import process
from lab.servers import cloud
from lab.servers import database

BINARY = 'nova-scheduler'
TOPIC = 'scheduler'
# Workers of a node, and how many of all elect.
NODE = 64
SAMPLE = 8

# Records that are up, because they are new: worker 1 to 64 of node 1, ...
INSERT = (
    'INSERT INTO services (created_at, last_seen_up, host, `binary`, topic, '
    'report_count, disabled, deleted, forced_down, version, uuid) SELECT '
    "UTC_TIMESTAMP, UTC_TIMESTAMP, CONCAT('lab-scale-', LPAD((seq - 1) DIV "
    f"{NODE} + 1, 4, '0'), '-worker-', (seq - 1) MOD {NODE} + 1), '{BINARY}', "
    f"'{TOPIC}', 0, 0, 0, 0, 73, UUID() FROM seq_1_to_%d")


def node(number):
    """The node of a worker, from 1."""
    return 'lab-scale-%04d' % ((number - 1) // NODE + 1)


def host(number):
    """The worker host of a worker, from 1."""
    return '%s-worker-%d' % (node(number), (number - 1) % NODE + 1)


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
        :returns: statements, rows read, and seconds
        """
        before, began = self._look(), time.monotonic()
        for item in items:
            function(item)
        seconds = time.monotonic() - began
        session, *counted = (
            b - a - cost for a, b, cost in
            zip(before, self._look(), self._cost))
        if session:
            raise LabError('the connection to the database was lost')
        return [count * workers / len(items) for count in
                (*counted, seconds)]


# What a heartbeat writes, many times, by the server itself: no client's time
# is in it. Each is a transaction of its own.
UPDATES = 5000
UPDATE = f"""BEGIN NOT ATOMIC
DECLARE n, first INT DEFAULT 0;
SELECT MIN(id) INTO first FROM services;
WHILE n < {UPDATES} DO
  SET n = n + 1;
  UPDATE services SET report_count = report_count + 1,
    last_seen_up = UTC_TIMESTAMP() WHERE id = first + MOD(n, {NODE});
END WHILE;
END"""


def updates_a_second(base):
    """How many heartbeats MariaDB can write, one after the other.

    :param base: a ``database.Database`` on a MariaDB, with records
    """
    engine = sqlalchemy.create_engine(base.urls['main'],
                                      isolation_level='AUTOCOMMIT')
    with engine.connect() as connection:
        began = time.monotonic()
        connection.exec_driver_sql(UPDATE)
        seconds = time.monotonic() - began
    engine.dispose()
    return UPDATES / seconds


def write_records(engine, workers):
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text('DELETE FROM services'))
        connection.execute(sqlalchemy.text(INSERT % workers))


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
    services = [types.SimpleNamespace(
        service_ref=record, model_disconnected=False) for record in records]
    managers = [types.SimpleNamespace(
        host=record.host, servicegroup_api=servicegroup_api)
        for record in records[:SAMPLE]]

    def discover(one):
        # Stock knows a worker by [DEFAULT] host, and the series by its own.
        conf.set_override('host', one.host)
        manager.SchedulerManager._discover_hosts_in_cells(one, context)

    del discoveries[:]
    yield 'election', session.count(discover, managers, workers)
    if not discoveries:
        raise LabError('nobody discovers hosts')

    if cloud.has_worker_hosts(os.path.dirname(nova.__path__[0])):
        def write(node):
            # As nova.workers.heartbeat.Heartbeat does.
            first, *others = node
            servicegroup_api.report_state(first, [
                (one.service_ref.id, one.service_ref.host) for one in others])

        nodes = [services[at:at + NODE] for at in range(0, workers, NODE)]
        yield 'heartbeat', session.count(write, nodes, len(nodes))
    else:
        yield 'heartbeat', session.count(
            servicegroup_api._driver._report_state, services, workers)
    # The driver only logs what fails.
    written = sum(record.report_count for record in
                  objects.ServiceList.get_by_binary(context, BINARY))
    if written != workers:
        raise LabError('%d heartbeats were written' % written)


def run(base, folder, tree, sizes):
    """Measure one tree, in a process that imports its nova.

    :param base: a ``database.Database`` on a MariaDB
    :param folder: for its files
    :param sizes: numbers of workers
    :returns: for each size a dict: round -> statements, rows read, seconds,
        of all workers
    :raises LabError: when it fails
    """
    config = process.write_conf(os.path.join(folder, 'records.conf'), {
        'DEFAULT': {'transport_url': 'fake:/', 'service_down_time': 36000,
                    'log_file': os.path.join(folder, 'log')},
        'scheduler': {'discover_hosts_in_cells_interval': 3600},
        'database': {'connection': base.urls['main']}})
    return json.loads(database.run(
        [sys.executable, '-m', 'lab.measure.records', config,
         *map(str, sizes)],
        {'OS_NOVA_DISABLE_EVENTLET_PATCHING': 'true',
         'PYTHONPATH': process.nova_path(tree, process.ROOT)}, 1800))


if __name__ == '__main__':
    measure(sys.argv[1], [int(size) for size in sys.argv[2:]])
