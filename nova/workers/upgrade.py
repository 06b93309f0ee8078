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

"""The upgrade check: do all workers get a worker host, and do they keep up?

If the name of a node is too long, no worker starts. Some settings undo what
worker hosts are for. This check warns of both before the upgrade.
"""

import contextlib

import oslo_messaging as messaging
from oslo_messaging import opts as messaging_opts
from oslo_upgradecheck import upgradecheck
from oslo_utils import strutils
import sqlalchemy as sa

import nova.conf
from nova import context
from nova.db.main import api as main_db_api
from nova.i18n import _
from nova import rpc
from nova.workers import identity

CONF = nova.conf.CONF


def check_worker_hosts(_commands):
    """Warn of nodes whose workers would not start for the nodes' names.

    Looks at the name of this node, and at the records in all cells that
    answer. Warns of settings of this node, too, by which requests are lost.

    :param _commands: the nova.cmd.status.UpgradeCommands that runs the check
    :returns: an upgradecheck.Result
    """
    cells = _recorded_hosts()
    details = [detail for binary, topic in identity.TOPICS.items()
               for detail in _details(binary, topic, [
                   {host: seen for found, host, seen in cell
                    if found == binary} for cell in cells])]
    if details:
        details.append(_('Set another [DEFAULT] host there.'))
    details += _settings()
    if details:
        return upgradecheck.Result(
            upgradecheck.Code.WARNING, ' '.join(details))
    return upgradecheck.Result(upgradecheck.Code.SUCCESS)


def _details(binary, topic, cells):
    """What is wrong with the names of the nodes of a binary.

    :param cells: when each host of a cell was last seen
    """
    try:
        if not CONF[topic].worker_hosts:
            # Any name does.
            return
    except ValueError as exc:
        yield _('%(binary)s would not start on this node: %(error)s.') % {
            'binary': binary, 'error': exc}
        return
    own = _error_of_this_node(topic)
    if own:
        # It may be a node without this service, so it is a warning.
        yield _('%(binary)s would not start on this node: %(error)s.') % {
            'binary': binary, 'error': own}
    # The node of a worker host was checked when the worker was started.
    hosts = [host for host in sorted(set().union(*cells))
             if identity.parse(host) is None and _error(topic, host)]
    if hosts:
        # The records may be those of nodes that are gone.
        yield _('%(binary)s would not start on the nodes with these names, '
                'which are too long for the queues of its workers: '
                '%(hosts)s.') % {'binary': binary, 'hosts': ', '.join(hosts)}
    # The nodes of a cell share its database and its message broker.
    pairs = [f'{node} and {host}' for recorded in cells
             for node, host in _name_clashes(recorded)]
    if pairs:
        yield _('These nodes cannot run %(binary)s beside each other, as one '
                'is called like a worker of the other: %(pairs)s.') % {
                    'binary': binary, 'pairs': ', '.join(pairs)}


def _settings():
    """The settings of this node by which requests are lost."""
    prefetch, durable = None, True
    with contextlib.suppress(messaging.InvalidTransportURL, ValueError):
        # No service starts with such a URL or option, and each says so.
        url = rpc.get_transport_url()
        prefetch = url.query.get('rabbit_qos_prefetch_count')
        durable = url.transport != 'rabbit' or _has_durable_queues(url)
    if not durable:
        yield _('The queues of RabbitMQ are not durable, so requests that wait'
                ' for a worker are lost when RabbitMQ restarts. Set'
                ' amqp_durable_queues or rabbit_quorum_queue of'
                ' [oslo_messaging_rabbit] for all services of nova, while they'
                ' are stopped and the old exchange and queues are deleted.')
    if prefetch not in (None, *map(str, range(1, rpc.PREFETCH_COUNT + 1))):
        yield _('transport_url sets rabbit_qos_prefetch_count to %(prefetch)s:'
                ' so many requests may wait for a worker that is stuck. Remove'
                ' it there.') % {'prefetch': prefetch or '0'}


def _has_durable_queues(url):
    CONF.register_opts(
        dict(messaging_opts.list_opts())[rpc.RABBIT], rpc.RABBIT)
    # What the transport URL sets wins.
    return any(
        strutils.bool_from_string(url.query.get(name, CONF[rpc.RABBIT][name]))
        for name in ('amqp_durable_queues', 'rabbit_quorum_queue'))


def _error_of_this_node(topic):
    """What is wrong with [DEFAULT] host; None if nothing is."""
    try:
        host = CONF.host
    except ValueError as exc:
        # oslo.config does not take it for the name of a host.
        return exc
    return _error(topic, host)


def _error(topic, node):
    """What is wrong with the name of a node; None if nothing is."""
    try:
        identity.check(topic, node)
    except ValueError as exc:
        return exc
    return None


def _name_clashes(recorded):
    """The nodes of which one is called like a worker of the other."""
    for host, seen in sorted(recorded.items()):
        node = (identity.parse(host) or (None,))[0]
        # Both write heartbeats. A node that has workers already leaves its own
        # record behind.
        if seen and recorded.get(node) and abs(
                (seen - recorded[node]).total_seconds()
        ) <= 2 * CONF.report_interval:
            yield node, host


def _recorded_hosts():
    """Binary, host and when it was last seen of the records of each cell."""
    results = context.scatter_gather_all_cells(
        context.get_admin_context(), _recorded_hosts_in_cell)
    # It is in the log that a cell does not answer.
    return [result for result in results.values()
            if not context.is_cell_failure_sentinel(result)]


def _recorded_hosts_in_cell(ctxt):
    # Not by the models: the schema may be that of the release before.
    engine = main_db_api.get_engine(context=ctxt)
    services = sa.Table('services', sa.MetaData(), autoload_with=engine)
    with engine.connect() as conn:
        return conn.execute(sa.select(
            services.c.binary, services.c.host, services.c.last_seen_up
        ).where(
            services.c.binary.in_(identity.TOPICS), services.c.deleted == 0,
        )).all()
