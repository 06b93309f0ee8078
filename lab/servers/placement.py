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

"""Placement, served for real by a process of its own."""

import os
import socketserver
import subprocess
import sys
from wsgiref import simple_server

from lab import LabError
from lab import process

CONF = """\
[DEFAULT]
use_stderr = true
[api]
auth_strategy = noauth2
[placement_database]
connection = %s
"""

TOKEN = 'admin'

# Where the package lab is, for programs of ours run as children.
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))


class Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True


class Handler(simple_server.WSGIRequestHandler):
    def log_message(self, *args):
        """Say nothing: nova's requests are in nova's own log."""


def serve():
    """Serve on a free port, written to stdout as soon as it listens."""
    from placement.wsgi import api
    with simple_server.make_server('127.0.0.1', 0, api.application,
                                   Server, Handler) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


class Placement(process.Child):
    """A running Placement; its ``url`` is the endpoint."""

    def __init__(self, folder, database_url):
        """Start it and wait until it listens.

        :param folder: for its configuration and log
        :param database_url: of a synced database
        :raises LabError: when it does not start
        """
        with open(os.path.join(folder, 'placement.conf'), 'w') as stream:
            stream.write(CONF % database_url)
        super().__init__(
            [sys.executable, '-m', 'lab.servers.placement'],
            os.path.join(folder, 'placement.log'),
            {'OS_PLACEMENT_CONFIG_DIR': folder, 'PYTHONPATH': os.pathsep.join(
                filter(None, [ROOT, os.environ.get('PYTHONPATH')]))},
            stdout=subprocess.PIPE)
        try:
            # Ends with the process, so it does not wait for ever.
            line = self.process.stdout.readline()
            if not line:
                raise LabError('Placement did not start', self.log())
        except BaseException:
            self.kill()
            raise
        self.url = 'http://127.0.0.1:%d' % int(line)

    def conf(self):
        """What nova is to have in its configuration to reach it."""
        return {'auth_type': 'admin_token', 'token': TOKEN,
                'endpoint': self.url, 'endpoint_override': self.url}


if __name__ == '__main__':
    serve()
