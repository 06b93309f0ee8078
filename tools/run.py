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

"""Build the series and run it: the demo, the lab, its tests, nova's gates.

``lab`` takes a command and its options: ``run.py lab bench --quick``; see
``run.py lab --help``.
``quick`` is what is run before each commit. ``test`` is the unit and
functional tests and the main cases with real processes. ``all`` is these, then
the other tests in the default mode, and ``short`` of each of the other
releases, or less. ``world`` is the main cases with each broker, with clusters,
and on Debian. A filter or stestr's own options may follow the name of a suite
and of ``test``: ``run.py unit identity``, ``run.py nova -- -1``. ``pep8`` and
``docs`` are nova's own gates, on the built tree. ``--release`` chooses another
release than the newest, and ``--python 3.12`` the Python to run it with, in an
environment of its own.
"""

import argparse
import dataclasses
import os
from pathlib import Path
import shlex
import sys

import changes
import check
from common import Clock
from common import Error
from common import guarded
from common import ROOT
from common import say
import debian
import environment
import gates
import series
import suites

RELEASE = '2026.2'

# Nova's own tests of what the series edits.
NOVA = (
    'nova/tests/unit/test_service.py',
    'nova/tests/unit/test_conf.py',
    'nova/tests/unit/test_rpc.py',
    'nova/tests/unit/test_rpc_prefetch.py',
    'nova/tests/unit/cmd',
    'nova/tests/unit/conf',
    'nova/tests/unit/db/main/test_service_report_state.py',
    'nova/tests/unit/objects/test_service.py',
    'nova/tests/unit/objects/test_service_save.py',
    'nova/tests/unit/scheduler',
    'nova/tests/unit/servicegroup',
)

# The series' own tests in nova.
OWN = {'unit': 'nova/tests/unit/workers',
       'functional': 'nova/tests/functional/workers'}

# Suite -> where: here or in the built tree, and paths of tests.
SUITES = {
    'unit': (('here', ('tests/unit',)),
             ('tree', (OWN['unit'],))),
    'functional': (('tree', (OWN['functional'],)),),
    'nova': (('tree', NOVA),),
    'integration': (('here', ('tests/integration',)),),
    # Measures rates or calls at full speed, so nothing else shall run beside
    # it.
    'stuck': (('here', ('tests/stuck',)),),
}

# The integration tests wait most of the time, each for processes of its own.
OPTIONS = {'integration': ('--concurrency', '6'), 'stuck': ('--serial',)}

# Those run real processes against the clock, on whatever else the machine
# does. What fails there gets one more chance by itself, and is named.
TIMED = ('integration', 'stuck')

# The integration tests of the main cases, which ``test`` has.
MAIN = (r'integration\.test_(scheduler|replaced|blocked|records|inventory|'
        r'upgrade|stop)\.')

# Of the integration tests, what is run for releases that are not the newest;
# so few that more processes would only make more databases and brokers.
SHORT = ('WorkerHostsTestCase.test_a_day_in_the_life|KollaTestCase',
         '--concurrency', '2')
# And for those between the oldest and the newest, in the default mode.
SHORTEST = 'test_scheduler.WorkerHostsTestCase.test_a_day_in_the_life'

# Minutes on two cores, once the environments are there.
MINUTES = {'quick': 2, 'test': 20, 'all': 60, 'world': 70}

GATES = {'pep8': gates.pep8, 'docs': gates.docs}


@dataclasses.dataclass(frozen=True)
class Step:
    """Test modules that are run at a time; the arguments of suites.run()."""

    name: str
    root: Path
    modules: list
    python: Path
    mode: str | None = None
    options: tuple = ()
    extra: Path | None = None
    again: bool = False
    environ: dict = dataclasses.field(default_factory=dict)


def suite(name, release, tree, python, args=(), modes=None):
    """The steps of one suite.

    :param modes: those to run nova's tests in; by default all that there are
    """
    if name in TIMED:
        # Some of it runs nova with the other bases.
        build_others(release)
    extra = lab_extra(release, python) if name == 'integration' else None
    steps = []
    for where, paths in SUITES[name]:
        root = ROOT if where == 'here' else tree
        names = [module for path in paths
                 for module in suites.modules(root, path)]
        for mode in (None,) if where == 'here' else (
                modes or suites.modes(release, name)):
            steps.append(Step(
                '-'.join(filter(None, (name, where, mode))), root, names,
                python, mode, OPTIONS.get(name, ()) + tuple(args), extra,
                name in TIMED))
    return steps


def run(steps, filtered=False):
    """Run steps and return their Result; one with no tests has failed.

    :param filtered: whether a filter of the user's may match none of a step
    """
    total = suites.Result()
    for number, step in enumerate(steps, 1):
        say(f'== {number} of {len(steps)}: {step.name}')
        if not step.modules:
            say(f'{step.name}: there are no tests')
            total += suites.Result(failed=1)
            continue
        clock = Clock()
        result = suites.run(step.python, step.name, step.root, step.modules,
                            step.mode, step.options,
                            lambda line: say(line.rstrip('\n')), step.extra,
                            step.again, step.environ)
        if not result.total and not filtered:
            say(f'{step.name}: no test matches its filter')
            result += suites.Result(failed=1)
        say(f'== {step.name}: {result} ({clock})')
        total += result
    return total


def lab_extra(release, python):
    """The folder of the lab's own packages; None where none are locked."""
    lock = release.extra_lock('lab')
    return environment.extra(python, lock) if lock.is_file() else None


def build_others(release):
    """Build the other bases of a release that have a series.

    Returns each with its tree.
    """
    return [(other, series.build(other))
            for other in changes.releases()[release.name].values()
            if other.base != changes.NOVA and other.folder.is_dir()]


def companion(release, tree, python, args=(), kinds=None):
    """The steps of other bases' own unit tests of what their series edit.

    :param kinds: as check.touched() has it
    """
    steps = []
    for other, built in build_others(release):
        extra = environment.extra(python, other.extra_lock(other.base))
        steps += [Step(f'companion-{kind}', built, names, python,
                       options=tuple(args), extra=extra)
                  for kind, names in check.touched(
                      other, built, kinds).items()]
    return steps


def quick(release, tree, python):
    """The steps that are run before each commit."""
    return [Step('unit-here', ROOT, ['tests.unit.test_project'], python),
            *suite('unit', release, tree, python,
                   modes=release.modes[:1])[1:]]


def main_cases(release, tree, python, args=(), cases=(MAIN,)):
    """The steps that show that the product works.

    :param args: a filter for all of them, in place of the main cases
    :param cases: which of the integration tests
    """
    return (suite('unit', release, tree, python, args) +
            suite('functional', release, tree, python, args) +
            suite('nova', release, tree, python, args, release.modes[:1]) +
            suite('integration', release, tree, python, args or cases))


def short(release, tree, python, unit=True, nova=True, integration=SHORT):
    """The steps for a release that is not the newest.

    That is the series' own tests and those of nova for what it edits, in the
    mode that is the default, few of the integration tests, and of the
    companion what it adds: what it edits is the same in all releases.

    :param unit: whether the series' own unit tests are among them
    :param nova: whether nova's own tests are among them
    :param integration: which of the integration tests
    """
    modes = release.modes[:1]
    names = sorted(set(check.touched(release, tree)['unit'])
                   - set(suites.modules(tree, OWN['unit'])))
    return (suite('unit', release, tree, python, modes=modes)[1:] * unit +
            [Step(f'nova-tree-{modes[0]}', tree, names, python, modes[0])
             ] * nova +
            suite('functional', release, tree, python,
                  modes=suites.modes(release, 'functional')[:1]) +
            suite('integration', release, tree, python, integration) +
            companion(release, tree, python, kinds='A'))


def named(name, steps, environ=()):
    """Steps with a name before theirs, and more environment variables."""
    return [dataclasses.replace(step, name=f'{name} {step.name}',
                                environ=dict(environ)) for step in steps]


def world(release, tree, python):
    """The main cases with each broker, with clusters, and on Debian's own."""
    other_releases(release)
    steps = []
    for name, environ in (
            *((f'RabbitMQ {version}', {'LAB_BROKER': str(
                debian.broker(version))}) for version in debian.BROKERS),
            ('clusters', {'LAB_BROKER': str(debian.broker('4.3')),
                          'LAB_BROKER_NODES': '3',
                          'LAB_DATABASE': 'galera'})):
        steps += named(name, suite('integration', release, tree, python,
                                   (MAIN,)), environ)
    for name, nova in debian.NOVA.items():
        series.build(changes.release(nova))
        root = debian.ensure(name, *debian.NOVA_PACKAGES)
        steps.append(Step(
            f'Debian {name}', ROOT, suites.modules(ROOT, 'tests/debian'),
            python, extra=lab_extra(release, python), again=True,
            environ={'LAB_DEBIAN': str(root), 'LAB_DEBIAN_RELEASE': nova}))
    return steps


def other_releases(release):
    """Make all other releases, as a test upgrades from one to this one.

    :returns: each with its tree and its Python
    """
    others = []
    for other in map(changes.release, changes.releases()):
        if other.name != release.name:
            others.append((other, series.build(other),
                           environment.ensure(other.name)))
            build_others(other)
    return others


def everything(release, tree, python):
    """The steps of all tests, and of few for each of the other releases."""
    others = other_releases(release)
    # All but the main cases in the default mode alone: each mode takes CI ten
    # minutes.
    steps = main_cases(release, tree, python, cases=(
        '--exclude-regex',
        rf'^(?!.*{MAIN}).*({"|".join(release.modes[1:])})'))
    steps += suite('stuck', release, tree, python)
    steps += companion(release, tree, python)
    for other in others:
        # What the series edits is the same in all, or close to that. The
        # oldest is the most different.
        oldest = other is others[-1]
        steps += named(other[0].name, short(
            *other, unit=oldest, nova=False,
            integration=SHORT if oldest else (
                rf'{SHORTEST}_\d_{other[0].modes[0]}',)))
    if debian.available():
        steps += named('RabbitMQ 4.3', suite(
            'integration', release, tree, python, SHORT),
            {'LAB_BROKER': str(debian.broker('4.3'))})
    else:
        say('without RabbitMQ 4.3, which takes root and debootstrap')
    return steps


def add_servers(parser):
    """Add the options for the servers of the lab and of the tests."""
    parser.add_argument('--broker', choices=debian.BROKERS,
                        help='RabbitMQ of this version, as Debian has it; '
                             'the installed one by default')
    parser.add_argument('--broker-nodes', type=int, choices=(1, 3),
                        help='a cluster of RabbitMQ, with quorum queues')
    parser.add_argument('--database', choices=('galera',),
                        help='MariaDB on three nodes')


def choose_servers(options):
    """Have the lab and the tests start the servers that were asked for."""
    if options.broker:
        os.environ['LAB_BROKER'] = str(debian.broker(options.broker))
    if options.broker_nodes:
        os.environ['LAB_BROKER_NODES'] = str(options.broker_nodes)
    if options.database:
        os.environ['LAB_DATABASE'] = options.database


def run_lab(release, args, python=None, extra=True):
    """Become a command of the lab, once all that it needs is there.

    A program that waited for it would be one more to be interrupted, and the
    lab needs its time to end what it has started.

    :param args: the command and its options; --release and --python among
        them count as if they stood before it
    :param extra: whether it needs the packages of the lab's own lock file
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('--release', default=release)
    parser.add_argument('--python', default=python)
    add_servers(parser)
    options, args = parser.parse_known_args(args)
    choose_servers(options)
    release = changes.release(options.release)
    series.build(release)
    python = environment.ensure(release.name, options.python)
    path = [os.environ.get('PYTHONPATH')]
    if extra:
        # The measurements of restarts run with the companion as well.
        build_others(release)
        found = lab_extra(release, python)
        path += [str(found)] if found else []
    os.chdir(ROOT)
    sys.stdout.flush()
    os.execve(python, [str(python), '-m', 'lab', *args], {
        **os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, path)),
        # What it has found is told with the command that finds it again.
        'LAB_COMMAND': shlex.join(['python3', 'tools/run.py',
                                   *sys.argv[1:]])})


# Of more than one suite, or of another base.
RUNS = {'quick': quick, 'test': main_cases, 'companion': companion,
        'short': short, 'all': everything, 'world': world}
UNFILTERED = (*GATES, 'quick', 'short', 'all', 'world')
WHAT = ('demo', 'lab', *SUITES, *RUNS, *GATES)


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog='run', description=__doc__.partition('\n')[0],
        usage='run.py [-h] [--release RELEASE] [--python VERSION] '
              '[--broker VERSION] [--broker-nodes N] [--database galera] {'
              + ','.join(WHAT) + '} [FILTER | OPTION ... | -- OPTION ...]')
    parser.add_argument('--release', default=RELEASE,
                        help=f'{RELEASE} by default')
    parser.add_argument('--python', metavar='VERSION',
                        help='for example 3.12; any that the release runs '
                             'on by default')
    add_servers(parser)
    parser.add_argument('what', choices=WHAT)
    parser.add_argument('args', nargs=argparse.REMAINDER,
                        help='a filter, or options of "stestr run" after '
                             '--; for lab, a command and its options')
    options = parser.parse_args(argv)
    args = options.args[options.args[:1] == ['--']:]
    clock = Clock()
    choose_servers(options)
    if options.what == 'lab':
        return run_lab(options.release, args, options.python)
    if options.what == 'demo':
        return run_lab(options.release, ['demo', *args], options.python,
                       extra=False)
    if {'-h', '--help'} & set(args):
        # Or it would be stestr's, after all has been built.
        parser.print_help()
        return 0
    release = changes.release(options.release)
    if args and options.what in UNFILTERED:
        raise Error(f'{options.what} takes no arguments')
    if options.what in GATES:
        GATES[options.what](release, options.python)
        say(f'in {clock}')
        return 0
    tree = series.build(release)
    python = environment.ensure(release.name, options.python)
    if options.what in MINUTES:
        say(f'{options.what}: about {MINUTES[options.what]} minutes on two '
            f'cores')
    more = [args] if args else []
    if options.what in RUNS:
        steps = RUNS[options.what](release, tree, python, *more)
    else:
        steps = suite(options.what, release, tree, python, args)
    total = run(steps, bool(args))
    if not total.total:
        raise Error('no test matches ' + ' '.join(args) if args
                    else f'{options.what}: there are no tests')
    # At the end, as that is what is kept of a long output.
    for name in total.names:
        say(f'failed: {name}')
    say(f'in {clock}')
    say(str(total))
    return 1 if total.failed else 0


if __name__ == '__main__':
    sys.exit(guarded('run', main))
