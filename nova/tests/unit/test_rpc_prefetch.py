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

from unittest import mock

import ddt
from oslo_config import cfg
import oslo_messaging as messaging

from nova.cmd import conductor as cmd_conductor
from nova.cmd import scheduler as cmd_scheduler
import nova.conf
from nova import rpc
from nova import test

CONF = nova.conf.CONF


@ddt.ddt
class PrefetchTestCase(test.NoDBTestCase):

    def prefetch(self, text='', url='rabbit://host/'):
        """What oslo.messaging's driver would see."""
        path = self.useFixture(test.fixtures.TempDir()).join('nova.conf')
        with open(path, 'w') as config_file:
            config_file.write(text)
        conf = cfg.ConfigOpts()
        conf(['--config-file', path])
        with mock.patch.multiple(rpc, CONF=conf, init=mock.DEFAULT,
                                 cleanup=mock.DEFAULT):
            rpc.prefetch_few()
        transport = messaging.get_rpc_transport(conf, url=url)
        self.addCleanup(transport.cleanup)
        return transport._driver.prefetch_size

    def test_nothing_is_set(self):
        self.assertEqual(rpc.PREFETCH_COUNT, self.prefetch())

    @ddt.data((0, 2), (1, 1), (2, 2), (50, 2))
    @ddt.unpack
    def test_set_for_all_services(self, count, expected):
        self.assertEqual(expected, self.prefetch(
            f'[oslo_messaging_rabbit]\nrabbit_qos_prefetch_count = {count}\n'))

    @ddt.data((0, 0), (1, 0), (2, 0), (50, 1))
    @ddt.unpack
    def test_tells_that_it_is_smaller(self, count, lines):
        self.prefetch('[oslo_messaging_rabbit]\n'
                      f'rabbit_qos_prefetch_count = {count}\n')
        self.assertEqual(lines, self.stdlog.logger.output.count(
            'Prefetching 2 messages, and not the 50'))

    @ddt.data(cmd_conductor, cmd_scheduler)
    def test_of_the_commands(self, command):
        with mock.patch.multiple(
                command, config=mock.DEFAULT, logging=mock.DEFAULT,
                objects=mock.DEFAULT), mock.patch.object(
                    rpc, 'prefetch_few',
                    side_effect=test.TestingException) as prefetch_few:
            self.assertRaises(test.TestingException, command.main)
        prefetch_few.assert_called_once_with()

    def test_set_in_the_transport_url(self):
        self.assertEqual(16, self.prefetch(
            '[oslo_messaging_rabbit]\nrabbit_qos_prefetch_count = 50\n',
            url='rabbit://host/?rabbit_qos_prefetch_count=16'))

    def test_transports_are_made_anew(self):
        # They were made when the configuration was read.
        def create(url):
            prefetch = CONF[rpc.RABBIT].rabbit_qos_prefetch_count
            return mock.Mock(conf=CONF, prefetch=prefetch)

        with mock.patch.object(rpc, 'create_transport', create):
            rpc.prefetch_few()
        self.assertEqual(2, rpc.TRANSPORT.prefetch)
