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

import json
import subprocess
import sys
import tempfile
import threading

from lab import LabError
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


class Caller:
    """The process, for the time of a ``with``."""

    def __init__(self, broker, calls):
        """Remember whom it calls.

        :param broker: a ``broker.Broker``
        :param calls: how many calls it has under way
        """
        self._broker = broker
        self._calls = calls

    def __enter__(self):
        with tempfile.NamedTemporaryFile(prefix='lab-caller-') as log:
            self._child = process.Child(
                [sys.executable, '-m', 'lab.faults.caller',
                 self._broker.transport_url,
                 json.dumps(self._broker.options), str(self._calls)], log.name,
                {'PYTHONPATH': process.nova_path(process.ROOT)},
                stdout=subprocess.PIPE)
            # Ends with the process, so it does not wait for ever.
            line = self._child.process.stdout.readline()
            self._queue = line.decode().strip()
            if not self._queue:
                raise LabError('the caller did not start', self._child.log())
        return self

    def kill(self):
        """Kill it, and delete its reply queue, as the broker would later."""
        self._child.kill()
        process.wait(lambda: not self._broker.queue(self._queue)[1], 30,
                     'the broker to see that it is gone')
        self._broker.delete([self._queue])

    def __exit__(self, *exc):
        self._child.kill()


if __name__ == '__main__':
    call(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]))
