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

"""A repository like this one, with a tiny base, to try the tools on."""

import hashlib
import io
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tarfile

import fixtures
import testtools

TOOLS = Path(__file__).resolve().parents[2] / 'tools'

LINES = ''.join(f'line_{number} = {number}\n' for number in range(1, 21))

# A base with its lines, a script, a test and what a wheel needs.
BASE = {
    'nova/__init__.py': '',
    'nova/service.py': LINES,
    'nova/scheduler/__init__.py': '',
    'nova/scheduler/manager.py': LINES,
    'nova/tests/__init__.py': '',
    'nova/tests/unit/__init__.py': '',
    'nova/tests/unit/test_service.py': (
        'import unittest\n\nfrom nova import service\n\n\n'
        'class TestService(unittest.TestCase):\n'
        '    def test_ten(self):\n'
        '        self.assertEqual(10, service.line_10)\n'),
    'nova.egg-info/PKG-INFO': 'Metadata-Version: 2.1\nName: nova\n'
                              'Version: 1.0\n',
    'nova.egg-info/entry_points.txt': '[console_scripts]\n'
                                      'nova-tell = nova.service:tell\n',
    'PKG-INFO': 'Metadata-Version: 2.1\nName: nova\nVersion: 1.0\n',
    '.gitignore': '*.egg-info\nPKG-INFO\n',
    'setup.cfg': '[metadata]\nname = nova\n\n[files]\npackages =\n    nova\n',
    'setup.py': 'import setuptools\n'
                'setuptools.setup(setup_requires=["pbr"], pbr=True)\n',
    'pyproject.toml': '[build-system]\nrequires = ["setuptools", "pbr"]\n'
                      'build-backend = "setuptools.build_meta"\n',
}

RELEASES = '''\
number = 7

["1.0"]
pythons = ["3.11", "3.12", "3.13", "3.14"]
lock = "locks/1.0.txt"
nova = {version = "1.0", sha256 = "%s"}
'''

# Another release, whose files have more lines before those.
OLDER_RELEASE = '''
["0.9"]
pythons = ["3.11", "3.12", "3.13", "3.14"]
lock = "locks/0.9.txt"
nova = {version = "0.9", sha256 = "%s"}
'''

# Another base of the same release, whose package has another name.
COMPANION = 'oslo.messaging'
COMPANION_RELEASE = '''\
"oslo.messaging" = {version = "2.0", sha256 = "%s"}
'''
COMPANION_BASE = {
    'oslo_messaging/__init__.py': '',
    'oslo_messaging/_drivers/__init__.py': '',
    'oslo_messaging/_drivers/rabbit.py': LINES,
    'oslo_messaging/tests/__init__.py': '',
    'oslo_messaging/tests/drivers/__init__.py': '',
    'oslo_messaging/tests/drivers/test_rabbit.py': (
        'import unittest\n\nfrom oslo_messaging._drivers import rabbit\n\n\n'
        'class TestRabbit(unittest.TestCase):\n'
        '    def test_ten(self):\n'
        '        self.assertEqual(10, rabbit.line_10)\n'),
    'oslo_messaging/tests/test_other.py': 'raise OSError\n',
    'oslo.messaging.egg-info/PKG-INFO': 'Metadata-Version: 2.1\n'
                                        'Name: oslo.messaging\n'
                                        'Version: 2.0\n',
    'oslo.messaging.egg-info/SOURCES.txt': 'oslo_messaging/__init__.py\n',
    'setup.cfg': '[metadata]\nname = oslo.messaging\n\n'
                 '[files]\npackages =\n    oslo_messaging\n',
    'setup.py': BASE['setup.py'],
    'pyproject.toml': BASE['pyproject.toml'],
}


def edit(path, line, new='edited'):
    """A patch that puts a line after a line of one of the base's files."""
    return (f'diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n'
            f'@@ -{line},2 +{line},3 @@\n line_{line} = {line}\n'
            f'+{new} = 0\n line_{line + 1} = {line + 1}\n')


class RepositoryTest(testtools.TestCase):
    """A test that runs the tools in a throw-away repository."""

    def setUp(self):
        super().setUp()
        self.root = Path(self.useFixture(fixtures.TempDir()).path).resolve()
        shutil.copytree(TOOLS, self.root / 'tools',
                        ignore=shutil.ignore_patterns('__pycache__'))
        self.tree = self.root / 'build' / '1.0'
        self.sdist = self.root / 'build' / 'cache' / 'nova-1.0.tar.gz'
        self.sdist.parent.mkdir(parents=True)
        self.write_sdist(BASE)
        self.change('01-workers', adds={
            'nova/workers/__init__.py': '', 'nova/workers/name.py': 'X = 1\n'})
        self.change('02-service', patch=edit('nova/service.py', 3))

    def write_sdist(self, files):
        digest = self._archive(self.sdist, files)
        self.write('series/releases.toml', RELEASES % digest)

    def add_companion(self):
        """Add another base, with one change of it."""
        digest = self._archive(
            self.sdist.with_name('oslo.messaging-2.0.tar.gz'), COMPANION_BASE)
        path = self.root / 'series/releases.toml'
        path.write_text(path.read_text() + COMPANION_RELEASE % digest)
        self.change('01-rabbit', base=COMPANION,
                    patch=edit('oslo_messaging/_drivers/rabbit.py', 3),
                    adds={'releasenotes/notes/x.yaml': 'fixes: []\n',
                          'oslo_messaging/new.py': 'X = 1\n'})

    def add_older(self, **files):
        """Add another release of nova, with other texts of some files."""
        digest = self._archive(self.sdist.with_name('nova-0.9.tar.gz'), {
            **BASE, 'nova/service.py': 'import os\n\n' + LINES,
            **{f'nova/{name}.py': text for name, text in files.items()}})
        path = self.root / 'series/releases.toml'
        path.write_text(path.read_text() + OLDER_RELEASE % digest)

    @staticmethod
    def _archive(path, files):
        with tarfile.open(path, 'w:gz') as tar:
            for name, text in files.items():
                info = tarfile.TarInfo(f'base-1/{name}')
                info.size, info.mode = len(text), 0o664
                info.uid = info.gid = 4242
                tar.addfile(info, io.BytesIO(text.encode()))
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def write(self, path, text, mode=0o644):
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def change(self, name, adds=None, patch='', message=None, base='nova'):
        """Write a change folder and the files that it adds."""
        number = name[:2]
        folder = f'series/{base}/{name}'
        self.write(f'{folder}/message', message or
                   f'Subject of {name[3:]}\n\nBody.\n\n'
                   f'Change-Id: I{number * 20}\n')
        if adds:
            self.write(f'{folder}/adds',
                       ''.join(f'{path}\n' for path in adds))
            for path, text in adds.items():
                self.write(path if base == 'nova' else f'{base}/{path}', text)
        if patch:
            self.write(f'{folder}/edits.patch', patch)

    def add_stages(self):
        """Have two stages, one of a change and one of two."""
        self.change('03-manager', patch=edit('nova/scheduler/manager.py', 3))
        self.write('series/nova/01-workers/stage', 'names\n')
        self.write('series/nova/02-service/stage', 'bound-1\n')

    def run_tool(self, *args, **environ):
        """Run series.py; returns its exit code, stdout and stderr."""
        done = subprocess.run(
            [sys.executable, str(self.root / 'tools' / 'series.py'), *args],
            cwd=self.root, capture_output=True, text=True,
            env={**os.environ, 'PIP_NO_INDEX': '1', **environ})
        self.assertNotIn('Traceback', done.stderr)
        return done.returncode, done.stdout, done.stderr

    def succeed(self, *args, **environ):
        code, out, err = self.run_tool(*args, **environ)
        self.assertEqual((0, ''), (code, err), out)
        return out

    def refuse(self, *args, **environ):
        """Run series.py, which must fail with one line; returns that."""
        code, out, err = self.run_tool(*args, **environ)
        self.assertEqual(1, code, out + err)
        self.assertEqual(1, err.count('\n'), err)
        self.assertTrue(err.startswith('series: '), err)
        return err

    def git(self, *args, tree=None):
        done = subprocess.run(
            ['git', '-c', 'user.name=A Developer',
             '-c', 'user.email=developer@example.org',
             # Else git goes on to write after it has ended.
             '-c', 'maintenance.auto=false', *args],
            cwd=tree or self.tree, capture_output=True, text=True,
            env={**os.environ, 'GIT_CONFIG_GLOBAL': os.devnull,
                 'GIT_EDITOR': 'true'})
        self.assertEqual(0, done.returncode, done.stderr)
        return done.stdout.strip()

    def head(self):
        return self.git('rev-parse', 'HEAD')

    def files(self):
        """All that the repository holds outside of build/ and tools/."""
        return {str(path.relative_to(self.root)): path.read_text()
                for path in sorted(self.root.rglob('*')) if path.is_file()
                and path.relative_to(self.root).parts[0] not in
                ('build', 'tools')}
