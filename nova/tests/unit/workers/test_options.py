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

import nova.conf
from nova import test


@ddt.ddt
class OptionsTestCase(test.NoDBTestCase):

    @ddt.data('scheduler', 'conductor')
    def test_defaults(self, group):
        self.assertTrue(nova.conf.CONF[group].worker_hosts)
        self.assertEqual(0, nova.conf.CONF[group].worker_timeout)
        self.assertRaises(
            ValueError, self.flags, worker_timeout=-1, group=group)

    @ddt.data('unix:///run/nova/{binary}.sock', 'unix:///x',
              'tcp://127.0.0.1:8089', 'tcp://localhost:1',
              'tcp://[::1]:65535', 'unix:///a,tcp://10.0.0.1:80', '')
    def test_healthcheck_uri(self, text):
        self.flags(uri=text, group='healthcheck')
        self.assertEqual([uri for uri in text.split(',') if uri],
                         nova.conf.CONF.healthcheck.uri)

    @ddt.data('unix://run/x', 'unix:///', 'unix:///a/', 'unix:///a b',
              'unix:///{host}', 'unix:///' + 99 * 'x', 'unix:/x', '/run/x',
              'unix:///' + 7 * '{binary}x',
              'http://localhost:80', 'tcp://127.0.0.1', 'tcp://127.0.0.1:0',
              'tcp://127.0.0.1:65536', 'tcp://127.0.0.1:x', 'tcp://:80',
              'tcp://example.org:80', 'tcp://::1:80', 'tcp://[127.0.0.1:80',
              'tcp://1.2.3.4.5:80', 'tcp://127.0.0.1:80/x')
    def test_healthcheck_uri_that_does_not_do(self, text):
        error = self.assertRaises(
            ValueError, self.flags, uri=text, group='healthcheck')
        self.assertIn('is neither unix:///PATH', str(error))
