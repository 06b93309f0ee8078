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

"""Three workers: seconds from SIGTERM to the parent's exit."""

import contextlib
import functools
import random
import signal
import time

from lab.measure import pairs
from lab import process

TITLE = 'Three workers: from SIGTERM to the end of the parent'


def variants(args, stack):
    made = pairs.start_cloud(args, stack)
    return pairs.compared(args, functools.partial(measure, made, args))


def measure(made, args, tree, conf):
    row = {}
    for name in ('idle', f'under {pairs.CALLERS} callers'):
        with contextlib.ExitStack() as stack:
            scheduler = stack.enter_context(
                pairs.serving(made, args, tree, conf))
            if name == 'idle':
                # A thread of a pool that has run something is waited for.
                with pairs.calling(made):
                    pass
                # An idle listener of oslo.messaging looks up every five
                # seconds, so it depends on when it is told to stop.
                time.sleep(random.uniform(5, 10))
            else:
                stack.enter_context(pairs.calling(made, pairs.TIMEOUT))
            began = time.monotonic()
            scheduler.process.send_signal(signal.SIGTERM)
            process.wait(lambda: not scheduler.running(), 120,
                         'nova-scheduler to end', scheduler.log)
            row[f'{name}, s'] = time.monotonic() - began
    return row
