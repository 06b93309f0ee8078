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

import subprocess
import sys

from tests.unit import repository


class TestEnvironment(repository.RepositoryTest):

    def setUp(self):
        super().setUp()
        self.python = self.root / 'build/env/1.0/bin/python'
        self.write('series/locks/1.0.txt', '# nothing\n')

    def ensure(self, code=0):
        done = subprocess.run(
            [sys.executable, '-c',
             'import sys, common, environment\n'
             'sys.exit(common.guarded("environment", lambda: '
             'print(environment.ensure("1.0"))))\n'],
            cwd=self.root / 'tools', capture_output=True, text=True)
        self.assertEqual(code, done.returncode, done.stderr)
        return done.stdout if code == 0 else done.stderr

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

    def test_needs_the_tree(self):
        self.assertIn('not built', self.ensure(code=1))

    def test_pip_fails(self):
        self.succeed('build', '1.0')
        self.write('series/locks/1.0.txt', 'no such name\n')
        self.assertIn('environment: cannot install series/locks/1.0.txt: '
                      'pip: ', self.ensure(code=1))
