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

"""What each worker of a node is doing, in memory that all of them share.

The parent makes the board before it forks. A worker writes its own row; the
parent and the siblings read it. Each field has one writer at a time and is as
large as what a processor stores at once, so nothing is locked. Times are those
of time.monotonic(), which is the same clock in all processes of a machine.
"""

import ctypes
import faulthandler
import mmap
import os
import time

from oslo_log import log as logging

LOG = logging.getLogger(__name__)

#: The states of a worker.
STARTING, SERVING, STOPPING = 1, 2, 3
#: The stages of a task.
RUNNING, REPLYING = 1, 2

# What one more request weighs in the mean time of requests, and for how many
# seconds after its end that mean is true.
WEIGHT = 0.2
LATELY = 60
# Seconds that a request is taken to need at most where none has succeeded for
# so long.
MOST = 1

# The bytes of a request's id, method and instance, and the NUL at their end.
REQUEST_SIZE = 160

# How many of the requests that a worker has lost are remembered.
REMEMBERED = 20


class Task(ctypes.Structure):
    """A message that a thread of a worker runs, and then replies to."""

    _fields_ = [
        ('stage', ctypes.c_uint64),
        ('since', ctypes.c_double),
        # How many requests have begun, succeeded and failed in this place.
        ('begun', ctypes.c_uint64),
        ('succeeded', ctypes.c_uint64),
        ('failed', ctypes.c_uint64),
        # Request id, method and instance; empty for a ping.
        ('request', ctypes.c_char * REQUEST_SIZE),
    ]


class Lost(ctypes.Structure):
    """A request that did not end before its worker did."""

    _fields_ = [
        ('began', ctypes.c_double),
        ('ended', ctypes.c_double),
        ('request', ctypes.c_char * REQUEST_SIZE),
    ]


class Past(ctypes.Structure):
    """What the earlier processes of a worker did. It is never cleared.

    ``starts`` counts the present process, too.
    """

    _fields_ = [
        ('starts', ctypes.c_uint64),
        ('begun', ctypes.c_uint64),
        ('failed', ctypes.c_uint64),
        ('lost', ctypes.c_uint64),
        ('requests', Lost * REMEMBERED),
    ]


class Row(ctypes.Structure):
    """What one worker is doing; made by Board.

    :ivar host: the worker host
    :ivar tasks: a Task for each thread that runs messages
    :ivar past: the Past
    :ivar stacks: the file that the worker writes its stacks to
    """

    asked: int
    reset: int
    stacks: int
    success_ended: float
    success_took: float

    _fields_ = [
        ('pid', ctypes.c_uint64),
        ('state', ctypes.c_uint64),
        # When that state began, and when a timer last ran: Python code runs.
        ('since', ctypes.c_double),
        ('ticked', ctypes.c_double),
        # Whether the parent asks for the stacks, and for a reset; the worker
        # sets both back to 0.
        ('asked', ctypes.c_uint64),
        ('reset', ctypes.c_uint64),
        # How many messages may run at a time.
        ('threads', ctypes.c_uint64),
        # The id of the record, when a self-ping last could not be sent, when
        # one last ran, when this worker last wrote heartbeats, and when any
        # worker last wrote this one's.
        ('record', ctypes.c_uint64),
        ('unsent', ctypes.c_double),
        ('pinged', ctypes.c_double),
        ('wrote', ctypes.c_double),
        ('written', ctypes.c_double),
        # The mean seconds of requests, and when one last ended; the same of
        # those that succeeded. Threads may write at once, and one of them is
        # lost.
        ('took', ctypes.c_double),
        ('ended', ctypes.c_double),
        ('success_took', ctypes.c_double),
        ('success_ended', ctypes.c_double),
    ]

    def open(self):
        """In the worker: this process is the worker from now on."""
        self.clear()
        self._free = list(self.tasks)
        self.pid = os.getpid()
        self.past.starts += 1
        self.enter(STARTING)

    def enter(self, state):
        """In the worker: enter a state."""
        self.since = time.monotonic()
        self.state = state

    def tick(self):
        """In the worker, from a timer: Python code runs."""
        self.ticked = time.monotonic()
        if self.asked:
            self.asked = 0
            faulthandler.dump_traceback(self.stacks)

    def begin(self, request, own=True):
        """In the worker: a thread begins a message.

        :param request: id, method and instance as bytes; empty for a ping
        :param own: whether the message came from the worker's own queues: a
            ping to the node address does not show that those are read
        :returns: the Task, for end()
        """
        task = self._free.pop()
        task.request = request[:REQUEST_SIZE - 1]
        task.begun += bool(request)
        if own:
            task.since = time.monotonic()
        task.stage = RUNNING
        return task

    def count(self, task, failed=False, typical=True):
        """In the worker: a request has ended.

        :param failed: whether it failed in a way that nobody expects
        :param typical: whether its time is that of a request that succeeds
        :returns: the seconds that it took
        """
        self.ended = time.monotonic()
        took = self.ended - task.since
        self.took += WEIGHT * (took - self.took)
        if failed:
            task.failed += 1
        else:
            task.succeeded += 1
        if typical:
            self.success_took += (WEIGHT if self.success_ended else 1) * (
                took - self.success_took)
            self.success_ended = self.ended
        return took

    def end(self, task):
        """In the worker: the reply is sent."""
        task.stage = 0
        self._free.append(task)

    @property
    def newest(self):
        """When a message to the worker last began, or 0."""
        return max(task.since for task in self.tasks)

    @property
    def begun(self):
        """When a message last began; the start of the process if none has."""
        return self.newest or self.since

    @property
    def full(self):
        """Whether all threads run methods."""
        return len(self.busy(RUNNING)) >= self.threads > 0

    def busy(self, *stages):
        """The tasks that are in one of these stages."""
        return [task for task in self.tasks if task.stage in stages]

    def counts(self):
        """How many requests have succeeded, and how many have failed."""
        return (sum(task.succeeded for task in self.tasks),
                sum(task.failed for task in self.tasks))

    def requests_begun(self):
        """How many requests this process has begun."""
        return sum(task.begun for task in self.tasks)

    def requests(self):
        """The requests that have not ended, each with its age, as text."""
        return '; '.join(
            f'{task.request.decode(errors="replace")} for '
            f'{time.monotonic() - task.since:.1f} s'
            for task in self.busy(RUNNING, REPLYING) if task.request)

    def clear(self):
        """Forget a process that has ended; log which requests are lost."""
        if lost := self.requests():
            LOG.error('Worker %(host)s (pid %(pid)d) has ended and lost: '
                      '%(lost)s', {'host': self.host, 'lost': lost,
                                   'pid': self.pid})
        past, now = self.past, time.monotonic()
        past.begun += self.requests_begun()
        past.failed += self.counts()[1]
        for task in self.busy(RUNNING, REPLYING):
            if task.request:
                place = past.requests[past.lost % REMEMBERED]
                place.request, place.began = task.request, task.since
                place.ended = now
                past.lost += 1
        for part in (self, self.tasks):
            ctypes.memset(ctypes.byref(part), 0, ctypes.sizeof(part))


class Board:
    """The rows of all workers of a node.

    :param hosts: the worker hosts
    :param threads: how many messages a worker runs at a time, those of its
        own queues and of the node's
    """

    def __init__(self, hosts, threads):
        tasks = Task * threads
        size = sum(map(ctypes.sizeof, (Row, tasks, Past)))
        memory = mmap.mmap(-1, size * len(hosts))
        self.rows = []
        for number, host in enumerate(hosts):
            at = number * size
            row = Row.from_buffer(memory, at)
            row.host = host
            row.tasks = tasks.from_buffer(memory, at + ctypes.sizeof(Row))
            row.past = Past.from_buffer(
                memory, at + size - ctypes.sizeof(Past))
            self.rows.append(row)

    def took(self, row):
        """How many seconds requests take on the node of a worker.

        When all begin to fail, as in an outage of Placement, their callers get
        the errors at once. But if none has succeeded for a minute, the time of
        the last ones that did is what counts, a second at most: other nodes
        may be well, and this one would draw most requests of the cloud.

        :param row: of the worker; its siblings count, or its own requests that
            succeeded if there are no siblings, and only what was lately
        """
        since = time.monotonic() - LATELY
        last = max(self.rows, key=lambda other: other.success_ended)
        if max(last.success_ended, row.since) <= since:
            return min(last.success_took or MOST, MOST)
        found = [other.took for other in self.rows
                 if other is not row and other.ended > since]
        if len(self.rows) == 1 and row.success_ended > since:
            found = [row.success_took]
        return sum(found) / len(found) if found else 0
