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

"""Nova's own gates on the built tree: pep8 and docs, as its CI runs them.

They run in a clone, so that the built tree stays as it is, and look at
what is committed there.
"""

import os
from pathlib import Path
import shutil
import subprocess

from common import BUILD
from common import Clock
from common import Error
from common import git
from common import ROOT
from common import say
from common import shown
import environment
import series

NOTES = 'releasenotes/notes'


class Gate:
    """Runs programs in a clone of the built tree, and counts failures."""

    def __init__(self, release, name, version):
        if not release.extra_lock('gates').is_file():
            raise Error(f'{name} is for the newest release: '
                        f'{shown(release.extra_lock("gates"))} is missing')
        self.tree = series.build(release)
        if series.dirty(self.tree):
            say(f'note: edits of {shown(self.tree)} that are not committed '
                f'are left out')
        self.python = environment.ensure(release.name, version)
        # Sphinx and mypy; the tests do not need them.
        extra = environment.extra(self.python, release.extra_lock('gates'))
        self.environ = {**os.environ, 'PYTHONPATH': str(extra),
                        'PYTHONWARNINGS': 'ignore', 'LC_ALL': 'C.UTF-8',
                        'OS_NOVA_DISABLE_EVENTLET_PATCHING': 'false'}
        self.commits = git(self.tree, 'rev-list', '--reverse',
                           'base..HEAD').split()
        self.clone = BUILD / f'{name}-{release.name}'
        shutil.rmtree(self.clone, ignore_errors=True)
        git(BUILD, 'clone', '--quiet', '--template=', str(self.tree),
            str(self.clone))
        self.failed = []

    def run(self, label, *command, cwd=None):
        """Run a program; show what it says only if it fails."""
        done = subprocess.run(
            list(map(str, command)), cwd=cwd or self.clone, text=True,
            env=self.environ, errors='replace', stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT)
        if done.returncode:
            say(f'{done.stdout.rstrip()}\n{label}: failed')
            self.failed.append(label)
        return done.stdout

    def module(self, label, name, *args, cwd=None):
        return self.run(label, self.python, '-m', name, *args, cwd=cwd)

    def changed(self, span, *patterns):
        """The files that are added or edited between two commits."""
        paths = git(self.clone, 'diff', '--name-only', '--no-renames', '-z',
                    '--diff-filter=AM', *span, '--', *patterns)
        return list(filter(None, paths.split('\0')))

    def end(self, name):
        if self.failed:
            raise Error(f'{name}: failed: ' + ', '.join(self.failed))


def pep8(release, version=None):
    """Run nova's pep8 on what each change adds and edits, and on our tools.

    That is what nova's .pre-commit-config.yaml and its mypy environment
    run, with nova's settings.

    :param version: as for environment.ensure()
    """
    gate = Gate(release, 'pep8', version)
    gate.module('tools lab tests: flake8', 'flake8', '--isolated',
                '--max-line-length=79', 'tools', 'lab', 'tests', cwd=ROOT)
    gate.end('pep8')
    for commit in gate.commits:
        clock = Clock()
        name = git(gate.clone, 'log', '-1', '--format=%s', commit).strip()
        git(gate.clone, 'checkout', '--quiet', '--detach', commit)
        span = (f'{commit}^', commit)
        files = gate.changed(span)
        code = gate.changed(span, '*.py')
        pages = gate.changed(span, 'doc/*.rst', 'releasenotes/*.rst')
        typed = [path for path in ('nova/workers', 'nova/conf/workers.py')
                 if (gate.clone / path).exists()]
        gate.run(f'{name}: white space', 'git', 'diff', '--check', *span)
        if code:
            gate.module(f'{name}: autopep8', 'autopep8', *code)
            # What it has changed in place, as nova's settings have it.
            gate.run(f'{name}: autopep8', 'git', 'diff', '--exit-code')
            git(gate.clone, 'checkout', '--quiet', '--', '.')
            gate.module(f'{name}: flake8', 'flake8', *code)
        gate.module(f'{name}: codespell', 'codespell_lib',
                    '--ignore-words=doc/dictionary.txt', *files)
        if pages:
            gate.module(f'{name}: sphinx-lint', 'sphinxlint',
                        '--enable=default-role', *pages)
        if typed:
            gate.module(f'{name}: mypy', 'mypy', *typed)
        gate.end('pep8')
        say(f'{name}: {len(files)} files ({clock})')


def docs(release, version=None):
    """Build nova's documentation and release notes, warnings as errors.

    :param version: as for environment.ensure()
    """
    gate = Gate(release, 'docs', version)
    clock = Clock()
    builder = 'html'
    if not shutil.which('dot'):
        # Reads and checks all pages and their links, and writes nothing.
        builder = 'dummy'
        say('there is no graphviz, so the pages are checked and not written')
    target = gate.clone / 'doc' / 'build' / builder
    say("building nova's documentation; this takes half a minute")
    gate.module('documentation', 'sphinx', '-q', '-W', '--keep-going',
                '-j', 'auto', '-b', builder, 'doc/source', target)
    where = f' in {shown(target)}' if builder == 'html' else ''
    say(f'documentation{where} ({clock})')
    _notes(gate)
    gate.end('docs')


def _notes(gate):
    """Run reno on our notes, and build what it makes of them."""
    clock = Clock()
    ours = gate.changed(('base', 'HEAD'), NOTES)
    theirs = git(gate.clone, 'ls-tree', '-r', '--name-only', 'base',
                 f'{NOTES}/').split()
    # reno knows a note by the last 16 characters of its name.
    uids = {Path(path).stem[-16:] for path in theirs}
    for path in ours:
        if Path(path).stem[-16:] in uids:
            gate.failed.append(f'{path} has the UID of a note of nova')
    # Some of nova's own have sections, and pairs of them UIDs, that reno
    # takes in nova's history but not in one commit. They go.
    git(gate.clone, 'rm', '--quiet', '--', *theirs)
    git(gate.clone, 'commit', '--quiet', '--message=Only our notes')
    reno = gate.python.with_name('reno')
    gate.run('reno lint', reno, '-q', 'lint', '.')
    folder = gate.clone / 'build-notes'
    folder.mkdir()
    gate.run('reno report', reno, '-q', 'report', '--output',
             folder / 'index.rst', '.')
    if not gate.failed:
        text = (folder / 'index.rst').read_text()
        for path in ours:
            if f' {path} ' not in text:
                gate.failed.append(f'reno does not report {path}')
        gate.module('release notes', 'sphinx', '-q', '-W', '--keep-going',
                    '-C', '-D', 'extensions=oslo_config.sphinxext',
                    '-b', 'dummy', folder, folder / 'out')
    say(f'{len(ours)} release notes ({clock})')
