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

"""Workers in one process, on nova's embedded fake RPC driver.

For a machine without RabbitMQ. Run as a program: it starts the workers, asks
each of them, and the node address, for an answer, writes what it found to
stdout as JSON, and ends. What is shown is the names and who answers to them;
processes of their own, and so the faults, take a real broker.
"""

import json
import os
import subprocess
import sys

from lab import LabError
from lab import process
from lab.servers import database
from lab.servers import placement


def main(conf, workers):
    """Start the workers and ask them.

    :param conf: path of the configuration file
    :param workers: their number
    """
    from nova import monkey_patch
    if hasattr(monkey_patch, 'patch'):
        # Before 2025.2 the import does it.
        monkey_patch.patch()

    import oslo_messaging

    import nova.conf
    from nova import config
    from nova import context
    from nova import objects
    from nova import rpc
    from nova.tests.functional.workers import fixtures
    from nova.workers import board
    from nova.workers import identity

    config.parse_args(['nova-scheduler', '--config-file', conf])
    objects.register_all()
    node = nova.conf.CONF.host
    admin = context.get_admin_context()
    hosts = [identity.worker_host(node, number)
             for number in range(1, workers + 1)]
    node_board = board.Board(hosts, threads=65)
    pings = {}
    with fixtures.AMQPRouting():
        for number in range(1, workers + 1):
            fixtures.WorkerFixture(node_board, node, number,
                                   report_interval=1).setUp()
        for server in [*hosts, node]:
            client = rpc.get_client(oslo_messaging.Target(
                topic='scheduler', namespace='baseapi', version='1.1'))
            pings[server] = client.prepare(server=server, timeout=10).call(
                admin, 'get_backdoor_port')
        process.wait(lambda: all(
            record.last_seen_up for record
            in objects.ServiceList.get_by_binary(admin, 'nova-scheduler')),
            30, 'heartbeats')
    print(json.dumps(pings), flush=True)
    # Nothing here outlives the process, so nothing needs to be stopped.
    os._exit(0)


def run(folder, node, workers, tree, mode_env):
    """Run the program with databases and a Placement of its own.

    :param folder: for its files
    :param node: the value of ``[DEFAULT] host``
    :param workers: the number of workers
    :param tree: folder of the nova to run; the installed one if None
    :param mode_env: see ``cloud.mode_env``
    :returns: the records, and a dict: server name -> the number of the
        worker that answered
    :raises LabError: when it fails
    """
    with database.Database('fake:/') as databases, \
            placement.Placement(folder, databases.urls['placement']) as api:
        path = process.write_conf(os.path.join(folder, 'nova.conf'), {
            'DEFAULT': {'host': node, 'transport_url': 'fake:/',
                        'state_path': folder, 'use_stderr': 'true',
                        'report_interval': 1},
            'api_database': {'connection': databases.urls['api']},
            'database': {'connection': databases.urls['main']},
            'placement': api.conf(),
            'oslo_concurrency': {'lock_path': folder}})
        env = dict(mode_env,
                   PYTHONPATH=process.nova_path(tree, process.ROOT))
        with process.Child(
                [sys.executable, '-m', 'lab.servers.embedded', path,
                 str(workers)],
                os.path.join(folder, node + '.log'), env,
                stdout=subprocess.PIPE) as child:
            answer = child.process.stdout.read()
        if child.returncode:
            raise LabError('the workers did not start', child.log())
        return databases.services(), json.loads(answer)


if __name__ == '__main__':
    main(sys.argv[1], int(sys.argv[2]))
