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

"""python -m lab.measure.roster: how long ``nova-manage worker ping`` takes.

Many worker records, a few of whose workers are gone: their queues are there,
but nobody takes the ping. The others are consumers which answer as
oslo.messaging's RPC servers do, all in one process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid

import kombu

from lab import LabError
from lab import process
from lab.servers import broker as lab_broker
from lab.servers import cloud
from lab.servers import database
from lab.servers import placement

NODE = 'bench-roster'
TOPIC = 'scheduler'
MODES = ('threading', 'eventlet')


def host(number):
    return '%s-worker-%d' % (NODE, number)


def queue(number):
    return '%s.%s' % (TOPIC, host(number))


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


def serve(url, workers, silent):
    """Be the workers 1 to ``workers`` until stdin is closed.

    :param silent: how many of them, evenly spread, do not answer
    """
    with kombu.Connection(url) as connection:
        channel = connection.channel()
        producer = kombu.Producer(channel)
        # As oslo.messaging declares it by default.
        exchange = kombu.Exchange('nova', 'topic', durable=False)
        dead = {workers * n // silent for n in range(1, silent + 1)}
        queues = []
        for number in range(1, workers + 1):
            declared = kombu.Queue(
                queue(number), exchange, queue(number), durable=False,
                channel=channel)
            declared.declare()
            if number not in dead:
                queues.append(declared)
        with kombu.Consumer(
                channel, queues, prefetch_count=100,
                on_message=lambda message: answer(message, producer)):
            print('ready', flush=True)
            while os.getppid() == int(os.environ['LAB_PARENT']):
                try:
                    connection.drain_events(timeout=1)
                except TimeoutError:
                    pass


def records(base, workers):
    """Write the records of the workers."""
    base.execute(
        'main', 'INSERT INTO services (created_at, last_seen_up, host, '
        '`binary`, topic, report_count, disabled, deleted, forced_down, '
        'version, uuid) SELECT UTC_TIMESTAMP, UTC_TIMESTAMP, '
        "CONCAT(:node, '-worker-', seq), 'nova-scheduler', :topic, 1, 0, 0, "
        '0, 73, UUID() FROM seq_1_to_%d' % workers, node=NODE, topic=TOPIC)


def measure(options, config, tree, mode):
    """One run of the command.

    :returns: the seconds it took
    :raises LabError: when it does not find what it has to find
    """
    env = dict(os.environ, PYTHONPATH=database.nova_path(tree),
               OS_NOVA_DISABLE_EVENTLET_PATCHING=(
                   'true' if mode == 'threading' else 'false'))
    began = time.monotonic()
    done = subprocess.run(
        [database.program('nova-manage'), '--config-file', config, 'worker',
         'ping', '--timeout', str(options.timeout)],
        env=env, text=True, capture_output=True, timeout=600)
    seconds = time.monotonic() - began
    named = [line for line in done.stderr.splitlines()
             if line.endswith(': no answer in %g seconds' % options.timeout)]
    if done.returncode != bool(options.silent) or (
            len(named) != options.silent):
        raise LabError('nova-manage worker ping ended with %d' %
                       done.returncode, done.stdout + done.stderr)
    return seconds


def run(options):
    tree = options.tree or cloud.find_tree()
    if not cloud.has_worker_hosts(tree):
        raise LabError('the nova to run has no worker hosts')
    broker = lab_broker.Broker(options.broker)
    if not broker.answers():
        raise LabError('no RabbitMQ answers at ' + broker.url)
    names = [queue(number) for number in range(1, options.workers + 1)]
    with tempfile.TemporaryDirectory(prefix='lab-bench-') as folder, \
            database.Database(broker.transport_url,
                              database.MariaDB()) as base:
        records(base, options.workers)
        config = os.path.join(folder, 'nova.conf')
        with open(config, 'w') as stream:
            stream.write(
                '[DEFAULT]\ntransport_url = %s\nhost = %s\n'
                '[database]\nconnection = %s\n'
                '[oslo_messaging_rabbit]\nrabbit_transient_queues_ttl = %d\n'
                % (broker.transport_url, NODE, base.urls['main'],
                   lab_broker.QUEUE_TTL))
        try:
            with process.Child(
                    [sys.executable, '-m', 'lab.measure.roster', '--serve',
                     '--broker', broker.url,
                     '--workers', str(options.workers),
                     '--silent', str(options.silent)],
                    os.path.join(folder, 'log'),
                    {'LAB_PARENT': str(os.getpid()),
                     'PYTHONPATH': placement.ROOT},
                    stdout=subprocess.PIPE) as child:
                if not child.process.stdout.readline():
                    raise LabError('the workers did not start', child.log())
                for mode in options.mode:
                    print('%d workers, %d silent, timeout %g s, %s: %.1f s' % (
                        options.workers, options.silent, options.timeout,
                        mode, measure(options, config, tree, mode)))
            left = [name for name, found in zip(names, broker.queues(names))
                    if found and found[0]]
            print('queues with messages left behind: %d' % len(left))
        finally:
            broker.delete(names)


def main():
    parser = argparse.ArgumentParser(prog='python -m lab.measure.roster',
                                     description=__doc__)
    parser.add_argument('--tree', help='folder of the nova to run (default: '
                                       'the installed one)')
    parser.add_argument('--workers', type=int, default=1000)
    parser.add_argument('--silent', type=int, default=10)
    parser.add_argument('--timeout', type=float, default=5)
    parser.add_argument('--mode', nargs='*', default=MODES,
                        choices=MODES)
    parser.add_argument('--broker', default=lab_broker.LOCAL, metavar='URL')
    parser.add_argument('--serve', action='store_true',
                        help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not 0 <= options.silent <= options.workers:
        parser.error('0 <= silent <= workers')
    try:
        if options.serve:
            serve(options.broker, options.workers, options.silent)
        else:
            run(options)
    except LabError as error:
        print('Failed: %s' % error, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
