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

"""A box on the way to a server that drops what it likes.

Stands before the RabbitMQ or the MariaDB of some clients. Others go directly,
and reach the server as before.
"""

import contextlib
import re
import select
import socket
import struct
import threading
import time

# AMQP 0-9-1: the frame of a method, and basic.publish (class 60, method 40).
METHOD = 1
PUBLISH = struct.pack('>HH', 60, 40)


class Middlebox:
    """A TCP proxy before a server of the loopback interface.

    Use it in a ``with``; it passes everything until it is told otherwise.
    """

    def __init__(self, port):
        """Choose the server; it listens from the ``with`` on.

        :param port: of the server
        """
        self.target = port
        self.port = None
        self._listener = None
        self._backlog = []
        self.connections = set()
        # Whether anything passes, and whether connections are accepted.
        self._passes = True
        self._accepts = True
        self._holds_published = False
        self._changed = threading.Condition()
        self._closed = False

    def url(self, url):
        """The same URL of the server by way of the box."""
        return re.sub(r'(?<=127\.0\.0\.1:)%d\b' % self.target,
                      str(self.port), url)

    def __enter__(self):
        self._listen()
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *exc):
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.refuse()

    # What can be wrong with it. The last one wins.

    def restore(self):
        """Pass everything again.

        What was under way arrives now, as a network that had lost packets
        sends them again, but for what was ``abandon``ed.
        """
        self._set(True, True, False)
        while self._backlog:
            self._backlog.pop().close()
        if self._listener is None:
            self._listen()
        self._listener.listen(128)

    def refuse(self):
        """Reset all connections and refuse new ones: no server is there."""
        listener, self._listener = self._listener, None
        if listener:
            listener.close()
        self.reset()

    def reset(self):
        """Reset all connections; new ones pass as before."""
        for connection in list(self.connections):
            connection.reset()

    def silence(self):
        """Nothing passes; connections are accepted, but nobody answers."""
        self._set(False, True, False)

    def vanish(self):
        """Nothing passes, and packets for new connections are dropped."""
        self._set(False, False, False)
        # The kernel drops them once its backlog is full: so fill it.
        self._listener.listen(0)
        while True:
            filler = socket.socket()
            filler.settimeout(0.3)
            self._backlog.append(filler)
            try:
                filler.connect(('127.0.0.1', self.port))
            except TimeoutError:
                return

    def abandon(self, client=None):
        """Nothing passes ever again on the connections that there are.

        As if a firewall between had forgotten them: they stay half open. New
        ones pass.

        :param client: a ``psutil.Process``, whose connections they are; those
            of all if None
        """
        ports = client and {
            found.laddr.port for found in client.net_connections('tcp')}
        for connection in list(self.connections):
            if ports is None or connection.port in ports:
                connection.abandoned = True

    def hold_published(self):
        """Pass nothing more of a client from its next message on.

        A RabbitMQ that delivers but takes nothing: it reads no more from a
        connection that publishes, and confirms nothing.
        """
        self._set(True, True, True)

    def _set(self, passes, accepts, holds_published):
        with self._changed:
            self._passes = passes
            self._accepts = accepts
            self._holds_published = holds_published
            self._changed.notify_all()

    def _listen(self):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(('127.0.0.1', self.port or 0))
        listener.listen(128)
        self.port = listener.getsockname()[1]
        self._listener = listener

    def _serve(self):
        while not self._closed:
            listener = self._listener
            if listener is None or not self._accepts:
                time.sleep(0.05)
                continue
            # It may be closed meanwhile.
            with contextlib.suppress(OSError, ValueError):
                if select.select([listener], [], [], 0.05)[0]:
                    _Connection(self, listener.accept()[0])

    def wait_to_pass(self, connection, published=False):
        """Wait until something may pass; False if it never will.

        :param published: whether a message of the client is part of it
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (
                self._passes and not connection.abandoned and
                not (published and self._holds_published)))
        return not self._closed


class _Connection:
    """A connection of a client, and the one to the server."""

    def __init__(self, box, client):
        self.abandoned = False
        #: The one that the client has it on.
        self.port = client.getpeername()[1]
        self._box = box
        self._client = client
        self._server = None
        box.connections.add(self)
        threading.Thread(target=self._run, daemon=True).start()

    def reset(self):
        """Close both, so that the client is told by a reset."""
        self._box.connections.discard(self)
        for sock in filter(None, (self._client, self._server)):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                struct.pack('ii', 1, 0))
                # Wakes up whoever reads from it.
                sock.shutdown(socket.SHUT_RD)
            sock.close()

    def _run(self):
        if not self._box.wait_to_pass(self):
            return
        try:
            self._server = socket.create_connection(
                ('127.0.0.1', self._box.target))
        except OSError:
            self.reset()
            return
        for sock in (self._client, self._server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = threading.Thread(
            target=self._pump, daemon=True,
            args=(self._server, self._client, None))
        back.start()
        self._pump(self._client, self._server, _Frames())
        back.join()
        self._box.connections.discard(self)
        for sock in (self._client, self._server):
            sock.close()

    def _pump(self, source, sink, frames):
        try:
            while data := source.recv(65536):
                published = frames is not None and frames.publish(data)
                if not self._box.wait_to_pass(self, published):
                    return
                sink.sendall(data)
            if self._box.wait_to_pass(self):
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            if self._box.wait_to_pass(self):
                self.reset()


class _Frames:
    """The AMQP frames that one client sends, if it is AMQP at all."""

    def __init__(self):
        self._amqp = None
        self._rest = b''

    def publish(self, data):
        """Whether a message is published in what comes next."""
        if self._amqp is None:
            self._amqp = data.startswith(b'AMQP')
            data = data[8:]
        if not self._amqp:
            return False
        self._rest += data
        found = False
        while len(self._rest) >= 7:
            kind, _channel, size = struct.unpack_from('>BHI', self._rest)
            # An octet after the payload ends the frame.
            if len(self._rest) < size + 8:
                break
            found |= kind == METHOD and self._rest[7:11] == PUBLISH
            self._rest = self._rest[size + 8:]
        return found
