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

"""What the tools share: places, one kind of error, git and pip."""

import contextlib
import fcntl
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

OLDEST = (3, 11)

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / 'build'

MAINTAINERS = 'nova-scheduler-workers maintainers'
ADDRESS = 'maintainers@nova-scheduler-workers.invalid'

# Commits must not depend on who makes them where: no configuration but
# this, and no hooks. A tree may belong to another user (a container's).
GIT = (
    'git',
    '-c', 'core.autocrlf=false', '-c', 'core.fileMode=true',
    '-c', 'core.hooksPath=/dev/null', '-c', 'core.quotePath=false',
    '-c', 'core.attributesFile=/dev/null', '-c', 'commit.gpgSign=false',
    '-c', 'maintenance.auto=false', '-c', 'safe.directory=*',
)


class Error(Exception):
    """Something the user can act on, told in one line."""


def guarded(name, function):
    """Run a tool's main function and return its exit code.

    Errors become one line on stderr and 1, a Python that is too old for
    the tools among them; an interrupt becomes 130, and so does whatever
    else ends a tool in an orderly way.
    """
    # A shell that runs a tool in the background has it ignore SIGINT.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # But nohup has it ignore SIGHUP.
        if signum != signal.SIGHUP or (
                signal.getsignal(signum) is not signal.SIG_IGN):
            signal.signal(signum, signal.default_int_handler)
    try:
        if sys.version_info < OLDEST:
            raise Error('the tools need Python {}.{} or newer, and this is '
                        '{}.{}'.format(*OLDEST, *sys.version_info))
        return function() or 0
    except (Error, OSError, UnicodeError) as error:
        text = ' '.join(str(error).split())
        print(f'{name}: {text}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f'{name}: interrupted', file=sys.stderr)
        return 130


def say(text):
    print(text, flush=True)


def shown(path):
    """A path as the user would type it in this repository."""
    path = Path(path)
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def git(tree, *args, data=None, date=None, environ=()):
    """Run git in a tree and return its output, bytes kept as they are.

    :param data: text for its standard input
    :param date: seconds since the epoch, for the commit it makes
    :param environ: more environment variables
    :raises: GitError if git fails, Error if there is none
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith('GIT_')}
    env.update(
        LC_ALL='C', GIT_CONFIG_GLOBAL=os.devnull, GIT_CONFIG_NOSYSTEM='1',
        GIT_AUTHOR_NAME=MAINTAINERS, GIT_AUTHOR_EMAIL=ADDRESS,
        GIT_COMMITTER_NAME=MAINTAINERS, GIT_COMMITTER_EMAIL=ADDRESS)
    env.update(environ)
    if date is not None:
        env['GIT_AUTHOR_DATE'] = f'{date} +0000'
        env['GIT_COMMITTER_DATE'] = f'{date} +0000'
    try:
        done = subprocess.run(
            [*GIT, *args], cwd=tree, env=env, capture_output=True,
            input=None if data is None else encode(data))
    except FileNotFoundError:
        raise Error('git is not installed')
    if done.returncode:
        raise GitError(f'git {args[0]} failed: {decode(done.stderr).strip()}')
    return decode(done.stdout)


class GitError(Error):
    """git failed."""


def decode(data):
    return data.decode('utf-8', 'surrogateescape')


def encode(text):
    return text.encode('utf-8', 'surrogateescape')


def pip(what, *args, environ=(), line=None):
    """Run pip, as the user configured it.

    :param what: what it is for, to begin the error with
    :param environ: more environment variables
    :param line: called with each line pip prints
    :raises: Error with pip's last error line
    """
    pipe = subprocess.Popen(
        [sys.executable, '-m', 'pip', '--disable-pip-version-check', *args],
        env={**os.environ, **dict(environ)}, text=True, errors='replace',
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    printed = []
    with pipe:
        for text in pipe.stdout:
            printed.append(text.strip())
            if line:
                line(text)
    if pipe.returncode:
        raise PipError(what, printed)


class PipError(Error):
    """pip failed; ``printed`` has its lines."""

    def __init__(self, what, printed):
        self.printed = [text for text in printed if text] or ['(no output)']
        errors = [text for text in self.printed
                  if re.match(r'error\b', text, re.IGNORECASE)]
        super().__init__(f'{what}: pip: {(errors or self.printed)[-1]}')


@contextlib.contextmanager
def locked():
    """Keep other tools from writing to build/ meanwhile."""
    BUILD.mkdir(exist_ok=True)
    with open(BUILD / '.lock', 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('waiting for another tool that uses build/')
            fcntl.flock(lock, fcntl.LOCK_EX)
        # What an interrupted tool left.
        for folder in BUILD.glob('.tmp-*'):
            shutil.rmtree(folder)
        yield


@contextlib.contextmanager
def scratch():
    """A temporary folder in build/, for a tool that locked it."""
    with tempfile.TemporaryDirectory(prefix='.tmp-', dir=BUILD) as folder:
        yield Path(folder)


class Clock:
    """Tells the seconds since it was made."""

    def __init__(self):
        self.began = time.monotonic()

    def __str__(self):
        return f'{time.monotonic() - self.began:.0f} s'
