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

"""Faults of MariaDB, and of the way to it."""

import contextlib
import time

from lab.measure.faults import fault
from lab.measure.faults import messaging
from lab.measure.faults import stage as stages
from lab import rpc

# Seconds that commits hang: several times as long as a worker may be idle.
HANGING = 45

# The connections that a user may have, and who that is.
CONNECTIONS = 30
USER = 'lab'


def _outage(stage):
    # What there was is forgotten on the way, and new connections pass again.
    messaging.half_open(stage)
    messaging.silent(stage)


def _no_replica(stage):
    # A commit waits for a replica to have it, and there is none.
    mariadb = stage.servers.mariadb
    with stage.callers.resting():
        mariadb.execute(
            'SET GLOBAL rpl_semi_sync_master_timeout = 600000',
            'SET GLOBAL rpl_semi_sync_master_wait_no_slave = ON',
            'SET GLOBAL rpl_semi_sync_master_enabled = ON')
        try:
            time.sleep(HANGING)
        finally:
            mariadb.execute('SET GLOBAL rpl_semi_sync_master_enabled = OFF')


@contextlib.contextmanager
def _old_record(stage):
    # As in any cloud that has existed for long: the first one is of a service
    # that is gone, and nobody writes it.
    stage.servers.database.execute(
        'main', 'INSERT INTO services (id, created_at, deleted_at, deleted, '
        'host, `binary`, topic, report_count, version) VALUES (1, '
        "CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, 1, 'gone', 'nova-scheduler', "
        "'scheduler', 0, 73)")
    yield


def _backup(stage):
    with stage.callers.resting(), stage.servers.mariadb.backup_stage():
        time.sleep(HANGING)


def _record_locked(stage):
    # As by somebody who looks at it in a transaction.
    host = min(stage.scheduler.record_hosts())
    with stage.callers.resting(), stage.servers.database.record_locked(host):
        time.sleep(HANGING)


@contextlib.contextmanager
def _few_connections(stage):
    mariadb, urls = stage.servers.mariadb, stage.servers.database.urls
    account = f"'{USER}'@'localhost'"
    mariadb.execute(
        f"CREATE USER {account} IDENTIFIED BY '{USER}' "
        f'WITH MAX_USER_CONNECTIONS {CONNECTIONS}',
        f'GRANT ALL ON *.* TO {account}')
    for section, name in (('database', 'main'), ('api_database', 'api')):
        stage.conf[section] = {'connection': urls[name].replace(
            'root@', f'{USER}:{USER}@')}
    try:
        yield
    finally:
        mariadb.execute(f'DROP USER {account}')


def _too_many_connections(stage):
    worker = stage.get_stuck(stage.faults.block, stages.WORK)
    stage.faults.connect(worker)
    stage.cloud.wait(
        lambda: stage.servers.mariadb.connections_of(USER) >= CONNECTIONS,
        stages.READY, 'the connections to be taken')


@contextlib.contextmanager
def _a_compute(stage):
    # Who leads connects to the cell to discover it.
    stage.servers.database.add_compute('compute-1')
    yield


def _leader(stage):
    # The first worker leads, on stock each of them.
    worker = stage.scheduler.workers()[1]
    stage.faulty.add(worker.pid)
    stage.boxes['cell'].abandon(worker)
    stage.servers.database.add_compute('compute-2')


FAULTS = (
    fault.Fault('mariadb-restart', 'MariaDB restarted',
                messaging.restart('mariadb'), 15, ends=True,
                call=rpc.Client.look_up),
    fault.Fault('mariadb-silent', 'MariaDB silent', messaging.silent, 20,
                ends=True, boxes=('database',), call=rpc.Client.look_up),
    fault.Fault('mariadb-half-open', 'MariaDB, half-open',
                messaging.half_open, 75, boxes=('database',),
                call=rpc.Client.look_up),
    *(fault.Fault(name, title, _outage, after, ends=True, workers=number,
                  pool=2, pause=0.05, call=rpc.Client.look_up,
                  boxes=('broker', 'database'),
                  conf={'oslo_messaging_rabbit': {
                      'heartbeat_timeout_threshold': 10}})
      for name, title, after, number in (
          ('outage', 'all half-open after an outage', 120, 3),
          ('outage-single', 'the only worker half-open', 60, 1))),
    fault.Fault('no-replica', 'commits hang: no replica', _no_replica, 20,
                ends=True),
    fault.Fault('backup', 'commits hang: a backup', _backup, 20, ends=True,
                around=_old_record),
    fault.Fault('record-locked', 'a record is locked', _record_locked, 20,
                ends=True),
    fault.Fault('connections', 'too many connections', _too_many_connections,
                40, around=_few_connections),
    fault.Fault('leader', 'leader, half-open to the cell', _leader, 40,
                boxes=('cell',), around=_a_compute,
                well=lambda stage: not stage.servers.database.undiscovered(),
                conf={'scheduler': {'discover_hosts_in_cells_interval': 5}}),
)
