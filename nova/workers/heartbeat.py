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

"""A heartbeat that travels through the worker's own queue.

nova's services write their heartbeat on a timer, so a service is up for as
long as that timer runs, whatever became of the rest of it. Here the timer
sends a message to the worker's own RPC server, and the heartbeat is written
when that message runs. So ``up`` means: this worker takes messages from its
queue and runs them.

The worker looks at that message itself, too. While it waits because the whole
dispatch pool is busy with requests that do not end, the worker takes no more
requests.
"""

import threading
import time
import typing as ty

from oslo_config import cfg
from oslo_db import exception as db_exc
from oslo_log import log as logging
import oslo_messaging as messaging
from oslo_utils import timeutils

import nova.conf
from nova import context
from nova.db.main import api as main_db_api
from nova.db.main import models
from nova import exception
from nova import objects
from nova import rpc
from nova.servicegroup import api
from nova.workers import rpcserver

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

# The state of a worker is looked at so many times per report_interval.
CHECKS = 5


class Heartbeat:
    """The heartbeat of one worker.

    Takes the place of nova.servicegroup.API in the Service of the worker, and
    makes its RPC server.

    :param server: the nova.service.Service, bound to its worker host
    :param alive: called without arguments whenever a message begins to run,
        and regularly unless it is this worker that keeps its own message from
        running
    """

    def __init__(self, server, alive):
        self._server = server
        self._alive = alive
        self._servicegroup_api = server.servicegroup_api
        self._rpcserver: ty.Any = None
        self._client: ty.Any = None
        # All times are in seconds of time.monotonic(). When the last own
        # message was sent, and the first of those since one has run; None if
        # none is under way.
        self._sent = None
        self._waiting = None
        # The broker or the store of the heartbeat has not answered yet.
        self._sending = False
        self._writing = False
        self._unreachable = False
        self._probe = None
        # Until when to look whether somebody else keeps the record up, and
        # the count that stands in it if nobody does.
        self._look_until: ty.Any = None
        self._count = None

    def get_rpcserver(self, target, endpoints, serializer):
        """The RPC server for requests and for the worker's own messages."""
        self._rpcserver = rpcserver.RPCServer(
            target, endpoints + [_Endpoint(self._beat)], serializer,
            self._alive)
        return self._rpcserver

    def join(self, host, topic, service):
        """Start the heartbeat; see nova.servicegroup.API."""
        interval = service.report_interval
        if not interval:
            return
        self._look_until = time.monotonic() + CONF.service_down_time
        self._count = service.service_ref.report_count
        # Another process of this name goes on from that count. Leave one out,
        # so that both do not write the same by chance.
        service.service_ref.report_count += 1
        service.service_ref.save = self._save
        target = messaging.Target(
            topic=topic, server=host, namespace=_Endpoint.target.namespace,
            version=_Endpoint.target.version)
        self._client = rpc.get_client(target).prepare(
            # The next one is due soon.
            retry=0,
            # A queue that is not there is as bad as a broker that is not.
            transport_options=messaging.TransportOptions(at_least_once=True))
        for seconds, function in ((interval, self._send),
                                  (interval / CHECKS, self._check)):
            service.tg.add_timer_args(
                seconds, _run_and_log, args=[function],
                initial_delay=api.INITIAL_REPORTING_DELAY)

    def _beat(self):
        """The own message runs: write the heartbeat."""
        self._sent = self._waiting = None
        self._writing = True
        try:
            if self._look_until is not None:
                self._look_for_another()
            self._servicegroup_api.report_state(self._server)
        finally:
            self._writing = False

    def _save(self):
        """What the db driver calls; others do not write the record."""
        service_ref = self._server.service_ref
        _save(context.get_admin_context(), service_ref)
        self._count = service_ref.report_count

    def _look_for_another(self):
        """Warn if the record is kept up by another process, too.

        Only for a while after the start, as it costs a look at the record.
        """
        ours = self._server.service_ref
        record = objects.Service.get_by_host_and_binary(
            context.get_admin_context(), ours.host, ours.binary)
        if (record is not None and record.id == ours.id and
                record.report_count != self._count):
            LOG.warning('Record %(id)d of %(binary)s on host %(host)s is kept '
                        'up by another process as well. Is there another node '
                        'with the same [DEFAULT] host?',
                        {'id': ours.id, 'binary': ours.binary,
                         'host': ours.host})
            self._look_until = None
        elif time.monotonic() >= self._look_until:
            self._look_until = None

    def _send(self):
        """Send an own message, unless one is under way."""
        if self._sending or self._writing or not self._lost():
            return
        self._sent = time.monotonic()
        self._waiting = self._waiting or self._sent
        self._sending = True
        try:
            self._client.cast(context.get_admin_context(), 'beat')
        except Exception as exc:
            # Whatever it is, nothing is under way.
            self._sent = self._waiting = None
            if not self._unreachable:
                self._unreachable = True
                LOG.warning('Worker %s cannot send its heartbeat through its '
                            'queue: %s', self._server.host, exc)
        else:
            if self._unreachable:
                self._unreachable = False
                LOG.info('Worker %s sends its heartbeat through its queue '
                         'again', self._server.host)
        finally:
            self._sending = False

    def _lost(self):
        """Whether no own message is under way (any more).

        One that was not read, though there are threads to run it, waits for
        the connection to the broker to be made again, or went down with the
        broker. Only when that has had its time it was lost.
        """
        return self._sent is None or (
            not self._rpcserver.full and
            time.monotonic() - self._sent >= _reconnect_time())

    def _check(self):
        """Pause or resume the RPC server, and tell if the worker is alive."""
        if self._rpcserver.paused:
            if self._waiting is None or not self._rpcserver.full:
                self._rpcserver.resume()
        elif self._blocked():
            self._rpcserver.pause()
        if not self._stuck():
            self._alive()

    def _blocked(self):
        """Whether the dispatch pool makes no progress.

        A pool which is full but begins one request after the other is busy.
        """
        return (self._rpcserver.full and self._waiting is not None and
                time.monotonic() - self._rpcserver.begun >=
                2 * self._server.report_interval)

    def _stuck(self):
        """Whether it is this worker that keeps its message from running."""
        now = time.monotonic()
        if self._rpcserver.full:
            return (now - self._rpcserver.begun >=
                    self._server.report_interval and
                    self._database_answers(now))
        # There are threads to run the message, so it was not read.
        return (self._waiting is not None and not self._sending and
                now - self._waiting >= _reconnect_time())

    def _database_answers(self, now):
        """Whether what fills the pool waits for something but the database.

        The database is asked in a thread, which may wait for it. While there
        is no answer it is taken to be well for one report_interval.
        """
        if self._probe is None:
            self._probe = _Probe(self._server)
        if self._probe.answers is None:
            return now - self._probe.started < self._server.report_interval
        answers = self._probe.answers
        self._probe = None
        return answers


class _Endpoint:
    """The RPC endpoint for a worker's own message."""

    target = messaging.Target(namespace='worker', version='1.0')

    def __init__(self, beat):
        self._beat = beat

    def beat(self, context):
        self._beat()


class _Probe:
    """Asks the database for the record of a worker, in a thread.

    :ivar started: when, in seconds of time.monotonic()
    :ivar answers: whether the database can be reached; None until it is known
    """

    def __init__(self, server):
        self._server = server
        self.started = time.monotonic()
        self.answers = None
        threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self):
        try:
            objects.Service.get_by_host_and_binary(
                context.get_admin_context(), self._server.host,
                self._server.binary)
        except db_exc.DBConnectionError:
            self.answers = False
        except Exception:
            # Whatever is wrong, it is not that nobody is there.
            LOG.exception('Unexpected error while asking the database')
            self.answers = True
        else:
            self.answers = True


@main_db_api.pick_context_manager_writer
def _save(ctxt, service_ref):
    """Write the heartbeat into the record, by one statement.

    The workers of a node shared one record, and most of their heartbeats
    changed nothing there. As each worker writes one of its own now, it does
    so without reading it first, so that all in all it is no more.

    :raises: nova.exception.ServiceNotFound if the record is gone
    """
    found = main_db_api.model_query(ctxt, models.Service).filter_by(
        id=service_ref.id).update(
            {'report_count': service_ref.report_count,
             'last_seen_up': timeutils.utcnow()}, synchronize_session=False)
    if not found:
        raise exception.ServiceNotFound(service_id=service_ref.id)


def _reconnect_time():
    """How long oslo.messaging may take to connect again, in seconds."""
    try:
        return CONF.oslo_messaging_rabbit.rabbit_interval_max
    except cfg.NoSuchOptError:
        # Not RabbitMQ.
        return 30


def _run_and_log(function):
    # A timer ends with the first exception.
    try:
        function()
    except Exception:
        LOG.exception('Unexpected error in the heartbeat')
