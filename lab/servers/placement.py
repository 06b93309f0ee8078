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

from lab import process
from lab.servers import wsgi

TOKEN = 'admin'


class Placement(wsgi.Application):
    """A running Placement; its ``url`` is the endpoint."""

    application = 'placement.wsgi.api:application'
    name = 'placement'

    def __init__(self, folder, database_url):
        """Start it and wait until it answers.

        :param folder: for its configuration and log
        :param database_url: of a synced database
        :raises LabError: when it does not start
        """
        super().__init__(folder, database_url=database_url)
        try:
            self.wait_ready()
        except BaseException:
            self.kill()
            raise

    def configure(self):
        process.write_conf(os.path.join(self.folder, 'placement.conf'), {
            'DEFAULT': {'use_stderr': 'true'},
            'api': {'auth_strategy': 'noauth2'},
            'placement_database': {'connection': self.database_url}})
        return {'OS_PLACEMENT_CONFIG_DIR': self.folder}

    def conf(self):
        """What nova is to have in its configuration to reach it."""
        return {'auth_type': 'admin_token', 'token': TOKEN,
                'endpoint': self.url, 'endpoint_override': self.url}
