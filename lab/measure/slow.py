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

"""One of three workers takes 0.5 s a call, with two threads each."""

import functools

from lab.measure import pairs

TITLE = 'One of three workers slow (0.5 s a call, two threads each)'

CONF = {'DEFAULT': {'executor_thread_pool_size': 2}}
# Seconds in which its backlog builds up.
BACKLOG = 5


def variants(args, stack):
    made = pairs.start_cloud(args, stack)
    return pairs.compared(args, functools.partial(measure, made, args))


def measure(made, args, tree, conf):
    with pairs.serving(made, args, tree,
                       pairs.merged(conf, CONF)) as scheduler, \
            pairs.calling(made) as callers:
        healthy = pairs.healthy_rate(callers)
        worker = scheduler.workers()[2]
        made.faults.slow(worker, 0.5)
        callers.rate(BACKLOG)
        since = callers.elapsed()
        rate = callers.rate(2 * pairs.RATE)
        p50, p99 = pairs.percentiles(callers.latencies(since))
        made.faults.free(worker)
        callers.stop()
    return {'healthy, calls/s': healthy, 'goodput of healthy': rate / healthy,
            'p50, ms': p50, 'p99, ms': p99,
            'lost': sum(callers.counts()[1:])}
