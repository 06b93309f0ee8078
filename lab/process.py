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

"""Child processes which are always ended, by their ids."""

import configparser
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import psutil

from lab import LabError

# The folder of this repository.
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def nova_path(tree=None, *more):
    """PYTHONPATH for a nova process.

    :param tree: folder whose ``nova`` package is to be run; the installed
        one if None
    :param more: folders to put after it
    """
    paths = [tree and os.path.abspath(tree), *more,
             os.environ.get('PYTHONPATH')]
    return os.pathsep.join(path for path in paths if path)


def wait(condition, timeout, what, log=None):
    """Poll ``condition`` until it holds, and return its (true) value.

    :param condition: callable; what it returns is the value
    :param timeout: seconds
    :param what: what is waited for, for the error
    :param log: callable that returns the text of a log; its end is added to
        the error
    :raises LabError: when the condition does not hold in time
    """
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise LabError('waited %g s in vain for %s' % (timeout, what),
                           log() if log else '')
        time.sleep(0.1)


def write_conf(path, *layers):
    """Write a configuration file, and return its path.

    :param layers: section -> option -> value; later layers win
    """
    parser = configparser.RawConfigParser(default_section='')
    for layer in layers:
        parser.read_dict(layer)
    with open(path, 'w') as stream:
        parser.write(stream)
    return path


def free_port():
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return sock.getsockname()[1]


def end(processes, timeout):
    """End processes: SIGTERM to the first, SIGKILL to what is left.

    The first is the parent of the others, which ends them in an orderly way
    if it can. A stopped process would keep it waiting, so all are continued.

    :param processes: psutil processes
    :param timeout: seconds the orderly way may take; with 0 all are killed
        at once
    """
    if timeout:
        for process in processes:
            _signal(process, signal.SIGCONT)
        for process in processes[:1]:
            _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout)
    for process in alive:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, 10)


def _signal(process, signum):
    # psutil compares the time of the start first, so an id that was given to
    # another process in between is never signalled.
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signum)


def runs(found):
    """Whether a process has not ended, also if its parent does not know."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return found.status() != psutil.STATUS_ZOMBIE
    return False


class Child:
    """A started process, its children, and the log they write to."""

    def __init__(self, command, log, env=None, stdout=None, pass_fds=()):
        """Start the process.

        :param command: list of arguments
        :param log: path of the log: what is written to stderr (and stdout)
        :param env: environment variables to add to ours
        :param stdout: as in ``subprocess.Popen``; the log by default
        :param pass_fds: file descriptors that it inherits
        """
        self.log_path = log
        with open(log, 'ab') as stream:
            # A session of its own: neither does a Ctrl-C reach it, which is
            # ours to handle, nor do its signals to its group reach us.
            self.process = psutil.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stdout or stream,
                stderr=stream, env=dict(os.environ, **(env or {})),
                start_new_session=True, pass_fds=pass_fds)
        self._seen = {}

    @property
    def pid(self):
        return self.process.pid

    @property
    def returncode(self):
        """As in ``subprocess.Popen``: negative after a signal."""
        return self.process.returncode

    def running(self):
        return self.process.poll() is None

    def log(self):
        """The text of the log up to now."""
        with open(self.log_path, errors='replace') as stream:
            return stream.read()

    def tree(self):
        """The process and its children, also those it has left behind."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in self.process.children(recursive=True):
                self._seen[child.pid] = child
        left = [child for child in self._seen.values() if child.is_running()]
        return [self.process] + left

    def stop(self, timeout=20):
        """End the process and its children; SIGKILL after ``timeout`` s."""
        try:
            end(self.tree(), timeout)
        finally:
            # Also after a Ctrl-C meanwhile. A stopped parent cannot start
            # another child between our look at them and its end.
            _signal(self.process, signal.SIGSTOP)
            end(self.tree(), 0)
            if self.process.stdout:
                self.process.stdout.close()

    def kill(self):
        """End the process and its children at once, by SIGKILL."""
        self.stop(0)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()


@contextlib.contextmanager
def module(name, *arguments, **env):
    """A module that runs as a program, for the time of a ``with``.

    :returns: its ``Child``, and the first line that it has written
    :raises LabError: when it ends before
    """
    with tempfile.NamedTemporaryFile(prefix='lab-') as log, Child(
            [sys.executable, '-m', name, *map(str, arguments)], log.name,
            {'PYTHONPATH': nova_path(ROOT), **env},
            stdout=subprocess.PIPE) as child:
        # Ends with the process, so it does not wait for ever.
        line = child.process.stdout.readline().decode().strip()
        if not line:
            raise LabError(name + ' did not start', child.log())
        yield child, line


class PrivateServer:
    """A server of one's own, which a test can stop and start again.

    A subclass has ``KIND``, ``port``, ``answers()`` and ``begin()``, which
    makes ``folder``, if there is none yet, and ``child``.
    """

    folder = None
    child = None

    def start(self, timeout=180):
        """Start it, with what it stored before, and wait until it answers.

        :param timeout: seconds
        :raises LabError: when it ends, or does not answer in time
        """
        self.begin()
        self.wait_answers(timeout)

    def wait_answers(self, timeout=180):
        """Wait until it answers; as for ``start``."""
        def answers():
            if not self.child.running():
                raise LabError(self.KIND + ' ended', self.child.log())
            return self.answers()

        wait(answers, timeout, '%s on port %d' % (self.KIND, self.port),
             self.child.log)

    def stop(self):
        """End its process at once, as a crash would; its data stays."""
        if self.child:
            self.child.kill()
            self.child = None

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc):
        self.stop()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
