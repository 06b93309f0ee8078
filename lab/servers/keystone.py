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

"""Keystone, served for real by a process of its own."""

import os

from cryptography import fernet
import openstack

from lab import process
from lab.servers import database
from lab.servers import wsgi

USER = 'admin'
PASSWORD = 'lab'
PROJECT = 'admin'
DOMAIN = 'Default'
REGION = 'lab'


class Keystone(wsgi.Application):
    """A running Keystone; its ``auth_url`` is what clients are told.

    It takes the ``database_url`` of a synced database. Nobody can log in
    before ``bootstrap``.
    """

    application = 'keystone.wsgi.api:application'
    name = 'keystone'

    @property
    def auth_url(self):
        return self.url + '/v3'

    def configure(self):
        keys = os.path.join(self.folder, 'fernet-keys')
        os.mkdir(keys, 0o700)
        # As "keystone-manage fernet_setup" makes them.
        for name in ('0', '1'):
            with open(os.path.join(keys, name), 'wb') as stream:
                stream.write(fernet.Fernet.generate_key())
        process.write_conf(os.path.join(self.folder, 'keystone.conf'), {
            'DEFAULT': {'use_stderr': 'true'},
            'database': {'connection': self.database_url},
            'fernet_tokens': {'key_repository': keys},
            'fernet_receipts': {'key_repository': keys},
            # Nobody attacks these passwords, and each service sends one.
            'identity': {'password_hash_rounds': 4},
            'token': {'expiration': 86400}})
        return {'OS_KEYSTONE_CONFIG_DIR': self.folder}

    def bootstrap(self):
        """Make the administrator and Keystone's own endpoints.

        :raises LabError: when that fails
        """
        database.run([
            database.program('keystone-manage'), '--config-file',
            os.path.join(self.folder, 'keystone.conf'), 'bootstrap',
            '--bootstrap-username', USER, '--bootstrap-password', PASSWORD,
            '--bootstrap-project-name', PROJECT,
            '--bootstrap-region-id', REGION,
            '--bootstrap-public-url', self.auth_url,
            '--bootstrap-internal-url', self.auth_url,
            '--bootstrap-admin-url', self.auth_url])

    def register(self, endpoints):
        """Put services into the catalogue.

        :param endpoints: type of the service -> URL
        """
        with self.connect() as connection:
            for kind, url in endpoints.items():
                service = connection.identity.create_service(
                    name=kind, type=kind)
                connection.identity.create_endpoint(
                    service_id=service.id, interface='public', url=url,
                    region_id=REGION)

    def credentials(self):
        """How the administrator logs in, as ``openstack.connect`` takes it."""
        return {'auth_url': self.auth_url, 'username': USER,
                'password': PASSWORD, 'project_name': PROJECT,
                'user_domain_name': DOMAIN, 'project_domain_name': DOMAIN}

    def connect(self):
        """An ``openstack.connection.Connection`` of the administrator."""
        # Whatever is configured for the user who runs the lab is not meant.
        return openstack.connect(
            load_envvars=False, load_yaml_config=False, region_name=REGION,
            auth=self.credentials(), compute_default_microversion='2.37')

    def conf(self):
        """What a service is to have in its configuration to log in."""
        return dict(self.credentials(), auth_type='password',
                    region_name=REGION)

    def token_conf(self):
        """What a service is to have to check the tokens of its callers."""
        return dict(self.conf(), www_authenticate_uri=self.auth_url,
                    interface='public',
                    service_token_roles_required='true')
