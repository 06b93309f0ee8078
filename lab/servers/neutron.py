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

"""A stand-in for Neutron: a cloud that has no network at all.

nova asks it even about servers that are not to have any: it is told of empty
lists, and of quotas without a limit.
"""

import webob
from webob import dec

from lab.servers import wsgi


class Neutron(wsgi.Application):
    """A running stand-in; its ``url`` is the endpoint."""

    application = 'lab.servers.neutron:application'
    name = 'neutron'


@dec.wsgify
def application(request):
    """Answer what is read; nothing can be made here."""
    parts = request.path_info.strip('/').split('/')
    status, body = 404, {'NeutronError': {
        'type': 'NotFound', 'detail': '',
        'message': 'there is no network here'}}
    if request.method != 'GET':
        status = 501
    elif parts[0] != 'v2.0':
        status, body = 200, {'versions': [{
            'id': 'v2.0', 'status': 'CURRENT', 'links': []}]}
    elif parts[1:2] == ['quotas']:
        status, body = 200, {'quota': {
            name: -1 for name in ('network', 'port', 'floatingip',
                                  'security_group', 'security_group_rule')}}
    elif len(parts) == 2:
        name = parts[1].removesuffix('.json').replace('-', '_')
        status, body = 200, {name: []}
    return webob.Response(json_body=body, status=status)
