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

"""Put the series onto somebody's git checkout, as a branch for Gerrit.

Each change is merged three ways in a repository of its own that borrows the
checkout's objects, so that the checkout gets all commits or nothing, and
whatever is in its work tree stays as it is.
"""

import os
from pathlib import Path
import shutil
import subprocess

import changes
from common import Clock
from common import decode
from common import Error
from common import git
from common import GitError
from common import locked
from common import say
from common import scratch

# The commits of a checkout among which its owner may have changes of the
# series.
RECENT = 1000


def apply(release, tree, checkout, branch=None, stage=None, signoff=False):
    """Make a branch on a checkout's HEAD, with a commit for each change.

    Their author is the user. A change that the checkout has already is left
    out.

    :param tree: the release's built tree
    :param checkout: path of a git repository of the base
    :param branch: the branch to make; workers-RELEASE if None, or
        workers-RELEASE-STAGE
    :param stage: only the changes of this stage
    :param signoff: have the user sign them off
    :raises: Error if a change conflicts with what is there, or if there is
        no such repository or already such a branch; nothing is changed then
    """
    clock = Clock()
    if branch is None:
        branch = '-'.join(filter(None, ('workers', release.name, stage)))
    head = _theirs(checkout, 'rev-parse', '--verify', 'HEAD^{commit}')
    _theirs(checkout, 'check-ref-format', '--branch', branch)
    if _theirs(checkout, 'for-each-ref', f'refs/heads/{branch}'):
        raise Error(f'{checkout} has a branch {branch} already; choose '
                    f'another with --branch')
    commits = changes.commits(release, tree, stage)
    environ = identity(checkout)
    with locked(), scratch() as folder:
        _borrow(checkout, folder, head)
        git(folder, 'fetch', '--quiet', str(tree), 'HEAD')
        there = git(folder, 'log', f'--max-count={RECENT}',
                    '--format=%(trailers:key=Change-Id,valueonly)').split()
        for _, change in changes.commits(release, tree):
            if change.stage == stage:
                break
            if stage and change.key not in there:
                say(f'note: {checkout} does not have {change.name}, which '
                    f'is before stage {stage}')
        for commit, change in commits:
            if change.key in there:
                # What a later change made of it would be a conflict.
                say(f'{change.name} is there already')
                continue
            _pick(folder, checkout, change, commit, environ, signoff)
        made = git(folder, 'rev-list', f'{head}..HEAD').split()
        if not made:
            raise Error(f'{checkout} has all of the changes already')
        _theirs(checkout, 'fetch', '--quiet', '--no-write-fetch-head',
                '--no-tags', '--no-prune', '--no-recurse-submodules',
                str(folder), f'HEAD:refs/heads/{branch}')
    say(f'{branch} in {checkout} has {len(made)} commits on {head[:12]} '
        f'({clock})')


def _theirs(checkout, *args):
    """Run git as the user would, whose configuration counts there."""
    environ = {name: value for name, value in os.environ.items()
               if name not in ('GIT_DIR', 'GIT_WORK_TREE', 'GIT_INDEX_FILE')}
    try:
        done = subprocess.run(['git', *args], cwd=checkout, env=environ,
                              capture_output=True)
    except NotADirectoryError:
        raise Error(f'{checkout} is not a folder')
    except FileNotFoundError:
        raise Error(f'{checkout} is missing' if not checkout.exists()
                    else 'git is not installed')
    if done.returncode:
        raise Error(f'{checkout}: {decode(done.stderr).strip()}')
    return decode(done.stdout).strip()


def identity(checkout):
    """Return the environment that has the user's name in a commit.

    :raises: Error if git does not know the user
    """
    environ = {}
    for who in ('AUTHOR', 'COMMITTER'):
        try:
            ident = _theirs(checkout, '-c', 'user.useConfigOnly=true', 'var',
                            f'GIT_{who}_IDENT')
        except Error:
            raise Error(f'git does not know who you are: set user.name and '
                        f'user.email in {checkout}')
        name, _, rest = ident.rpartition(' <')
        environ[f'GIT_{who}_NAME'] = name
        environ[f'GIT_{who}_EMAIL'] = rest.partition('>')[0]
    return environ


def _borrow(checkout, folder, head):
    """Make a repository that has a checkout's commits, and check one out."""
    git(folder, 'init', '--quiet', '--template=')
    git(folder, 'config', 'merge.directoryRenames', 'false')
    for name, target in (('objects', 'objects/info/alternates'),
                         ('shallow', 'shallow')):
        path = Path(checkout, _theirs(checkout, 'rev-parse', '--git-path',
                                      name)).resolve()
        target = folder / '.git' / target
        target.parent.mkdir(exist_ok=True)
        if name == 'objects':
            target.write_text(f'{path}\n')
        elif path.exists():
            shutil.copyfile(path, target)
    git(folder, 'checkout', '--quiet', '--detach', head)


def _pick(folder, checkout, change, commit, environ, signoff):
    try:
        git(folder, 'cherry-pick', '--no-commit', commit)
    except GitError:
        files = git(folder, 'diff', '--name-only', '--diff-filter=U', '-z')
        if not files:
            raise
        files = files.rstrip('\0').replace('\0', ', ')
        raise Error(f'{change.name} conflicts with {checkout} in {files}; '
                    f'nothing was changed')
    if not git(folder, 'status', '--porcelain'):
        say(f'{change.name} is there already')
        return
    git(folder, 'commit', '--quiet', '--no-verify', '--cleanup=verbatim',
        '--file=-', *['--signoff'] * signoff, data=change.message,
        environ=environ)
