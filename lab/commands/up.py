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

"""A whole cloud to try: Keystone, Glance, Placement and all of nova.

Servers have no network, and nova-compute has the fake driver; all else is
real. It stays until it is interrupted, and is ended and deleted then.
"""

import argparse
import os
import shutil
import subprocess
import time

from lab import commands
from lab import LabError
from lab.servers import cloud
from lab.servers import whole

# Small, so that a stuck worker is soon seen to be down, and replaced.
CONF = {'DEFAULT': {'report_interval': 3, 'service_down_time': 12,
                    'rpc_response_timeout': 20},
        'scheduler': {'worker_timeout': 15},
        'conductor': {'worker_timeout': 15}}


def add_arguments(parser):
    parser.add_argument('--nodes', type=int, default=1, metavar='N',
                        help='nova-schedulers (default: %(default)s)')
    parser.add_argument('--workers', type=int, default=3, metavar='W',
                        help='workers of each of them, and of each of the two '
                             'nova-conductors (default: %(default)s)')
    parser.add_argument('--computes', type=int, default=2, metavar='M',
                        help='nova-computes (default: %(default)s)')
    parser.add_argument('--stock', action='store_true',
                        help='nova without the series')
    commands.add_mode(parser)
    parser.add_argument('--run', nargs=argparse.REMAINDER, metavar='COMMAND',
                        help='run this when it is up, and end with it; it is '
                             'the last option, and what is a shell\'s is in '
                             'quotes, of one word')


def main(args, results):
    if min(args.nodes, args.workers, args.computes) < 1:
        raise LabError('there is at least one of each')
    if args.run == []:
        raise LabError('--run takes a command')
    tree = cloud.stock_tree() if args.stock else cloud.find_tree()
    results.progress('starting a whole cloud with %s' % (
        'stock nova' if args.stock else 'the series'))
    with whole.WholeCloud(
            tree=tree, nodes=args.nodes, workers=args.workers,
            computes=args.computes, mode=args.mode, conf=CONF,
            progress=results.progress) as this:
        if args.run:
            return run(args.run, dict(os.environ, **this.env()))
        print(told(this, args.stock), flush=True)
        while True:
            this.check()
            time.sleep(1)


def run(command, env):
    """Run a command, of one word as a shell does, and return its code."""
    if len(command) == 1:
        command = ['sh', '-c', *command]
    elif shutil.which(command[0], path=env['PATH']) is None:
        raise LabError('there is no program ' + command[0])
    code = subprocess.run(command, env=env).returncode
    # As a shell has it, of what a signal has ended.
    return code if code >= 0 else 128 - code


def told(this, stock=False):
    """What somebody who is to try it has to know."""
    return '''
In another terminal:

    . %s
    openstack compute service list
    openstack server create --flavor %s --image %s --no-network --wait first
%s
or, with any client: auth URL %s, user and project %s, password %s. Logs and
configuration are in %s.
Ctrl-C ends and deletes all of it.
''' % (this.openrc, whole.FLAVOR, whole.IMAGE,
       '' if stock else '    nova-manage worker list\n',
       this.keystone.auth_url,
       this.env()['OS_USERNAME'], this.env()['OS_PASSWORD'], this.folder)
