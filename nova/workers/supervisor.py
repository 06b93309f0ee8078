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

"""The parent replaces a worker that stops running messages.

Each worker has a slot in memory that it shares with the parent, and counts up
there whenever it begins a message. A worker that has not done so for too long
is killed, and the launcher starts it again under its name. That catches what
the worker cannot see, or not help, itself: a deadlock in its dispatch pool, C
code that holds the GIL, a stopped process.

It is the way of gunicorn's arbiter.
"""

import contextlib
import faulthandler
import mmap
import os
import resource
import select
import signal
import threading
import time

from oslo_log import log as logging

LOG = logging.getLogger(__name__)

# Seconds between two looks at the slots.
INTERVAL = 0.5
# Seconds for which an aborted worker may write no stacks and live on.
DUMP_TIME = 2

# The fields of a slot, and the size of one in bytes.
_PID, _COUNT, _FIELDS = 0, 1, 2
_SIZE = 8


class Slot:
    """What a worker says to the parent.

    Made in the parent, before the fork. The worker counts; the parent reads
    the count and what the worker writes into the pipe when it is aborted.

    :ivar host: the worker host
    """

    def __init__(self, host, fields):
        self.host = host
        self._fields = fields
        self._reader, self._writer = os.pipe()
        # The parent's view: the count it saw last, and for how many seconds
        # it has not changed.
        self._seen = 0
        self.silence = 0

    def open(self):
        """In the worker: from the first alive() on, expect one more."""
        # It is the parent that can write to the log while this process hangs,
        # so the stacks go there.
        faulthandler.enable(self._writer)
        self._fields[_COUNT] = 0
        self._fields[_PID] = os.getpid()

    def alive(self):
        """In the worker: it runs messages."""
        self._fields[_COUNT] += 1

    def close(self):
        """In the worker: expect nothing more, it is about to end."""
        # Not the count, which another thread may be about to write.
        self._fields[_PID] = 0

    @property
    def pid(self):
        """The process that is watched; 0 if there is none."""
        return self._fields[_PID]

    def observe(self, elapsed):
        """In the parent: see if the worker has counted up.

        :param elapsed: seconds since the last look
        """
        count = self._fields[_COUNT]
        if self.pid and count and count == self._seen:
            self.silence += elapsed
        else:
            self._seen = count
            self.silence = 0

    def forget(self):
        """In the parent: the worker is gone."""
        self._fields[_PID] = self._fields[_COUNT] = 0
        self.silence = 0

    def read(self):
        """In the parent: what the worker has written, without waiting."""
        output = b''
        while select.select([self._reader], [], [], 0)[0]:
            output += os.read(self._reader, 65536)
        return output


class Supervisor:
    """Replaces the workers of a node that have begun no message for too long.

    :param hosts: the worker hosts
    :param timeout: for how many seconds a worker may begin no message
    """

    def __init__(self, hosts, timeout):
        self._timeout = timeout
        self._lock = threading.Lock()
        memory = memoryview(mmap.mmap(
            -1, len(hosts) * _FIELDS * _SIZE)).cast('Q')
        self.slots = [
            Slot(host, memory[n * _FIELDS:(n + 1) * _FIELDS])
            for n, host in enumerate(hosts)]

    def start(self):
        """Watch the workers in a thread, from the parent."""
        # A worker that was forked while this thread writes to the log would
        # find a lock of the log held for ever.
        os.register_at_fork(before=self._lock.acquire,
                            after_in_parent=self._lock.release,
                            after_in_child=self._lock.release)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        last = time.monotonic()
        while True:
            time.sleep(INTERVAL)
            now = time.monotonic()
            # Where this process did not run, the workers may not have either:
            # the node was suspended, or all of the service was stopped.
            with self._lock:
                self._watch(min(now - last, 2 * INTERVAL))
            last = now

    def _watch(self, elapsed):
        for slot in self.slots:
            try:
                slot.observe(elapsed)
                if slot.silence > self._timeout:
                    self._replace(slot)
                self._log_stacks(slot, slot.read())
            except Exception:
                LOG.exception('Error while watching worker %s', slot.host)

    def _replace(self, slot):
        pid, silence = slot.pid, slot.silence
        slot.forget()
        if not _is_child(pid):
            # It has ended by itself, and the launcher is about to notice.
            return
        LOG.error('Worker %(host)s (pid %(pid)d) has begun no message for '
                  '%(silence)d seconds, since %(since)s; replacing it',
                  {'host': slot.host, 'pid': pid, 'silence': silence,
                   'since': time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(
                       time.time() - silence))})
        # A core file would hold credentials. A limit of 1 also keeps the
        # kernel from starting a program that takes it, see core(5).
        with contextlib.suppress(OSError):
            _soft, hard = resource.prlimit(pid, resource.RLIMIT_CORE)
            if hard != 0:
                resource.prlimit(pid, resource.RLIMIT_CORE, (1, hard))
        # A stopped process does not abort, and is not continued for that: all
        # its threads would run, and acknowledge messages that get lost then.
        _kill(pid, signal.SIGABRT)
        stacks = b''
        deadline = time.monotonic() + DUMP_TIME
        while _is_child(pid) and time.monotonic() < deadline:
            output = slot.read()
            if output:
                stacks += output
                deadline = time.monotonic() + DUMP_TIME
            time.sleep(0.02)
        if _kill(pid, signal.SIGKILL):
            LOG.error('Worker %(host)s did not abort within %(seconds)d '
                      'seconds; killed it',
                      {'host': slot.host, 'seconds': DUMP_TIME})
        self._log_stacks(slot, stacks + slot.read())

    def _log_stacks(self, slot, stacks):
        if stacks:
            LOG.error('Stacks of worker %(host)s:\n%(stacks)s', {
                'host': slot.host,
                'stacks': stacks.decode(errors='replace').rstrip()})


def check(group, timeout, report_interval):
    """Make sure that a healthy worker is not taken for a stuck one.

    :param group: the section of the options, for the message
    :param timeout: the value of worker_timeout, in seconds
    :param report_interval: the value of report_interval, in seconds
    :raises: ValueError, with one line for the operator, if it would be
    """
    if not timeout:
        return
    if report_interval <= 0:
        raise ValueError(
            f'[{group}] worker_timeout needs the heartbeat, but [DEFAULT] '
            f'report_interval is {report_interval}')
    # Its own message is sent once in an interval, and what it waits for is
    # asked within the next.
    least = 3 * report_interval
    if timeout < least:
        raise ValueError(
            f'[{group}] worker_timeout is {timeout} seconds, but with '
            f'[DEFAULT] report_interval = {report_interval} it has to be at '
            f'least {least}, or 0 to replace no worker')


def _is_child(pid):
    """Whether a process is a child of this one that has not ended."""
    try:
        return os.waitid(os.P_PID, pid,
                         os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _kill(pid, signum):
    """Send a signal to a child; False if there is none."""
    # Never to a process that got the id of a worker that has ended.
    if not _is_child(pid):
        return False
    os.kill(pid, signum)
    return True
