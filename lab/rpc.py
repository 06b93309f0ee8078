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

"""Calling a scheduler's workers over oslo.messaging, as liveness probes do."""

import collections
import contextlib
import functools
import threading
import time
import urllib.parse
import uuid
import zlib

from oslo_config import cfg
import oslo_messaging
from oslo_messaging import conffixture

from lab import process

TOPIC = 'scheduler'
# Of the RPC APIs of the managers, by topic.
VERSIONS = {'scheduler': '4.5', 'conductor': '3.0'}

# Options in which all that use a broker have to agree, as both sides declare
# the exchanges; and the prefetch, without which there are no streams.
SHARED = ('amqp_durable_queues', 'rabbit_quorum_queue',
          'rabbit_transient_quorum_queue', 'rabbit_stream_fanout',
          'rabbit_qos_prefetch_count')

# Seconds after which the broker drops a fanout or reply queue without a
# consumer: what the lab leaves behind is gone a minute later.
QUEUE_TTL = 60

# As nova's RequestContext.from_dict takes it.
CONTEXT = {'user_id': 'lab', 'project_id': 'lab', 'is_admin': True,
           'roles': ['admin'], 'read_deleted': 'no'}


def request_id():
    """A name for a request that no other one has."""
    return 'req-%s' % uuid.uuid4()


def _context(name=None):
    return dict(CONTEXT, request_id=name or request_id())


def aggregate(name):
    """An aggregate without hosts, as it travels over RPC."""
    return {
        'nova_object.name': 'Aggregate', 'nova_object.namespace': 'nova',
        'nova_object.version': '1.3', 'nova_object.data': {
            # Its name says which one it is.
            'id': zlib.crc32(name.encode()) >> 1, 'uuid': str(uuid.uuid4()),
            'name': name, 'hosts': [], 'metadata': {}}}


# The method that runs ``Client.work``, of each service.
WORK = {'scheduler': 'delete_aggregate', 'conductor': '_object_dispatch'}


def _work(topic):
    """The request that costs nothing: method and arguments."""
    if topic == 'scheduler':
        return 'delete_aggregate', {'aggregate': aggregate('nobody')}
    return _get('InstanceFaultList', '1.2', 'get_by_instance_uuids', [])


def _get(name, version, method, *args):
    """Have a conductor get an object: method and arguments."""
    return 'object_class_action_versions', {
        'objname': name, 'objmethod': method,
        'object_versions': {name: version}, 'args': args, 'kwargs': {}}


class Client:
    """An RPC client of its own, apart from nova's configuration."""

    def __init__(self, transport_url, topic=TOPIC, options=None):
        """Make it; it connects with its first call.

        :param transport_url: as oslo.messaging takes it
        :param topic: the topic to call
        :param options: of RabbitMQ: option -> value
        """
        conf = cfg.ConfigOpts()
        conf([], project='lab', default_config_files=[],
             default_config_dirs=[])
        # Registers all options of oslo.messaging; some of them it would only
        # look for in the global configuration.
        conffixture.ConfFixture(conf)
        if transport_url.startswith('rabbit:'):
            transport_url += '?' + urllib.parse.urlencode(dict(
                options or {}, rabbit_transient_queues_ttl=QUEUE_TTL))
        self.topic = topic
        self.transport = oslo_messaging.get_rpc_transport(
            conf, url=transport_url)
        self.client = oslo_messaging.get_rpc_client(
            self.transport, oslo_messaging.Target(
                exchange='nova', topic=topic, namespace='baseapi',
                version='1.1'))

    def ping(self, server=None, timeout=5):
        """Have a worker answer.

        :param server: the RPC server to call, a worker host or a node; any
            server of the topic if None
        :param timeout: seconds to wait for the answer
        :returns: the seconds it took
        :raises oslo_messaging.MessagingTimeout: without an answer in time
        """
        began = time.monotonic()
        self.client.prepare(server=server, timeout=timeout).call(
            _context(), 'ping', arg='lab')
        return time.monotonic() - began

    def cast_ping(self, server=None):
        """Send a ping, and wait for nothing."""
        self.client.prepare(server=server).cast(_context(), 'ping', arg='lab')

    def work(self, timeout=5, server=None, name=None):
        """Have a worker run a request that costs it nothing.

        A request to the manager, while liveness probes ask another endpoint:
        a scheduler forgets an aggregate that nobody knows, and a conductor
        reads the faults of no servers.

        :param name: the id of the request, by which ``Faults.executions``
            know it
        """
        method, arguments = _work(self.topic)
        self._call(server, timeout, method, name, **arguments)

    def look_up(self, timeout=5, server=None, name=None):
        """Have a worker read from the API database.

        A scheduler looks where a compute host is that it does not know, and
        does so each time, as the host seems to have an instance that it has
        not. A conductor looks for that host's aggregates.

        :param name: as for ``work``
        """
        if self.topic == 'scheduler':
            self._call(server, timeout, 'sync_instance_info', name,
                       host_name='nobody',
                       instance_uuids=[str(uuid.uuid4())])
        else:
            self._get(server, timeout, name, 'AggregateList', '1.3',
                      'get_by_host', 'nobody')

    def read(self, timeout=5, server=None):
        """Have a worker read from the database of a cell.

        A conductor reads the faults of a server that nobody knows. A scheduler
        looks for a host, in vain: it sends its notifications and reads from
        the databases of the cells. It does not ask Placement, as if a server
        was rebuilt.
        """
        if self.topic != 'scheduler':
            return self._get(server, timeout, None, 'InstanceFaultList', '1.2',
                             'get_by_instance_uuids', [str(uuid.uuid4())])
        try:
            self._call(server, timeout, 'select_destinations',
                       request_spec={'instance_properties': {
                           'uuid': str(uuid.uuid4())}},
                       filter_properties={'scheduler_hints': {
                           '_nova_check_type': ['rebuild']}})
        except oslo_messaging.RemoteError as exc:
            if exc.exc_type != 'NoValidHost':
                raise

    def _get(self, server, timeout, name, *what):
        method, arguments = _get(*what)
        self._call(server, timeout, method, name, **arguments)

    def _call(self, server, timeout, method, name=None, **arguments):
        self._manager(server=server, timeout=timeout).call(
            _context(name), method, **arguments)

    def _manager(self, **options):
        return self.client.prepare(
            namespace=None, version=VERSIONS[self.topic], **options)

    def cast_work(self, server=None, name=None):
        """Send a request as ``work`` does, and wait for nothing."""
        method, arguments = _work(self.topic)
        self._manager(server=server).cast(_context(name), method, **arguments)

    def cast_aggregate(self, name, method='update_aggregates'):
        """Tell all schedulers of an aggregate, as nova-api does.

        :param method: ``delete_aggregate`` tells that it is gone
        :raises oslo_messaging.MessagingException: when it cannot be sent
        """
        found = aggregate(name)
        arguments = ({'aggregate': found} if method == 'delete_aggregate' else
                     {'aggregates': [found]})
        self._manager(fanout=True).cast(_context(), method, **arguments)

    def answers(self, server=None, timeout=5):
        """Whether ``ping`` is answered in time."""
        try:
            self.ping(server, timeout)
            return True
        except oslo_messaging.MessagingException:
            return False

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.transport.cleanup()


Counts = collections.namedtuple('Counts', 'answered lost failed')

#: What became of a call. ``began`` and ``ended`` in seconds since the start of
#: the callers; ``outcome`` as a field of ``Counts``; ``name`` the id of the
#: request, None without ``named``; ``error`` a text, None if answered.
Call = collections.namedtuple('Call', 'began ended outcome name error')

#: Names of requests: ``twice``, those that were begun more than once;
#: ``never``, those that were sent and never begun; ``begun``, those that were
#: begun and got no answer.
Ran = collections.namedtuple('Ran', 'twice never begun')


def ran(calls, executions):
    """What became of requests, by those who sent and those who ran them.

    :param calls: list of ``Call`` with names; what was sent without waiting
        counts as answered
    :param executions: list of ``lab.faults.Execution``
    :returns: ``Ran``, each field a list in the order of the calls
    """
    times = collections.Counter(execution.name for execution in executions)
    return Ran(
        [call.name for call in calls if times[call.name] > 1],
        [call.name for call in calls
         if not times[call.name] and call.outcome != 'failed'],
        [call.name for call in calls
         if times[call.name] and call.outcome == 'lost'])


class Callers:
    """Threads which call the topic again and again, and count.

    A call is *lost* when nobody answered it in time, and *failed* when it
    was not even sent or was answered by an error. It counts when it ends.
    """

    def __init__(self, client, n=8, timeout=5, limit=600, call=None, pause=0,
                 named=False):
        """Set them up; they start with a ``with``.

        :param client: a ``Client``
        :param n: the number of threads
        :param timeout: seconds a caller waits for an answer
        :param limit: seconds after which they end in any case
        :param call: what to call with the timeout, in place of a ping
        :param pause: seconds that each waits before a call
        :param named: whether ``call`` takes a ``name``, one of its own for
            each
        """
        self.timeout = timeout
        self.call = call or functools.partial(client.ping, None)
        self.limit = limit
        self.pause = pause
        self.named = named
        self.began = None
        self._calls = []
        # Of the calls under way, by thread.
        self._names = {}
        self._stop = threading.Event()
        self._may_call = threading.Event()
        self._may_call.set()
        # Daemons: a program that fails never waits for them.
        self._threads = [threading.Thread(target=self._run, daemon=True)
                         for _ in range(n)]

    def _run(self):
        while self._goes_on():
            began = self.elapsed()
            name = request_id() if self.named else None
            self._names[threading.current_thread()] = name
            outcome, error = 'answered', None
            try:
                self.call(self.timeout, **({'name': name} if name else {}))
            except oslo_messaging.MessagingTimeout as exc:
                outcome, error = 'lost', str(exc)
            except Exception as exc:
                outcome, error = 'failed', str(exc) or repr(exc)
            # Appending is atomic.
            self._calls.append(
                Call(began, self.elapsed(), outcome, name, error))
            if outcome == 'failed':
                self._stop.wait(0.1)

    def _goes_on(self):
        self._stop.wait(self.pause)
        self._may_call.wait()
        return not self._stop.is_set() and self.elapsed() < self.limit

    @contextlib.contextmanager
    def resting(self):
        """Have nobody begin a call meanwhile; those under way go on."""
        self._may_call.clear()
        try:
            yield
        finally:
            self._may_call.set()

    def calls(self):
        """Those that have ended, a list of ``Call``."""
        return list(self._calls)

    def elapsed(self):
        """Seconds since the start."""
        return time.monotonic() - self.began

    def counts(self, since=0, until=float('inf'), began=0):
        """What ended between two times, in seconds since the start.

        :param began: leave out the calls that began before
        """
        found = collections.Counter(
            call.outcome for call in self.calls()
            if since <= call.ended < until and call.began >= began)
        return Counts(*(found[name] for name in Counts._fields))

    def wait_answered(self, count, timeout=120, log=None):
        """Wait until more calls than that, begun from now on, were answered.

        :param timeout: seconds
        :param log: as for ``process.wait``
        :raises LabError: when there are fewer in time
        """
        began = self.elapsed()
        process.wait(lambda: self.counts(began=began).answered > count,
                     timeout, 'more than %d answers' % count, log)

    def latencies(self, since):
        """The seconds that calls answered since then took, sorted."""
        return sorted(call.ended - call.began for call in self.calls()
                      if call.outcome == 'answered' and call.ended >= since)

    def timeline(self):
        """The counts of each five seconds since the start."""
        return [self.counts(at, at + 5)
                for at in range(0, int(self.elapsed()) - 4, 5)]

    def rate(self, seconds):
        """Wait, and return how many calls a second were answered then."""
        since = self.elapsed()
        time.sleep(seconds)
        until = self.elapsed()
        return self.counts(since, until).answered / (until - since)

    def stop(self):
        """Stop calling, and wait for the calls under way.

        A call ends within its timeout; whatever does not is left to itself.
        """
        self._stop.set()
        self._may_call.set()
        end = time.monotonic() + self.timeout + 5
        for thread in self._threads:
            thread.join(max(0, end - time.monotonic()))
            if thread.is_alive():
                # Whatever becomes of it, it had no answer in time.
                now = self.elapsed()
                self._calls.append(Call(now - self.timeout - 5, now, 'lost',
                                        self._names.get(thread),
                                        'it does not end'))

    def __enter__(self):
        self.began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self.stop()
