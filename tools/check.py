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

"""Run the touched tests after each change: each has to be green by itself."""

import shutil

import changes
from common import BUILD
from common import Clock
from common import Error
from common import git
from common import say
import environment
import suites


def check(release, tree, start=''):
    """Test a built tree change by change, in both of nova's modes.

    What is tested grows with the changes: all the series' own tests so
    far, and nova's unit tests of all that was edited so far.

    :param start: the number of the change to begin with
    :raises: Error at the first change with a failure
    """
    series = changes.changes(release)
    if start and start not in [change.name[:2] for change in series]:
        raise Error(f'there is no change with the number {start}')
    python = environment.ensure(release.name)
    commits = git(tree, 'rev-list', '--reverse', 'base..HEAD').split()
    # A clone, so that the built tree stays as it is.
    clone = BUILD / f'check-{release.name}'
    shutil.rmtree(clone, ignore_errors=True)
    git(BUILD, 'clone', '--quiet', '--template=', str(tree), str(clone))
    for change, commit in zip(series, commits):
        if change.name[:2] < start:
            continue
        git(clone, 'checkout', '--quiet', '--detach', commit)
        edited = git(clone, 'diff', '--name-only', '--no-renames', '-z',
                     '--diff-filter=M', 'base', commit).split('\0')
        _check(python, clone, change.name, list(filter(None, edited)))


def _check(python, clone, name, edited):
    clock = Clock()
    total = suites.Result()
    for kind in ('unit', 'functional'):
        names = suites.touched(clone, kind, edited)
        for mode in suites.MODES if names else ():
            printed = []
            result = suites.run(python, f'check-{kind}-{mode}', clone,
                                names, mode, line=printed.append)
            if result.failed:
                say(''.join(printed))
                raise Error(f'{name}: {kind} tests in {mode} mode: {result}')
            total += result
    say(f'{name}: {total.total} tests, {total.skipped} skipped ({clock})')
