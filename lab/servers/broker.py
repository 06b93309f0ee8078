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

"""RabbitMQ: looking at queues over AMQP, and a broker of one's own."""

import os
import subprocess
import tempfile

import amqp.exceptions
import contextlib

import kombu

from lab import LabError
from lab import process

# Another vhost, say, lets two labs run on one broker.
LOCAL = os.environ.get('LAB_AMQP_URL', 'amqp://guest:guest@127.0.0.1:5672/')
SERVER = '/usr/lib/rabbitmq/bin/rabbitmq-server'
# The one on the PATH of Debian asks for root, and then for another user.
CTL = '/usr/lib/rabbitmq/bin/rabbitmqctl'

# Seconds after which the broker drops a fanout or reply queue without a
# consumer: what the lab leaves behind is gone a minute later.
QUEUE_TTL = 60


class Broker:
    """A RabbitMQ that answers at a URL."""

    def __init__(self, url=LOCAL):
        """Remember where it is.

        :param url: as kombu takes it, ``amqp://user:password@host:port/``
        """
        self.url = url

    @property
    def transport_url(self):
        """The URL as oslo.messaging takes it."""
        return self.url.replace('amqp://', 'rabbit://', 1)

    def _connection(self):
        return kombu.Connection(self.url, connect_timeout=3)

    def answers(self):
        """Whether a RabbitMQ answers and lets us in."""
        try:
            with self._connection() as connection:
                connection.connect()
            return True
        except (OSError, amqp.exceptions.AMQPError):
            return False

    def queue(self, name):
        """How a queue is: (messages ready, consumers); None if there is none.

        :raises OSError: when the broker cannot be reached
        """
        return self.queues([name])[0]

    def queues(self, names):
        """Like ``queue`` for several names, over one connection."""
        with self._connection() as connection:
            return [self._look(connection, name) for name in names]

    @contextlib.contextmanager
    def looking(self, name):
        """A function that tells how a queue is, as often as it is called."""
        with self._connection() as connection:
            yield lambda: self._look(connection, name)

    @staticmethod
    def _look(connection, name):
        # A refused declaration closes its channel.
        channel = connection.channel()
        try:
            answer = channel.queue_declare(queue=name, passive=True)
        except amqp.exceptions.NotFound:
            return None
        channel.close()
        return answer.message_count, answer.consumer_count

    def consumed(self, names):
        """How many of the queues have a consumer, up to the first without.

        :raises OSError: when the broker cannot be reached
        """
        with self._connection() as connection:
            for number, name in enumerate(names):
                found = self._look(connection, name)
                if not found or not found[1]:
                    return number
        return len(names)

    def delete(self, names):
        """Delete queues, if they are there and nobody consumes from them.

        :raises OSError: when the broker cannot be reached
        """
        # Quorum queues cannot be deleted on condition that they are unused.
        unused = [name for name, found in zip(names, self.queues(names))
                  if found and not found[1]]
        with self._connection() as connection, connection.channel() as channel:
            for name in unused:
                channel.queue_delete(queue=name)


class PrivateBroker(Broker, process.PrivateServer):
    """A RabbitMQ of one's own, which a test can stop and start again."""

    def __init__(self, conf=''):
        """Choose its port.

        :param conf: the text of its rabbitmq.conf
        """
        self.conf = conf
        self.port = process.free_port()
        super().__init__('amqp://guest:guest@127.0.0.1:%d/' % self.port)

    @staticmethod
    def available():
        """Whether RabbitMQ is installed here."""
        return os.access(SERVER, os.X_OK)

    def start(self, timeout=180):
        """Start it, with what it stored before, and wait until it answers.

        :param timeout: seconds
        :raises LabError: when it does not answer in time
        """
        if self.folder is None:
            self.folder = tempfile.mkdtemp(prefix='lab-rabbitmq-')
            self.dist_port = process.free_port()
            with open(self._conf_path, 'w') as stream:
                stream.write(self.conf)
        self.child = process.Child(
            [SERVER], os.path.join(self.folder, 'output'), self._env())
        process.wait(self._answers, timeout, 'RabbitMQ on port %d' % self.port,
                     self.child.log)

    @property
    def _conf_path(self):
        return os.path.join(self.folder, 'rabbitmq.conf')

    def _answers(self):
        if not self.child.running():
            raise LabError('RabbitMQ ended', self.child.log())
        return self.answers()

    def ctl(self, *arguments):
        """Run rabbitmqctl on it.

        :returns: the lines that it prints
        :raises subprocess.CalledProcessError: when it fails
        """
        return subprocess.run(
            [CTL, '--quiet', *arguments], check=True, text=True,
            env=dict(os.environ, **self._env()),
            stdout=subprocess.PIPE).stdout.splitlines()

    def reset(self):
        """Forget all queues, exchanges and policies, as if it was new."""
        self.ctl('delete_vhost', '/')
        self.ctl('add_vhost', '/')
        self.ctl('set_permissions', '--vhost', '/', 'guest', '.*', '.*', '.*')

    def delete_all(self):
        """Delete all queues."""
        names = self.ctl('list_queues', '--no-table-headers', 'name')
        with self._connection() as connection, connection.channel() as channel:
            for name in names:
                # No error if the broker has dropped it meanwhile.
                channel.queue_delete(queue=name)

    def count(self, what):
        """How many of something there are.

        :param what: ``queues``, ``connections``, ``channels``
        """
        return len(self.ctl('list_' + what, '--no-table-headers', {
            'queues': 'name'}.get(what, 'pid')))

    def evaluate(self, expression):
        """The integer that an expression of Erlang has in the broker."""
        return int(self.ctl('eval', expression + '.')[0])

    def sizes(self):
        """What it holds now, with no garbage: Erlang processes, bytes."""
        self.ctl('force_gc')
        return {'processes': self.evaluate(
                    'erlang:system_info(process_count)'),
                'memory': self.evaluate('erlang:memory(total)')}

    def limits(self):
        """The most that there may be of what ``sizes`` has."""
        return {'processes': self.evaluate(
                    'erlang:system_info(process_limit)'),
                'memory': self.evaluate(
                    'vm_memory_monitor:get_memory_limit()')}

    def published(self):
        """How many messages clients have sent since it was started.

        RabbitMQ 3.9 and newer count them, with no plugin.
        """
        return self.evaluate(
            'lists:sum([maps:get(messages_received_total, Counted, 0) || '
            'Counted <- maps:values(rabbit_global_counters:overview())])')

    def _env(self):
        return {
            # The home folder holds the Erlang cookie: one of its own.
            'HOME': self.folder,
            'RABBITMQ_NODENAME': 'lab-%d@localhost' % self.port,
            'RABBITMQ_NODE_IP_ADDRESS': '127.0.0.1',
            'RABBITMQ_NODE_PORT': str(self.port),
            'RABBITMQ_DIST_PORT': str(self.dist_port),
            'RABBITMQ_MNESIA_BASE': os.path.join(self.folder, 'mnesia'),
            'RABBITMQ_LOG_BASE': os.path.join(self.folder, 'log'),
            'RABBITMQ_PID_FILE': os.path.join(self.folder, 'pid'),
            'RABBITMQ_ENABLED_PLUGINS_FILE': os.path.join(
                self.folder, 'enabled_plugins'),
            'RABBITMQ_CONFIG_FILE': self._conf_path,
            'RABBITMQ_CONF_ENV_FILE': os.path.join(self.folder, 'none'),
        }
