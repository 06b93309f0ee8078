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

"""nova-scheduler whose workers each have a host, shown.

Starts it for real, shows the queues, the records and who answers, kills a
worker and shows it come back under its name.
"""

import os
import tempfile
import time

from oslo_utils import timeutils
import prettytable

from lab import commands
from lab import LabError
from lab.servers import broker
from lab.servers import cloud
from lab.servers import embedded

NODE = 'scheduler-node-1'
REPORT_INTERVAL = 1
SERVICE_DOWN_TIME = 8
BEGAN = time.monotonic()


def say(text):
    """A line of progress, with the seconds since the start."""
    print('[%4.1f s] %s' % (time.monotonic() - BEGAN, text), flush=True)


def say_table(title, fields, rows):
    table = prettytable.PrettyTable(fields, align='l')
    table.add_rows(list(rows))
    print('\n%s\n%s\n' % (title, table), flush=True)


def record_rows(records):
    """Rows of a table: each record, whether it is up, its heartbeat."""
    now = timeutils.utcnow()
    for record in records:
        seen = record.last_seen_up or record.created_at
        age = (now - seen).total_seconds()
        # MariaDB keeps whole seconds.
        yield (record.host, 'up' if age <= SERVICE_DOWN_TIME else 'down',
               '%.0f s ago' % max(0, age) if record.last_seen_up else 'none')


def answer(client, server):
    return '%.1f ms' % (1000 * client.ping(server, timeout=10))


def show(this, scheduler, client):
    """The three tables: queues, records, workers."""
    names = ['scheduler', 'scheduler.' + scheduler.node] + [
        scheduler.queue(n) for n in scheduler.numbers]
    say_table('Queues: each worker has one of its own', ['Queue', 'Consumers'],
              [(name, found[1] if found else 'no queue') for name, found
               in zip(names, this.broker.queues(names))])
    say_table('Records: each worker has a heartbeat of its own',
              ['Host', 'State', 'Last heartbeat'],
              record_rows(this.services()))
    # The first call also connects, which is not the worker's time.
    client.ping()
    rows = []
    for n, worker in sorted(scheduler.workers().items()):
        rows.append((worker.pid, ' '.join(worker.cmdline()).rstrip(),
                     answer(client, scheduler.worker_host(n))))
    rows.append(('', 'the node address, %s' % scheduler.node,
                 answer(client, scheduler.node)))
    say_table('Workers: each answers a ping at its own server name',
              ['Pid', 'Process title', 'Answers in'], rows)


def kill(this, scheduler, client, n):
    """Kill worker n and show it come back under its name."""
    host = scheduler.worker_host(n)
    old = scheduler.workers()[n]
    old.kill()
    began = time.monotonic()
    say('killed %s, pid %d' % (host, old.pid))
    new = this.wait(
        lambda: [worker for number, worker in scheduler.workers().items()
                 if number == n and worker.pid != old.pid],
        30, host + ' to be started again')[0]
    say('%s is started again, pid %d' % (host, new.pid))
    # Answered by the new one only: the queue has no other consumer.
    this.wait(lambda: client.answers(host, timeout=1), 30,
              host + ' to answer again')
    say('%s answers again, %.1f s after the kill' % (
        host, time.monotonic() - began))
    say_table('Records: the same as before', ['Host', 'State',
                                              'Last heartbeat'],
              record_rows(this.services()))


def on_broker(options, tree):
    conf = {'DEFAULT': {'report_interval': REPORT_INTERVAL,
                        'service_down_time': SERVICE_DOWN_TIME}}
    with cloud.Cloud(conf=conf) as this:
        say('databases on %s, a Placement' % (
            'MariaDB' if this.database.server else 'SQLite'))
        with this.scheduler(NODE, options.workers, options.mode,
                            tree, hosts=True) as scheduler, \
                this.client() as client:
            scheduler.wait_ready()
            this.wait(lambda: all(record.last_seen_up for record
                                  in this.services()), 30, 'heartbeats')
            say('nova-scheduler serves with %d workers on host %s' % (
                options.workers, NODE))
            show(this, scheduler, client)
            kill(this, scheduler, client, min(2, options.workers))
        say('stopped')


def in_one_process(options, tree):
    print('No RabbitMQ answers at 127.0.0.1:5672, so the workers run in one '
          "process on nova's embedded fake RPC driver, with SQLite.")
    with tempfile.TemporaryDirectory(prefix='lab-embedded-') as folder:
        records, pings = embedded.run(
            folder, NODE, options.workers, tree,
            cloud.mode_env(options.mode, tree))
    say_table('Records', ['Host', 'State', 'Last heartbeat'],
              record_rows(records))
    say_table('Who answers', ['Server name', 'Answered by worker'],
              pings.items())


def add_arguments(parser):
    parser.add_argument('--tree', help='folder of the nova to run (default: '
                                       'the installed one)')
    parser.add_argument('--workers', type=int, default=3)
    commands.add_mode(parser)


def main(args, results):
    if args.workers < 1:
        raise LabError('at least one worker')
    tree = args.tree or cloud.find_tree()
    say('nova from %s' % (
        os.path.relpath(tree) if tree else 'the environment'))
    if broker.Broker().answers():
        on_broker(args, tree)
    else:
        in_one_process(args, tree)
    return 0
