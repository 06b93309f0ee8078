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

"""The daemon of the lab that is no part of nova, and the page about it."""

import ast
from multiprocessing import reduction
from pathlib import Path
import re
import textwrap

from oslo_service.backend._eventlet import service as eventlet_service
from oslo_service.backend._threading import service as threading_service
import testtools

from lab.service import watch

FOLDER = Path(__file__).resolve().parents[2] / 'lab' / 'service'


class TestPage(testtools.TestCase):

    def test_code(self):
        """What the page shows is what runs."""
        daemon = {
            name: textwrap.dedent(lines) for name, lines in re.findall(
                r'^ *# begin: (\w+)\n(.*?)^ *# end: \1\n',
                (FOLDER / 'daemon.py').read_text(), re.MULTILINE | re.DOTALL)}
        page = {
            name: textwrap.dedent(lines).strip('\n') + '\n'
            for name, lines in re.findall(
                r'^\.\. block: (\w+)\n\n\.\. code-block:: python\n\n'
                r'((?:   .*\n|\n)+)',
                (FOLDER / 'README.rst').read_text(), re.MULTILINE)}
        self.assertEqual(7, len(daemon))
        self.assertEqual(daemon, page)

    def test_links(self):
        for path in re.findall(r'`[^`]+ <([^>]+)>`_',
                               (FOLDER / 'README.rst').read_text()):
            self.assertTrue((FOLDER / path).exists(), path)


class TestDaemon(testtools.TestCase):

    def test_is_no_part_of_nova(self):
        for path in FOLDER.glob('*.py'):
            for node in ast.walk(ast.parse(path.read_text())):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module]
                for name in names:
                    self.assertNotEqual('nova', name.partition('.')[0])
                    # Nor of the lab, which knows of nova.
                    if name.partition('.')[0] == 'lab':
                        self.assertEqual('lab.service', name)


class TestNumbers(testtools.TestCase):
    """Neither backend of oslo.service tells a worker its number.

    Where this fails, the page can be shorter.
    """

    def test_threading(self):
        class Service(threading_service.Service):
            def __init__(self):
                pass

        mine = Service()
        wrapper = threading_service.ServiceWrapper(2, mine)
        # What cotyledon says, and what is passed on.
        self.assertEqual(2, wrapper.worker_id)
        self.assertEqual({}, vars(mine))

    def test_eventlet(self):
        wrapper = eventlet_service.ServiceWrapper(object(), 3)
        self.assertEqual(set(), wrapper.children)


class TestWatch(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.watch = watch.Watch(['a', 'b', 'c'], 3)

    def beat(self, *indexes):
        for index in indexes:
            self.watch.beat(index)
        return self.watch.stuck()

    def test_cannot_be_pickled(self):
        # Or oslo.service 4.5 would start workers in a new interpreter.
        self.assertRaises(RuntimeError, reduction.ForkingPickler.dumps,
                          self.watch)

    def test_all_run(self):
        for _look in range(20):
            self.assertEqual([], self.beat(0, 1, 2))

    def test_one_is_stuck(self):
        self.beat(0, 1, 2)
        self.assertEqual([], self.beat(0, 1))
        self.assertEqual([], self.beat(0))
        self.assertEqual([2], self.beat(0, 1))
        # The next one has as long to start.
        self.assertEqual([], self.beat(0, 1))
        self.assertEqual([], self.beat(0, 1))
        self.assertEqual([2], self.beat(0, 1))

    def test_two_are_stuck(self):
        self.beat(0, 1, 2)
        self.assertEqual([1, 2], self.beat(0, 0, 0))

    def test_slow(self):
        for _look in range(20):
            self.assertEqual([], self.beat(0, 1, 0, 1))
            self.assertEqual([], self.beat(2))

    def test_outage(self):
        self.beat(0, 1, 2)
        for _look in range(1000):
            self.assertEqual([], self.beat())
        # Not all are back at the same time.
        self.assertEqual([], self.beat(1))
        self.assertEqual([], self.beat(1))
        self.assertEqual([], self.beat(0, 1, 2))
