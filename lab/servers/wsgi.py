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

"""A WSGI application, served for real by a process of its own.

Run as a program it serves one on a socket that it inherits.
"""

import importlib.util
import os
import socket
import socketserver
import sys
from wsgiref import simple_server

import requests

from lab import LabError
from lab import process

# Connections that may wait to be accepted.
BACKLOG = 128


class Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True


class Handler(simple_server.WSGIRequestHandler):
    def log_message(self, *args):
        """Say nothing: what is asked is in the log of who asks."""


class Application(process.Child):
    """A WSGI application that runs; its ``url`` is the endpoint.

    It can be told to others before it serves: what is sent to it meanwhile
    waits until it does.
    """

    # What is served, ``module:attribute``, and the name of its log.
    application = None
    name = None

    def __init__(self, folder, **attributes):
        """Start it.

        :param folder: for its configuration and its log
        :param attributes: what ``configure`` needs
        """
        vars(self).update(attributes, folder=folder)
        # The socket is ours until it is started, so nobody takes its port.
        with socket.create_server(('127.0.0.1', 0),
                                  backlog=BACKLOG) as listener:
            self.url = 'http://127.0.0.1:%d' % listener.getsockname()[1]
            env = self.configure()
            env['PYTHONPATH'] = process.nova_path(
                None, env.get('PYTHONPATH'), process.ROOT)
            super().__init__(
                [sys.executable, '-m', 'lab.servers.wsgi', self.application,
                 str(listener.fileno())],
                os.path.join(folder, self.name + '.log'), env,
                pass_fds=[listener.fileno()])

    def configure(self):
        """Write its configuration.

        :returns: the environment variables that it needs
        """
        return {}

    def wait_ready(self, timeout=60):
        """Wait until it answers.

        :param timeout: seconds
        :raises LabError: when it does not in time, or has ended
        """
        def ready():
            if not self.running():
                raise LabError('%s did not start' % self.name, self.log())
            try:
                return requests.get(self.url, timeout=timeout).status_code
            except requests.RequestException:
                return None

        process.wait(ready, timeout, self.name + ' to answer', self.log)
        return self


def brought(package, path, folder=None):
    """The path of a file that a package brings.

    :param path: from where the package is
    :param folder: where it is looked for first
    """
    installed = os.path.dirname(os.path.dirname(
        importlib.util.find_spec(package).origin))
    # Beside the package after "pip install --target".
    for each in filter(None, (folder, installed, sys.prefix)):
        found = os.path.join(os.path.abspath(each), path)
        if os.path.exists(found):
            return found
    raise LabError('%s is installed without its %s' % (package, path))


def serve(application, listener):
    """Serve an application for ever.

    :param application: ``module:attribute``
    :param listener: a file descriptor
    """
    # Some of them parse the command line, which is ours.
    del sys.argv[1:]
    module, _, attribute = application.partition(':')
    loaded = getattr(importlib.import_module(module), attribute)
    with socket.socket(fileno=listener) as inherited:
        server = Server(inherited.getsockname(), Handler, False)
        server.socket.close()
        server.socket = inherited
        server.server_name, server.server_port = inherited.getsockname()
        server.setup_environ()
        server.set_app(loaded)
        server.serve_forever()


if __name__ == '__main__':
    serve(sys.argv[1], int(sys.argv[2]))
