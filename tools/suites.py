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

"""Choose test modules and run them with stestr, in nova's two modes."""

import dataclasses
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess

from common import BUILD

# How nova chooses its concurrency mode; its tests follow.
MODES = {'threading': 'True', 'eventlet': 'False'}

# stestr discovers by importing all that is under a path, which for nova
# takes longer than the tests chosen here. It gets a path with this in it.
LOADER = '''\
NAMES = {names!r}


def load_tests(loader, tests, pattern):
    return loader.loadTestsFromNames(NAMES)
'''

# What fails in the threading mode on a nova that is new to it: its own list.
EXCLUDES = 'threading_unit_test_excludes.txt'

# More than that are no accident of a machine that was busy.
MOST_AGAIN = 3


@dataclasses.dataclass(frozen=True)
class Result:
    """How many tests had which end, and the names of those that failed."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    names: tuple[str, ...] = ()

    def __add__(self, other):
        return Result(self.passed + other.passed,
                      self.failed + other.failed,
                      self.skipped + other.skipped,
                      self.names + other.names)

    def __str__(self):
        return (f'{self.passed} passed, {self.failed} failed, '
                f'{self.skipped} skipped')

    @property
    def total(self):
        return self.passed + self.failed + self.skipped


def modules(tree, path):
    """The dotted names of the test modules at a path of a tree."""
    found = tree / path
    files = [found] if found.is_file() else found.rglob('test_*.py')
    return sorted('.'.join(file.relative_to(tree).with_suffix('').parts)
                  for file in files)


def touched(tree, kind, edited):
    """The test modules to run when files of nova were edited.

    :param tree: a nova tree, with all or some of the series' changes
    :param kind: unit or functional
    :param edited: repository paths of nova's own files
    :returns: dotted names: the series' own tests, and nova's unit tests
        of each edited module, or of its package if it has none
    """
    root = f'nova/tests/{kind}'
    found = set(modules(tree, f'{root}/workers'))
    for name in map(Path, edited):
        if name.is_relative_to(root):
            if name.match('test_*.py') and (tree / name).is_file():
                found.update(modules(tree, name))
        elif (kind == 'unit' and name.suffix == '.py'
                and not name.is_relative_to('nova/tests')):
            for path in _tests_of(tree, root, name):
                found.update(modules(tree, path))
    return sorted(found)


def touched_of(tree, package, changed):
    """The same for another base, whose tests are in folders like its own.

    :param package: the base's Python package
    :param changed: repository paths of files that were edited or added
    :returns: dotted names: the unit tests among them, and those of each
        module, or of any with its name, or of its package
    """
    root = f'{package}/tests'
    found = set()
    for name in map(Path, changed):
        if name.is_relative_to(root):
            if name.match('test_*.py'):
                found.update(modules(tree, name))
        elif name.is_relative_to(package) and name.suffix == '.py':
            public = Path(*(part.lstrip('_') for part in name.parts))
            paths = _tests_of(tree, root, public) or [
                path.relative_to(tree) for path in
                (tree / root).rglob(f'test_{public.name}')]
            for path in paths:
                found.update(modules(tree, path))
    # Those need a broker.
    return sorted(found - set(modules(tree, f'{root}/functional')))


def _tests_of(tree, root, name):
    inside = Path(*name.parts[1:])
    while inside.name:
        folder = inside.parent
        paths = [Path(root) / folder / f'test_{inside.stem}.py']
        if inside.suffix == '':
            paths.append(Path(root) / inside)
        there = [path for path in paths if (tree / path).exists()]
        if there:
            return there
        inside = folder
    return []


def modes(release, kind):
    """The modes to run nova's tests of a kind in.

    Its functional tests have the eventlet mode alone before 2026.2: in the
    threading mode the threads of a test share one connection to SQLite. Its
    tox.ini tells.

    :param kind: unit or functional
    """
    tox = release.tree / 'tox.ini'
    if (kind == 'functional' and tox.is_file() and not re.search(
            r'^\[testenv:functional-.*threading', tox.read_text(), re.M)):
        return ('eventlet',)
    return release.modes


def run(python, name, tree, names, mode=None, args=(), line=None,
        extra=None, again=False, environ=()):
    """Run test modules and return a Result.

    :param python: the environment's Python
    :param name: a name for this run's files in build/stestr/
    :param tree: where to run them; it comes first on the Python path
    :param mode: one of MODES
    :param args: more arguments for ``stestr run``, a filter for example
    :param line: called with each line that stestr prints
    :param extra: a folder with more packages; it comes next on the path
    :param again: whether those that failed get one more chance, each by
        itself; those that pass then are named too
    :param environ: more environment variables
    """
    line = line or (lambda text: None)
    folder = BUILD / 'stestr' / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / 'select').mkdir(parents=True)
    (folder / 'select' / 'test_select.py').write_text(
        LOADER.format(names=names))
    environ = {**os.environ, 'LC_ALL': 'C.UTF-8', 'LANGUAGE': 'en_US',
               'PYTHONPATH': os.pathsep.join(
                   map(str, filter(None, (tree, extra)))),
               'OS_STDOUT_CAPTURE': '1',
               'OS_STDERR_CAPTURE': '1', **dict(environ)}
    environ.setdefault('OS_TEST_TIMEOUT', '160')
    # Or each of hundreds of processes compiles nova for itself.
    environ.pop('PYTHONDONTWRITEBYTECODE', None)
    if mode == 'threading' and (tree / EXCLUDES).is_file():
        # stestr takes no lines that are empty or a comment alone.
        (folder / 'excludes').write_text(''.join(
            line for line in (tree / EXCLUDES).open()
            if line.strip() and not line.startswith('#')))
        args = (*args, '--exclude-list', folder / 'excludes')
    if mode:
        environ['OS_NOVA_DISABLE_EVENTLET_PATCHING'] = MODES[mode]
    stestr = [python, '-m', 'stestr', '--repo-url', folder,
              '--test-path', folder / 'select', '--top-dir',
              folder / 'select']

    def failing():
        done = subprocess.run(
            [*map(str, stestr), 'failing', '--list'], cwd=tree, env=environ,
            text=True, capture_output=True)
        return done.stdout.split()

    result = _stestr([*stestr, 'run', *args], tree, environ, line)
    if not result.failed:
        return result
    failed = failing()
    line('failed: ' + ' '.join(failed))
    if again and len(failed) == result.failed <= MOST_AGAIN:
        line('once more, each by itself')
        second = _stestr([*stestr, 'run', '--serial', '--failing'], tree,
                         environ, line)
        if second.total == len(failed):
            left = failing() if second.failed else []
            line('unstable, as they passed then: ' + (' '.join(
                name for name in failed if name not in left) or 'none'))
            failed = left
            result = Result(result.passed + second.passed, second.failed,
                            result.skipped + second.skipped)
    return dataclasses.replace(result, names=tuple(failed))


def _stestr(command, tree, environ, line):
    counts = {}
    unmatched = False
    pipe = subprocess.Popen(
        list(map(str, command)), cwd=tree, env=environ, text=True,
        errors='replace', stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True)
    with pipe:
        try:
            for text in pipe.stdout:
                line(text)
                found = re.match(r' - ([A-Z][A-Za-z ]+): (\d+)$', text)
                if found:
                    counts[found[1]] = int(found[2])
                if "regex doesn't match with anything" in text:
                    unmatched = True
        except BaseException:
            # Whoever was interrupted, the tests end what they have started.
            os.killpg(pipe.pid, signal.SIGINT)
            pipe.wait()
            raise
    passed = counts.get('Passed', 0) + counts.get('Expected Fail', 0)
    failed = counts.get('Failed', 0) + counts.get('Unexpected Success', 0)
    if pipe.returncode and not failed and not unmatched:
        # A module that cannot be imported, a worker that died.
        failed = 1
    return Result(passed, failed, counts.get('Skipped', 0))
