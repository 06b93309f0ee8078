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
that timer runs, whatever became of the rest. Here the timer sends a message to
the worker's own RPC server, and the heartbeat is written when that runs. So
``up`` means: this worker takes messages from its queue and runs them.
"""

import time
import typing as ty

from oslo_log import log as logging
import oslo_messaging as messaging

import nova.conf
from nova import context
from nova import rpc
from nova.servicegroup import api
from nova.workers import excuse
from nova.workers import record
from nova.workers import rpcserver

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

# A worker is looked at so many times per report_interval.
CHECKS = 5


class Heartbeat:
    """Takes the place of nova.servicegroup.API in the Service of a worker.

    :param server: the nova.service.Service, bound to its worker host
    :param alive: called whenever a message begins to run, and again and again
        while it is not this worker that keeps its own from running
    """

    def __init__(self, server, alive):
        self._server = server
        self._alive = alive
        self._servicegroup_api = server.servicegroup_api
        self.bound = rpcserver.Bound()
        self._record: ty.Any = None
        self._client: ty.Any = None
        # In seconds of time.monotonic(): when a message last began to run,
        # when something it needs was away, when an own one was sent (None if
        # it could not be), and since when one should run (None if none is).
        self._begun = self._away = float('-inf')
        self._sent: ty.Any = float('-inf')
        self._waiting: ty.Any = None
        self._writing = self._warned = False
        self._inquiry: ty.Any = None

    def get_rpcserver(self, target, endpoints, serializer):
        """The RPC server for requests and for the worker's own messages."""
        return rpcserver.RPCServer(
            rpc.get_server(target, endpoints + [_Endpoint(self._beat)],
                           serializer), self.bound, self._start, self._begin)

    def join(self, host, topic, service):
        """The Service has started: let messages run."""
        self.bound.open(CONF.executor_thread_pool_size)

    def _start(self):
        """The broker sends requests from now on, so it has to run them."""
        service = self._server
        self._record = record.Record(service)
        service.service_ref.save = self._record.write
        self._client = rpc.get_client(messaging.Target(topic=service.topic))
        self._begin()
        if interval := service.report_interval:
            # As late as in nova's other services: all workers start first.
            for seconds, function in ((interval, self._send),
                                      (interval / CHECKS, self._check)):
                service.tg.add_timer_args(
                    seconds, function, stop_on_exception=False,
                    initial_delay=min(interval, api.INITIAL_REPORTING_DELAY))

    def _begin(self):
        """A message for this worker begins to run."""
        self._begun = time.monotonic()
        self._alive()

    def _beat(self):
        """The own message runs: write the heartbeat."""
        self._writing = True
        try:
            self._servicegroup_api.report_state(self._server)
            if CONF.servicegroup_driver != 'db':
                # It has not touched the record.
                self._record.check()
        finally:
            self._writing = False
            self._waiting = None
        if self._warned:
            self._warned = False
            LOG.info('Worker %s runs messages again', self._server.host)

    def _cast(self, client, **options):
        """Send an own message; without a retry, as the next is due soon."""
        client.prepare(
            server=self._server.host, namespace='worker', version='1.0',
            retry=0, **options).cast(context.get_admin_context(), 'beat')

    def _send(self):
        """Send an own message, unless one is still to run."""
        if self._waiting is not None:
            return
        self._waiting = self._sent = time.monotonic()
        try:
            self._cast(self._client)
        except Exception:
            # Whatever it is: _check() finds it out, and sends another.
            self._sent = None

    def _send_again(self, client):
        """Send one if none is in the queue, by a client of its own."""
        queued = self._sent is not None and (self.bound.full or (
            time.monotonic() - self._sent < excuse.reconnect_time()))
        if queued or self._writing or self._waiting is None:
            return
        self._sent = time.monotonic()
        try:
            # Where there is no queue yet, the broker says so, and leaves a
            # confirmation unread on a connection that nobody shares.
            self._cast(client, transport_options=messaging.TransportOptions(
                at_least_once=True))
        except messaging.MessageUndeliverable:
            self._sent = None

    def _check(self):
        """Find out why the own message does not run, and tell if not by us."""
        now, interval = time.monotonic(), self._server.report_interval
        waiting = self._waiting or now
        overdue = now - max(waiting, self._begun)
        # Requests may begin for ever while an own message is lost.
        if overdue < interval / CHECKS and self._sent is not None and (
                self.bound.full or now - waiting < interval):
            self._inquiry = None
            return
        # Asked once, as it may end at any time.
        outage = self._inquiry and self._inquiry.outage
        if outage:
            # The broker may have taken the message down with it.
            self._away, self._sent = now, None
            self._warn('runs no messages, as ' + outage)
        if not self._inquiry or outage or now >= self._inquiry.end:
            self._inquiry = excuse.Inquiry(
                self._server.topic, interval, self._send_again)
        if self.bound.size and self.bound.full and overdue >= interval:
            self._warn('takes no more requests: all %d threads are busy and '
                       'have begun nothing for %d seconds' %
                       (self.bound.size, overdue))
        unread = not (self.bound.full or self._writing)
        since = max(self._away, waiting) if unread else self._away
        if now - since < excuse.reconnect_time():
            # A connection may still have to be made again.
            self._alive()

    def _warn(self, reason):
        """Log, once until it runs messages again, why it does not."""
        if not self._warned:
            self._warned = True
            LOG.warning('Worker %s %s', self._server.host, reason)


class _Endpoint:
    """The RPC endpoint for a worker's own message."""

    target = messaging.Target(namespace='worker', version='1.0')

    def __init__(self, beat):
        self._beat = beat

    def beat(self, context):
        self._beat()
