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

"""Servers booted in a whole cloud: how many become ACTIVE, how many ERROR.

Stock nova and the series, healthy and with one worker of nova-scheduler or of
nova-conductor stuck from before the first boot: stopped, blocked (all of its
threads wait for ever), or slow. Each case has workers of its own. The cases of
nova-conductor are left out where its workers have no worker hosts.
"""

from lab import commands
from lab import LabError
from lab.measure import boots
from lab.servers import cloud
from lab.servers import whole

WORKERS = 3
COMPUTES = 3

REPORT_INTERVAL = 2
WORKER_TIMEOUT = 15
# Longer than a stuck worker is left alone, so callers get their answers.
CALL_TIMEOUT = 20
# As few that one worker can be busy, with enough for all who boot.
THREADS = {'scheduler': 4, 'conductor': 8}
# What a slow worker takes for each request, in seconds.
SLOW = 5
# A request of each to slow down.
METHODS = {'scheduler': 'get_host_states_by_uuids',
           'conductor': 'schedule_and_build_instances'}

CONF = {
    'DEFAULT': {'report_interval': REPORT_INTERVAL,
                'service_down_time': 6 * REPORT_INTERVAL,
                'rpc_response_timeout': CALL_TIMEOUT},
    'scheduler': {'worker_timeout': WORKER_TIMEOUT},
    'conductor': {'worker_timeout': WORKER_TIMEOUT},
}

FAULTS = ('stopped', 'blocked', 'slow')
CASES = {'healthy': None, **{
    f'{topic}-{fault}': (topic, fault)
    for topic in THREADS for fault in FAULTS}}

# What is booted if nothing else is asked for, and with --quick.
FULL = {'servers': 60, 'limit': 60, 'cases': list(CASES)}
QUICK = {'servers': 24, 'limit': 30,
         'cases': ['healthy', 'scheduler-stopped', 'conductor-stopped']}


def add_arguments(parser):
    parser.add_argument('cases', nargs='*', metavar='CASE',
                        help='; '.join(CASES) + ' (default: all)')
    parser.add_argument('--quick', action='store_true',
                        help='24 servers, and not all cases; within ten '
                             'minutes')
    commands.add_stock(parser)
    parser.add_argument('--servers', type=int, metavar='N',
                        help='(default: 60, or 24)')
    parser.add_argument('--at-once', type=int, default=8, metavar='N',
                        help='how many are booted at a time (default: '
                             '%(default)s)')
    parser.add_argument('--limit', type=int, metavar='SECONDS',
                        help='how long to wait for a server that becomes '
                             'neither (default: 60, or 30)')
    commands.add_mode(parser)


def checked(args):
    """The cases to run; the other arguments are completed.

    :raises LabError: when something is wrong with them
    """
    for name, value in (QUICK if args.quick else FULL).items():
        if getattr(args, name) in (None, []):
            setattr(args, name, value)
    for name in ('servers', 'at_once', 'limit'):
        if getattr(args, name) < 1:
            raise LabError('--%s is at least 1' % name.replace('_', '-'))
    cases = list(args.cases)
    for name in cases:
        if name not in CASES:
            raise LabError('%s is no case, but %s are' % (
                name, ', '.join(CASES)))
    if not cloud.has_worker_hosts(binary='nova-conductor'):
        cases = [name for name in cases if 'conductor' not in name]
        if not cases:
            raise LabError('the workers of this nova-conductor have no '
                           'worker hosts')
    args.stock = cloud.stock(args.stock)
    return cases


def main(args, results):
    cases = checked(args)
    found = {}
    for kind, tree in (('stock', args.stock), ('series', None)):
        results.progress('%s: starting a whole cloud' % kind)
        with whole.WholeCloud(
                tree=tree, workers=WORKERS, computes=COMPUTES, mode=args.mode,
                conf=CONF, threads=THREADS,
                progress=results.progress) as this, this.connect() as client:
            servers = boots.Boots(client, whole.IMAGE, whole.FLAVOR)
            # The first ones also fill caches and open connections.
            results.progress(kind + ', to warm up: ' + told(servers.run(
                args.at_once, args.at_once, args.limit)))
            delete(results, servers)
            for name in cases:
                found[name, kind] = measure(args, results, this, servers,
                                            '%s, %s' % (kind, name),
                                            CASES[name])
    show(args, results, cases, found)
    return 0


def measure(args, results, this, servers, title, fault):
    """One case: put the fault in, boot, and leave a healthy cloud behind."""
    results.progress(title)
    if fault:
        stick(this, *fault)
    outcome = servers.run(
        args.servers, args.at_once, args.limit, lambda now: results.progress(
            '%s: %d ACTIVE, %d ERROR' % (title, now.active, now.error)))
    results.progress('%s: %s' % (title, told(outcome)))
    if fault:
        this.restart_workers()
    delete(results, servers)
    return outcome


def told(outcome):
    return '%d ACTIVE, %d ERROR, %d neither, in %.0f s' % outcome


def delete(results, servers):
    left = servers.delete()
    if left:
        results.progress('%d servers could not be deleted' % left)


def stick(this, topic, fault):
    """Have one worker of a service be stuck.

    :param topic: scheduler or conductor, that of the API
    :param fault: one of ``FAULTS``
    """
    service, = (service for service in (*this.schedulers, *this.conductors)
                if service.topic() == topic
                and service.broker is this.broker)
    worker = service.workers()[2]
    if fault == 'stopped':
        this.faults.stop(worker)
    elif fault == 'slow':
        this.faults.slow(worker, SLOW, METHODS[topic])
    else:
        this.fill(service, 2, THREADS[topic])


def show(args, results, cases, found):
    results.table(
        '%d servers, %d at a time; one of %d workers is stuck' % (
            args.servers, args.at_once, WORKERS),
        ['Case', 'Nova', 'ACTIVE', 'ERROR', 'Neither', 'Seconds for all'],
        [[name, kind, *found[name, kind]] for name in cases
         for kind in ('stock', 'series')])
    for name, title, y, value in (
            ('active', 'Servers that became ACTIVE, of %d' % args.servers,
             'servers', lambda outcome: outcome.active),
            ('seconds', 'Until the last server was ACTIVE or in ERROR',
             'seconds', lambda outcome: outcome.seconds)):
        results.bars(name, title, y, cases, {
            kind: [value(found[case, kind]) for case in cases]
            for kind in ('stock', 'series')})
    results.note(
        'A call waits %d s for its answer (rpc_response_timeout), and a '
        'worker that begins no message is replaced after %d s '
        '(worker_timeout, of the series alone; report_interval is %d s). A '
        'slow worker takes %d s more for each request. A server that was '
        'neither ACTIVE nor in ERROR was given up after %d s. '
        'executor_thread_pool_size is %d for nova-scheduler and %d for '
        'nova-conductor.' % (
            CALL_TIMEOUT, WORKER_TIMEOUT, REPORT_INTERVAL, SLOW, args.limit,
            THREADS['scheduler'], THREADS['conductor']))
