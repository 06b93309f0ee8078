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

"""Choose the backend, before anything imports what depends on it."""

import os
import sys


def choose(name):
    """Have oslo.service use a backend.

    oslo.messaging imports oslo.service, which takes eventlet unless it was
    told before.

    :param name: threading or eventlet
    """
    if name == 'eventlet':
        import eventlet
        eventlet.monkey_patch()
    from oslo_service import backend
    try:
        backend.init_backend(backend.BackendType(name))
    except ValueError:
        sys.exit(f'LAB_SERVICE_BACKEND is threading or eventlet, not {name}')


if __name__ == '__main__':
    choose(os.environ.get('LAB_SERVICE_BACKEND', 'threading'))

    from lab.service import daemon
    sys.exit(daemon.main())
