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

"""What a fault costs and who sees it, beside a nova that is as it was."""

import json

from lab.measure.faults import databases
from lab.measure.faults import messaging
from lab.measure.faults import nodes
from lab.measure.faults import operators
from lab.measure.faults import stage as stages
from lab.measure.faults import workers
from lab.servers import cluster
from lab.servers import galera

#: In the order of the table.
FAULTS = (*workers.FAULTS, *messaging.FAULTS, *databases.FAULTS,
          *operators.FAULTS, *(nodes.RABBITMQ if cluster.NODES > 1 else ()),
          *(nodes.GALERA if galera.GALERA else ()))


def measure(servers, fault, mode, tree, packages, stem):
    """Put a fault into a nova-scheduler of its own.

    :param servers: ``stage.servers``; the rest as for ``stage.Stage``
    :param stem: path of two files: ``.log``, what nova-scheduler logs, and
        ``.json``, all looks at it
    :returns: ``verdicts.Outcome``
    :raises LabError: when it does not come that far
    """
    with stages.Stage(servers, fault, mode, tree, packages) as stage:
        try:
            return stage.run()
        finally:
            with open(stem + '.log', 'w') as stream:
                stream.write(stage.cloud.log())
            with open(stem + '.json', 'w') as stream:
                json.dump([look._asdict() for look in stage.looks], stream,
                          default=sorted, indent=1)
