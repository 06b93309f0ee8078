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
    """Test a built tree change by change, nova in each of its modes.

    What is tested grows with the changes: all the series' own tests so
    far, and the base's unit tests of all that was edited so far.

    :param start: the number of the change to begin with
    :raises: Error at the first change with a failure
    """
    series = changes.commits(release, tree)
    if start and start not in [change.name[:2] for _, change in series]:
        raise Error(f'there is no change with the number {start}')
    python = environment.ensure(release.name)
    nova = release.base == changes.NOVA
    extra = None
    if not nova:
        extra = environment.extra(python, release.extra_lock(release.base))
    # A clone, so that the built tree stays as it is.
    clone = BUILD / f'check-{release.tree.name}'
    shutil.rmtree(clone, ignore_errors=True)
    git(BUILD, 'clone', '--quiet', '--template=', str(tree), str(clone))
    for commit, change in series:
        if change.name[:2] < start:
            continue
        git(clone, 'checkout', '--quiet', '--detach', commit)
        clock = Clock()
        total = suites.Result()
        for kind, names in touched(release, clone).items():
            modes = suites.modes(release, kind) if nova else (None,)
            for mode in modes if names else ():
                total += _run(python, clone, change.name, kind, names, mode,
                              extra)
        say(f'{change.name}: {total.total} tests, {total.skipped} skipped '
            f'({clock})')


def touched(release, tree, kinds=None):
    """The tests to run for all changes up to what a tree has checked out.

    :param kinds: of what was done to the files that count, as git diff has
        them; by default M, and for other bases than nova A and M
    :returns: kind, unit or functional -> dotted names of modules
    """
    nova = release.base == changes.NOVA
    kinds = kinds or ('M' if nova else 'AM')
    paths = git(tree, 'diff', '--name-only', '--no-renames', '-z',
                f'--diff-filter={kinds}', 'base', 'HEAD')
    changed = list(filter(None, paths.split('\0')))
    if not nova:
        return {'unit': suites.touched_of(tree, release.project, changed)}
    return {kind: suites.touched(tree, kind, changed)
            for kind in ('unit', 'functional')}


def _run(python, clone, name, kind, names, mode, extra):
    printed = []
    result = suites.run(python, '-'.join(filter(None, ('check', kind, mode))),
                        clone, names, mode, line=printed.append, extra=extra)
    if result.failed:
        say(''.join(printed))
        where = f' in {mode} mode' if mode else ''
        raise Error(f'{name}: {kind} tests{where}: {result}')
    return result
