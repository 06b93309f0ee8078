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

"""Who should be there, who is, and who answers.

Who should be there is in the database, who is there has had a heartbeat
lately, and who answers is asked over RPC, at its own server name.
"""

import dataclasses
import threading
import time
import typing as ty

import oslo_messaging as messaging
from oslo_utils import timeutils
from oslo_utils import uuidutils

import nova.conf
from nova import exception
from nova.i18n import _
from nova import objects
from nova import rpc
from nova import servicegroup
from nova.workers import identity
from nova.workers import retirement

CONF = nova.conf.CONF

# How many pings are under way before those that are not answered at once. More
# would wait for each other here, and not for the workers. It is less than
# oslo.messaging's pool of connections has.
WINDOW = 8

# Seconds for a broker to take a message, with all hosts of its URL.
BROKER_TIMEOUT = 15


class BrokerUnreachable(exception.NovaException):
    msg_fmt = _('The message broker cannot be reached: %(reason)s')


@dataclasses.dataclass(frozen=True)
class Worker:
    """A worker, or a service without worker hosts, as its record says.

    :ivar record: the nova.objects.Service
    :ivar node: the node it is on
    :ivar number: which worker of the node it is; None if it has no worker
        host
    :ivar up: whether it has had a heartbeat lately
    :ivar age: seconds since its last heartbeat, or since its record was made
        if it had none yet; None if nobody knows
    """
    record: 'objects.Service'
    node: str
    number: int | None
    up: bool
    age: float | None

    @property
    def binary(self) -> str:
        return self.record.binary

    @property
    def host(self) -> str:
        return self.record.host

    @property
    def state(self) -> str:
        """Either 'up', 'down' or 'disabled', which is up as well."""
        if not self.up:
            return 'down'
        return 'disabled' if self.record.disabled else 'up'

    @property
    def down_for(self) -> float | None:
        """Seconds for which it has been down at least; None if it is not.

        A service that is forced down may be alive, so it is not down here.
        """
        if self.up or self.record.forced_down:
            return None
        if self.age is None:
            return 0
        return max(0, self.age - CONF.service_down_time)


class Answer(ty.NamedTuple):
    """What became of a ping: the time it took, or why there was no answer."""
    milliseconds: float | None = None
    error: str | None = None


class Inventory:
    """The workers that have records.

    :param ctxt: a nova.context.RequestContext, whose database is read
    """

    def __init__(self, ctxt):
        self._context = ctxt
        self._servicegroup_api = servicegroup.API()

    def workers(self, binaries=tuple(identity.TOPICS), node=None, number=None):
        """The workers by node and number, services without worker hosts too.

        :param binaries: the binaries to look for
        :param node: only those of this node
        :param number: only the worker with this number on its node
        :returns: a list of Worker
        :raises: oslo_db.exception.DBError and its like
        """
        records = objects.ServiceList.get_all(self._context)
        nodes = self._nodes(records, node) | {node}
        workers = [self._worker(record, nodes) for record in records
                   if record.binary in binaries]
        return sorted(
            (worker for worker in workers
             if node in (None, worker.node) and
             number in (None, worker.number)),
            key=lambda worker: (
                worker.node, worker.number or 0, worker.binary))

    @staticmethod
    def _nodes(records, node):
        """The hosts that are known to be the names of nodes.

        The name of a node may look like a worker host (k8s-worker-1). It is
        one if it has workers or services of other binaries; but who asks for
        the workers of node k8s knows that k8s is a node, and then a compute
        may have the name of a worker.
        """
        nodes = set()
        for record in records:
            worker = identity.parse(record.host)
            if record.binary not in identity.TOPICS:
                if worker is None or worker.node != node:
                    nodes.add(record.host)
            elif worker is not None:
                nodes.add(worker.node)
        return nodes

    def _worker(self, record, nodes):
        worker = None
        if record.binary in identity.TOPICS and record.host not in nodes:
            worker = identity.parse(record.host)
        node, number = worker or (record.host, None)
        up = self._servicegroup_api.service_is_up(record)
        return Worker(record, node, number, up, self._age(record, up))

    def _age(self, record, up):
        if CONF.servicegroup_driver == 'db':
            seen = record.last_seen_up or record.created_at
        elif up:
            seen = self._servicegroup_api.get_updated_time(record)
        else:
            # memcached forgets who is down.
            return None
        now = timeutils.utcnow(with_timezone=True)
        # The clocks of the nodes may differ.
        return max(0, (now - seen).total_seconds())

    def retire(self, worker, dry_run=False):
        """Remove the record of a worker, unless it is up, or that of a node.

        :param dry_run: whether to leave it all the same
        :returns: whether it was removed, or would have been
        :raises: oslo_db.exception.DBError and its like
        """
        try:
            record = objects.Service.get_by_id(self._context, worker.record.id)
            if (record.forced_down or
                    self._servicegroup_api.service_is_up(record) or
                    retirement.has_others(self._context, record.host)):
                return False
            if not dry_run:
                record.destroy()
        except exception.ServiceNotFound:
            # Its node, or another operator, was faster.
            return False
        return True


def ping(ctxt, workers, timeout):
    """Have all workers answer at their own server names.

    All are asked at once, so it takes a little more than one timeout however
    many do not answer.

    No queue is made. Where there is no queue the broker drops the message,
    and where nobody takes it from the queue, after the timeout.

    :param ctxt: a nova.context.RequestContext
    :param workers: a list of Worker
    :param timeout: seconds to wait for each answer
    :returns: a list with the Answer of each
    :raises: BrokerUnreachable
    """
    _reach_broker(ctxt)
    window = threading.Semaphore(WINDOW)
    undeliverable: set[str] = set()
    pings = []
    for worker in workers:
        # The window keeps the times that are measured true, but those who do
        # not answer must not hold up the others for long altogether.
        held = window.acquire(timeout=timeout / 5 / len(workers))
        pings.append(_Ping(ctxt, worker, timeout, undeliverable,
                           window.release if held else lambda: None))
        _start(pings[-1].run)
    end = time.monotonic() + timeout + BROKER_TIMEOUT
    for one in pings:
        one.done.wait(max(0, end - time.monotonic()))
    answers = [one.answer for one in pings]
    if any(answer.error for answer in answers):
        # It may have gone away meanwhile.
        _reach_broker(ctxt)
    for one in pings:
        if one.failure:
            raise BrokerUnreachable(reason=one.failure)
    return answers


class _Ping:
    """One ping, which runs in a thread of its own.

    :ivar done: the threading.Event that tells the end
    :ivar failure: None, or why the ping could not be sent, or its answer not
        be received, which is not the fault of the worker
    """

    def __init__(self, ctxt, worker, timeout, undeliverable, release):
        self._context = ctxt
        self._timeout = timeout
        self._undeliverable = undeliverable
        self._release = release
        topic = identity.TOPICS[worker.binary]
        # As the exchange routes it.
        self._routing_key = f'{topic}.{worker.host}'
        self._client = _client(
            topic, worker.host, timeout=timeout,
            # It says so at once if there is no such queue.
            transport_options=messaging.TransportOptions(at_least_once=True))
        self._answer = Answer(error=_('no answer in %g seconds') % timeout)
        self.failure: str | None = None
        self.done = threading.Event()

    @property
    def answer(self):
        if self._routing_key in self._undeliverable:
            return Answer(error=_('no queue'))
        return self._answer

    def run(self):
        try:
            while self._unsettled():
                pass
        except messaging.MessagingTimeout:
            pass
        except Exception as exc:
            # So oslo.messaging calls what a worker has raised.
            if type(exc).__name__.endswith(('RemoteError', '_Remote')):
                self._answer = Answer(error=_one_line(exc))
            else:
                self.failure = _one_line(exc)
        finally:
            self._release()
            self.done.set()

    def _unsettled(self):
        """Send it; whether it has to be sent again."""
        began = time.monotonic()
        try:
            self._client.call(self._context, 'ping', arg='nova-manage')
        except messaging.MessageUndeliverable as exc:
            # The message may be another's: oslo.messaging leaves the
            # confirmation of a message that came back unread, takes it for
            # that of the next on the connection, and so on.
            self._undeliverable.add(exc.routing_key)
            return exc.routing_key != self._routing_key
        self._answer = Answer((time.monotonic() - began) * 1000)
        return False


def _reach_broker(ctxt):
    """Make sure that the broker takes messages.

    A call would wait for ever for a broker that is not there.

    :raises: BrokerUnreachable
    """
    errors = [_('no answer in %d seconds') % BROKER_TIMEOUT]
    done = threading.Event()
    # Nobody has this name, so the exchange drops the message.
    client = _client('nobody', f'nobody-{uuidutils.generate_uuid()}')

    def cast():
        try:
            client.cast(ctxt, 'ping', arg='nova-manage')
            errors.clear()
        except Exception as exc:
            errors[0] = _one_line(exc)
        done.set()

    _start(cast)
    done.wait(BROKER_TIMEOUT)
    if errors:
        raise BrokerUnreachable(reason=errors[0])


def _client(topic, server, **kwargs):
    target = messaging.Target(topic=topic, namespace='baseapi', version='1.1')
    # Each host of the URL once.
    return rpc.get_client(target).prepare(
        server=server, retry=len(rpc.get_transport_url().hosts[1:]), **kwargs)


def _start(function):
    # A daemon, so that one which hangs does not keep the process.
    threading.Thread(target=function, daemon=True).start()


def _one_line(exc):
    lines = str(exc).splitlines()
    return f'{type(exc).__name__}: {lines[0]}' if lines else repr(exc)
