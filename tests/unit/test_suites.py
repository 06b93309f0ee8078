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

"""Which tests are chosen, and how they are counted."""

from pathlib import Path
import subprocess
import sys
import time
from unittest import mock

import fixtures
import testtools

from tests.unit import repository

sys.path.insert(0, str(repository.TOOLS))

import run  # noqa: E402
import suites  # noqa: E402

TESTS = '''
import unittest


class TestIt(unittest.TestCase):
    def test_good(self):
        pass

    def test_bad(self):
        self.assertEqual(%d, 1)

    @unittest.skip('why not')
    def test_skipped(self):
        pass
'''

UNSTABLE = '''
import os
import unittest


class TestIt(unittest.TestCase):
    def test_unstable(self):
        if not os.path.exists('MARK'):
            open('MARK', 'w').close()
            self.fail('the first time')
'''


ENDLESS = '''\
import atexit
import pathlib
import time
import unittest

FOLDER = pathlib.Path({folder!r})


class TestIt(unittest.TestCase):

    def test_endless(self):
        atexit.register((FOLDER / 'ended').touch)
        (FOLDER / 'began').touch()
        time.sleep(600)
'''


class TreeTest(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.tree = Path(self.useFixture(fixtures.TempDir()).path)

    def add(self, *paths, text=''):
        for path in paths:
            (self.tree / path).parent.mkdir(parents=True, exist_ok=True)
            (self.tree / path).write_text(text)


class TestTouched(TreeTest):

    def setUp(self):
        super().setUp()
        self.add('nova/tests/unit/test_service.py',
                 'nova/tests/unit/test_conf.py',
                 'nova/tests/unit/test_other.py',
                 'nova/tests/unit/conf/test_base.py',
                 'nova/tests/unit/cmd/test_manage.py',
                 'nova/tests/unit/cmd/test_scheduler.py',
                 'nova/tests/unit/servicegroup/test_api.py',
                 'nova/tests/unit/servicegroup/test_db_servicegroup.py')

    def touched(self, *edited, kind='unit'):
        return [name.removeprefix('nova.tests.') for name in
                suites.touched(self.tree, kind, edited)]

    def test_test_of_the_module(self):
        self.assertEqual(['unit.test_service'],
                         self.touched('nova/service.py'))
        self.assertEqual(['unit.cmd.test_scheduler'],
                         self.touched('nova/cmd/scheduler.py'))

    def test_tests_of_the_package(self):
        self.assertEqual(['unit.servicegroup.test_api',
                          'unit.servicegroup.test_db_servicegroup'],
                         self.touched('nova/servicegroup/drivers/db.py'))
        self.assertEqual(['unit.conf.test_base', 'unit.test_conf'],
                         self.touched('nova/conf/scheduler.py'))

    def test_edited_tests(self):
        self.assertEqual(['unit.test_other'],
                         self.touched('nova/tests/unit/test_other.py',
                                      'nova/tests/fixtures/nova.py'))

    def test_no_test(self):
        self.assertEqual([], self.touched('nova/exotic.py', 'setup.cfg'))

    def test_own_tests(self):
        self.add('nova/tests/unit/workers/test_a.py',
                 'nova/tests/functional/workers/test_b.py')
        self.assertEqual(['unit.workers.test_a'], self.touched())
        self.assertEqual(['functional.workers.test_b'],
                         self.touched('nova/service.py', kind='functional'))


class TestTouchedOf(TreeTest):

    def touched(self, *changed):
        return [name.removeprefix('pack.tests.') for name in
                suites.touched_of(self.tree, 'pack', changed)]

    def test_modules(self):
        self.add('pack/tests/drivers/test_rabbit.py',
                 'pack/tests/drivers/test_pool.py',
                 'pack/tests/rpc/test_server.py',
                 'pack/tests/functional/test_server.py')
        self.assertEqual(['drivers.test_rabbit'],
                         self.touched('pack/_drivers/rabbit.py'))
        self.assertEqual(['drivers.test_pool', 'drivers.test_rabbit'],
                         self.touched('pack/_drivers/common.py'))
        # Whose tests have no place of its own.
        self.assertEqual(['rpc.test_server'],
                         self.touched('pack/server.py'))
        self.assertEqual(['drivers.test_pool'],
                         self.touched('pack/tests/drivers/test_pool.py',
                                      'pack/tests/functional/test_server.py',
                                      'setup.cfg', 'other/server.py'))


class TestRun(TreeTest):

    def run_tests(self, *args, again=False):
        lines = []
        build = self.useFixture(fixtures.TempDir()).path
        self.useFixture(fixtures.MonkeyPatch('suites.BUILD', Path(build)))
        names = suites.modules(self.tree, 'here')
        result = suites.run(sys.executable, 'x', self.tree, names,
                            'threading', args, lines.append, again=again)
        return result, ''.join(lines)

    def test_counts(self):
        self.add('here/__init__.py')
        self.add('here/test_a.py', text=TESTS % 2)
        self.add('here/test_b.py', text=TESTS % 1)
        result, text = self.run_tests()
        failed = 'here.test_a.TestIt.test_bad'
        self.assertEqual(suites.Result(3, 1, 2, (failed,)), result)
        self.assertEqual('3 passed, 1 failed, 2 skipped', str(result))
        self.assertTrue(text.endswith('failed: ' + failed), text)
        # All of them are named at the end of several runs.
        self.assertEqual((failed, failed), (result + result).names)

    def test_one_more_chance(self):
        self.add('here/__init__.py')
        self.add('here/test_a.py', text=TESTS % 2)
        mark = self.useFixture(fixtures.TempDir()).join('mark')
        self.add('here/test_b.py', text=UNSTABLE.replace('MARK', mark))
        result, text = self.run_tests(again=True)
        # The one that fails again has failed.
        self.assertEqual(suites.Result(
            2, 1, 1, ('here.test_a.TestIt.test_bad',)), result)
        self.assertIn('unstable, as they passed then: '
                      'here.test_b.TestIt.test_unstable', text)

    def test_what_nova_excludes(self):
        self.add('here/__init__.py')
        self.add('here/test_a.py', text=TESTS % 2)
        self.add(suites.EXCLUDES, text='# Why.\n\nhere.test_a.*test_bad\n')
        self.assertEqual(0, self.run_tests()[0].failed)

    def test_module_that_cannot_be_imported(self):
        self.add('here/__init__.py')
        self.add('here/test_a.py', text=TESTS % 1)
        self.add('here/test_b.py', text='import missing_module\n')
        result, text = self.run_tests()
        self.assertEqual(1, result.failed)
        self.assertIn('missing_module', text)

    def test_interrupted(self):
        # Only the tool itself is, and not all that run in a terminal.
        folder = Path(self.useFixture(fixtures.TempDir()).path)
        self.add('here/__init__.py')
        self.add('here/test_a.py', text=ENDLESS.format(folder=str(folder)))
        tools = Path(suites.__file__).parent
        run = subprocess.Popen(
            [sys.executable, '-c',
             'import pathlib, sys, common, suites\n'
             f'suites.BUILD = pathlib.Path({str(folder)!r})\n'
             'sys.exit(common.guarded("run", lambda: suites.run('
             f'sys.executable, "x", pathlib.Path({str(self.tree)!r}), '
             '["here.test_a"], "threading")))\n'],
            cwd=tools, stderr=subprocess.PIPE, text=True)
        self.addCleanup(run.kill)
        while not (folder / 'began').exists():
            self.assertIsNone(run.poll())
            time.sleep(0.05)
        run.terminate()
        self.assertEqual('run: interrupted\n', run.communicate(timeout=60)[1])
        self.assertEqual(130, run.returncode)
        self.assertTrue((folder / 'ended').exists())

    def test_hangup(self):
        # With nohup a tool goes on when its terminal is closed.
        for handler, code in (('SIG_IGN', 0), ('SIG_DFL', 130)):
            done = subprocess.run([
                sys.executable, '-c',
                'import common, os, signal, sys\n'
                f'signal.signal(signal.SIGHUP, signal.{handler})\n'
                'sys.exit(common.guarded("run", lambda: '
                'os.kill(os.getpid(), signal.SIGHUP)))'],
                cwd=Path(suites.__file__).parent, capture_output=True)
            self.assertEqual(code, done.returncode, done.stderr)

    @mock.patch('suites.run', return_value=suites.Result())
    def test_step_without_a_match(self, _run):
        steps = [run.Step('name', Path(), ['module'], Path())]
        # Or a release may drop out of all steps unseen.
        self.assertEqual(suites.Result(failed=1), run.run(steps))
        self.assertEqual(suites.Result(), run.run(steps, filtered=True))

    def test_filter(self):
        self.add('here/__init__.py')
        self.add('here/test_a.py', text=TESTS % 2)
        self.assertEqual(suites.Result(1), self.run_tests('good')[0])
        self.assertEqual(suites.Result(), self.run_tests('nothing')[0])


class TestCheck(repository.RepositoryTest):

    def check(self, *start):
        """Check with the environment of this test."""
        return subprocess.run(
            [sys.executable, '-c',
             'import sys, environment, series\n'
             'environment.ensure = lambda name: sys.executable\n'
             'environment.extra = lambda python, lock: "/nowhere"\n'
             'sys.exit(series.guarded("series", series.main))\n',
             'check', '1.0', *start],
            cwd=self.root / 'tools', capture_output=True, text=True)

    def test_green(self):
        done = self.check()
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
        lines = done.stdout.splitlines()[-2:]
        self.assertIn('01-workers: 0 tests', lines[0])
        # In both modes.
        self.assertIn('02-service: 2 tests', lines[1])

    def test_stops_at_the_first_red(self):
        self.change('03-break', patch=repository.edit(
            'nova/scheduler/manager.py', 3), adds={
                'nova/tests/unit/workers/__init__.py': '',
                'nova/tests/unit/workers/test_x.py': TESTS % 2})
        self.change('04-after', adds={'nova/after.py': ''})
        done = self.check('--from', '02')
        self.assertEqual(1, done.returncode)
        self.assertNotIn('01-workers:', done.stdout)
        self.assertIn('02-service: 2 tests', done.stdout)
        self.assertIn('test_x.TestIt.test_bad', done.stdout)
        self.assertNotIn('04-after', done.stdout)
        self.assertEqual(
            'series: 03-break: unit tests in threading mode: '
            '2 passed, 1 failed, 1 skipped\n', done.stderr)

    def test_other_base(self):
        self.add_companion()
        done = self.check('--base', repository.COMPANION)
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
        self.assertIn('01-rabbit: 1 tests', done.stdout.splitlines()[-1])

    def test_no_such_change(self):
        self.assertIn('no change with the number 09',
                      self.check('--from', '09').stderr)
