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

"""The parent tells how its workers are.

It answers at ``[healthcheck] uri``: ``/health`` in the format of the draft
"Health Check Response Format for HTTP APIs", ``/workers`` as JSON, and
``/metrics`` for Prometheus. It tells systemd, too. All of it comes from the
board and from what the supervisor remembers, so nothing waits for the message
broker or for a database.

What is ``fail`` is what starting the service again would cure.
"""

import contextlib
import datetime
import errno
import http.client
import os
import re
import selectors
import socket
import stat
import threading
import time
import typing as ty

from oslo_log import log as logging
from oslo_serialization import jsonutils

import nova.conf
from nova.workers import board
from nova.workers import supervisor

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

# A client has so many bytes and seconds for its request, and who comes when so
# many are connected has the oldest of them go.
REQUEST_SIZE = 8192
REQUEST_TIME = 5
CONNECTIONS = 50
BACKLOG = 1024

# Of a UNIX socket; its owner and group are those of the service.
MODE = 0o660

# What connect() says where nobody listens any more.
_NOBODY = (errno.ENOENT, errno.ECONNREFUSED)

_STATES = {board.STARTING: 'starting', board.SERVING: 'serving',
           board.STOPPING: 'stopping'}
# Those that nova-api, or another service, does not wait for: when such a
# request is lost nobody puts the instance right.
_CASTS = re.compile('build_instances|schedule_and_build_instances|'
                    'rebuild_instance|unshelve_instance|migrate_server|'
                    'live_migrate_instance|.*_snapshot_based_resize')

# Of /metrics: what it is in _worker(), its name, and what it means.
_METRICS = (
    ('up', 'up', 'Whether the worker serves.'),
    ('threads', 'threads', 'How many requests may run at a time.'),
    ('busy', 'busy_threads', 'How many messages run.'),
    ('oldest_seconds', 'oldest_request_seconds',
     'The age of the oldest request that runs, or 0.'),
    ('begun', 'requests_begun_total', 'Requests that have begun.'),
    ('failed', 'requests_failed_total',
     'Requests that failed in a way that nobody expects.'),
    ('lost', 'requests_lost_total',
     'Requests that had not ended when the worker did.'),
)


class Health:
    """Tells how the workers of a node are. Made before they are forked.

    :param parent: the nova.workers.supervisor.Supervisor
    :param binary: the name of the service
    :param node: the name of the node
    """

    def __init__(self, parent, binary, node):
        self._parent = parent
        self._binary = binary
        self._node = node
        self._began = time.monotonic()
        # Where it does not listen yet, and why not.
        self._missing: dict[str, str | None] = {
            uri.replace('{binary}', binary): None
            for uri in CONF.healthcheck.uri}
        # Or the launcher says that it is ready before any worker is.
        self._systemd = os.environ.pop('NOTIFY_SOCKET', None)
        self._watchdog = os.environ.get('WATCHDOG_PID', str(
            os.getpid())) == str(os.getpid()) and 'WATCHDOG_USEC' in os.environ
        self._told = {}
        # By path, of this look at the workers.
        self._answers: dict = {}
        self._selector: ty.Any = None

    def start(self):
        """Begin in a thread, from the parent."""
        self._parent.asked = bool(self._missing) or self._watchdog
        if self._missing or self._systemd:
            os.register_at_fork(after_in_child=self.close)
            threading.Thread(target=self._run, daemon=True).start()

    def close(self):
        """Answer no more. What the other process has open is its own."""
        selector, self._selector = self._selector, None
        self._missing = {}
        if selector is not None:
            for key in list(selector.get_map().values()):
                key.fileobj.close()
            selector.close()

    def _run(self):
        selector = self._selector = selectors.DefaultSelector()
        looked = 0.0
        while self._selector is selector:
            try:
                now = time.monotonic()
                if now - looked >= supervisor.INTERVAL:
                    looked = now
                    self._answers.clear()
                    for uri in list(self._missing):
                        # A worker forked meanwhile would not close it.
                        with self._parent.lock:
                            self._listen(uri)
                    self._drop_slow(now)
                    self._tell_systemd(now)
                for key, _events in selector.select(supervisor.INTERVAL):
                    (self._talk if key.data else self._accept)(key)
            except Exception:
                if self._selector is not selector:
                    # close() has closed it meanwhile.
                    return
                with self._parent.lock:
                    LOG.exception('Error while telling how the workers are')
                time.sleep(supervisor.INTERVAL)

    def _listen(self, uri):
        try:
            self._selector.register(_bind(uri), selectors.EVENT_READ)
            del self._missing[uri]
        except OSError as exc:
            # It may be of a service that stops, and goes away.
            if self._missing[uri] != str(exc):
                self._missing[uri] = str(exc)
                LOG.error('Cannot answer at [healthcheck] uri %(uri)s, and '
                          'try again: %(error)s', {'uri': uri, 'error': exc})

    def _accept(self, key):
        for _connection in range(CONNECTIONS):
            try:
                sock, _address = key.fileobj.accept()
            except OSError:
                return
            connections = self._connections()
            if len(connections) >= CONNECTIONS:
                self._give_up(
                    min(connections, key=lambda key: key.data['since']))
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ, {
                'since': time.monotonic(), 'request': b'', 'answer': b''})

    def _connections(self):
        return [key for key in self._selector.get_map().values() if key.data]

    def _talk(self, key):
        talk = key.data
        try:
            if not talk['answer']:
                data = key.fileobj.recv(REQUEST_SIZE)
                talk['request'] += data
                if b'\r\n\r\n' not in talk['request']:
                    if not data or len(talk['request']) >= REQUEST_SIZE:
                        self._drop(key)
                    return
                talk['answer'] = self._answer(talk['request'])
                self._selector.modify(
                    key.fileobj, selectors.EVENT_WRITE, talk)
            sent = key.fileobj.send(talk['answer'])
            talk['answer'] = talk['answer'][sent:]
            if not talk['answer']:
                self._drop(key)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(key)

    def _drop_slow(self, now):
        for key in self._connections():
            if now - key.data['since'] > REQUEST_TIME:
                self._give_up(key)

    def _give_up(self, key):
        # The client may have asked since, as while this process did not run.
        self._talk(key)
        self._drop(key)

    def _drop(self, key):
        try:
            self._selector.unregister(key.fileobj)
            # A child that was just forked may have it, too.
            key.fileobj.shutdown(socket.SHUT_RDWR)
        except (KeyError, ValueError, OSError):
            pass
        key.fileobj.close()

    def _answer(self, request):
        method, path = [*request.split(None, 2), b'', b''][:2]
        # Health checks may add a query, as to tell who asks.
        path = path.partition(b'?')[0]
        if method == b'GET' and path in self._answers:
            return self._answers[path]
        code, kind, body = 404, 'text/plain; version=0.0.4', 'Not found\n'
        if method not in (b'GET', b'HEAD'):
            code, body = 405, 'Method not allowed\n'
        elif path == b'/health':
            told = self.health()
            code = 503 if told['status'] == 'fail' else 200
            kind, body = 'application/health+json', jsonutils.dumps(told)
        elif path == b'/workers':
            code, kind = 200, 'application/json'
            body = jsonutils.dumps(self.workers())
        elif path == b'/metrics':
            code, body = 200, self.metrics()
        data = body.encode()
        head = (f'HTTP/1.1 {code} {http.client.responses[code]}\r\n'
                f'Content-Type: {kind}\r\n'
                f'Content-Length: {len(data)}\r\nCache-Control: no-cache\r\n'
                'Connection: close\r\n\r\n').encode()
        answer = head if method == b'HEAD' else head + data
        if method == b'GET' and code != 404:
            self._answers[path] = answer
        return answer

    def _worker(self, watched, now):
        row, past = watched.row, watched.row.past
        alive = supervisor.is_child(row.pid)
        tasks = row.busy(board.RUNNING, board.REPLYING) if alive else []
        oldest = min((task for task in tasks if task.request),
                     key=lambda task: task.since, default=None)
        state = _STATES.get(row.state, 'starting') if alive else 'down'
        stalled = self._parent.stalled(watched, now)
        output = None
        if state == 'serving':
            if self._parent.down(watched, now, CONF.service_down_time):
                output = f'has begun no message for {stalled:.0f} seconds'
        elif (state != 'stopping' and
                now - watched.served > supervisor.START_TIME):
            output = f'has not served for {now - watched.served:.0f} seconds'
        status = 'pass'
        if output:
            status = 'fail' if self._parent.failing else 'warn'
        # A reason counts at once, and the start that it leads to later.
        watched.other = max(
            watched.other, past.starts - 1 - sum(watched.reasons.values()))
        restarts = {**watched.reasons, 'other': watched.other}
        return {
            'host': row.host,
            'pid': row.pid if alive else None,
            'state': state,
            'status': status,
            'output': output,
            'since': _time(now, row.since) if alive else None,
            'up': int(state == 'serving' and not output),
            'seconds_since_message': round(stalled, 1) if alive else None,
            'threads': row.threads,
            'busy': len(tasks),
            'oldest': oldest and {
                **_request(oldest.request),
                'seconds': round(now - oldest.since, 1)},
            'oldest_seconds': round(now - oldest.since, 1) if oldest else 0,
            'begun': past.begun + row.requests_begun(),
            'failed': past.failed + row.counts()[1],
            'lost': past.lost,
            'restarts': restarts,
        }

    def workers(self):
        """What ``/workers`` tells, as a dict."""
        now = time.monotonic()
        workers = [self._worker(watched, now)
                   for watched in self._parent.watched]
        up = sum(worker['up'] for worker in workers)
        status, output = 'pass', None
        if self._parent.failing:
            status, output = 'fail', 'no worker gets on, and a restart helps'
        elif self._parent.outage:
            status, output = 'warn', f'an outage: {self._parent.outage}'
        elif any(worker['output'] for worker in workers):
            status, output = 'warn', f'{up} of {len(workers)} workers serve'
        lost = [(watched.row.host, one) for watched in self._parent.watched
                for one in watched.row.past.requests if one.ended]
        return {
            'service': self._binary, 'node': self._node, 'status': status,
            'output': output, 'serving': up, 'workers': workers,
            'lost': [_lost(now, host, one) for host, one in sorted(
                lost, key=lambda pair: pair[1].ended)],
        }

    def health(self):
        """What ``/health`` tells, as a dict."""
        told = self.workers()
        at = _time(0, 0)
        checks = {}
        for name, check in (('node', told), *(
                (worker['host'], worker) for worker in told['workers'])):
            checks[name] = {'status': check['status'], 'time': at}
            if check['output']:
                checks[name]['output'] = check['output']
        return {'status': told['status'], 'version': '1.0',
                'description': self._binary,
                'notes': {'host': self._node}, 'checks': checks}

    def metrics(self):
        """What ``/metrics`` tells, as text."""
        told = self.workers()
        service = f'service="{self._binary}",hostname='
        workers = [(f'{service}"{worker["host"]}"', worker)
                   for worker in told['workers']]
        node = f'{service}"{self._node}"'
        families = [
            ('workers', 'How many workers the node has.',
             [(node, len(workers))]),
            ('workers_failing', 'Whether a restart of the service would help.',
             [(node, int(told['status'] == 'fail'))]),
            ('workers_outage',
             'Whether the message broker or a database does not answer.',
             [(node, int(bool(self._parent.outage)))]),
            *((f'worker_{name}', meaning, [
                (label, worker[key]) for label, worker in workers])
              for key, name, meaning in _METRICS),
            ('worker_restarts_total',
             'How often the worker was started again, by reason.', [
                 (f'{label},reason="{reason}"', count)
                 for label, worker in workers
                 for reason, count in worker['restarts'].items()])]
        lines = []
        for name, meaning, values in families:
            name = f'openstack_nova_{name}'
            kind = 'counter' if name.endswith('_total') else 'gauge'
            lines += [f'# HELP {name} {meaning}', f'# TYPE {name} {kind}',
                      *(f'{name}{{{label}}} {value}'
                        for label, value in values)]
        return '\n'.join([*lines, ''])

    def _tell_systemd(self, now):
        if not self._systemd:
            return
        told = self.workers()
        state = {'STATUS': told['output'] or (
            f'{told["serving"]} of {len(told["workers"])} workers serve')}
        # systemd would end a service that waits for the broker for too long.
        if told['serving'] or now - self._began > supervisor.START_TIME:
            state['READY'] = '1'
        news = dict(state.items() - self._told.items())
        if (self._watchdog and told['status'] != 'fail' and
                now - self._parent.looked < supervisor.PAUSE):
            news['WATCHDOG'] = '1'
        if news:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                try:
                    sock.sendto('\n'.join(
                        map('='.join, news.items())).encode(),
                        re.sub('^@', '\0', self._systemd))
                except OSError:
                    return
            self._told.update(state)


def _bind(uri):
    """Make a socket that listens; raises OSError."""
    scheme, _slashes, path = uri.partition('://')
    host, _colon, port = path.rpartition(':')
    family = (socket.AF_UNIX if scheme == 'unix' else
              socket.AF_INET6 if ':' in host else socket.AF_INET)
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(family))
        sock.setblocking(False)
        if scheme == 'unix':
            with socket.socket(family) as other:
                other.setblocking(False)
                error = other.connect_ex(path) or errno.EADDRINUSE
                if error not in _NOBODY:
                    raise OSError(error, os.strerror(error))
            if os.path.exists(path) and not stat.S_ISSOCK(
                    os.stat(path).st_mode):
                raise OSError(errno.EEXIST, f'{path} is not a socket')
            # Nobody can connect before it has its mode.
            new = f'{path}.{os.getpid()}'
            with contextlib.suppress(FileNotFoundError):
                # Of a parent that was killed here, with the same pid in its
                # container.
                os.unlink(new)
            sock.bind(new)
            stack.callback(os.unlink, new)
            os.chmod(new, MODE)
            sock.listen(BACKLOG)
            os.rename(new, path)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host.strip('[]').replace('localhost', '127.0.0.1'),
                       int(port)))
            sock.listen(BACKLOG)
        stack.pop_all()
        return sock


def _time(now, at):
    """What time it was, in ISO format, when time.monotonic() was ``at``."""
    return datetime.datetime.fromtimestamp(
        time.time() - now + at, datetime.timezone.utc).isoformat(
            timespec='seconds')


def _request(text):
    """Id, method and instance of a request of the board."""
    words = text.decode(errors='replace').split(' ')
    names = 'request_id', 'method', 'instance'
    return dict(zip(names, (*words[:2], words[-1])))


def _lost(now, host, lost):
    request = _request(lost.request)
    todo = 'nothing: who waited for it was told'
    if request['instance'] != '-' and _CASTS.fullmatch(request['method']):
        todo = ('if the server stays in BUILD or keeps its task state: '
                f'openstack server set --state error {request["instance"]}')
    return {'host': host, **request, 'began': _time(now, lost.began),
            'ended': _time(now, lost.ended), 'what_to_do': todo}
