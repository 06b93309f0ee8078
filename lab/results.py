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

"""What a command of the lab found: tables, pictures and notes.

They are shown on the terminal as they come, and written as JSON, as Markdown
and, the pictures, as SVG and PNG.
"""

import datetime
import functools
import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time

import prettytable
import psutil

from lab import LabError
from lab import pictures
from lab.servers import broker
from lab.servers import database
from lab.spread import shown
from lab.spread import Spread


def _table(columns, rows, style=prettytable.TableStyle.DEFAULT):
    made = prettytable.PrettyTable(list(columns))
    made.set_style(style)
    for number, column in enumerate(columns):
        cells = [row[number] for row in rows]
        made.align[column] = 'r' if cells and all(
            isinstance(cell, (int, float, Spread)) for cell in cells) else 'l'
    made.add_rows([[shown(cell) for cell in row] for row in rows])
    return made


def _plain(value):
    """The same, of what JSON has; it has no infinity."""
    if isinstance(value, Spread):
        return _plain({name: getattr(value, name) for name in
                       ('median', 'least', 'most', 'values')})
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return shown(value)
    return value


def _output(*command):
    """What a program prints, or nothing if there is none."""
    try:
        return subprocess.run(command, capture_output=True, text=True,
                              timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return ''


@functools.cache
def versions():
    """The versions of what is measured; None for what is not there."""
    found = {'Python': platform.python_version()}
    for name in ('nova', 'oslo.messaging'):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    number = re.compile(r'\d+\.\d+\.\d+')
    for name, command in (('RabbitMQ', broker.command(broker.CTL, 'version')),
                          ('MariaDB', [database.mariadbd() or 'mariadbd',
                                       '--version'])):
        match = number.search(_output(*command))
        found[name] = match and match[0]
    return found


def machine():
    """The machine, as far as it matters and without its name."""
    return {'cores': len(os.sched_getaffinity(0)),
            'memory, GiB': round(psutil.virtual_memory().total / 2 ** 30, 1)}


class Results:
    """What one run of a command found."""

    def __init__(self, command, arguments=(), folder='build/lab'):
        """Begin with nothing.

        :param command: its name, which those of the files begin with
        :param arguments: of the command line
        :param folder: for the files
        """
        self.command = command
        self.folder = folder
        self.began = time.monotonic()
        self.about = {
            'date': datetime.datetime.now(datetime.timezone.utc).strftime(
                '%Y-%m-%d %H:%M UTC'),
            # With the release and the Python, where those were asked for.
            'command': os.environ.get('LAB_COMMAND') or shlex.join(
                ['python3', 'tools/run.py', 'lab', command, *arguments]),
            'machine': machine(),
            'versions': versions(),
        }
        self.contents = []

    def progress(self, text):
        """Tell on stderr what is done now; it is no result."""
        print('[%5.1f s] %s' % (time.monotonic() - self.began, text),
              file=sys.stderr, flush=True)

    def note(self, text):
        """A paragraph."""
        self.contents.append({'note': text})
        print('\n' + text, flush=True)

    def table(self, title, columns, rows):
        """A table.

        :param rows: lists of texts, numbers and ``Spread``s
        """
        rows = [list(row) for row in rows]
        self.contents.append({'table': title, 'columns': list(columns),
                              'rows': rows})
        print(f'\n{title}\n{_table(columns, rows)}', flush=True)

    def lines(self, name, title, x, panels, marks=(), scale='linear'):
        """A picture of lines, with panels side by side, of the same labels.

        :param name: the end of the files' names
        :param x: what is measured along, with its unit
        :param panels: dict: what is measured, with its unit -> label -> list
            of (x, y), where y may be a ``Spread``; stock comes first
        :param marks: list of (x, text), for what happens there
        :param scale: ``linear`` or ``log``, of both axes
        """
        self._picture(name, title, 'lines', x=x, panels=panels,
                      marks=list(marks), scale=scale)

    def bars(self, name, title, y, groups, series, scale='linear'):
        """A picture of bars.

        :param groups: what stands below each group of bars
        :param series: dict: label -> a value for each group, which may be a
            ``Spread``; stock comes first
        :param scale: ``linear``, ``log``, or ``symlog``, which has a zero
        """
        self._picture(name, title, 'bars', y=y, groups=list(groups),
                      series=series, scale=scale)

    def _picture(self, name, title, kind, **data):
        self.contents.append({'picture': title, 'kind': kind,
                              'name': f'{self.command}-{name}'} | data)

    def make_folder(self):
        """Make the folder for the files.

        :raises LabError: when nothing can be written there
        """
        try:
            os.makedirs(self.folder, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise LabError('--output is a folder that can be written to, and '
                           '%s: %s' % (self.folder or 'it is empty',
                                       error.strerror))

    def save(self):
        """Write all there is up to now, in place of what was there.

        :returns: the paths of the files
        """
        self.make_folder()
        paths = []
        for name, text in ((self.command + '.json', self.json()),
                           (self.command + '.md', self.markdown())):
            paths.append(os.path.join(self.folder, name))
            # What was there stays until there is all of what takes its place.
            with open(paths[-1] + '.new', 'w') as stream:
                stream.write(text)
            os.replace(stream.name, paths[-1])
        for found in self.contents:
            if 'picture' in found:
                paths += pictures.write(
                    found, os.path.join(self.folder, found['name']))
        return paths

    def json(self):
        """All of it as JSON."""
        return json.dumps(_plain(self.about | {'contents': self.contents}),
                          indent=1) + '\n'

    def markdown(self):
        """All of it as Markdown."""
        about = self.about
        facts = [about['date'], '`%s`' % about['command'],
                 '%d cores, %s GiB of memory' % tuple(
                     about['machine'].values()),
                 ', '.join(f'{name} {version or "(none)"}' for name, version
                           in about['versions'].items())]
        blocks = [f'# lab {self.command}',
                  '\n'.join(f'- {fact}' for fact in facts)]
        for found in self.contents:
            if 'table' in found:
                blocks += ['## ' + found['table'], str(_table(
                    found['columns'], found['rows'],
                    prettytable.TableStyle.MARKDOWN))]
            elif 'picture' in found:
                blocks.append('![%(picture)s](%(name)s.svg)' % found)
            else:
                blocks.append(found['note'])
        return '\n\n'.join(blocks) + '\n'
