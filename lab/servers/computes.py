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

"""Compute nodes that have only records, and the request to choose one.

A scheduler does all of its work for them: it asks Placement for candidates,
filters and weighs their hosts, and claims the resources of the one it chose.
Run as a program it writes the records with nova's own code.
"""

import json
import sys
import uuid

import requests

from lab import process
from lab import rpc
from lab.servers import database
from lab.servers import placement

# So much that no benchmark fills a compute node.
INVENTORIES = {'VCPU': {'total': 10 ** 9}, 'MEMORY_MB': {'total': 10 ** 9},
               'DISK_GB': {'total': 10 ** 9}}

# What the configuration of a scheduler is to have: nobody writes heartbeats
# of these hosts; and callers that come at the same time get different hosts,
# as is recommended where there are several workers.
CONF = {'DEFAULT': {'service_down_time': 24 * 3600},
        'filter_scheduler': {'host_subset_size': 20}}


class Computes:
    """The compute nodes of a cloud.

    To be made before the scheduler starts that is to know them.
    """

    def __init__(self, cloud, count):
        """Write their records, and their inventories into Placement.

        :param cloud: a running ``cloud.Cloud``
        :param count: how many
        :raises LabError: when it fails
        """
        self.cloud = cloud
        self.nodes, self._spec = json.loads(database.run(
            [sys.executable, '-m', 'lab.servers.computes',
             cloud.config_file('computes'), str(count)],
            {'OS_NOVA_DISABLE_EVENTLET_PATCHING': 'true',
             'PYTHONPATH': process.nova_path(None, process.ROOT)}, 1800))
        for host, node in self.nodes.items():
            self._put('POST', '/resource_providers', name=host, uuid=node)
            self._put('PUT', '/resource_providers/%s/inventories' % node,
                      resource_provider_generation=0, inventories=INVENTORIES)
            # 2026.2 asks for it once all compute nodes are of 2026.2.
            self._put('PUT', '/resource_providers/%s/traits' % node,
                      resource_provider_generation=1, traits=['OWNER_NOVA'])

    def _put(self, method, path, **body):
        requests.request(
            method, self.cloud.placement.url + path, json=body, timeout=30,
            headers={'X-Auth-Token': placement.TOKEN,
                     'OpenStack-API-Version': 'placement 1.39'},
        ).raise_for_status()

    def sync(self, client):
        """Tell all schedulers that nothing runs on the hosts.

        Compute nodes do that every two minutes. A scheduler that has not
        heard it from a host twice asks the database about it each time.

        :param client: a ``rpc.Client``
        """
        for host in list(self.nodes) * 2:
            client.client.prepare(
                namespace=None, version='4.2', fanout=True).cast(
                rpc.CONTEXT, 'sync_instance_info', host_name=host,
                instance_uuids=[])

    def select(self, client, timeout=30):
        """Have a scheduler choose and claim a host for a new server.

        :param client: a ``rpc.Client``
        :param timeout: seconds to wait for the answer
        :returns: the name of the host
        :raises oslo_messaging.MessagingTimeout: without an answer in time
        """
        (selection, *_), = client.client.prepare(
            namespace=None, version='4.5', timeout=timeout).call(
            dict(rpc.CONTEXT, request_id=rpc.request_id()),
            'select_destinations', spec_obj=self._spec,
            instance_uuids=[str(uuid.uuid4())], return_objects=True,
            return_alternates=True)
        return selection['nova_object.data']['service_host']

    def forget(self):
        """Give back all that was claimed."""
        for table in ('allocations', 'consumers'):
            self.cloud.database.execute('placement', 'DELETE FROM ' + table)


def main(path, count):
    """Write the records; print the nodes, by host, and the request.

    :param path: of nova's configuration
    :param count: how many hosts with a compute node each
    """
    from nova import config
    from nova import context
    from nova import objects

    config.parse_args(['nova-manage', '--config-file', path])
    objects.register_all()
    admin = context.get_admin_context()
    cell, = (cell for cell in objects.CellMappingList.get_all(admin)
             if not cell.is_cell0())
    nodes = {}
    for number in range(1, count + 1):
        host = 'compute-%d' % number
        nodes[host] = str(uuid.uuid4())
        objects.Service(admin, host=host, binary='nova-compute',
                        topic='compute').create()
        objects.HostMapping(admin, host=host, cell_mapping=cell).create()
        objects.ComputeNode(
            admin, host=host, hypervisor_hostname=host, uuid=nodes[host],
            vcpus=64, memory_mb=2 ** 18, local_gb=2 ** 10, vcpus_used=0,
            memory_mb_used=0, local_gb_used=0, free_ram_mb=2 ** 18,
            free_disk_gb=2 ** 10, disk_available_least=2 ** 10,
            current_workload=0, running_vms=0, cpu_info='{}', stats={},
            hypervisor_type='QEMU', hypervisor_version=1, mapped=1,
            supported_hv_specs=[objects.HVSpec.from_list(
                ['x86_64', 'kvm', 'hvm'])],
            cpu_allocation_ratio=4.0, ram_allocation_ratio=1.0,
            disk_allocation_ratio=1.0).create()
    spec = objects.RequestSpec.from_components(
        admin, str(uuid.uuid4()), objects.ImageMeta.from_dict({}),
        objects.Flavor(
            id=1, flavorid='1', name='lab', vcpus=1, memory_mb=512, root_gb=1,
            ephemeral_gb=0, swap=0, rxtx_factor=1.0, vcpu_weight=0,
            disabled=False, is_public=True, extra_specs={}),
        None, None, {}, None, None, project_id='lab', user_id='lab')
    json.dump([nodes, spec.obj_to_primitive()], sys.stdout)


if __name__ == '__main__':
    main(sys.argv[1], int(sys.argv[2]))
