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

"""What tools/environment.py promises."""

import re
import subprocess
import sys

from tests.unit import repository


class TestEnvironment(repository.RepositoryTest):

    def setUp(self):
        super().setUp()
        self.python = self.root / 'build/env/1.0/bin/python'
        self.write('series/locks/1.0.txt', '# nothing\n')

    def ensure(self, version=None, code=0, setup=''):
        done = subprocess.run(
            [sys.executable, '-c',
             f'import sys, common, environment\n{setup}\n'
             f'sys.exit(common.guarded("environment", lambda: '
             f'print(environment.ensure("1.0", {version!r}))))\n'],
            cwd=self.root / 'tools', capture_output=True, text=True)
        self.assertEqual(code, done.returncode, done.stderr)
        if code:
            self.assertEqual(1, done.stderr.count('\n'), done.stderr)
        return done.stdout if code == 0 else done.stderr

    def pythons(self, *versions):
        """Have the release run on these only."""
        path = self.root / 'series/releases.toml'
        path.write_text(re.sub('pythons = .*', f'pythons = {list(versions)}',
                               path.read_text()))

    def test_has_the_tree_in_place(self):
        self.succeed('build', '1.0')
        self.assertEqual(str(self.python), self.ensure().split()[-1])
        self.write('build/1.0/nova/service.py',
                   'def tell():\n    import importlib.metadata as metadata\n'
                   '    print(metadata.version("nova"))\n')
        told = subprocess.run([self.python.with_name('nova-tell')],
                              capture_output=True, text=True, cwd=self.root)
        self.assertEqual(('1.0\n', ''), (told.stdout, told.stderr))
        self.assertEqual('M nova/service.py',
                         self.git('status', '--porcelain', '--ignored',
                                  '--', ':!*__pycache__*'))

    def test_has_the_scripts_that_the_series_adds(self):
        self.succeed('build', '1.0')
        self.write('build/1.0/pyproject.toml', '[project.scripts]\n'
                   'nova-tell = "nova.service:tell"\n'
                   'nova-more = "nova.service:tell"\n')
        self.ensure()
        for name in ('nova-tell', 'nova-more'):
            self.assertTrue(self.python.with_name(name).exists(), name)

    def test_made_once(self):
        self.succeed('build', '1.0')
        self.assertIn('installing', self.ensure())
        self.assertEqual(f'{self.python}\n', self.ensure())
        self.write('series/locks/1.0.txt', '# something else\n')
        self.assertIn('installing', self.ensure())

    def test_made_again_after_an_interruption(self):
        self.succeed('build', '1.0')
        self.write('build/env/1.0/bin/python', 'half of it')
        self.assertIn('installing', self.ensure())
        # And when the Python that it was made with has gone.
        self.python.unlink()
        self.assertIn('installing', self.ensure())

    def test_runs_on_the_python_of_the_tool(self):
        running = '{}.{}'.format(*sys.version_info)
        self.pythons('2.4', '2.5', running)
        self.succeed('build', '1.0')
        self.ensure()
        self.assertTrue((self.python.parents[1] / 'lib' /
                         f'python{running}').is_dir())

    def test_python_that_was_chosen_has_its_own(self):
        running = '{}.{}'.format(*sys.version_info)
        self.succeed('build', '1.0')
        chosen = self.root / f'build/env/1.0-py{running}/bin/python'
        self.assertEqual(str(chosen), self.ensure(running).split()[-1])
        self.assertEqual(f'{chosen}\n', self.ensure(running))
        self.assertFalse(self.python.exists())

    def test_another_python(self):
        # What is called so on the path, whatever runs the tool.
        self.pythons('3.99')
        self.succeed('build', '1.0')
        fake = self.write('bin/python3.99', f'#!/bin/sh\n'
                          f'case "$2" in import*) echo 3.99;;\n'
                          f'*) exec {sys.executable} "$@";; esac\n', 0o755)
        # The first of that name fails, as a shim of pyenv may.
        shim = self.write('shims/python3.99', '#!/bin/sh\nexit 127\n', 0o755)
        self.ensure(setup='import os; os.environ["PATH"] = '
                          f'"{shim.parent}:{fake.parent}:/usr/bin"')
        self.assertTrue(self.python.exists())

    def test_no_python(self):
        self.pythons('2.4', '2.5')
        self.succeed('build', '1.0')
        self.assertIn('1.0 needs Python 2.4 or 2.5, and none that runs',
                      self.ensure(code=1))
        self.assertIn('1.0 needs Python 2.5, and none that runs',
                      self.ensure('2.5', code=1))
        for version in ('2.6', ''):
            self.assertIn(
                f'1.0 runs on Python 2.4 or 2.5, and not on {version!r}\n',
                self.ensure(version, code=1))

    def test_tools_need_a_newer_python(self):
        self.assertEqual(
            'environment: the tools need Python 3.11 or newer, and this is '
            '3.10\n', self.ensure(
                code=1, setup='sys.version_info = (3, 10, 1)'))

    def test_extra(self):
        self.succeed('build', '1.0')
        self.ensure()
        self.write('series/locks/1.0-more.txt', '# nothing\n')

        def extra():
            return subprocess.run(
                [sys.executable, '-c',
                 'import pathlib, environment\n'
                 'print(environment.extra(environment.ensure("1.0"), '
                 'pathlib.Path("../series/locks/1.0-more.txt").resolve()))'],
                cwd=self.root / 'tools', capture_output=True,
                text=True).stdout

        folder = self.root / 'build/env/1.0-more'
        self.assertIn('installing series/locks/1.0-more.txt', extra())
        self.assertEqual(f'{folder}\n', extra())
        self.write('series/locks/1.0-more.txt', '# something else\n')
        self.assertIn('installing', extra())

    def test_needs_the_tree(self):
        self.assertIn('not built', self.ensure(code=1))

    def test_pip_fails(self):
        self.succeed('build', '1.0')
        self.write('series/locks/1.0.txt', 'no such name\n')
        self.assertIn('environment: cannot install series/locks/1.0.txt: '
                      'pip: ', self.ensure(code=1))
