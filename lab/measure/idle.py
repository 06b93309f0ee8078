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

"""Idle workers: what they ask of MariaDB and RabbitMQ in a minute."""

import functools
import time

from lab.measure import pairs
from lab.measure import start

TITLE = 'Three and eight workers that nobody calls, for a minute'

WORKERS = (3, 8)
# Seconds; the default of nova.
REPORT_INTERVAL = 10
MINUTE = 60

# As replication and Galera have it.
BINARY_LOG = ('--log-bin', '--binlog-format=ROW')
# Column -> what MariaDB counts. A commit of the binary log is one that has
# changed something; nova commits others too.
COUNTED = {'statements': 'Questions', 'commits': 'Com_commit',
           'commits logged': 'Binlog_commits',
           'bytes logged': 'Binlog_bytes_written'}


def variants(args, stack):
    made = pairs.start_cloud(args, stack, database_options=BINARY_LOG)
    for workers in WORKERS:
        yield from pairs.compared(
            args, functools.partial(measure, made, args, workers),
            f', {workers} workers')


def measure(made, args, workers, tree, conf):
    with start.beating(made, args, tree, conf, workers) as scheduler:
        # What comes with the start is over.
        time.sleep(REPORT_INTERVAL)
        server, rabbit = made.database.server, made.private_broker
        # A look is a statement as well.
        look = -server.status('Questions')[0] + server.status('Questions')[0]
        before = server.status(*COUNTED.values())
        messages = rabbit.published()
        used = pairs.cpu_seconds(scheduler)
        time.sleep(MINUTE)
        used = pairs.cpu_seconds(scheduler) - used
        messages = rabbit.published() - messages
        after = server.status(*COUNTED.values())
        row = {column: now - then for column, then, now in zip(
            COUNTED, before, after)}
        row['statements'] -= look
        return row | {'messages': messages, 'CPU ms': 1000 * used} | held(made)


def held(made):
    """What is held of the broker and the database now, by all.

    :param made: a cloud whose broker and MariaDB are its own
    """
    rabbit = made.private_broker
    return {'queues': rabbit.count('queues'),
            'RabbitMQ connections': rabbit.count('connections'),
            'channels': rabbit.count('channels'),
            'MariaDB connections': made.database.connections()}
