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

"""Faults of clusters of RabbitMQ and of MariaDB: of a node at a time."""

import contextlib
import signal
import time

from lab.measure.faults import fault
from lab.measure.faults import messaging
from lab import process
from lab import rpc
from lab.servers import database

# Seconds between two nodes of an upgrade.
PAUSE = 5

# One node has each queue then, and none is declared anew elsewhere.
CLASSIC = {'oslo_messaging_rabbit': {
    'rabbit_quorum_queue': False, 'rabbit_transient_quorum_queue': False,
    'rabbit_stream_fanout': False}}


def _home(stage):
    """The node that has the queue of all schedulers, or its leader."""
    broker = stage.servers.broker
    if stage.fault.conf is not CLASSIC:
        first = broker.nodes[0]
        if broker.home(rpc.TOPIC) is not first:
            broker.move(rpc.TOPIC, first)
            process.wait(lambda: broker.home(rpc.TOPIC) is first, 30,
                         'another node to lead the queue')
    return broker.home(rpc.TOPIC)


def _killed(stage):
    _home(stage).stop()
    time.sleep(messaging.OUTAGE)
    stage.servers.broker.start()


def _stopped(stage):
    processes = _home(stage).child.tree()
    for each in processes:
        each.send_signal(signal.SIGSTOP)
    time.sleep(messaging.OUTAGE)
    for each in processes:
        each.send_signal(signal.SIGCONT)


def _cut_off(stage):
    broker = stage.servers.broker
    node = _home(stage)
    broker.cut_off(node)
    time.sleep(messaging.OUTAGE)
    broker.join(node)


def _move(stage):
    for _time in range(3):
        stage.servers.broker.move(rpc.TOPIC)
        time.sleep(PAUSE)


def _upgrade(stage):
    broker = stage.servers.broker
    for node in broker.nodes:
        # In an orderly way.
        node.ctl('stop')
        node.stop()
        node.start()
        time.sleep(PAUSE)


def _replicas_gone(stage):
    # As just after the restart of two nodes, but for longer.
    broker = stage.servers.broker

    def replicas(change):
        for node in broker.nodes[1:]:
            broker.ctl('eval', 'rabbit_stream_queue:%s_replica'
                       '(<<"/">>, <<"%s_fanout">>, \'%s\').' % (
                           change, rpc.TOPIC, node.name))

    replicas('delete')
    for node in broker.nodes:
        node.ctl('close_all_connections', 'lab')
    time.sleep(messaging.OUTAGE)
    replicas('add')


def _fault(name, title, act, after=35, **options):
    return fault.Fault(name, title, act, after, ends=True, **options)


def _database_killed(stage):
    mariadb = stage.servers.mariadb
    mariadb.active.stop()
    time.sleep(messaging.OUTAGE)
    mariadb.start()


def _flow_control(stage):
    # A node that applies nothing has all others wait.
    mariadb = stage.servers.mariadb
    slow = next(node for node in mariadb.nodes if node is not mariadb.active)
    slow.execute('SET GLOBAL wsrep_provider_options = "gcs.fc_limit = 1"')
    with slow.read_only():
        time.sleep(2 * messaging.OUTAGE)


def _no_quorum(stage):
    mariadb = stage.servers.mariadb
    for node in mariadb.nodes:
        if node is not mariadb.active:
            node.stop()
    time.sleep(messaging.OUTAGE)
    # Whoever is left is no majority, and never will be again.
    mariadb.stop()
    mariadb.start()


def _deadlocks(stage):
    # Another node commits changes of the same rows.
    mariadb = stage.servers.mariadb
    other = next(node for node in mariadb.nodes if node is not mariadb.active)
    end = time.monotonic() + messaging.OUTAGE
    while time.monotonic() < end:
        with contextlib.suppress(database.exc.OperationalError):
            other.execute(
                'UPDATE %smain.services SET updated_at = updated_at + INTERVAL'
                ' 1 SECOND' % stage.servers.database.prefix)


RABBITMQ = (
    _fault('node-killed', 'a node of RabbitMQ killed', _killed),
    _fault('node-stopped', 'a node of RabbitMQ stopped', _stopped),
    _fault('node-cut-off', 'a node of RabbitMQ cut off', _cut_off, 60),
    _fault('home-killed', 'the node of classic queues killed', _killed, 60,
           around=messaging.anew, conf=CLASSIC),
    _fault('leader-moved', 'leader of a quorum queue moved', _move, 15),
    _fault('replicas-gone', 'nodes without a replica of a stream',
           _replicas_gone, 35),
    _fault('upgrade', 'RabbitMQ restarted, node by node', _upgrade, 35),
)

GALERA = (
    _fault('database-killed', 'a node of Galera killed', _database_killed,
           call=rpc.Client.look_up),
    _fault('flow-control', 'Galera: a node takes nothing', _flow_control, 20,
           call=rpc.Client.look_up),
    _fault('no-quorum', 'Galera: no majority', _no_quorum, 45,
           call=rpc.Client.look_up),
    _fault('deadlocks', 'Galera: deadlocks at commit', _deadlocks, 15,
           call=rpc.Client.look_up),
)
