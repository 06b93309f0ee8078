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

"""Faults of MariaDB, and of the way to it."""

from lab.measure.faults import fault
from lab.measure.faults import messaging
from lab import rpc

FAULTS = (
    fault.Fault('mariadb-restart', 'MariaDB restarted',
                messaging.restart('mariadb'), 15, ends=True,
                call=rpc.Client.look_up),
    fault.Fault('mariadb-silent', 'MariaDB silent', messaging.silent, 20,
                ends=True, boxes=('database',), call=rpc.Client.look_up),
    fault.Fault('mariadb-half-open', 'MariaDB, half-open',
                messaging.half_open, 40, boxes=('database',),
                call=rpc.Client.look_up),
)
