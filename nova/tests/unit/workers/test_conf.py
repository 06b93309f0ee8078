# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

import ddt
from oslo_config import cfg

from nova.conf import scheduler
from nova import test


@ddt.ddt
class WorkersOptionTestCase(test.NoDBTestCase):

    @ddt.data(('[scheduler]\nworkers = 3\n', 3),
              ('[DEFAULT]\nscheduler_workers = 3\n', 3),
              ('[DEFAULT]\nscheduler_workers = 3\n'
               '[scheduler]\nworkers = 2\n', 2),
              ('', None))
    @ddt.unpack
    def test_scheduler_workers(self, text, expected):
        path = self.useFixture(test.fixtures.TempDir()).join('nova.conf')
        with open(path, 'w') as config_file:
            config_file.write(text)
        conf = cfg.ConfigOpts()
        scheduler.register_opts(conf)
        conf(['--config-file', path])
        self.assertEqual(expected, conf.scheduler.workers)
