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

import contextlib
import os
import subprocess
import tempfile

import amqp.exceptions
import kombu

from lab import process

# Another vhost, say, lets two labs run on one broker.
LOCAL = os.environ.get('LAB_AMQP_URL', 'amqp://guest:guest@127.0.0.1:5672/')
SERVER = '/usr/lib/rabbitmq/bin/rabbitmq-server'
# The one on the PATH of Debian asks for root, and then for another user.
CTL = '/usr/lib/rabbitmq/bin/rabbitmqctl'
# The folder of another Debian, whose RabbitMQ is started. tools/run.py makes
# it and names it here.
ROOT = os.environ.get('LAB_BROKER')
# RabbitMQ 3.10 reads /proc, which is seen by the program alone.
ENTER = 'mount -t proc proc "$0/proc"; exec chroot "$0" "$@"'


def command(*arguments, root=ROOT):
    """A command line for a program, RabbitMQ's say.

    :param root: folder of the Debian that it runs in; this one if None
    """
    enter = ['unshare', '--mount', 'sh', '-ec', ENTER, root]
    return [*(enter if root else ()), *arguments]


class Broker:
    """A RabbitMQ that answers at a URL.

    :ivar options: those of nova that it is used with, in
        [oslo_messaging_rabbit]
    """

    options: dict = {}

    def __init__(self, url=LOCAL):
        """Remember where it is.

        :param url: as kombu takes it, ``amqp://user:password@host:port/``
        """
        self.url = url

    @property
    def transport_url(self):
        """The URL as oslo.messaging takes it."""
        return self.url.replace('amqp://', 'rabbit://', 1)

    @property
    def callers_url(self):
        """The URL for the lab's own callers."""
        return self.transport_url

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

    def declare(self, name):
        """Make a queue that is durable, as those of nova are not."""
        with self._connection() as connection, connection.channel() as channel:
            channel.queue_declare(queue=name, durable=True, auto_delete=False)

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

    KIND = 'RabbitMQ'
    # What lets it into a cluster.
    cookie = None

    def __init__(self, conf='', root=ROOT):
        """Choose its port.

        :param conf: the text of its rabbitmq.conf
        :param root: folder of the Debian that it is taken from; this one if
            None
        """
        self.conf = conf
        self.root = root
        self.port = process.free_port()
        self.dist_port = process.free_port()
        super().__init__('amqp://guest:guest@127.0.0.1:%d/' % self.port)

    @staticmethod
    def available():
        """Whether RabbitMQ is installed here."""
        return os.access((ROOT or '') + SERVER, os.X_OK)

    @property
    def name(self):
        """What others of its cluster call it."""
        return 'lab-%d@localhost' % self.port

    @property
    def ports(self):
        """Where clients reach it."""
        return [self.port]

    def begin(self):
        """Start it, with what it stored before."""
        if self.folder is None:
            self.folder = tempfile.mkdtemp(
                prefix='lab-rabbitmq-', dir=self.root and self.root + '/tmp')
            with open(os.path.join(self.folder, 'rabbitmq.conf'),
                      'w') as stream:
                stream.write(self.conf)
            if self.cookie:
                path = os.path.join(self.folder, '.erlang.cookie')
                with open(path, 'w') as stream:
                    stream.write(self.cookie)
                os.chmod(path, 0o400)
        self.child = process.Child(
            command(SERVER, root=self.root),
            os.path.join(self.folder, 'output'), self.env())

    def ctl(self, *arguments):
        """Run rabbitmqctl on it.

        :returns: the lines that it prints
        :raises subprocess.CalledProcessError: when it fails
        """
        return subprocess.run(
            command(CTL, '--quiet', *arguments, root=self.root),
            env=dict(os.environ, **self.env()), check=True, text=True,
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

    def get_env(self, name):
        """A setting of the running broker that is an integer."""
        return self.evaluate('element(2, application:get_env(rabbit, %s))'
                             % name)

    def set_env(self, name, value):
        """Change such a setting."""
        self.ctl('eval', 'application:set_env(rabbit, %s, %d).' % (
            name, value))

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

    def env(self):
        """The environment variables of its programs."""
        # As it is seen from where the server runs.
        folder = self.folder.removeprefix(self.root or '')
        return {
            # The home folder holds the Erlang cookie: one of its own.
            'HOME': folder,
            'RABBITMQ_NODENAME': self.name,
            'RABBITMQ_NODE_IP_ADDRESS': '127.0.0.1',
            'RABBITMQ_NODE_PORT': str(self.port),
            'RABBITMQ_DIST_PORT': str(self.dist_port),
            'RABBITMQ_MNESIA_BASE': os.path.join(folder, 'mnesia'),
            'RABBITMQ_LOG_BASE': os.path.join(folder, 'log'),
            'RABBITMQ_PID_FILE': os.path.join(folder, 'pid'),
            'RABBITMQ_ENABLED_PLUGINS_FILE': os.path.join(
                folder, 'enabled_plugins'),
            'RABBITMQ_CONFIG_FILE': os.path.join(folder, 'rabbitmq.conf'),
            'RABBITMQ_CONF_ENV_FILE': os.path.join(folder, 'none'),
        }
