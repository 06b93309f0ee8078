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

"""The databases of a control plane, on MariaDB or in SQLite files."""

import collections
import contextlib
import getpass
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid

from oslo_utils import timeutils
import sqlalchemy
from sqlalchemy import exc
from sqlalchemy import pool

from lab import LabError
from lab import process

NAMES = ('api', 'main', 'cell0', 'placement')
CELL0 = '00000000-0000-0000-0000-000000000000'


class Record(collections.namedtuple(
        'Record', 'host binary version report_count created_at last_seen_up '
                  'deleted')):
    """A record of a service."""

    def is_up(self, seconds):
        """Whether it is up, by the rule of nova and the clock of the lab.

        :param seconds: the value of ``[DEFAULT] service_down_time``
        """
        seen = self.last_seen_up or self.created_at
        return abs((timeutils.utcnow() - seen).total_seconds()) <= seconds


# 'binary' is a word of SQL, so SQLAlchemy is left to quote it; and SQLite
# has no type for a time.
COLUMNS = [sqlalchemy.column(
    name, sqlalchemy.DateTime() if name in ('created_at', 'last_seen_up')
    else None) for name in Record._fields]
QUERY = sqlalchemy.select(*COLUMNS).select_from(
    sqlalchemy.table('services', *COLUMNS)).order_by('host', 'binary')


def program(name, folder=None):
    """The path of a program.

    :param folder: where it is; by default, in the environment the lab runs in
    """
    environment = os.path.dirname(sys.executable)
    # "pip install --target" puts programs beside the packages.
    folders = [folder] if folder else [environment, *(
        os.path.join(path, 'bin') for path in sys.path)]
    found = [path for path in (os.path.join(path, name) for path in folders)
             if os.path.exists(path)]
    return found[0] if found else os.path.join(folders[0], name)


def run(command, env=None, timeout=120):
    """Run a program to its end.

    :param command: list of arguments
    :param env: environment variables to add to ours
    :param timeout: seconds
    :returns: what it printed
    :raises LabError: when it fails
    """
    name = os.path.basename(command[0])
    try:
        done = subprocess.run(
            command, env=dict(os.environ, **(env or {})), text=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise LabError('%s did not end in %g s' % (name, timeout))
    if done.returncode:
        raise LabError('%s ended with %d' % (name, done.returncode),
                       done.stdout + done.stderr)
    return done.stdout


class MariaDB:
    """A MariaDB server that lets root in without a password."""

    def __init__(self, port=3306):
        self.port = port

    def url(self, schema=''):
        return 'mysql+pymysql://root@127.0.0.1:%d/%s' % (self.port, schema)

    def execute(self, *statements):
        """Execute statements of SQL.

        :raises sqlalchemy.exc.OperationalError: when it does not answer
        """
        engine = sqlalchemy.create_engine(
            self.url(), poolclass=pool.NullPool,
            connect_args={'connect_timeout': 3})
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    @contextlib.contextmanager
    def holding(self, *statements):
        """A connection, for what ends with it; statements begin that."""
        engine = sqlalchemy.create_engine(self.url(), poolclass=pool.NullPool)
        with engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
            yield connection

    def query(self, statement):
        """The rows that a statement of SQL returns."""
        with self.holding() as connection:
            return connection.exec_driver_sql(statement).all()

    def status(self, *names):
        """What the server has counted since it was started.

        To ask is one statement more, and no commit.

        :param names: of its status variables
        :returns: list of integers, one for each name
        """
        found = dict(self.query('SHOW GLOBAL STATUS WHERE Variable_name IN '
                                '(%s)' % ', '.join(map(repr, names))))
        return [int(found[name]) for name in names]

    def connections_of(self, user):
        """How many connections a user has."""
        return self.query('SELECT COUNT(*) FROM information_schema.PROCESSLIST'
                          f" WHERE USER = '{user}'")[0][0]

    def backup_stage(self):
        """Have all commits wait, as a backup does near its end."""
        return self.holding(*(f'BACKUP STAGE {name}' for name in (
            'START', 'FLUSH', 'BLOCK_DDL', 'BLOCK_COMMIT')))

    def read_only(self):
        """Have nobody write to it, not even who brings what others wrote."""
        return self.holding('FLUSH TABLES WITH READ LOCK')

    def answers(self):
        """Whether it answers and lets us in."""
        try:
            self.execute('SELECT 1')
            return True
        except exc.OperationalError:
            return False

    def check(self):
        """Go on only if it answers.

        :raises LabError: when it does not answer
        """
        if not self.answers():
            raise LabError('no MariaDB answers at 127.0.0.1:%d' % self.port)


class PrivateMariaDB(MariaDB, process.PrivateServer):
    """A MariaDB of one's own, which a test can stop and start again."""

    KIND = 'MariaDB'

    def __init__(self, options=(), user=None):
        """Choose its port.

        :param options: more arguments of the server
        :param user: whom it runs as; the one who starts it if None
        """
        self.options = options
        self.user = user or getpass.getuser()
        super().__init__(process.free_port())

    @staticmethod
    def available():
        """Whether MariaDB is installed here."""
        return bool(mariadbd() and shutil.which('mariadb-install-db'))

    def begin(self, *options):
        """Start it, with what it stored before.

        :param options: more arguments of the server
        :raises LabError: when its tables cannot be made, which is done once
        """
        user = '--user=' + self.user
        if self.folder is None:
            self.folder = tempfile.mkdtemp(prefix='lab-mariadb-')
            shutil.chown(self.folder, self.user)
            self._install(user)
        self.child = process.Child(
            [mariadbd(), '--no-defaults', user, '--datadir=' + self._data,
             '--socket=' + os.path.join(self.folder, 'socket'),
             '--pid-file=' + os.path.join(self.folder, 'pid'),
             '--bind-address=127.0.0.1', '--port=%d' % self.port,
             # Each process of nova may have dozens of them.
             '--max-connections=1000',
             # Nobody will need this data after a power cut.
             '--innodb-flush-log-at-trx-commit=0', *self.options, *options],
            os.path.join(self.folder, 'output'), self._env)

    def _install(self, user):
        install = process.Child(
            ['mariadb-install-db', '--no-defaults', user, '--skip-test-db',
             '--datadir=' + self._data,
             '--auth-root-authentication-method=normal'],
            os.path.join(self.folder, 'output'), self._env)
        with install:
            process.wait(lambda: not install.running(), 60,
                         'mariadb-install-db', install.log)
        if install.returncode:
            raise LabError('mariadb-install-db failed', install.log())

    @property
    def _data(self):
        return os.path.join(self.folder, 'data')

    @property
    def _env(self):
        # A server that starts removes the temporary tables that it finds,
        # those of others too.
        return {'TMPDIR': self.folder}

    def freeze(self):
        """Let it hang: connections stay open, nothing is answered."""
        self.child.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.child.process.send_signal(signal.SIGCONT)


def mariadbd():
    """The path of the server's program, or None."""
    # Not on the PATH of everybody but root.
    return shutil.which('mariadbd') or shutil.which(
        'mariadbd', path='/usr/sbin')


class Database:
    """The four databases, synced, with the mappings of cell0 and one cell.

    To sync them takes seconds, so a program that needs several clouds one
    after another makes one database for all of them, and ``reset``s it.
    """

    def __init__(self, transport_url, server=None, more=()):
        """Remember where to make them.

        :param transport_url: of the cell's broker, as oslo.messaging takes it
        :param server: a ``MariaDB``; SQLite files if None
        :param more: of whom there are databases too: keystone, glance
        """
        self.transport_url = transport_url
        self.server = server
        self.names = (*NAMES, *more)
        self.prefix = 'lab_%d_%s_' % (os.getpid(), uuid.uuid4().hex[:6])
        self.folder = None
        self.urls = {}

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix='lab-database-')
        try:
            for name in self.names:
                self.urls[name] = self._make(name)
            self._sync()
            self._map_cells()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc):
        try:
            if self.server:
                self.server.execute(*(
                    'DROP DATABASE IF EXISTS ' + self.prefix + name
                    for name in self.names))
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _make(self, name):
        if not self.server:
            return 'sqlite:///' + os.path.join(self.folder, name + '.sqlite')
        self.server.execute('CREATE DATABASE %s%s CHARACTER SET utf8mb3' % (
            self.prefix, name))
        return self.server.url(self.prefix + name)

    def _sync(self, timeout=120):
        # Side by side: most of the time goes into starting the programs.
        nova = '[DEFAULT]\ntransport_url = fake:/\n' \
               '[api_database]\nconnection = %(api)s\n[database]\n'
        jobs = [
            ('nova-manage', 'main', nova + 'connection = %(main)s\n',
             ['db', 'sync', '--local_cell']),
            ('nova-manage', 'cell0', nova + 'connection = %(cell0)s\n',
             ['db', 'sync', '--local_cell']),
            ('nova-manage', 'api', nova, ['api_db', 'sync']),
            ('placement-manage', 'placement',
             '[placement_database]\nconnection = %(placement)s\n',
             ['db', 'sync']),
        ]
        jobs += [(name + '-manage', name,
                  f'[database]\nconnection = %({name})s\n', ['db_sync'])
                 for name in self.names if name not in NAMES]
        children = []
        try:
            for name, database, text, arguments in jobs:
                path = os.path.join(self.folder, database + '.conf')
                with open(path, 'w') as stream:
                    stream.write(text % self.urls)
                children.append(process.Child(
                    [program(name), '--config-file', path] + arguments,
                    os.path.join(self.folder, database + '.log'),
                    {'OS_NOVA_DISABLE_EVENTLET_PATCHING': 'true'}))
            for child in children:
                process.wait(lambda: not child.running(), timeout,
                             'the schemas', child.log)
                if child.returncode:
                    raise LabError('syncing a schema failed', child.log())
        finally:
            for child in children:
                child.kill()

    def _map_cells(self):
        # What nova-manage cell_v2 map_cell0 and create_cell write.
        insert = sqlalchemy.text(
            'INSERT INTO cell_mappings (created_at, uuid, name, '
            'transport_url, database_connection, disabled) VALUES '
            '(CURRENT_TIMESTAMP, :uuid, :name, :rpc, :url, :disabled)')
        with self._begin('api') as connection:
            connection.execute(insert, [
                {'uuid': CELL0, 'name': 'cell0', 'rpc': 'none:///',
                 'url': self.urls['cell0'], 'disabled': False},
                {'uuid': str(uuid.uuid4()), 'name': 'cell1',
                 'rpc': self.transport_url, 'url': self.urls['main'],
                 'disabled': False}])

    def map_host(self, host):
        """Have nova look for a compute host in the cell.

        That is what nova-manage cell_v2 discover_hosts writes.
        """
        self.execute('api', 'INSERT INTO host_mappings (created_at, cell_id, '
                     'host) SELECT CURRENT_TIMESTAMP, id, :host FROM '
                     "cell_mappings WHERE name = 'cell1'", host=host)

    def add_compute(self, host):
        """A compute node, as its nova-compute writes it at its first start.

        No scheduler uses it before its host was discovered.
        """
        self.execute(
            'main', 'INSERT INTO services (created_at, host, `binary`, topic, '
            'report_count, deleted, version) VALUES (CURRENT_TIMESTAMP, '
            ":host, 'nova-compute', 'compute', 0, 0, 73)", host=host)
        self.execute(
            'main', 'INSERT INTO compute_nodes (created_at, host, '
            'hypervisor_hostname, uuid, mapped, deleted, hypervisor_type, '
            'hypervisor_version, cpu_info, vcpus, memory_mb, local_gb, '
            'vcpus_used, memory_mb_used, local_gb_used) VALUES '
            "(CURRENT_TIMESTAMP, :host, :host, :uuid, 0, 0, 'QEMU', 1, '{}', "
            '64, 262144, 1024, 0, 0, 0)', host=host, uuid=str(uuid.uuid4()))

    def undiscovered(self):
        """The compute hosts that nova does not look for in the cell yet."""
        return {host for host, in self.execute(
            'main', 'SELECT host FROM compute_nodes')} - {
            host for host, in self.execute(
                'api', 'SELECT host FROM host_mappings')}

    def map_cell(self, url):
        """Have nova reach the database of the cell by another URL.

        A process that runs already does not see it.
        """
        self._map('database_connection', url)

    def map_broker(self, transport_url):
        """The same for the broker of the cell."""
        self._map('transport_url', transport_url)

    def _map(self, column, url):
        self.execute('api', f'UPDATE cell_mappings SET {column} = :url '
                     "WHERE name = 'cell1'", url=url)

    def _begin(self, name):
        return sqlalchemy.create_engine(
            self.urls[name], poolclass=pool.NullPool).begin()

    def execute(self, name, statement, **values):
        """Execute a statement of SQL in one of the databases.

        :param name: of the database
        :param statement: SQL, with ``:name`` for each of ``values``
        :returns: the rows, if it has any
        """
        with self._begin(name) as connection:
            result = connection.execute(sqlalchemy.text(statement), values)
            return result.all() if result.returns_rows else []

    def kill_connections(self):
        """Close all connections to the four databases, on MariaDB.

        Whose they are makes no difference: those of the lab are among them.
        """
        for number, in self.server.query(
                'SELECT ID FROM information_schema.PROCESSLIST '
                "WHERE DB LIKE '%s%%%%'" % self.prefix):
            # It may have ended.
            with contextlib.suppress(exc.OperationalError):
                self.server.execute('KILL %d' % number)

    def locked(self, table, how='WRITE'):
        """Nobody else uses a table of the main database, on MariaDB.

        :param how: READ to let others read it
        """
        return self.server.holding(
            f'LOCK TABLES {self.prefix}main.{table} {how}')

    @contextlib.contextmanager
    def record_locked(self, host):
        """Nobody else writes the record of a host, on MariaDB."""
        with self._begin('main') as connection:
            connection.execute(sqlalchemy.text(
                'SELECT id FROM services WHERE host = :host FOR UPDATE'),
                {'host': host})
            yield

    def connections(self):
        """How many connections to all four there are, on MariaDB."""
        return self.server.query(
            'SELECT COUNT(*) FROM information_schema.PROCESSLIST '
            "WHERE DB LIKE '%s%%%%'" % self.prefix)[0][0]

    def services(self, deleted=False, name='main'):
        """The records of services, by host.

        Whether a service is up is for the caller to say: ``last_seen_up`` is
        its last heartbeat in UTC (None before the first; ``created_at``
        counts then).

        :param deleted: whether to return the deleted ones too
        :param name: of the database: that of the cell, or cell0's
        """
        with self._begin(name) as connection:
            records = [Record(*row) for row in connection.execute(QUERY)]
        return [record for record in records if deleted or not record.deleted]

    def reset(self):
        """Forget all services and hosts, as if nothing had run before."""
        for database, tables in (
                ('main', ('services', 'compute_nodes')),
                ('api', ('host_mappings', 'aggregates')),
                ('placement', ('allocations', 'consumers', 'inventories',
                               'resource_provider_traits',
                               'resource_providers'))):
            with self._begin(database) as connection:
                # The rows of a table may refer to each other.
                connection.exec_driver_sql('SET FOREIGN_KEY_CHECKS = 0')
                for table in tables:
                    connection.exec_driver_sql('DELETE FROM ' + table)
