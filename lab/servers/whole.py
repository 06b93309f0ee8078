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

"""A whole cloud: Keystone, Glance, Placement and all of nova.

It is laid out as nova's documentation has it: cell0 with the API database,
and a cell with a database, a vhost of the broker and a conductor of its own.
Neutron is a stand-in, so servers have no network, and nova-compute has the
fake driver. All else is real.
"""

from concurrent import futures
import contextlib
import importlib.util
import os
import shlex

from lab import LabError
from lab import process
from lab.servers import broker as lab_broker
from lab.servers import cloud
from lab.servers import database as lab_database
from lab.servers import glance
from lab.servers import keystone
from lab.servers import neutron
from lab.servers import nova_api

CELL = 'cell1'
PACKAGES = {'Keystone': 'keystone', 'Glance': 'glance',
            'python-openstackclient': 'openstackclient'}

# The name of the only flavor and of the only image.
FLAVOR = IMAGE = 'lab'

# Seconds to wait for anything to start, also on a machine that is busy.
TIMEOUT = 180

# No quota: what is counted is what ends in error for other reasons.
CONF = {
    'DEFAULT': {
        'periodic_fuzzy_delay': 0,
    },
    'quota': {'instances': -1, 'cores': -1, 'ram': -1},
    'vnc': {'enabled': 'false'},
    # Callers that come at the same time get different hosts, as is
    # recommended where there are several workers.
    'filter_scheduler': {'host_subset_size': 20},
}


def missing():
    """Why there can be no whole cloud here, in one line; or None."""
    packages = [name for name, package in PACKAGES.items()
                if importlib.util.find_spec(package) is None]
    if packages:
        return ('%s: not installed; "python3 tools/run.py lab" does that for '
                'a release with a series/locks/RELEASE-lab.txt' %
                ', '.join(packages))
    for server, name in ((lab_broker.PrivateBroker, 'rabbitmq-server'),
                         (lab_database.PrivateMariaDB, 'mariadb-server')):
        if not server.available():
            return 'not installed; on Debian: apt-get install ' + name
    return None


class WholeCloud(cloud.Cloud):
    """A whole cloud on a RabbitMQ and a MariaDB of its own.

    Use it in a ``with``: it serves when that is entered, and all of it is
    ended and deleted at the end.

    :ivar schedulers: each a ``cloud.Service``
    :ivar conductors: the same, that of the cell first
    :ivar computes: its nova-computes, each a ``process.Child``
    """

    def __init__(self, tree=None, nodes=1, workers=3, computes=2, mode=None,
                 conf=None, threads=None, progress=None):
        """Choose what it consists of.

        :param tree: folder of the nova to run; the installed one if None
        :param nodes: how many nova-schedulers
        :param workers: how many workers each of them has, and each of the two
            nova-conductors
        :param computes: how many nova-computes
        :param mode: one of ``cloud.modes``; the first of them if None
        :param conf: configuration of all of nova, on top of ``CONF``:
            section -> option -> value
        :param threads: topic -> how many requests each worker of that
            service runs at a time; as many as nova does by default if None
        :param progress: called with a line for each thing that is done
        """
        merged = {section: dict(options) for section, options in CONF.items()}
        for section, options in (conf or {}).items():
            merged.setdefault(section, {}).update(options)
        super().__init__(conf=merged)
        self.tree = tree
        self.nodes = nodes
        self.worker_count = workers
        self.compute_count = computes
        self.mode = mode
        self.threads = threads or {}
        self.progress = progress or (lambda text: None)
        self.applications = []
        self._servers = contextlib.ExitStack()
        # The nodes that are configured for the cell.
        self._in_cell = set()

    def __enter__(self):
        """Start it.

        :raises LabError: when something is missing or does not start
        """
        reason = missing()
        if reason:
            raise LabError(reason)
        with contextlib.ExitStack() as stack:
            self.cell_broker, server = self._start_servers(stack)
            self.progress('RabbitMQ and MariaDB answer')
            self.database = stack.enter_context(lab_database.Database(
                self.cell_broker.transport_url, server,
                more=('keystone', 'glance')))
            self.progress('the databases have their schemas')
            super().__enter__()
            stack.push(super().__exit__)
            stack.callback(self._kill)
            self.progress('Placement answers')
            self._start_all()
            self._servers = stack.pop_all()
        return self

    def __exit__(self, *exc):
        self._servers.close()

    def _kill(self):
        # In an orderly way it would take a minute, for what is deleted.
        for child in (*self.computes, *self.schedulers, *self.conductors,
                      *self.applications):
            child.kill()

    def _start_servers(self, stack):
        self.broker = lab_broker.PrivateBroker()
        server = lab_database.PrivateMariaDB()
        with futures.ThreadPoolExecutor() as pool:
            for started in [pool.submit(stack.enter_context, each)
                            for each in (self.broker, server)]:
                started.result()
        self.broker.ctl('add_vhost', CELL)
        self.broker.ctl('set_permissions', '-p', CELL, 'guest',
                        '.*', '.*', '.*')
        return lab_broker.Broker(self.broker.url + CELL), server

    def _start_all(self):
        urls = self.database.urls
        self.keystone = self._serve(keystone.Keystone(
            self.folder, database_url=urls['keystone']))
        self._in_cell.add('conductor-' + CELL)
        self._start_conductor('conductor-' + CELL, self.cell_broker)
        self._start_workers()
        self.neutron = self._serve(neutron.Neutron(self.folder))
        self.glance = self._serve(glance.Glance(
            self.folder, database_url=urls['glance'],
            keystone=self.keystone))
        self.nova_api = self._serve(nova_api.NovaAPI(
            self.folder, conf_path=self.config_file('nova-api', self.conf, {
                'keystone_authtoken': self.keystone.token_conf(),
                'neutron': self.keystone.conf(),
                'glance': {'region_name': keystone.REGION}}),
            nova_tree=self.tree))
        for conductor in self.conductors:
            conductor.wait_ready(TIMEOUT)
        # They wait for a conductor, and look for it every 10 s only.
        self._start_computes()
        self.keystone.bootstrap()
        self.keystone.wait_ready(TIMEOUT)
        self.keystone.register({
            'compute': self.nova_api.endpoint, 'image': self.glance.url,
            'network': self.neutron.url, 'placement': self.placement.url})
        self.progress('Keystone answers and has the endpoints')
        for scheduler in self.schedulers:
            scheduler.wait_ready(TIMEOUT)
        self.progress('nova-conductor and nova-scheduler serve')
        for application in self.applications:
            application.wait_ready(TIMEOUT)
        self.progress('Glance and nova-api answer')
        self._make_images()
        self._wait_ready()
        self._write_programs()
        self.progress('%d nova-computes are up' % len(self.computes))

    def _serve(self, application):
        self._stack.enter_context(application)
        self.applications.append(application)
        return application

    def _start_conductor(self, node, its_broker):
        self.conductor(node, self.worker_count, self.mode, self.tree,
                       self._thread_conf('conductor'), broker=its_broker)

    def _start_workers(self):
        self._start_conductor('conductor-node-1', self.broker)
        for number in range(1, self.nodes + 1):
            self.scheduler('scheduler-node-%d' % number, self.worker_count,
                           self.mode, self.tree,
                           self._thread_conf('scheduler'))

    def _thread_conf(self, topic):
        return {'DEFAULT': {'executor_thread_pool_size': self.threads[topic]}
                if topic in self.threads else {}}

    def restart_workers(self):
        """Have new workers of nova-scheduler and of the API's nova-conductor.

        The old ones, stuck or not, are killed, and nobody will run what they
        were to run. The cell goes on.
        """
        old = [*self.schedulers, *(conductor for conductor in self.conductors
                                   if conductor.broker is self.broker)]
        for service in old:
            service.kill()
            service.broker.delete(service.queue_names())
        self.schedulers = []
        self.conductors = [conductor for conductor in self.conductors
                           if conductor not in old]
        self._start_workers()
        self._wait_ready()

    def _wait_ready(self):
        for service in (*self.conductors, *self.schedulers):
            service.wait_ready(TIMEOUT)
        self.wait(self._all_up, TIMEOUT, 'all services to be up')

    def _start_computes(self):
        for number in range(1, self.compute_count + 1):
            host = 'compute-%d' % number
            self._in_cell.add(host)
            self.compute(host, {
                'glance': {'region_name': keystone.REGION},
                'neutron': self.keystone.conf()}, mode=self.mode,
                tree=self.tree)

    def _base_conf(self, node):
        conf = super()._base_conf(node)
        if node in self._in_cell:
            conf['DEFAULT']['transport_url'] = self.cell_broker.transport_url
            # A cell knows nothing of the API database.
            conf.pop('api_database', None)
        else:
            conf['database'] = {'connection': self.database.urls['cell0']}
        return conf

    def _make_images(self):
        with self.connect() as connection:
            connection.compute.create_flavor(
                name=FLAVOR, ram=64, vcpus=1, disk=1)
            connection.image.create_image(
                name=IMAGE, disk_format='raw', container_format='bare',
                visibility='public', data=b'\0' * 512)

    def check(self):
        """Look whether all that was started runs.

        :raises LabError: when something has ended
        """
        for child in (*self.applications, *self.conductors, *self.schedulers,
                      *self.computes):
            if not child.running():
                raise LabError('%s has ended with %d' % (
                    os.path.basename(child.log_path).removesuffix('.log'),
                    child.returncode), child.log())

    def _all_up(self):
        self.check()
        wanted = {'compute-%d' % number
                  for number in range(1, self.compute_count + 1)}
        for service in (*self.conductors, *self.schedulers):
            wanted |= service.record_hosts()
        up = self.up(self.conf['DEFAULT'].get('service_down_time', 60))
        nodes = self.database.execute(
            'main', 'SELECT id FROM compute_nodes WHERE deleted = 0')
        return wanted <= up and len(nodes) == self.compute_count

    def services(self, deleted=False):
        """The records of all services of nova; see ``Database.services``."""
        return [record for name in ('cell0', 'main')
                for record in self.database.services(deleted, name)]

    def connect(self):
        """An ``openstack.connection.Connection`` of the administrator."""
        return self.keystone.connect()

    def env(self):
        """The environment in which programs find the cloud.

        ``openstack`` and ``nova-manage`` on its PATH are for this cloud.
        """
        found = {'OS_' + name.upper(): value for name, value
                 in self.keystone.credentials().items()}
        return dict(found, OS_IDENTITY_API_VERSION='3',
                    OS_REGION_NAME=keystone.REGION,
                    OS_COMPUTE_API_VERSION='2.37',
                    PATH=os.pathsep.join([self.programs,
                                          os.environ.get('PATH', '')]))

    @property
    def programs(self):
        """The folder of the programs that are for this cloud."""
        return os.path.join(self.folder, 'bin')

    def _write_programs(self):
        conf = os.path.join(self.folder, 'scheduler-node-1.conf')
        env = dict(cloud.mode_env(self.mode, self.tree),
                   PYTHONPATH=process.nova_path(self.tree))
        os.mkdir(self.programs)
        for name, arguments in (('openstack', []),
                                ('nova-manage', ['--config-file', conf])):
            path = os.path.join(self.programs, name)
            with open(path, 'w') as stream:
                stream.write('#!/bin/sh\nexec env %s "$@"\n' % shlex.join([
                    *map('='.join, env.items()),
                    lab_database.program(name), *arguments]))
            os.chmod(path, 0o755)
        with open(self.openrc, 'w') as stream:
            for name, value in self.env().items():
                if name == 'PATH':
                    value = self.programs
                    stream.write('export PATH=%s:"$PATH"\n' % shlex.quote(
                        value))
                else:
                    stream.write('export %s=%s\n' % (
                        name, shlex.quote(value)))

    @property
    def openrc(self):
        """The file with which a shell finds the cloud."""
        return os.path.join(self.folder, 'openrc')

    def log(self):
        """The logs of all of nova, one after the other."""
        return super().log() + ''.join(
            child.log() for child in (*self.applications, *self.computes))
