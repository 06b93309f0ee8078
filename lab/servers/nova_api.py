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

"""nova-api, served for real by a process of its own."""

import importlib.util
import os
import sys

from lab import LabError
from lab import process
from lab.servers import wsgi

PASTE = 'etc/nova/api-paste.ini'


class NovaAPI(wsgi.Application):
    """A running nova-api; its ``endpoint`` is what clients are told."""

    application = 'nova.wsgi.osapi_compute:application'

    def __init__(self, folder, conf_path, tree=None):
        """Start it.

        :param folder: for its log
        :param conf_path: of its configuration
        :param tree: folder of the nova to run; the installed one if None
        """
        self.conf_path = conf_path
        self.nova_tree = tree
        super().__init__('nova-api', folder)

    @property
    def endpoint(self):
        return self.url + '/v2.1'

    def configure(self):
        return {'OS_NOVA_CONFIG_FILES': '%s;%s' % (
                    _paste(self.nova_tree), self.conf_path),
                'OS_NOVA_DISABLE_EVENTLET_PATCHING': 'true',
                'PYTHONPATH': process.nova_path(self.nova_tree)}


def _paste(tree):
    """The path of what nova brings as its paste configuration."""
    installed = os.path.dirname(os.path.dirname(
        importlib.util.find_spec('nova').origin))
    for folder in (tree, installed, sys.prefix):
        path = folder and os.path.join(os.path.abspath(folder), PASTE)
        if path and os.path.exists(path):
            return path
    raise LabError('nova is installed without its %s' % PASTE)
