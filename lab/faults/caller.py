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

"""A client with calls under way that dies, and nobody takes their answers."""

import contextlib
import json
import sys
import threading

from lab import process
from lab import rpc

# Seconds that it would wait: for longer than anybody lets it live.
TIMEOUT = 600


def call(url, options, calls):
    """Call ``ping`` so many times at once, in a process of its own.

    Writes the name of its reply queue to stdout before.
    """
    client = rpc.Client(url, options=options)
    # That of all its calls.
    print(client.transport._driver._get_reply_q(), flush=True)
    threads = [threading.Thread(target=client.ping, args=(None, TIMEOUT))
               for _call in range(calls)]
    for thread in threads:
        thread.start()


@contextlib.contextmanager
def dying(broker, calls):
    """The process, for the time of a ``with``; yields what kills it.

    Its reply queue is deleted then, as the broker would later.

    :param broker: a ``broker.Broker``
    :param calls: how many calls it has under way
    """
    # The queue manager would need a folder for its locks.
    options = json.dumps({**broker.options, 'use_queue_manager': False})
    with process.module('lab.faults.caller', broker.transport_url, options,
                        calls) as (child, queue):
        def kill():
            child.kill()
            process.wait(lambda: not broker.queue(queue)[1], 30,
                         'the broker to see that it is gone')
            broker.delete([queue])

        yield kill


if __name__ == '__main__':
    call(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]))
