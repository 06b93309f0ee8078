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

"""What the dashboard for Grafana shows while a worker is stuck, as a picture.

A Prometheus scrapes a nova-scheduler of three workers, one of which is blocked
for a while and replaced. Then each panel of
doc/source/admin/scheduler-workers-dashboard.json is drawn, with its own title
and place, from what Prometheus answers to the expressions of the panel.

Needs Prometheus: apt-get install prometheus, or its program in PATH.
"""

import contextlib
import json
import os
import re
import shutil
import time
import urllib.parse
import urllib.request

from lab import commands
from lab import LabError
from lab.measure.faults import stage
from lab.measure import pairs
from lab import pictures
from lab import process
from lab import rpc
from lab.servers import cloud

DASHBOARD = os.path.join(process.ROOT, 'doc', 'source', 'admin',
                         'scheduler-workers-dashboard.json')

CONF = {'DEFAULT': {'report_interval': 2, 'service_down_time': 10,
                    'executor_thread_pool_size': 8},
        'scheduler': {'worker_timeout': 20}}

# Seconds that each caller waits before a call, as the picture is no benchmark,
# and seconds from one scrape to the next.
PAUSE = 0.2
SCRAPE = 1


def add_arguments(parser):
    parser.add_argument('--seconds', type=int, default=60, metavar='N',
                        help='before the fault, and after it '
                             '(default: %(default)s)')
    commands.add_mode(parser)
    parser.set_defaults(service='scheduler')


def main(args, results):
    if args.seconds < 10:
        raise LabError('--seconds is at least 10')
    program = shutil.which('prometheus')
    if not program:
        raise LabError('there is no Prometheus: apt-get install prometheus')
    args.mode = args.mode or cloud.modes()[0]
    with open(DASHBOARD) as stream:
        panels = json.load(stream)['panels']
    with contextlib.ExitStack() as stack:
        made = pairs.start_cloud(args, stack)
        port = process.free_port()
        service = stack.enter_context(pairs.serving(
            made, args, cloud.find_tree(), pairs.merged(CONF, {
                'healthcheck': {'uri': f'tcp://127.0.0.1:{port}'}})))
        prometheus = stack.enter_context(
            Prometheus(program, made.folder, port))
        callers = stack.enter_context(rpc.Callers(
            client := stack.enter_context(made.client()), pairs.CALLERS,
            pairs.TIMEOUT, pause=PAUSE, call=client.work))
        began = time.time()
        results.progress('all is well')
        callers.rate(args.seconds)
        results.progress('worker 2 is blocked')
        made.faults.block(service.workers()[2], stage.WORK)
        callers.rate(args.seconds)
        drawn = [(panel, prometheus.panel(panel, began, time.time()))
                 for panel in panels]
    stem = os.path.join(results.folder, results.command)
    for path in pictures.dashboard(drawn, stem):
        results.progress(f'wrote {path}')
    empty = [panel['title'] for panel, series in drawn if not series]
    if empty:
        raise LabError('nothing to draw in ' + ', '.join(empty))
    return 0


class Prometheus(process.Child):
    """A Prometheus that scrapes one service."""

    def __init__(self, program, folder, port):
        self.port = process.free_port()
        path = os.path.join(folder, 'prometheus.json')
        with open(path, 'w') as stream:
            # YAML takes JSON.
            json.dump({'scrape_configs': [{
                'job_name': 'nova', 'scrape_interval': f'{SCRAPE}s',
                'static_configs': [{'targets': [f'127.0.0.1:{port}']}]}]},
                stream)
        super().__init__(
            [program, f'--config.file={path}',
             f'--web.listen-address=127.0.0.1:{self.port}',
             '--storage.tsdb.path=' + os.path.join(folder, 'prometheus')],
            os.path.join(folder, 'prometheus.log'))

    def panel(self, panel, began, ended):
        """What a panel shows: a label and points (time, value) each."""
        found = []
        for target in panel['targets']:
            query = urllib.parse.urlencode({
                'query': target['expr'].replace('$service', '.*'),
                'start': began, 'end': ended, 'step': SCRAPE})
            with urllib.request.urlopen(
                    f'http://127.0.0.1:{self.port}/api/v1/query_range?'
                    + query, timeout=30) as answer:
                for series in json.load(answer)['data']['result']:
                    label = target.get('legendFormat', '')
                    for name, value in series['metric'].items():
                        label = label.replace('{{%s}}' % name, value)
                    # There is one service on one node.
                    label = re.sub(r'\S*nova-scheduler \S+-(?=worker-)', '',
                                   label)
                    found.append((label, [
                        (at - began, float(value))
                        for at, value in series['values']]))
        return found
