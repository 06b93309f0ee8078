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

"""Three sound workers: a call that does nothing, and a real one."""

import functools

from lab import LabError
from lab.measure import pairs
from lab import rpc
from lab.servers import computes

TITLE = ('Three sound workers: ping, and select_destinations over Placement '
         '(scheduler) or a read of the database (conductor)')


def add_arguments(group):
    group.add_argument('--nodes', type=int, default=100, metavar='N',
                       help='number of compute nodes (default: 100)')


def variants(args, stack):
    for name, tree, conf in pairs.kinds(args):
        # Each has a cloud of its own and is there all the time: nothing but
        # a few seconds is between what is compared.
        made = pairs.start_cloud(args, stack)
        nodes = None
        if args.service == 'scheduler':
            nodes = computes.Computes(made, args.nodes)
        service = stack.enter_context(pairs.serving(
            made, args, tree, pairs.merged(conf, computes.CONF)))
        if nodes:
            with made.client() as client:
                nodes.sync(client)
        yield pairs.Variant(
            name, functools.partial(measure, made, service, nodes),
            None if name == 'stock' else 'stock')


def measure(made, service, nodes):
    row = {}
    for name, call in (
            ('ping', rpc.Client.ping),
            ('select', nodes.select) if nodes else ('read', rpc.Client.read)):
        with pairs.calling(made, call=call) as callers:
            since, used = callers.elapsed(), pairs.cpu_seconds(service)
            rate = pairs.healthy_rate(callers)
            used = pairs.cpu_seconds(service) - used
            latencies = callers.latencies(since)
        counts = callers.counts()
        if counts.lost or counts.failed:
            raise LabError('%d calls were lost and %d failed' % counts[1:],
                           service.log())
        p50, p99 = pairs.percentiles(latencies)
        row.update({f'{name}, calls/s': rate, f'{name} p50, ms': p50,
                    f'{name} p99, ms': p99,
                    f'{name}, CPU ms a call': 1000 * used / len(latencies)})
    if nodes:
        # Or what it costs would grow with what was claimed before.
        nodes.forget()
    return row
