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

"""A small daemon whose worker processes have hosts; no part of nova.

It is what README.rst, beside this file, explains: what a daemon of
oslo.service and oslo.messaging needs for that. It needs those two,
setproctitle and a RabbitMQ; eventlet or cotyledon is oslo.service's choice::

    python -m lab.service --config-file service.conf
    python -m lab.service --config-file service.conf --list

``LAB_SERVICE_BACKEND`` is the backend of oslo.service, ``threading`` or
``eventlet``.

``daemon.py``
    The daemon. What gives its workers their hosts is marked.
``records.py``
    The table of who was up when; any other would do.
``watch.py``
    Not needed for the rest: the parent replaces a worker that is stuck.
"""
