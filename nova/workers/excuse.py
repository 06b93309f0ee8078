# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

"""What excuses a worker that runs no messages.

To replace a worker that waits for the message broker or for a database helps
nobody, and all would be replaced one after the other. But it has to be true at
the time: a connection that has hung for an hour proves nothing. So each is
asked over a new one, within a time limit.
"""

import errno
import threading
import time

from oslo_config import cfg
import oslo_messaging as messaging
from oslo_utils import uuidutils
import sqlalchemy as sa

import nova.conf
from nova import context
from nova import rpc

CONF = nova.conf.CONF

# As a heartbeat, but of no record: a database that answers may yet take no
# writes (a backup that locks the tables, a Galera node without a quorum).
_WRITE = 'UPDATE services SET report_count = report_count WHERE id < 0'

# This process has no file or memory left.
_OUR_OWN = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Inquiry:
    """Asks all that a worker depends on, one after the other, in a thread.

    :param topic: the RPC topic of the worker
    :param timeout: seconds after which what has not answered is away
    :param then: called with an RPC client, whose connection is closed after
        that, once the message broker has taken a message
    :ivar end: when all is known that it finds out, in seconds of
        time.monotonic()
    """

    def __init__(self, topic, timeout, then):
        self.end = time.monotonic() + timeout
        self._error = 'no answer'
        self._asks: list[tuple] = [
            ('the message broker', ask_broker, (topic, then))]
        for name, options, statement in (
                ('the main database', CONF.database, _WRITE),
                ('the API database', CONF.api_database, 'SELECT 1')):
            if options.connection:
                self._asks.append(
                    (name, ask_database, (options, statement, timeout)))
        self._ended = False
        # A daemon, as it may take a while to give up.
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        try:
            while self._asks:
                _name, function, args = self._asks[0]
                function(*args)
                self._asks.pop(0)
        except Exception as exc:
            # Whatever it is: a new process would not get on either.
            self._error = (str(exc).splitlines() or [repr(exc)])[0]
            if _is_our_own(exc):
                self._asks.clear()
        self._ended = True

    @property
    def outage(self):
        """What is away, to be read; None if nothing is as far as is known."""
        if self._ended or time.monotonic() >= self.end:
            for name, *_ask in self._asks[:1]:
                return f'{name} does not answer: {self._error}'
        return None


def _is_our_own(exc):
    """Whether an error is one that a new process would not have."""
    while exc is not None:
        if getattr(exc, 'errno', None) in _OUR_OWN:
            return True
        exc = exc.__cause__ or exc.__context__
    return False


def ask_broker(topic, then=lambda client: None):
    """Have the message broker take a message.

    It answers while an alarm keeps it from taking any, so to connect is not
    enough. Waits for a minute or so where nothing comes back.

    :param topic: the RPC topic to send it to
    :param then: called with an RPC client on the same connection
    :raises: what oslo.messaging raises if the broker does not take it
    """
    transport = rpc.create_transport(rpc.get_transport_url())
    try:
        client = messaging.get_rpc_client(
            transport, messaging.Target(topic=topic),
            serializer=rpc.RequestContextSerializer(None))
        # Nobody has this name, so the exchange drops the message.
        client.prepare(server=f'nobody-{uuidutils.generate_uuid()}',
                       retry=0).cast(context.get_admin_context(), 'ping')
        then(client)
    finally:
        transport.cleanup()


def ask_database(options, statement, timeout):
    """Have a database execute a statement over a new connection.

    :param options: the section of its options
    :param statement: the SQL statement, which is rolled back
    :param timeout: seconds it may take; not all drivers know a limit
    :raises: what SQLAlchemy or the driver raises if it does not
    """
    url = sa.make_url(options.connection)
    if options.connection_parameters:
        url = url.update_query_string(options.connection_parameters)
    limits = {}
    if url.get_backend_name() == 'mysql':
        # Whole seconds, in both of its drivers.
        limits = dict.fromkeys(
            ('connect_timeout', 'read_timeout', 'write_timeout'),
            max(1, int(timeout)))
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=limits)
    with engine.connect() as connection:
        connection.execute(sa.text(statement))


def reconnect_time():
    """How long a listener may take to connect to the broker again.

    :returns: seconds
    """
    try:
        return CONF.oslo_messaging_rabbit.rabbit_interval_max
    except cfg.NoSuchOptError:
        # Not RabbitMQ.
        return 30
