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

"""Calls that are lost where workers are stopped and started.

What operators do to a service that is in use, and that may lose no call.
"""

import functools

from lab.measure import pairs
from lab import process
from lab import rpc
from lab.servers import cloud

TITLE = ('Calls lost where workers stop: two nodes, 3 and 1 workers, callers '
         'who wait 12 s')

# Of the first node; the second has fewer, as it is there to go on serving.
WORKERS = 3
# Seconds for a process to end or to serve; requests may have to end first.
TIMEOUT = 90


class Nodes:
    """Two nodes, and what is done to them; each waits until all serve again.

    :param cloud: a running ``cloud.Cloud``
    :param mode: the concurrency mode
    :param topic: of the service: scheduler or conductor
    :param second: how many workers the second node has
    :param options: for ``Cloud.scheduler``, or ``Cloud.conductor``
    """

    #: What is done, by the methods that do it.
    EVENTS = {'terminate_worker': 'SIGTERM of a worker',
              'hup': 'SIGHUP',
              'restart': 'restart of one node after the other',
              'scale_down': 'scale-down from 3 to 2 workers'}

    def __init__(self, cloud, mode, topic='scheduler', second=1, **options):
        self._cloud = cloud
        self._mode = mode
        self._make = getattr(cloud, topic)
        self._options = options
        self._first = f'{topic}-node-1'
        self._services = {}
        for node, workers in ((self._first, WORKERS),
                              (f'{topic}-node-2', second)):
            self._start(node, workers)

    @property
    def schedulers(self):
        """Those of all nodes; one that was ended stays until the next."""
        return list(self._services.values())

    @property
    def first(self):
        """The ``cloud.Service`` of the first node."""
        return self._services[self._first]

    def _start(self, node, workers):
        self._services[node] = self._make(
            node=node, workers=workers, mode=self._mode, **self._options)
        self._services[node].wait_ready(TIMEOUT)

    def restart_one(self, node, workers=None):
        """Stop a node, and start it.

        :param node: its name
        :param workers: how many it has from now on; as many as before if None
        """
        before = self._services[node]
        before.stop(TIMEOUT)
        self._start(node, workers or before.worker_count)

    def terminate_worker(self):
        worker = self.first.workers()[2]
        worker.terminate()
        self._cloud.wait(lambda: not worker.is_running(), TIMEOUT,
                         'the worker to end')
        self.first.wait_ready(TIMEOUT)

    def hup(self):
        """As kolla-ansible does after each deployment."""
        self.first.reload(TIMEOUT)

    def restart(self):
        for node in list(self._services):
            self.restart_one(node)

    def scale(self, workers):
        """Have another number of workers on the first node."""
        self.restart_one(self._first, workers)

    def scale_down(self):
        self.scale(2)

    def scale_up(self):
        """Have as many workers again."""
        self.scale(WORKERS)

    def stop(self):
        """End both, in an orderly way."""
        for scheduler in self._services.values():
            scheduler.stop(TIMEOUT)


def setting(text):
    """Configuration from SECTION.OPTION=VALUE, as argparse takes it."""
    name, found, value = text.partition('=')
    section, _, option = name.partition('.')
    if not (section and option and found):
        raise ValueError
    return {section: {option: value}}


def add_arguments(group):
    group.add_argument('--companion', metavar='TREE',
                       help='folder of the built oslo.messaging (default: '
                            'that of the release)')
    group.add_argument('--times', type=int, default=1, metavar='N',
                       help='of each in a round (default: 1)')
    group.add_argument('--calls', type=int, metavar='N',
                       help='answered around each (default: 5000, or 1000)')
    group.add_argument('--set', nargs='*', default=[], type=setting,
                       metavar='SECTION.OPTION=VALUE',
                       help='configuration of all')


def variants(args, stack):
    companion = cloud.companion(args.companion)
    made = pairs.start_cloud(args, stack, pairs.merged(*args.set))
    for name, tree, conf in pairs.kinds(args):
        for suffix, packages in (('', ()),
                                 (' with the companion', (companion,))):
            yield pairs.Variant(name + suffix, functools.partial(
                measure, made, args, tree, conf, packages))


def measure(made, args, tree, conf, packages):
    row = dict.fromkeys(Nodes.EVENTS.values(), 0)
    nodes = Nodes(made, args.mode, args.service, tree=tree, conf=conf,
                  packages=packages)
    answered = 0
    for event, name in Nodes.EVENTS.items():
        for _time in range(args.times):
            with pairs.calling(made, 12, rpc.Client.work) as callers:
                getattr(nodes, event)()
                process.wait(
                    lambda: callers.counts().answered >= args.calls, 600,
                    f'{args.calls} answers', made.log)
            counts = callers.counts()
            row[name] += counts.lost + counts.failed
            answered += counts.answered
            if event == 'scale_down':
                nodes.scale_up()
    nodes.stop()
    return {f'{name}, lost': lost for name, lost in row.items()
            } | {'calls answered': answered}
