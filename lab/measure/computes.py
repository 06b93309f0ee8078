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

"""Ten nova-computes, whose heartbeats pass a nova-conductor with a fault."""

import functools
import time

from oslo_utils import timeutils

from lab.measure import pairs

TITLE = ('Ten nova-computes, and one of three nova-conductor workers stuck: '
         'how many were down')

COMPUTES = 10
STUCK = 2
THREADS = 8

# Half of nova's defaults, and so is what else waits for them.
REPORT_INTERVAL = 5
SERVICE_DOWN_TIME = CALL_TIMEOUT = 30
CONF = {'DEFAULT': {'report_interval': REPORT_INTERVAL,
                    'service_down_time': SERVICE_DOWN_TIME,
                    'rpc_response_timeout': CALL_TIMEOUT,
                    'executor_thread_pool_size': THREADS},
        'conductor': {'worker_timeout': 3 * REPORT_INTERVAL}}

# Seconds to look at the records: time for each heartbeat to be lost twice.
LOOK = 90
INTERVAL = 0.5


def variants(args, stack):
    made = pairs.start_cloud(args, stack, CONF)
    hosts = {f'compute-{number}' for number in range(1, COMPUTES + 1)}
    for host in sorted(hosts):
        made.compute(host, mode=args.mode)
    for fault in ('stopped', 'blocked'):
        yield from pairs.compared(args, functools.partial(
            measure, made, args, fault, hosts), f', {fault}')


def measure(made, args, fault, hosts, tree, conf):
    with pairs.serving(made, args, tree, conf, 'conductor') as conductor:
        # Each has had an answer from this one: what it lost to the one before
        # is not put down to the fault.
        since = timeutils.utcnow()
        made.wait(lambda: hosts <= {
            record.host for record in made.services(binary='nova-compute')
            if record.last_seen_up and record.last_seen_up > since},
            300, 'all computes to be up')
        if fault == 'stopped':
            made.faults.stop(conductor.workers()[STUCK])
        else:
            made.fill(conductor, STUCK, THREADS)
        end = time.monotonic() + LOOK
        down, most, looks, bad = set(), 0, 0, 0
        while time.monotonic() < end:
            found = hosts - made.up(SERVICE_DOWN_TIME, binary='nova-compute')
            down |= found
            most = max(most, len(found))
            looks += 1
            bad += bool(found)
            time.sleep(INTERVAL)
        # In an orderly way it would wait for what is blocked.
        conductor.kill()
    return {'computes that were down': len(down), 'most at a time': most,
            f'of {LOOK} s, with one down': round(LOOK * bad / looks)}
