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

"""Glance, served for real by a process of its own; images are files."""

import importlib.util
import os
import sys

from lab import LabError
from lab import process
from lab.servers import wsgi

PASTE = 'etc/glance/glance-api-paste.ini'


class Glance(wsgi.Application):
    """A running Glance; its ``url`` is the endpoint."""

    application = 'glance.wsgi.api:application'

    def __init__(self, folder, database_url, keystone):
        """Start it.

        :param folder: for its configuration, images and log
        :param database_url: of a synced database
        :param keystone: a ``keystone.Keystone``
        """
        self.database_url = database_url
        self.keystone = keystone
        super().__init__('glance', folder)

    def configure(self):
        stores = {name: os.path.join(self.folder, name)
                  for name in ('images', 'staging', 'tasks')}
        for path in stores.values():
            os.mkdir(path)
        process.write_conf(os.path.join(self.folder, 'glance-api.conf'), {
            'DEFAULT': {'use_stderr': 'true',
                        'enabled_backends': 'images:file',
                        'worker_self_reference_url': self.url},
            'database': {'connection': self.database_url},
            'glance_store': {'default_backend': 'images'},
            'images': {'filesystem_store_datadir': stores['images']},
            'os_glance_staging_store': {
                'filesystem_store_datadir': stores['staging']},
            'os_glance_tasks_store': {
                'filesystem_store_datadir': stores['tasks']},
            'paste_deploy': {'flavor': 'keystone', 'config_file': _paste()},
            'keystone_authtoken': self.keystone.token_conf(),
        })
        return {'OS_GLANCE_CONFIG_DIR': self.folder}


def _paste():
    """The path of what Glance brings as its paste configuration."""
    installed = os.path.dirname(os.path.dirname(
        importlib.util.find_spec('glance').origin))
    # Beside the package after "pip install --target".
    for folder in (installed, sys.prefix):
        path = os.path.join(folder, PASTE)
        if os.path.exists(path):
            return path
    raise LabError('Glance is installed without its %s' % PASTE)
