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

"""Many worker identities without as many processes.

Their records are in MariaDB and their queues in RabbitMQ: to each worker one
of its own, one for what is cast to all, and one for what is cast to all at
the node address. All are consumed by one process that answers as
oslo.messaging's RPC servers do.
"""

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid

import kombu

from lab import LabError
from lab.measure import records
from lab import process
from lab import rpc
from lab.servers import database

TOPIC = records.TOPIC
# Seconds that a ping waits for an answer. One process answers for all, so it
# takes longer than as many workers would.
TIMEOUT = 120


def queue(number):
    return '%s.%s' % (TOPIC, records.host(number))


def answer(message, producer):
    """Answer a call in the wire format of oslo.messaging."""
    message.ack()
    request = json.loads(message.payload['oslo.message'])
    reply = {'result': {'service': TOPIC, 'arg': request['args']['arg']},
             'failure': None, 'ending': True,
             '_msg_id': request['_msg_id'], '_unique_id': uuid.uuid4().hex}
    producer.publish(
        {'oslo.version': '2.0', 'oslo.message': json.dumps(reply)},
        serializer='json', exchange='', routing_key=request['_reply_q'])


@functools.cache
def _fanout(topic, channel):
    exchange = kombu.Exchange(topic + '_fanout', 'fanout', durable=False,
                              auto_delete=True)(channel)
    exchange.declare()
    return exchange


def serve(url, workers):
    """Be the workers 1 to ``workers``, as long as our parent lives."""
    with kombu.Connection(url) as connection:
        channel = connection.channel()
        producer = kombu.Producer(channel)
        # As oslo.messaging declares them by default.
        exchange = kombu.Exchange('nova', 'topic', durable=False)(channel)
        exchange.declare()
        queues = []
        for number in range(1, workers + 1):
            own = kombu.Queue(queue(number), exchange, queue(number),
                              durable=False, channel=channel)
            casts = [kombu.Queue(
                '%s_fanout_%032d' % (topic, number), _fanout(topic, channel),
                durable=False, auto_delete=True, channel=channel)
                for topic in (TOPIC, '%s.%s' % (TOPIC, records.node(number)))]
            for declared in (own, *casts):
                # Or we would wait for thousands of answers.
                declared.queue_declare(nowait=True)
                declared.queue_bind(nowait=True)
            queues += [own, *casts]
        with kombu.Consumer(
                channel, queues, prefetch_count=100,
                on_message=lambda message: answer(message, producer)):
            print('ready', flush=True)
            while os.getppid() == int(os.environ['LAB_PARENT']):
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=1)


class Identities(contextlib.ExitStack):
    """The workers 1 to some number, in a ``with``."""

    def __init__(self, broker, base, workers):
        """Remember what is to be there.

        :param broker: a ``broker.Broker`` that nothing else uses
        :param base: a ``database.Database`` for it, on a MariaDB
        """
        super().__init__()
        self.broker = broker
        self.base = base
        self.workers = workers

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix='lab-scale-'))
            self.base.execute('main', 'DELETE FROM services')
            self.base.execute('main', records.INSERT % self.workers)
            self._config = process.write_conf(
                os.path.join(folder, 'nova.conf'), {
                    'DEFAULT': {'transport_url': self.broker.transport_url,
                                'host': 'lab-scale',
                                'service_down_time': 36000},
                    'database': {'connection': self.base.urls['main']},
                    'oslo_messaging_rabbit': {
                        'rabbit_transient_queues_ttl': rpc.QUEUE_TTL}})
            stack.enter_context(process.module(
                'lab.measure.identities', self.broker.url, self.workers,
                LAB_PARENT=str(os.getpid())))
            self.push(stack.pop_all())
        return self

    def _manage(self, *arguments):
        env = dict(os.environ, OS_NOVA_DISABLE_EVENTLET_PATCHING='true')
        began = time.monotonic()
        done = subprocess.run(
            [database.program('nova-manage'), '--config-file', self._config,
             'worker', *arguments],
            env=env, text=True, capture_output=True, timeout=1800)
        return done, time.monotonic() - began

    def list(self):
        """The seconds that ``nova-manage worker list`` takes.

        :raises LabError: when it does not find all
        """
        done, seconds = self._manage('list')
        found = done.stdout.count('lab-scale-')
        if done.returncode or found < self.workers:
            raise LabError('nova-manage worker list found %d of %d workers' % (
                found, self.workers), done.stdout + done.stderr)
        return seconds

    def ping(self):
        """The seconds that ``nova-manage worker ping`` takes.

        :raises LabError: when one does not answer
        """
        done, seconds = self._manage('ping', '--timeout', str(TIMEOUT))
        if done.returncode:
            raise LabError('nova-manage worker ping ended with %d' %
                           done.returncode, done.stdout + done.stderr)
        return seconds


if __name__ == '__main__':
    serve(sys.argv[1], int(sys.argv[2]))
