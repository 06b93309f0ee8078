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

"""The commands of ``nova-manage worker``."""

import argparse
import contextlib
import functools
import sys

from oslo_config import cfg
from oslo_db import exception as db_exc
from oslo_log import log as logging
from oslo_serialization import jsonutils
import prettytable
from sqlalchemy import exc as sqla_exc

from nova.cmd import common as cmd_common
import nova.conf
from nova import context
from nova.db.main import api as main_db_api
from nova.i18n import _
from nova import rpc
from nova.workers import identity
from nova.workers import inventory

CONF = nova.conf.CONF

# What the commands return; see doc/source/cli/nova-manage-worker.inc.
OK = 0
BAD_USAGE = 2
NONE_KNOWN = 3
NO_DATABASE = 4
NO_BROKER = 5
# Not 1, as that is what Python says for any error of the command's own.
NOT_ALL = 6

# Seconds. The answer of a worker that is well takes milliseconds.
TIMEOUT = 5
DOWN_FOR = 3600

# What --node means without a value.
THIS_NODE = True

args = cmd_common.args
action_description = cmd_common.action_description


class _Stop(Exception):
    """Ends a command with a return code and one line on stderr."""

    def __init__(self, code, line):
        super().__init__(line)
        self.code = code


def _command(function):
    """Make a command return the code of what it cannot go on without."""
    @functools.wraps(function)
    def wrapped(self, *unknown, **kwargs):
        try:
            if unknown:
                raise _Stop(BAD_USAGE, _('Unexpected argument: %s') %
                            unknown[0])
            _prepare()
            return function(self, **kwargs)
        except _Stop as exc:
            print(exc, file=sys.stderr)
            return exc.code
        except cfg.ConfigSourceValueError as exc:
            print(exc, file=sys.stderr)
            return BAD_USAGE
        except inventory.BrokerUnreachable as exc:
            print(exc, file=sys.stderr)
            return NO_BROKER
    return wrapped


def _prepare():
    if not CONF.debug:
        # The commands say themselves, in one line, what these have to say.
        for name in ('oslo.messaging', 'amqp'):
            logging.getLogger(name).logger.setLevel(logging.CRITICAL)
    rabbit = 'oslo_messaging_rabbit'
    with contextlib.suppress(cfg.NoSuchOptError, cfg.NoSuchGroupError):
        # It is the timeout of each socket, too, and somebody waits for the
        # command, also when the broker has gone before its connection closes.
        CONF.set_override('heartbeat_timeout_threshold', 10, rabbit)
        if CONF[rabbit].use_queue_manager:
            # It would give the name of one queue for replies to each command
            # that runs at a time, and each would get the answers of others.
            CONF.set_override('use_queue_manager', False, rabbit)
            rpc.cleanup()
            rpc.init(CONF)


def _context():
    """A context for [database] of this host, which has to answer now."""
    ctxt = context.get_admin_context()
    ctxt.db_connection = main_db_api.create_context_manager()
    # Somebody waits for the command, a probe often.
    ctxt.db_connection.configure(max_retries=0)
    return ctxt


@contextlib.contextmanager
def _database():
    try:
        yield
    except (db_exc.DBError, db_exc.CantStartEngineError,
            sqla_exc.SQLAlchemyError) as exc:
        raise _Stop(NO_DATABASE, _('The database cannot be reached: %s') %
                    (str(exc).splitlines() or [repr(exc)])[0])


def _node(node):
    if node is THIS_NODE:
        return CONF.host
    if node == '':
        # An empty variable of a script rather than this node.
        raise _Stop(BAD_USAGE, _('--node has an empty value'))
    return node


# Seconds. RabbitMQ takes no message that is to live for more than 49 days.
LONGEST = 86400


def _number(kind, least, what, most=float('inf')):
    """A type of numbers for argparse.

    :param kind: int or float
    :param least: the least one that is valid, or 0 for any more than 0
    :param what: what is valid
    :param most: the greatest one that is valid
    """
    def parse(text):
        with contextlib.suppress(ValueError):
            number = kind(text)
            if least <= number <= most and (
                    number or kind is not float):
                return number
        raise argparse.ArgumentTypeError(_('%(text)s is not %(what)s') % {
            'text': repr(text), 'what': what})
    return parse


def _binaries(binary):
    return [binary] if binary else list(identity.TOPICS)


_BINARY = functools.partial(
    args, '--binary', metavar='<binary>', dest='binary',
    choices=sorted(identity.TOPICS),
    help=_('Only those of this binary: %s.') %
    _(' or ').join(sorted(identity.TOPICS)))
_NODE = functools.partial(
    args, '--node', metavar='<node>', nargs='?', const=THIS_NODE)
_TIMEOUT = functools.partial(
    args, '--timeout', metavar='<seconds>', dest='timeout',
    type=_number(float, 0, 'a number of seconds, more than 0 and at most '
                 f'{LONGEST}', LONGEST),
    help=_('How long to wait for an answer. (default: %d)') % TIMEOUT)


class WorkerCommands:
    """Commands for the workers of services that have worker hosts."""

    @action_description(_(
        'List the workers that have records, and whether they are up. '
        'Services without worker hosts appear as their node.'))
    @_BINARY()
    @_NODE(help=_('Only those on this node; without a value, on the node of '
                  'this host ([DEFAULT] host).'))
    @args('--ping', action='store_true', dest='ping',
          help=_('Have each answer at its own RPC server name.'))
    @_TIMEOUT()
    @args('--format', metavar='<format>', dest='output_format',
          choices=['table', 'json'],
          help=_('table or json. (default: table)'))
    @_command
    def list(self, binary=None, node=None, ping=False, timeout=TIMEOUT,
             output_format='table'):
        """List the workers."""
        ctxt = _context()
        workers = self._workers(
            ctxt, _binaries(binary), _node(node))
        answers = None
        if ping:
            answers = inventory.ping(ctxt, workers, timeout)
        if output_format == 'json':
            print(jsonutils.dumps(_rows(workers, answers), indent=2))
        else:
            print(_table(workers, answers))
        return OK

    @action_description(_(
        'Have workers answer at their own RPC server names, all at once. '
        'Those that do not are named on stderr.'))
    @_BINARY()
    @_NODE(help=_('Only those on this node; without a value, on the node of '
                  'this host ([DEFAULT] host).'))
    @args('--worker', metavar='<number>', dest='number',
          type=_number(int, 1, 'the number of a worker, from 1'),
          help=_('Only the worker with this number on its node.'))
    @_TIMEOUT()
    @_command
    def ping(self, binary=None, node=None, number=None, timeout=TIMEOUT):
        """Have the workers answer."""
        ctxt = _context()
        workers = self._workers(
            ctxt, _binaries(binary), _node(node), number)
        if not workers:
            raise _Stop(NONE_KNOWN, _('No such worker is known'))
        answers = inventory.ping(ctxt, workers, timeout)
        for worker, answer in zip(workers, answers):
            if answer.error:
                print(f'{worker.binary} {worker.host}: {answer.error}',
                      file=sys.stderr)
        silent = sum(1 for answer in answers if answer.error)
        print(_('%(answered)d of %(workers)d answered') %
              {'answered': len(workers) - silent, 'workers': len(workers)})
        return NOT_ALL if silent else OK

    @action_description(_(
        'Remove the records of workers that are down and will not come back. '
        'What is up is never removed.'))
    @_BINARY()
    @_NODE(help=_('Those of this node; without a value, of the node of this '
                  'host ([DEFAULT] host).'))
    @args('--all-nodes', action='store_true', dest='all_nodes',
          help=_('Those of all nodes.'))
    @args('--down-for', metavar='<seconds>', dest='down_for',
          type=_number(int, 0, 'a number of seconds'),
          help=_('Only those that have been down for as long as that at '
                 'least. (default: %d)') % DOWN_FOR)
    @args('--dry-run', action='store_true', dest='dry_run',
          help=_('Only show what would be removed.'))
    @_command
    def retire(self, binary=None, node=None, all_nodes=False,
               down_for=DOWN_FOR, dry_run=False):
        """Remove the records of workers that are gone."""
        if (node is None) != all_nodes:
            raise _Stop(BAD_USAGE, _('Give either --node or --all-nodes'))
        ctxt = _context()
        with _database():
            workers = inventory.Inventory(ctxt)
            gone = [worker for worker in
                    workers.workers(_binaries(binary), _node(node))
                    if worker.number and worker.down_for is not None]
            retired = 0
            for worker in gone:
                name = f'{worker.binary} {worker.host}'
                if worker.down_for < down_for:
                    print(_('Left %(name)s: down for %(seconds)d seconds') % {
                        'name': name, 'seconds': worker.down_for})
                elif workers.retire(worker, dry_run):
                    retired += 1
                    print((_('Would retire %s') if dry_run
                           else _('Retired %s')) % name)
                else:
                    print(_('Left %s: it is up, forced down or gone by now, '
                            'or a compute has that name') % name)
        print((_('Workers to retire: %d') if dry_run
               else _('Workers retired: %d')) % retired)
        return OK

    def _workers(self, ctxt, *only):
        with _database():
            return inventory.Inventory(ctxt).workers(*only)


def _rows(workers, answers=None):
    """What list tells of each worker; the keys are those of its JSON."""
    rows = []
    for worker in workers:
        rows.append({
            'binary': worker.binary,
            'node': worker.node,
            'worker': worker.number,
            'host': worker.host,
            'state': worker.state,
            'seconds_since_heartbeat':
                None if worker.age is None else int(worker.age),
            'version': worker.record.version,
        })
    for row, answer in zip(rows, answers or []):
        row['answer_ms'] = (None if answer.error
                            else round(answer.milliseconds, 1))
        row['error'] = answer.error
    return rows


def _table(workers, answers=None):
    names = [_('Binary'), _('Node'), _('Worker'), _('State'), _('Heartbeat'),
             _('Version')]
    if answers is not None:
        names.append(_('Answer'))
    table = prettytable.PrettyTable(names)
    table.align = 'l'
    for row in _rows(workers, answers):
        age = row['seconds_since_heartbeat']
        cells = [row['binary'], row['node'], row['worker'] or '-',
                 row['state'], '-' if age is None else _('%d s ago') % age,
                 row['version']]
        if answers is not None:
            cells.append(row['error'] or _('%.1f ms') % row['answer_ms'])
        table.add_row(cells)
    return table.get_string()
