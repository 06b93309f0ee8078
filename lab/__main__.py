#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""python -m lab COMMAND: what ``tools/run.py lab`` runs.

Each module of ``lab.commands`` is a command: the first line of its docstring
is its help, ``add_arguments(parser)`` adds its options, and
``main(args, results)`` runs it and returns the exit code.
"""

import argparse
import ast
import importlib
import logging
import pathlib
import signal
import sys
import tempfile
import traceback

import psutil

from lab import LabError
from lab import process
from lab import results as lab_results

# Ctrl-C, who ends us, and a terminal that is closed.
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

FOLDER = pathlib.Path(__file__).parent / 'commands'


def found():
    """The commands: name -> the first line of what they are for."""
    # Read, not imported: one command may need what is not there.
    return {path.stem: ast.get_docstring(
                ast.parse(path.read_text())).splitlines()[0]
            for path in sorted(FOLDER.glob('[!_]*.py'))}


def parse(argv):
    """Parse a command line.

    :returns: the module of the command, and its arguments
    """
    commands = found()
    width = max(map(len, commands))
    parser = argparse.ArgumentParser(
        prog='run.py lab', formatter_class=argparse.RawTextHelpFormatter,
        usage='run.py lab [-h] COMMAND [OPTION ...]',
        description='A real control plane: commands that show it.',
        epilog='commands, each of which has a --help of its own:\n' + '\n'
        .join(f'  {name:{width}}  {text}' for name, text in commands.items()))
    parser.add_argument('command', metavar='COMMAND', choices=commands)
    parser.add_argument('arguments', nargs=argparse.REMAINDER,
                        help=argparse.SUPPRESS)
    first = parser.parse_args(argv)
    module = importlib.import_module('lab.commands.' + first.command)
    parser = argparse.ArgumentParser(
        prog='run.py lab ' + first.command, description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--output', metavar='DIR', default='build/lab',
                        help='where tables and pictures are written, from '
                             'the repository on (default: %(default)s)')
    module.add_arguments(parser)
    args = parser.parse_args(first.arguments)
    args.command, args.arguments = first.command, first.arguments
    return module, args


def keep_log(text):
    """Keep the log of what failed, and return where."""
    with tempfile.NamedTemporaryFile('w', prefix='lab-', suffix='.log',
                                     delete=False) as stream:
        stream.write(text)
    return stream.name


def interrupt(signum, frame):
    # Once: what ends the lab's processes and databases is not to be cut off.
    for each in INTERRUPTS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(argv=None):
    # A shell that runs us in the background lets us ignore SIGINT.
    for signum in INTERRUPTS:
        signal.signal(signum, interrupt)
    # They say what still comes while a channel is closed, and what a client
    # of the lab thinks of a broker that is away.
    for name in ('amqp', 'oslo.messaging', 'oslo_messaging'):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    command = 'lab'
    try:
        module, args = parse(argv)
        command = 'lab ' + args.command
        results = lab_results.Results(args.command, args.arguments,
                                      args.output)
        # What is measured may take hours, and has to find its place then.
        results.make_folder()
        code = module.main(args, results)
        if results.contents:
            print('\nwritten: ' + ' '.join(results.save()))
        return code or 0
    except KeyboardInterrupt:
        print(f'{command}: interrupted; what it started is ended',
              file=sys.stderr)
        return 130
    except Exception as error:
        line = getattr(error, 'line', None) or str(error) or repr(error)
        print(f'{command}: {line.splitlines()[0]}', file=sys.stderr)
        if not isinstance(error, LabError):
            # It was not foreseen, so all of it is of use.
            print('The traceback is in %s.' % keep_log(
                traceback.format_exc()), file=sys.stderr)
        elif str(error) != line:
            print('The log ends in %s.' % keep_log(str(error)),
                  file=sys.stderr)
        return 1


if __name__ == '__main__':
    try:
        sys.exit(main())
    finally:
        # A signal may come before whoever starts a child knows of it.
        process.end(psutil.Process().children(recursive=True), 0)
