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

nova's services write their heartbeat on a timer, so a service is up as long as
that timer runs, even if the rest of the service hangs. Here the timer sends a
self-ping, a message to the worker's own RPC server, and the heartbeat is due
when the worker runs that message. So ``up`` means: this worker takes messages
from its queue and runs them. One worker of a node writes all heartbeats that
are due there, so a node commits as seldom as it does with one record.
"""

import threading
import time

from oslo_config import cfg
from oslo_log import log as logging
import oslo_messaging as messaging

import nova.conf
from nova import context
from nova import objects
from nova import rpc
from nova.scheduler import refresh
from nova.servicegroup import api
from nova.workers import board

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

# Seconds between two ticks.
TICK = 1

# With so few threads, heartbeats are written in threads of their own, of which
# so many and one more may hang.
OWN = 2
MOST = 7


class Heartbeat:
    """Takes the place of nova.servicegroup.API in the Service of a worker.

    :param service: the nova.service.Service, bound to its worker host
    :param node: the nova.workers.board.Board of the node
    :param row: the nova.workers.board.Row of this worker
    :param limit: the nova.workers.rpcserver.ConcurrencyLimit of this worker
    :ivar endpoint: the RPC endpoint for self-pings
    """

    def __init__(self, service, node, row, limit):
        self._service = service
        self._board = node
        self._row = row
        self._limit = limit
        self._servicegroup_api = service.servicegroup_api
        self.endpoint = _Endpoint(self._pinged)
        # Since when a self-ping could have run: infinity while it runs, and
        # None if none is under way.
        self._sent: float | None = None
        # How many self-pings run.
        self._running = 0

    def join(self, host, topic, service):
        """Let the heart beat, now that the Service has started."""
        self._row.record = service.service_ref.id
        self._client = rpc.get_client(messaging.Target(
            topic=topic, server=host, namespace='worker', version='1.0'))
        self._row.tick()
        service.tg.add_timer(TICK, self._row.tick)
        if CONF.servicegroup_driver == 'mc':
            # Heartbeats do not see the record there, and are not to wait for
            # the database.
            service.tg.add_timer_args(
                CONF.service_down_time, self._look_for_record, [self._row])
        if interval := service.report_interval:
            # As late as in nova's other services: all workers start first.
            service.tg.add_timer_args(
                interval, self._ping, stop_on_exception=False,
                initial_delay=min(interval, api.INITIAL_REPORTING_DELAY))

    def reconnected(self):
        """Make up for casts and a self-ping that may have been lost."""
        refresh.mark_stale(self._service.manager)
        if self._sent != float('inf'):
            self._sent = None

    def _ping(self):
        """Send a self-ping, unless another one is still to run or to end."""
        now = time.monotonic()
        if self._sent is not None:
            if self._limit.full:
                self._sent = max(self._sent, now)
            # One that still runs so much later, while the worker has other
            # messages, may hang in a half-open connection to the database. The
            # next one gets another connection. The database may also take no
            # writes for hours, so few threads are spent on that. A worker that
            # has no other message is replaced.
            active = now if self._row.requests() else self._row.begun
            most = max(1, self._row.threads // 4)
            if self._row.threads <= OWN:
                most = MOST
            hangs = (self._sent == float('inf') and self._running <= most and
                     active > self._row.pinged + pause(self._running))
            # Where other messages have begun since, a dead consumer got this
            # one: the broker has not noticed yet that a process was killed.
            if (not hangs and self._row.begun <= self._sent and
                    now - self._sent < CONF.report_interval +
                    reconnect_time()):
                return
        self._sent = now
        try:
            # Each host of the URL once, as the next self-ping is due soon.
            # Without any retry oslo.messaging would keep a connection that is
            # half open, and use it for the next self-ping, too.
            self._client.prepare(
                retry=max(1, len(rpc.get_transport_url().hosts))
            ).cast(context.get_admin_context(), 'ping')
        except Exception:
            # oslo.messaging has logged it.
            self._sent, self._row.unsent = None, time.monotonic()

    def _pinged(self):
        """The self-ping runs."""
        self._sent = float('inf')
        self._running += 1
        if self._row.threads > OWN:
            self._write()
        else:
            # A database that hangs would hold up all requests.
            try:
                threading.Thread(target=self._write, daemon=True).start()
            except RuntimeError:
                # There can be no more threads.
                self._write()

    def _write(self):
        try:
            self._write_heartbeats()
        finally:
            self._sent = None
            self._running -= 1

    def _write_heartbeats(self):
        """Write the heartbeats that are due on this node."""
        now = self._row.pinged = time.monotonic()
        if self._row.record != self._service.service_ref.id:
            # A sibling has made the record again.
            self._look_for_record(self._row)
        overdue = now - 1.5 * CONF.report_interval
        # The worker that wrote last goes on; others write when it has stopped.
        if (self._row.wrote < max(row.wrote for row in self._board.rows) and
                self._row.written > overdue):
            return
        # Who is overdue writes only its own heartbeat: if its record is locked
        # nobody else has to wait for that.
        others = [row for row in self._board.rows if row is not self._row and
                  row.state == board.SERVING and
                  row.pinged > row.written > overdue]
        missing = self._servicegroup_api.report_state(
            self._service, [(row.record, row.host) for row in others])
        if missing is None:
            return
        self._row.wrote = now
        for row in [self._row, *others]:
            row.written = now
            if row.record in missing:
                self._look_for_record(row)

    def _look_for_record(self, row):
        """Create the record of a worker again if somebody has deleted it.

        The clean-up jobs of deployments delete records that are down, and all
        records are down while the message broker is away.
        """
        ctxt, ours = context.get_admin_context(), self._service.service_ref
        try:
            record = objects.Service.get_by_host_and_binary(
                ctxt, row.host, ours.binary)
            if record is None:
                record = objects.Service(ctxt, host=row.host, topic=ours.topic,
                                         binary=ours.binary, report_count=0)
                record.create()
                LOG.warning('Record %(id)d of %(binary)s on host %(host)s was '
                            'deleted while the worker is alive; created it '
                            'again as record %(new)d', {
                                'id': row.record, 'binary': ours.binary,
                                'host': row.host, 'new': record.id})
        except Exception as exc:
            LOG.warning('Cannot look for the record of %(host)s: %(error)s',
                        {'host': row.host, 'error': exc})
            return
        row.record = record.id
        if row is self._row:
            self._service.service_ref = record


class _Endpoint:
    """The RPC endpoint for a self-ping."""

    target = messaging.Target(namespace='worker', version='1.0')

    def __init__(self, pinged):
        self._pinged = pinged

    def ping(self, context):
        self._pinged()


def pause(hanging):
    """How many seconds to wait for a self-ping before another one is sent.

    :param hanging: how many self-pings hang
    """
    return CONF.service_down_time * 2 ** (hanging - 1)


def rabbit(option, default):
    """The value of an option of RabbitMQ's driver, if that is in use."""
    try:
        return CONF.oslo_messaging_rabbit[option]
    except (cfg.NoSuchOptError, KeyError):
        return default


def reconnect_time():
    """How many seconds a listener may wait until it connects again."""
    return rabbit('rabbit_interval_max', 30)
