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

"""A TCP server that passes on what it gets, but late: a broker far away.

A process of its own, with a thread for each direction of each connection.
Where the kernel has ``netem`` that does the same; but not all have.
"""

import contextlib
import queue
import socket
import sys
import threading
import time
import urllib.parse

from lab import process


def _pass_on(source, target, delay):
    """Pass on all that comes, ``delay`` seconds later, whatever its size."""
    late = queue.SimpleQueue()

    def send():
        while True:
            due, data = late.get()
            time.sleep(max(0, due - time.monotonic()))
            try:
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(data)
            except OSError:
                return

    threading.Thread(target=send, daemon=True).start()
    data = True
    while data:
        try:
            data = source.recv(65536)
        except OSError:
            data = b''
        late.put((time.monotonic() + delay, data))


def serve(host, port, delay):
    """Serve on a free port, written to stdout as soon as it listens."""
    with socket.create_server(('127.0.0.1', 0)) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            near, _ = server.accept()
            far = socket.create_connection((host, port))
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for pair in ((near, far), (far, near)):
                threading.Thread(target=_pass_on, args=(*pair, delay),
                                 daemon=True).start()


@contextlib.contextmanager
def delayed(near, delay):
    """A broker from further away, for the time of a ``with``.

    :param near: its URL
    :param delay: seconds that everything takes more, each way
    :returns: the other URL
    """
    url = urllib.parse.urlsplit(near)
    with process.module('lab.faults.proxy', url.hostname, url.port or 5672,
                        delay) as (_child, port):
        yield url._replace(netloc='%s@127.0.0.1:%d' % (
            url.netloc.rpartition('@')[0], int(port))).geturl()


if __name__ == '__main__':
    serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
