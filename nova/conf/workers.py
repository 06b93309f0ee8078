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

import ipaddress
import re

from oslo_config import cfg
from oslo_config import types

from nova.conf import conductor
from nova.conf import scheduler


def _worker_hosts(group):
    """Whether the workers of a service have worker hosts.

    :param group: the group of the service's options
    """
    return cfg.BoolOpt(
        'worker_hosts',
        default=True,
        help=f"""
Whether each worker process has a host of its own.

With ``true``, worker n has the host ``<[DEFAULT] host>-worker-<n>``: an RPC
server, a queue and a record in the list of services with that name.

With ``false``, all workers share ``[DEFAULT] host``, as they did before the
option was there. The records of the workers stay in the list of services as
down until they are deleted.

Related options:

* ``[{group}] workers``
""")


def _worker_timeout(group, notes):
    """After how long the workers of a service are replaced.

    :param group: the group of the service's options
    :param notes: when a worker of this service is replaced, too
    """
    return cfg.IntOpt(
        'worker_timeout',
        default=0,
        min=0,
        help=f"""
Seconds after which a worker that has begun no message is replaced.

Each worker regularly sends itself a message, the self-ping. A worker that has
begun neither a self-ping nor a request for that many seconds is stuck: all the
threads that run its requests are blocked, or the whole process is. The stacks
of its threads are logged, and it is killed and started again under the same
worker host. The log names the requests that are lost with it.

Before that, a trial finds out whether a new worker would do better: a process
sends a message and receives it, commits to the main database and reads the API
database. While that fails, no worker is replaced. {notes}

A worker that still has free threads may be about to connect to the message
broker again, so it has ``[oslo_messaging_rabbit] rabbit_interval_max`` more;
while it runs requests, the value counts as at least twice
``[oslo_messaging_rabbit] heartbeat_timeout_threshold``.

A worker whose requests all fail, while those of other workers on its node
succeed, is stopped and started again, unless
``[DEFAULT] graceful_shutdown_timeout`` is 0 or less.

With 0, no worker is replaced: the requests and the stacks of a stuck worker
are logged once.

Possible values:

* 0: no worker is replaced.
* A number of seconds, at least three times ``[DEFAULT] report_interval``, and
  more than the longest time for which all threads of a worker
  (``[DEFAULT] executor_thread_pool_size``) may be busy with the same requests.

Related options:

* ``[DEFAULT] report_interval``
* ``[DEFAULT] service_down_time``
* ``[DEFAULT] executor_thread_pool_size``
* ``[{group}] workers``
""")


class Address(types.String):
    """The URI of a socket that a service listens at, as a string."""

    def __call__(self, value):
        scheme, _slashes, rest = super().__call__(value).partition('://')
        # The path of a socket has 107 bytes, and a suffix while it is made.
        path = rest.replace('{binary}', 'nova-scheduler')
        if scheme == 'unix' and len(path) < 100 and re.fullmatch(
                r'/[\w./-]*[\w.-]', path, re.ASCII):
            return value
        found = scheme == 'tcp' and re.fullmatch(
            r'(localhost|[\d.]+|\[[\da-fA-F:.]+\]):(\d{1,5})', rest, re.ASCII)
        try:
            if found and 0 < int(found[2]) < 65536 and (
                    found[1] == 'localhost' or
                    ipaddress.ip_address(found[1].strip('[]'))):
                return value
        except ValueError:
            pass
        raise ValueError(
            f'{value!r} is neither unix:///PATH, with a PATH of less than 100 '
            'letters, digits, "/", ".", "_" and "-", nor tcp://ADDRESS:PORT, '
            'with an IP address, in brackets if it is of IPv6, or localhost')


healthcheck_group = cfg.OptGroup(
    'healthcheck',
    title='Health check',
    help='How nova-scheduler and nova-conductor tell about their workers.')

OPTIONS = {
    healthcheck_group: [
        cfg.ListOpt(
            'uri',
            default=[],
            item_type=Address(),
            help="""
Where nova-scheduler and nova-conductor tell how their workers are.

There the service answers HTTP requests: ``/health`` tells whether it works, in
the format ``application/health+json`` and with the code 200, or 503 when to
start the service again would help. ``/workers`` tells of each worker as JSON,
and ``/metrics`` for Prometheus. It needs neither the message broker nor a
database for that.

There is no authentication. The answers contain host names and the ids of
requests and instances, so make the address reachable from this host only. A
UNIX socket can be used by the user and the group of the service. The folder
has to be there, and the service has to be allowed to write to it.

The command ``nova-worker-probe`` reads it for health checks.

Possible values:

* Empty: the service answers nowhere.
* A list of URIs: ``unix:///run/{binary}/health.sock``, where ``{binary}``
  stands for the name of the service, or ``tcp://127.0.0.1:8089``. The path may
  have 99 letters, digits, ``/``, ``.``, ``_`` and ``-``; the address is an IP
  address or ``localhost``. Services on one host need addresses of their own.

Related options:

* ``[scheduler] worker_hosts``, ``[conductor] worker_hosts``: with ``false``
  nothing is told.
"""),
    ],
    scheduler.scheduler_group: [
        _worker_hosts('scheduler'),
        _worker_timeout('scheduler', """\
A worker is replaced, though, if all its threads wait for a Placement that does
not answer, so keep this longer than ``[placement] timeout``."""),
    ],
    conductor.conductor_group: [
        _worker_hosts('conductor'),
        _worker_timeout('conductor', """\
A worker is replaced, though, if all its threads wait for other services: for
nova-scheduler (up to ``[DEFAULT] rpc_response_timeout``), nova-compute (up
to ``[DEFAULT] long_rpc_timeout``), the message broker of a cell, Neutron,
Cinder or Glance. Its requests are lost then: a server that was being built
stays in BUILD, and a server that was being migrated keeps its task
state."""),
    ],
}


def register_opts(conf):
    for group, options in OPTIONS.items():
        conf.register_opts(options, group=group)


def list_opts():
    return OPTIONS
