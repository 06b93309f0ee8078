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

import os

from lab import process
from lab.servers import wsgi


class Glance(wsgi.Application):
    """A running Glance; its ``url`` is the endpoint.

    It takes the ``database_url`` of a synced database, and ``keystone``, a
    ``keystone.Keystone``.
    """

    application = 'glance.wsgi.api:application'
    name = 'glance'

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
            'paste_deploy': {
                'flavor': 'keystone', 'config_file': wsgi.brought(
                    'glance', 'etc/glance/glance-api-paste.ini')},
            'keystone_authtoken': self.keystone.token_conf(),
        })
        return {'OS_GLANCE_CONFIG_DIR': self.folder}
