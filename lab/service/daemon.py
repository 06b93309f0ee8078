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

"""The daemon: W worker processes, each with a host of its own."""

import socket
import sqlite3
import sys
import threading
import time

from oslo_config import cfg
from oslo_log import log as logging
import oslo_messaging as messaging
from oslo_messaging import opts as messaging_opts
from oslo_messaging.rpc import server as rpc_server
from oslo_service import service
import setproctitle

from lab.service import records
from lab.service import watch as service_watch

CONF = cfg.CONF
LOG = logging.getLogger(__name__)

PROGRAM = 'lab-service'

OPTIONS = [
    cfg.StrOpt('host', default=socket.gethostname(),
               help='The name of this node.'),
    cfg.StrOpt('topic', default=PROGRAM,
               help='The RPC topic that the workers serve.'),
    cfg.IntOpt('workers', default=3, min=1,
               help='How many processes run requests.'),
    cfg.IntOpt('report_interval', default=10, min=1,
               help='Seconds between two heartbeats of a worker.'),
    cfg.IntOpt('service_down_time', default=60, min=2,
               help='Seconds without a heartbeat until a worker is down.'),
    cfg.IntOpt('missed_beats', default=0, min=0,
               help='Replace a worker that has run none of its own messages '
                    'for as long as another one has run so many; 0: none.'),
    cfg.StrOpt('records', default='lab-service.sqlite',
               help='The file with the table of records.'),
]
CLI_OPTIONS = [
    cfg.BoolOpt('list', default=False,
                help='Print who is up, and start nothing.'),
]


class Requests:
    """What this daemon serves."""

    target = messaging.Target(version='1.0')

    def __init__(self, host):
        self.host = host

    def ping(self, context):
        """Tell who answers. The heartbeat calls it, and so may a probe."""
        return self.host

    def work(self, context, seconds):
        """Take so many seconds; tell who ran it."""
        time.sleep(seconds)
        return self.host


class Worker(service.Service):
    """Worker ``number`` of the daemon, from 1, in a process of its own.

    Made in the parent, and started in the child: also in the next one, if
    the child dies. All that has a thread or a connection is made in start().
    """

    def __init__(self, number, watch):
        super().__init__()
        self.index = number - 1
        self.watch = watch
        self.host = worker_host(number)
        self.servers = []

    def start(self):
        super().start()
        self.watch.open(self.index)
        transport = messaging.get_rpc_transport(CONF)
        # begin: identity
        setproctitle.setproctitle(f'{PROGRAM}: {self.host}')
        self.serve(transport, topic=CONF.topic, server=self.host)
        self.serve(transport, topic=f'{CONF.topic}.{CONF.host}', server='node')
        # end: identity
        # begin: bound
        limit = threading.Semaphore(CONF.executor_thread_pool_size)
        for server in self.servers:
            server.limit = limit
            server.start()
        # end: bound
        # begin: heartbeat
        self.client = messaging.get_rpc_client(
            transport, messaging.Target(topic=CONF.topic, server=self.host),
            timeout=CONF.service_down_time)
        self.tg.add_timer_args(CONF.report_interval, self.beat,
                               stop_on_exception=False)
        # end: heartbeat
        LOG.info('Worker %s serves', self.host)

    def serve(self, transport, **target):
        self.servers.append(messaging.get_rpc_server(
            transport, messaging.Target(**target), [Requests(self.host)]))

    # begin: beat
    def beat(self):
        self.client.call({}, 'ping')
        records.write(CONF.records, self.host)
        # end: beat
        self.watch.beat(self.index)

    def stop(self, graceful=True):
        # The eventlet backend stops it in the parent, too, where it never
        # was started.
        if self.servers:
            self.watch.close(self.index)
            # First, as the heartbeat under way still has to be answered.
            super().stop(graceful)
        for server in self.servers:
            server.stop()
        for server in self.servers:
            server.wait()


# begin: name
def worker_host(number):
    return f'{CONF.host}-worker-{number}'
# end: name


def configure(arguments):
    """Read the configuration.

    :raises cfg.Error, ValueError: if it cannot be used
    """
    messaging.set_transport_defaults(PROGRAM)
    logging.register_options(CONF)
    CONF.register_opts(OPTIONS)
    CONF.register_cli_opts(CLI_OPTIONS)
    for group, options in messaging_opts.list_opts():
        CONF.register_opts(options, group)
    # begin: prefetch
    CONF.set_default('rabbit_qos_prefetch_count', 2, 'oslo_messaging_rabbit')
    # end: prefetch
    CONF(arguments, project=PROGRAM, prog=PROGRAM)
    for option in OPTIONS:
        # It is when an option is read that its value is looked at.
        getattr(CONF, option.name)
    if CONF.service_down_time <= CONF.report_interval:
        raise ValueError('service_down_time has to be more than '
                         'report_interval')
    logging.setup(CONF, PROGRAM)


def launch():
    """Launch the workers; returns the launcher."""
    if not hasattr(rpc_server.RPCServer, 'limit'):
        LOG.warning('The RPC servers of this oslo.messaging have no limit: a '
                    'worker that is blocked goes on taking requests')
    watch = service_watch.Watch(
        [worker_host(n + 1) for n in range(CONF.workers)], CONF.missed_beats)
    launcher = service.ProcessLauncher(CONF)
    # begin: launch
    for number in range(1, CONF.workers + 1):
        launcher.launch_service(Worker(number, watch), workers=1)
    # end: launch
    if CONF.missed_beats:
        watch.start()
    return launcher


def main():
    try:
        configure(sys.argv[1:])
        # Before anything is started, to say so if they cannot be used.
        found = records.ages(CONF.records)
        messaging.get_rpc_transport(CONF).cleanup()
    except (cfg.Error, ValueError, sqlite3.Error,
            messaging.MessagingException) as exc:
        return f'{PROGRAM}: {exc}'
    if CONF.list:
        for host, age in found.items():
            state = 'up' if age <= CONF.service_down_time else 'down'
            print(f'{host}  {state}  {age:.0f} s ago')
    else:
        launch().wait()
    return 0
