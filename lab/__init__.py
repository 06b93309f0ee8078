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

"""A real control plane for the demo, the faults, the tests, the benchmarks.

Everything the lab starts is ended by its process id, and what it puts on a
broker or a database server that others use as well has names of its own.
"""

import warnings

# oslo.messaging imports eventlet's part of oslo.service, used or not.
warnings.filterwarnings('ignore', r'\s*Eventlet is deprecated')


class LabError(Exception):
    """The lab cannot do what was asked.

    :ivar line: one clear line
    """

    def __init__(self, line, log=''):
        """Say what failed.

        :param line: one clear line
        :param log: text of the log that tells more; its end is shown too
        """
        self.line = line
        last = log.splitlines()[-20:]
        super().__init__('\n'.join(
            [line + '; the log ends with:'] + last if last else [line]))
