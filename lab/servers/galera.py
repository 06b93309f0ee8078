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

"""Galera: MariaDB on three nodes, and what leads clients to one of them."""

import contextlib
import os
import threading

from lab.faults import middlebox
from lab import LabError
from lab import process
from lab.servers import database

# Whether the lab's own MariaDB is a cluster.
GALERA = os.environ.get('LAB_DATABASE') == 'galera'

PROVIDER = '/usr/lib/galera/libgalera_smm.so'
OPTIONS = ('--wsrep-on=ON', '--binlog-format=ROW',
           '--innodb-autoinc-lock-mode=2', '--wsrep-sst-method=rsync',
           '--wsrep-node-address=127.0.0.1', '--wsrep-provider=' + PROVIDER)
# How often the nodes are looked at, in seconds.
INTERVAL = 1


class Galera(database.PrivateMariaDB):
    """A cluster whose clients are led to one node, the first that is ready.

    So deployments do with HAProxy: all write to one node, and when that is
    lost their connections are closed and the next one takes over.
    """

    def __init__(self, options=(), count=3):
        """Choose the ports.

        :param options: more arguments of the servers
        :param count: of nodes
        """
        super().__init__()
        ports = [process.free_port() for _node in range(count)]
        # rsync, which a new node gets its data by, gives up root's rights.
        user = None if os.geteuid() else 'mysql'
        peers = ','.join('127.0.0.1:%d' % port for port in ports)
        self.nodes = [database.PrivateMariaDB((
            *OPTIONS, *options, '--server-id=%d' % number,
            '--wsrep-cluster-address=gcomm://' + peers,
            '--wsrep-sst-receive-address=127.0.0.1:%d' % process.free_port(),
            '--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:%d;'
            'base_port=%d;ist.recv_addr=127.0.0.1:%d' % (
                port, port, process.free_port())), user)
            for number, port in enumerate(ports, 1)]
        self._box = middlebox.Middlebox(self.nodes[0].port)
        self._ended = threading.Event()

    @staticmethod
    def available():
        """Whether MariaDB and Galera are installed here."""
        return database.PrivateMariaDB.available() and (
            os.path.exists(PROVIDER))

    @property
    def active(self):
        """The node that clients are led to."""
        return next(node for node in self.nodes
                    if node.port == self._box.target)

    def start(self, timeout=120):
        """Start the nodes that do not run, and wait until all are ready.

        :param timeout: seconds for each
        :raises LabError: when one is not ready in time
        """
        if self._box.port is None:
            self._box.__enter__()
            self.port = self._box.port
            threading.Thread(target=self._lead, daemon=True).start()
        if not any(node.child for node in self.nodes):
            # It has nobody to join, and all that was ever committed.
            self._allow_to_begin(self.active)
            self._start(self.active, timeout, '--wsrep-new-cluster')
        for node in self.nodes:
            if not node.child:
                self._start(node, timeout)

    @staticmethod
    def _start(node, timeout, *options):
        node.begin(*options)
        process.wait(lambda: ready(node), timeout, 'a node of Galera',
                     node.child.log)

    @staticmethod
    def _allow_to_begin(node):
        path = os.path.join(node.folder or '', 'data', 'grastate.dat')
        if os.path.exists(path):
            with open(path) as stream:
                text = stream.read()
            with open(path, 'w') as stream:
                stream.write(text.replace('safe_to_bootstrap: 0',
                                          'safe_to_bootstrap: 1'))

    def stop(self):
        """End all nodes at once, as a crash would; their data stay."""
        for node in self.nodes:
            node.stop()

    def _lead(self):
        while not self._ended.wait(INTERVAL):
            if not ready(self.active):
                for node in self.nodes:
                    if node.child and ready(node):
                        self._box.target = node.port
                        self._box.reset()
                        break

    def freeze(self):
        for node in self.nodes:
            node.freeze()

    def thaw(self):
        for node in self.nodes:
            node.thaw()

    def __exit__(self, *exc):
        self._ended.set()
        self._box.__exit__()
        for node in self.nodes:
            node.__exit__()


def private(options=()):
    """A MariaDB of one's own, of the kind that the lab was told.

    :param options: more arguments of the server
    :raises LabError: when there is none
    """
    kind = Galera if GALERA else database.PrivateMariaDB
    if not kind.available():
        raise LabError('no Galera is installed: apt-get install '
                       'mariadb-server galera-4' if GALERA else
                       'no MariaDB is installed')
    return kind(options)


def ready(node):
    """Whether a node takes statements: it runs, and is in the majority."""
    with contextlib.suppress(database.exc.DBAPIError):
        return ('wsrep_ready', 'ON') in map(tuple, node.query(
            "SHOW GLOBAL STATUS LIKE 'wsrep_ready'"))
    return False
