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

"""Tell a health check whether each worker of a service on this node answers.

``python3 -m nova.cmd.worker_probe`` is to be run every few seconds, beside
the service and with its configuration. ``nova-manage worker ping`` asks those
of any node, but to import nova takes seconds of CPU time, so nothing of it is
imported here. And where that command reads the database, this one looks at
the processes: it has to run in the container of the service.
"""

import logging
import os
import socket
import sys
import threading
import time
import warnings

if __name__ == '__main__':
    # What its imports warn of would stand before what it has to say.
    warnings.simplefilter('ignore')
    # oslo.messaging imports eventlet, which does without dnspython then: a
    # fifth of the CPU time.
    os.environ.setdefault('EVENTLET_NO_GREENDNS', 'yes')

from oslo_config import cfg
import oslo_messaging as messaging
import psutil

# Some of oslo.messaging looks for its options there.
CONF = cfg.CONF

# The binaries, and their RPC topics, which are the sections of their options.
TOPICS = {'nova-scheduler': 'scheduler', 'nova-conductor': 'conductor'}

# What it returns. Where nova-manage worker has the same, so has this.
OK = 0
STUCK = 1
BAD_USAGE = 2
NOT_STARTED = 3
NO_BROKER = 5
DOWN = 6

# Seconds for a broker to take a message.
BROKER_TIMEOUT = 5

# What each probe costs the broker: one queue for the answers. It has the type
# that all others have, as the broker may refuse another (RabbitMQ 4.3 does),
# and goes soon after the connection: oslo.messaging has no option for at once.
# And no heartbeats, whose end would have to be waited for.
_RABBIT = {'heartbeat_timeout_threshold': 0, 'use_queue_manager': False,
           'rabbit_transient_queues_ttl': 60,
           # There are no fanouts here.
           'rabbit_stream_fanout': False}


def main(argv=None):
    """Print which workers do not answer, and why not.

    :param argv: the arguments; those of the process if None
    :returns: the return code
    """
    # What oslo.messaging has to say is told in one line.
    logging.disable()
    try:
        _configure(argv)
        hosts = [f'{CONF.host}-worker-{n}' for n in range(
            1, (CONF[TOPICS[CONF.binary]].workers or os.cpu_count()) + 1)]
        client = _client()
    except (cfg.Error, messaging.MessagingException, ValueError) as exc:
        print(f'The configuration is not valid: {_one_line(exc)}',
              file=sys.stderr)
        return BAD_USAGE
    errors = _ping(client, hosts, CONF.timeout)
    for host in hosts:
        if host in errors:
            print(f'{host}: {errors[host][1]}', file=sys.stderr)
    print(f'{len(hosts) - len(errors)} of {len(hosts)} answered')
    codes = {code for code, _line in errors.values()}
    # What is worth most attention comes first.
    return next((code for code in (STUCK, NO_BROKER, DOWN, NOT_STARTED)
                 if code in codes), OK)


def _configure(argv):
    """Read the little of nova's configuration that is needed."""
    CONF.register_cli_opt(cfg.StrOpt(
        'binary', default='nova-scheduler', choices=list(TOPICS),
        help='The service.'))
    CONF.register_cli_opt(cfg.FloatOpt(
        'timeout', default=5, min=0.1,
        help='Seconds to wait for an answer.'))
    CONF.register_opt(cfg.StrOpt('host', default=socket.gethostname()))
    CONF.register_opt(
        cfg.IntOpt('workers', min=0, deprecated_name='scheduler_workers',
                   deprecated_group='DEFAULT'), 'scheduler')
    CONF.register_opt(cfg.IntOpt('workers', min=0), 'conductor')
    messaging.set_transport_defaults('nova')
    CONF(argv, project='nova', prog='nova-worker-probe',
         description=__doc__.partition('\n')[0])


def _client():
    # The first one registers the options, and some are read as soon as one is
    # made: two probes at a time would take the answers of each other.
    messaging.get_rpc_transport(CONF)
    if 'oslo_messaging_rabbit' in CONF:
        for name, value in _RABBIT.items():
            if name in CONF.oslo_messaging_rabbit:
                CONF.set_override(name, value, 'oslo_messaging_rabbit')
    transport = messaging.get_rpc_transport(CONF)
    return messaging.get_rpc_client(transport, messaging.Target(
        topic=TOPICS[CONF.binary], namespace='baseapi', version='1.1'))


def _ping(client, hosts, timeout):
    """Have all answer at once.

    :returns: a dict of worker hosts that did not: to a return code and a line
    """
    # A client waits for as long as it takes for a broker that is not there.
    errors = dict.fromkeys(hosts, (
        NO_BROKER, 'the message broker cannot be reached, or takes no '
                   'messages'))
    ended = threading.Semaphore(0)

    def ask(host):
        try:
            client.prepare(server=host, timeout=timeout, retry=0).call(
                {}, 'ping', arg='probe')
            errors.pop(host)
        except messaging.MessagingTimeout:
            errors[host] = None
        except Exception as exc:
            errors[host] = (NO_BROKER, 'the message broker does not take the '
                                       f'message: {_one_line(exc)}')
        ended.release()

    for host in hosts:
        # A daemon, so that one which hangs does not keep the process.
        threading.Thread(target=ask, args=(host,), daemon=True).start()
    end = time.monotonic() + timeout + BROKER_TIMEOUT
    for _host in hosts:
        # Not join(): with Python 3.13 eventlet's raises after its timeout.
        ended.acquire(timeout=max(0, end - time.monotonic()))
    errors = dict(errors)
    if None in errors.values():
        found = _processes()
        for host, error in errors.items():
            errors[host] = error or _why(host, found, timeout)
    return errors


def _processes():
    """The titles of the service's processes, and their ids."""
    found = {}
    for process in psutil.process_iter(['cmdline']):
        # A worker has a title. The parent may have a command line.
        words = process.info['cmdline'] or ['']
        if words[0].startswith(CONF.binary) or CONF.binary in map(
                os.path.basename, words[:2]):
            found[' '.join(words).strip()] = process.pid
    return found


def _why(host, found, timeout):
    binary = CONF.binary
    pid = found.get(f'{binary}: {host}')
    if pid:
        return STUCK, (f'stuck: process {pid} is there and did not answer '
                       f'in {timeout:g} seconds')
    if found:
        return DOWN, f'down: {binary} runs and this worker does not'
    return NOT_STARTED, f'not started: no {binary} runs here'


def _one_line(exc):
    lines = str(exc).splitlines()
    return f'{type(exc).__name__}: {lines[0]}' if lines else repr(exc)


if __name__ == '__main__':
    sys.exit(main())
