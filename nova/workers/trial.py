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

"""Could a new process do better than a worker that runs nothing?

Replacing a worker that waits for the message broker or for a database would
help nobody, and all workers would be replaced one after the other. A trial
finds out: a process that the parent forks does over new connections what a
worker does for its heartbeat. The connections are new because one that has
hung for an hour says nothing about the broker or the database now. The trial
is a process because only a process can be ended whatever it waits for.
"""

import contextlib
import fcntl
import os
import queue
import signal
import sys
import time

from oslo_config import cfg
import oslo_messaging as messaging
from oslo_utils import eventletutils
from oslo_utils import timeutils
from oslo_utils import uuidutils

import nova.conf
from nova import context
from nova.db.main import api as main_db_api
from nova import exception
from nova import objects
from nova import rpc

CONF = nova.conf.CONF

# Seconds that a trial may take.
TIME = 15

_SUCCESS = 'success'

# The errors of MySQL and MariaDB that no connection is left, for all or for
# this user, and why the trial fails then.
_NO_CONNECTION = (1040, 1203, 1226)
NO_CONNECTION = 'the database has no connection left'


class Trial:
    """Calls a function in a process of its own.

    :param function: what to call; the trial fails if it raises, or does not
        return within TIME
    :ivar began: when it began, as a value of time.monotonic()
    :ivar error: once the trial has ended: None, or why it has failed
    """

    def __init__(self, function):
        self.error: str | None = None
        self.began = time.monotonic()
        self._reader, writer = os.pipe()
        try:
            self._pid: int | None = os.fork()
        except OSError as exc:
            # There would be none for a new worker, either.
            self._pid = None
            os.write(writer, f'no process: {exc}'.encode())
        if self._pid == 0:
            os.close(self._reader)
            _run(writer, function)
        elif self._pid:
            # The launcher waits for its own process group. The child does
            # the same, as either of the two may run first.
            with contextlib.suppress(OSError):
                os.setpgid(self._pid, self._pid)
        os.close(writer)

    @property
    def ended(self):
        """Whether the trial has ended. Not to be asked again after that."""
        # Not by the pipe: eventlet's os.read() waits.
        if self._pid and _runs(self._pid):
            if time.monotonic() - self.began > 2 * TIME:
                # Somebody has stopped it.
                os.kill(self._pid, signal.SIGKILL)
            return False
        answer = os.read(self._reader, 4096).decode(errors='replace')
        os.close(self._reader)
        # SIGALRM ends the process without a word.
        self.error = answer or f'no answer in {TIME} seconds'
        if self.error == _SUCCESS:
            self.error = None
        return True


def _runs(pid):
    try:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        # Somebody else has waited for it.
        return False


def _run(writer, function):
    try:
        # The launcher waits for its process group, and signals it.
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for signum in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, signal.SIG_DFL)
        signal.alarm(TIME)
        # Once the parent, or its end of the pipe, is gone the kernel sends
        # SIGIO, which ends the process.
        fcntl.fcntl(writer, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(writer, fcntl.F_SETFL, os.O_ASYNC)
        if eventletutils.is_monkey_patched('thread'):
            # It shares a file descriptor with the parent.
            sys.modules['eventlet.hubs'].use_hub()
        answer = _call(function)
        os.write(writer, answer.encode(errors='replace')[:4096])
    finally:
        # Whatever was raised: this is no second parent.
        os._exit(0)


def _call(function):
    try:
        function()
    except BaseException as exc:
        if _lacks_connection(exc):
            return NO_CONNECTION
        return (str(exc).splitlines() or [''])[0] or repr(exc)
    return _SUCCESS


def _lacks_connection(exc):
    """Whether a database answered that it has no connection left."""
    while exc is not None:
        if getattr(exc, 'args', None) and exc.args[0] in _NO_CONNECTION:
            return True
        exc = (getattr(exc, 'inner_exception', None) or
               getattr(exc, 'orig', None) or exc.__cause__)
    return False


class _Endpoint:

    target = messaging.Target(namespace='trial', version='1.0')

    def __init__(self):
        self.tokens: queue.SimpleQueue = queue.SimpleQueue()

    def arrive(self, context, token):
        self.tokens.put(token)


def attempt(topic, binary, hosts):
    """Do over new connections what a worker does for its heartbeat.

    :param topic: the RPC topic of the service
    :param binary: the name of the service
    :param hosts: the worker hosts of the node; nobody is up by what is changed
        in their records
    :raises: what nova, oslo.messaging or oslo.db raise if that fails
    """
    _take_message(topic)
    ctxt = context.get_admin_context()
    for record in main_db_api.service_get_all_by_binary(
            ctxt, binary, include_disabled=True):
        if record.host in hosts:
            # What only reads may get on where commits hang, or while somebody
            # has locked one of the records.
            with contextlib.suppress(exception.NotFound):
                main_db_api.service_update(
                    ctxt, record.id, {'updated_at': timeutils.utcnow()})
    if CONF.api_database.connection:
        try:
            objects.CellMappingList.get_all(ctxt)
        except Exception as exc:
            # Heartbeats prove nothing about this database.
            raise RuntimeError(f'API database: {exc}') from None


def _take_message(topic):
    """Send a message to this process, and take it from the broker."""
    with contextlib.suppress(cfg.NoSuchOptError):
        # It counts by process groups, and would give names of queues to this
        # process that the workers have.
        CONF.set_override('use_queue_manager', False, 'oslo_messaging_rabbit')
        # A trial that is ended leaves its fanout queue, and in an outage many
        # do. A stream is one for all, and has to be declared as it was.
        if not CONF.oslo_messaging_rabbit.rabbit_stream_fanout:
            CONF.set_override('rabbit_transient_queues_ttl', 2 * TIME,
                              'oslo_messaging_rabbit')
    rpc.TRANSPORT = rpc.create_transport(rpc.get_transport_url())
    # No alert or clean-up takes its queues for those of a worker.
    target = messaging.Target(topic=f'{topic}-trial', server=CONF.host)
    endpoint = _Endpoint()
    server = rpc.get_server(target, [endpoint])
    server.start()
    token = uuidutils.generate_uuid()
    rpc.get_client(target).prepare(namespace='trial', version='1.0').cast(
        context.get_admin_context(), 'arrive', token=token)
    # Those of earlier trials may still be there.
    while endpoint.tokens.get() != token:
        pass
    server.stop()
    server.wait()
    rpc.TRANSPORT.cleanup()
