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

"""Build the series and run it: the demo, its tests, or nova's gates.

``test`` is all of the tests; a filter or stestr's own options may follow
the name of any of them: ``run.py unit identity``, ``run.py nova -- -1``.
``pep8`` and ``docs`` are nova's own gates, on the built tree. ``--release``
chooses another release than the newest, and ``--python 3.12`` the Python to
run it with, in an environment of its own.
"""

import argparse
import subprocess
import sys

import changes
from common import Clock
from common import Error
from common import guarded
from common import ROOT
from common import say
import environment
import gates
import series
import suites

RELEASE = '2026.2'

# Nova's own tests of what the series edits.
NOVA = (
    'nova/tests/unit/test_service.py',
    'nova/tests/unit/test_conf.py',
    'nova/tests/unit/cmd',
    'nova/tests/unit/conductor',
    'nova/tests/unit/conf',
    'nova/tests/unit/scheduler',
    'nova/tests/unit/servicegroup',
)

# Suite -> where: here or in the built tree, and paths of tests.
SUITES = {
    'unit': (('here', ('tests/unit',)),
             ('tree', ('nova/tests/unit/workers',))),
    'functional': (('tree', ('nova/tests/functional/workers',)),),
    'nova': (('tree', NOVA),),
    'integration': (('here', ('tests/integration',)),),
    # Measures rates, so nothing else shall run beside it.
    'stuck': (('here', ('tests/stuck',)),),
}

# The integration tests wait most of the time, each for processes of its own.
OPTIONS = {'integration': ('--concurrency', '4'), 'stuck': ('--serial',)}

GATES = {'pep8': gates.pep8, 'docs': gates.docs}


def _print(line):
    say(line.rstrip('\n'))


def run_suite(name, python, tree, modes, args):
    """Run one suite and return its Result; one with no tests has failed.

    :param modes: those of the tests in the tree
    """
    total = suites.Result()
    for where, paths in SUITES[name]:
        root = ROOT if where == 'here' else tree
        names = [module for path in paths
                 for module in suites.modules(root, path)]
        if not names:
            say(f'{name}: there are no tests in {" ".join(paths)}')
            total += suites.Result(failed=1)
            continue
        for mode in modes if where == 'tree' else (None,):
            clock = Clock()
            label = '-'.join(filter(None, (name, where, mode)))
            say(f'== {label}')
            options = OPTIONS.get(name, ()) + tuple(args)
            result = suites.run(python, label, root, names, mode, options,
                                _print)
            say(f'== {label}: {result} ({clock})')
            total += result
    return total


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog='run', description=__doc__.partition('\n')[0],
        usage='run.py [-h] [--release RELEASE] [--python VERSION] {demo,test,'
              + ','.join([*SUITES, *GATES]) + '} [FILTER | -- OPTION ...]')
    parser.add_argument('--release', default=RELEASE,
                        help=f'{RELEASE} by default')
    parser.add_argument('--python', metavar='VERSION',
                        help='for example 3.12; any that the release runs '
                             'on by default')
    parser.add_argument('what', choices=['demo', 'test', *SUITES, *GATES])
    parser.add_argument('args', nargs=argparse.REMAINDER,
                        help='a filter, or options of "stestr run" after --')
    options = parser.parse_args(argv)
    args = options.args[options.args[:1] == ['--']:]
    clock = Clock()
    release = changes.release(options.release)
    if options.what in GATES:
        if args:
            raise Error(f'{options.what} takes no arguments')
        GATES[options.what](release, options.python)
        say(f'in {clock}')
        return 0
    tree = series.build(release)
    python = environment.ensure(release.name, options.python)
    if options.what == 'demo':
        return subprocess.run([python, '-m', 'lab.demo', *args],
                              cwd=ROOT).returncode
    names = list(SUITES) if options.what == 'test' else [options.what]
    total = suites.Result()
    for name in names:
        total += run_suite(name, python, tree, release.modes, args)
    if not total.total:
        raise Error('no test matches ' + ' '.join(args))
    say(f'in {clock}')
    say(str(total))
    return 1 if total.failed else 0


if __name__ == '__main__':
    sys.exit(guarded('run', main))
