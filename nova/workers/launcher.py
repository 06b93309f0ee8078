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

"""One Service, W workers, each under its worker host.

The Service is built once, in the parent, whatever the number of workers. Each
worker is a small service around it, which the process launcher of
oslo.service forks, and forks again when its process dies. As that is the same
object each time, a worker keeps its name for life, in both concurrency modes.
"""

import contextlib
import functools
import gc
import os
import signal
import sys
import threading
import time
import typing as ty

from oslo_db import exception as db_exc
from oslo_log import log as logging
import oslo_messaging as messaging
from oslo_messaging import opts as messaging_opts
from oslo_service import service
from oslo_utils import eventletutils
from oslo_utils import importutils

from nova import baserpc
import nova.conf
from nova import rpc
from nova import service as nova_service
from nova.workers import board
from nova.workers import health
from nova.workers import heartbeat
from nova.workers import identity
from nova.workers import name_clash
from nova.workers import retirement
from nova.workers import rpcserver
from nova.workers import supervisor
from nova.workers import trial

# cotyledon brings it for the titles of its own; without it a worker has the
# command line as its title.
setproctitle = importutils.try_import('setproctitle')

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

# Seconds after which a worker whose queue is in the way is tried again.
START_PAUSE = 10

# How many pings to the node address a worker answers at a time: a few callers
# may have gone, and each keeps a thread for a minute.
NODE_THREADS = 4

# After the worker's own RPC server has stopped: how many seconds stop() waits
# for that of the node address to do so, and to delete its fanout queue.
NODE_STOP_TIME = 1.5


class Worker(service.ServiceBase):
    """Worker ``number`` of ``workers``: a Service bound to its worker host.

    Made in the parent and started in the child. Until then the Service is the
    one that all workers of the node share and carries the name of the node.

    :param server: the nova.service.Service of the node
    :param number: which worker this is, from 1
    :param workers: how many there are on the node
    :param node_board: the nova.workers.board.Board of the node
    :param watched: the nova.workers.supervisor.Watched of this worker
    """

    def __init__(self, server, number, workers, node_board, watched):
        self.server = server
        self.number = number
        self.workers = workers
        self.node = server.host
        self.host = identity.worker_host(server.host, number)
        self.board = node_board
        self.row = node_board.rows[number - 1]
        self.watched = watched
        # The launcher of the eventlet mode sets it.
        self.backdoor_port = None
        # Called where the parent stops.
        self.on_parent_stop = lambda: None
        self._started = False
        self._limit = rpcserver.ConcurrencyLimit()
        self._heartbeat: ty.Any = None
        self._node_rpcserver: ty.Any = None

    def start(self):
        self._started = True
        self.watched.enable_dump()
        self.row.open()
        self._bind()
        try:
            # First, as no request is to wait here for this connection, too.
            # Pings wait until the limit opens.
            self._serve_node_address()
            self.server.start()
        except messaging.MessagingException as exc:
            if 'PRECONDITION_FAILED' not in str(exc):
                raise
            self._end_later(exc)
        self.row.threads = CONF.executor_thread_pool_size
        self.row.enter(board.SERVING)
        # No message has run so far.
        self._limit.open(CONF.executor_thread_pool_size)
        if self.number == 1 and CONF.report_interval > 0:
            # One is enough to look after the records of the node, and none is
            # ever up without heartbeats.
            retirement.Retirement(
                self.server, self.node, self.workers).start()
        if eventletutils.is_monkey_patched('thread'):
            self.server.tg.add_timer(heartbeat.TICK, self._reset_if_asked)

    def _end_later(self, error):
        """Tell that a queue is in the way, and end after a pause.

        The launcher starts the worker again at once, and the queue is there
        until somebody deletes it.
        """
        LOG.error('Cannot start worker %(host)s, which is tried again in '
                  '%(seconds)d seconds. A queue that other settings have made '
                  'is in the way: delete it, or have amqp_durable_queues, '
                  'rabbit_quorum_queue, rabbit_transient_quorum_queue and '
                  'rabbit_stream_fanout of [oslo_messaging_rabbit] as they '
                  'were then. %(error)s', {
                      'host': self.host, 'seconds': START_PAUSE,
                      'error': error})
        # Pings that the broker has sent here already go back to it.
        threading.Thread(target=self._stop_node_address, daemon=True).start()
        time.sleep(START_PAUSE)
        os._exit(1)

    def stop(self):
        if not self._started:
            # The launcher of the eventlet mode stops what it launched in the
            # parent as well, and ends the parent after that time. No other
            # thread runs until then.
            self.on_parent_stop()
            if (limit := CONF.graceful_shutdown_timeout) > 0:
                self.watched.kill_later(max(limit - 1, limit / 2))
            return
        if self.row.state == board.STARTING:
            # It has run no message, and waits for a broker perhaps.
            os._exit(0)
        with contextlib.suppress(ValueError):
            # The launcher of the eventlet mode leaves it to end the process
            # at once, if the parent stops while this worker does.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.row.enter(board.STOPPING)
        stopped = threading.Event()

        def stop_node_address():
            try:
                self._stop_node_address()
            finally:
                stopped.set()

        threading.Thread(target=stop_node_address, daemon=True).start()
        self.server.stop()
        # What the broker has sent to its listener goes back when the process
        # ends.
        # Not join(): with Python 3.13 eventlet's raises after its timeout.
        stopped.wait(NODE_STOP_TIME)

    def _stop_node_address(self):
        if self._node_rpcserver is None:
            # It was stopped before it had started.
            return
        # A probe that gets no answer would end a graceful shutdown, so it is
        # answered until the last request has run.
        self._limit.wait_until_idle()
        self._node_rpcserver.stop()
        self._node_rpcserver.wait()

    def wait(self):
        self.server.wait()

    def reset(self):
        """Nothing: the supervisor takes SIGHUP."""

    def _reset_if_asked(self):
        """Reset the Service after a SIGHUP, in the eventlet mode."""
        if not self.row.reset:
            return
        self.row.reset = 0
        if supervisor.mutate():
            LOG.info('Resetting worker %s', self.host)
            try:
                self.server.reset()
            except Exception:
                # The timer would end, and a database may be away.
                LOG.exception('Cannot reset worker %s', self.host)

    def _bind(self):
        self.server.host = self.host
        self.server.backdoor_port = self.backdoor_port
        identity.bind(self.host)
        manager = self.server.manager
        manager.host = self.host
        manager.notifier = rpc.get_notifier(manager.service_name, self.host)
        nova_service.setup_profiler(self.server.binary, self.host)
        self._heartbeat = heartbeat.Heartbeat(
            self.server, self.board, self.row, self._limit)
        self.server.servicegroup_api = self._heartbeat
        self.server.rpcserver_factory = self._get_rpcserver
        if setproctitle is not None:
            # Probes look for the name of the binary, so it comes first.
            setproctitle.setproctitle(f'{self.server.binary}: {self.host}')
        LOG.info('Starting worker %(number)d of %(workers)d of %(binary)s on '
                 'node %(node)s as %(host)s (pid %(pid)d)',
                 {'number': self.number, 'workers': self.workers,
                  'binary': self.server.binary, 'node': self.node,
                  'host': self.host, 'pid': os.getpid()})

    def _get_rpcserver(self, target, endpoints, serializer):
        return rpcserver.RPCServer(
            rpc.get_server(target, endpoints + [self._heartbeat.endpoint],
                           serializer),
            self._limit, self.board, self.row, self._heartbeat.reconnected)

    def _serve_node_address(self):
        """Answer what is sent to the node address, a liveness probe say.

        All workers of the node that can run requests do, from one queue, so
        it takes one of them for the node to be alive.
        """
        # The topic queue of this RPC server is the queue of the node address.
        # Its own name is never called, so all workers have the same one.
        target = messaging.Target(
            topic=identity.node_topic(self.server.topic, self.node),
            server=identity.NODE_SERVER)
        self._node_rpcserver = rpcserver.RPCServer(
            rpc.get_server(target, [
                baserpc.BaseRPCAPI(self.server.manager.service_name,
                                   self.backdoor_port)]),
            rpcserver.Share(self._limit, NODE_THREADS), self.board, self.row,
            own=False)
        self._node_rpcserver.start(override_pool_size=NODE_THREADS)


def prepare(topic):
    """Prepare a command that launches workers, once it has its configuration.

    Does nothing if the workers are to have no worker hosts. Else the
    configuration is checked, and the supervisor takes SIGHUP, which all
    threads and workers have blocked. To be called before there are threads.

    :param topic: the RPC topic of the service, and the name of its section
    :returns: launch() if the workers are to have worker hosts, or None; for
        nova.service.serve()
    :raises: SystemExit with 1, after one line in the log
    """
    with _refusing():
        # A value that is not valid is found where the option is read.
        if not CONF[topic].worker_hosts:
            return None
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
        CONF.healthcheck.uri
        identity.check(topic, CONF.host)
        _check_timeout(topic, CONF[topic].worker_timeout,
                       CONF.report_interval)
    return launch


def _check_timeout(group, timeout, interval):
    """Make sure that a healthy worker is not taken for a stuck one."""
    if timeout and interval <= 0:
        raise ValueError(
            f'[{group}] worker_timeout needs the heartbeat, but [DEFAULT] '
            f'report_interval is {interval}')
    # One self-ping may be late, and one may be lost.
    if 0 < timeout < 3 * interval:
        raise ValueError(
            f'[{group}] worker_timeout is {timeout} seconds, but with '
            f'[DEFAULT] report_interval = {interval} it has to be at '
            f'least {3 * interval}, or 0 to replace no worker')


def _check_name_clash(server, workers):
    try:
        name_clash.check(server.binary, server.host, workers)
    except db_exc.DBError as exc:
        # The workers wait for the database, as they do when it goes away.
        LOG.warning('Cannot find out whether another node is called like a '
                    'worker of node %(node)s: %(error)s',
                    {'node': server.host, 'error': exc})


@contextlib.contextmanager
def _refusing():
    try:
        yield
    except ValueError as exc:
        LOG.error('%s', exc)
        sys.exit(1)


def launch(server, workers):
    """Fork the workers of a node.

    :param server: the nova.service.Service, built but not started
    :param workers: how many workers to start, at least 1
    :returns: the launcher; its wait() keeps the workers running
    :raises: SystemExit with 1, after one line in the log, if that cannot be
    """
    with _refusing():
        if workers < 1:
            # None of nova-conductor's options keeps it from that.
            raise ValueError(f'[{server.topic}] workers is {workers}, but it '
                             'has to be at least 1')
        _check_name_clash(server, workers)
    hosts = [identity.worker_host(server.host, number)
             for number in range(1, workers + 1)]
    # oslo.messaging registers it when a worker makes its RPC server.
    CONF.register_opts([option for option in
                        dict(messaging_opts.list_opts())[None]
                        if option.name == 'executor_thread_pool_size'])
    with _refusing():
        if CONF.executor_thread_pool_size < 1:
            raise ValueError('[DEFAULT] executor_thread_pool_size is '
                             f'{CONF.executor_thread_pool_size}, but it has '
                             'to be at least 1')
    node_board = board.Board(
        hosts, CONF.executor_thread_pool_size + NODE_THREADS)
    parent = supervisor.Supervisor(
        node_board, CONF[server.topic].worker_timeout,
        functools.partial(trial.attempt, server.topic, server.binary, hosts))
    told = health.Health(parent, server.binary, server.host)
    launcher = service.ProcessLauncher(CONF, restart_method='mutate')
    # As the launcher of the eventlet mode does it by itself: the workers'
    # garbage collectors leave alone what is there now, so it stays shared.
    gc.freeze()
    os.register_at_fork(after_in_child=supervisor.make_log_locks)
    for number, watched in enumerate(parent.watched, 1):
        worker = Worker(server, number, workers, node_board, watched)
        worker.on_parent_stop = told.close
        launcher.launch_service(worker, workers=1)
    parent.start()
    told.start()
    return launcher
