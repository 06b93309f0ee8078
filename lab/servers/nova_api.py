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

from lab import process
from lab.servers import wsgi


class NovaAPI(wsgi.Application):
    """A running nova-api; its ``endpoint`` is what clients are told.

    It takes ``conf_path``, of its configuration, and ``nova_tree``, the folder
    of the nova to run; the installed one if None.
    """

    application = 'nova.wsgi.osapi_compute:application'
    name = 'nova-api'

    @property
    def endpoint(self):
        return self.url + '/v2.1'

    def configure(self):
        return {'OS_NOVA_CONFIG_FILES': '%s;%s' % (
                    wsgi.brought('nova', 'etc/nova/api-paste.ini',
                                 self.nova_tree), self.conf_path),
                'OS_NOVA_DISABLE_EVENTLET_PATCHING': 'true',
                'PYTHONPATH': process.nova_path(self.nova_tree)}
