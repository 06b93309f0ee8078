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

"""Three idle workers: what they ask of MariaDB and RabbitMQ in a minute."""

import functools
import time

from lab.measure import pairs
from lab.measure import start

TITLE = 'Three workers that nobody calls, for a minute'

WORKERS = 3
# Seconds; the default of nova.
REPORT_INTERVAL = 10
MINUTE = 60


def variants(args, stack):
    made = pairs.start_cloud(args, stack, own_database=True)
    return pairs.compared(args, functools.partial(measure, made, args))


def measure(made, args, tree, conf):
    with start.beating(made, args, tree, conf, WORKERS) as scheduler:
        # What comes with the start is over.
        time.sleep(REPORT_INTERVAL)
        server, rabbit = made.database.server, made.private_broker
        # A look is a statement as well.
        look = -server.statements() + server.statements()
        statements, messages = server.statements(), rabbit.published()
        used = pairs.cpu_seconds(scheduler)
        time.sleep(MINUTE)
        used = pairs.cpu_seconds(scheduler) - used
        messages = rabbit.published() - messages
        statements = server.statements() - statements - look
        return {'statements': statements, 'messages': messages,
                'CPU ms': 1000 * used} | held(made)


def held(made):
    """What is held of the broker and the database now, by all.

    :param made: a cloud whose broker and MariaDB are its own
    """
    rabbit = made.private_broker
    return {'queues': rabbit.count('queues'),
            'RabbitMQ connections': rabbit.count('connections'),
            'channels': rabbit.count('channels'),
            'MariaDB connections': made.database.connections()}
