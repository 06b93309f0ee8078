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

"""The parent replaces a worker that is stuck.

A worker that has begun no message for too long is replaced if a trial shows
that a new process gets on. So an outage of the message broker or of a database
excuses all workers by itself, and what a worker cannot help itself is cured: a
deadlock in its dispatch pool, C code that holds the GIL, a stopped process.

It is the way of gunicorn's arbiter: a signal in one look, SIGKILL in a later
one, and no waiting between.
"""

import faulthandler
import fcntl
import os
import signal
import sys
import tempfile
import threading
import time

from oslo_log import log as logging
from oslo_utils import eventletutils
import psutil

import nova.conf
from nova.workers import board
from nova.workers import heartbeat
from nova.workers import trial

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

# Has a worker write its stacks, which does not end it.
DUMP_SIGNAL = signal.SIGRTMIN + 1

# Seconds between two looks at the workers.
INTERVAL = 0.5
# Seconds that a process has to write its stacks after the signal for that.
DUMP_TIME = 2
# Seconds that a worker may take to start.
START_TIME = 30
# Seconds without a tick after which a worker runs no Python code, and without
# a look after which the parent was held up.
PAUSE = 5
# So often a request fails, and one of a sibling succeeds, before the worker is
# the cause.
FAILURES = 5
# For how many seconds it counts that a worker was replaced or restarted, and
# how often that may be until it has more time.
REMEMBERED = 3600
FREE = 2
# Seconds between two restarts of a worker that fails.
PATIENCE = 600


class Watched:
    """A worker as the parent sees it. Made before the fork.

    :ivar row: the nova.workers.board.Row of the worker
    """

    def __init__(self, row):
        self.row = row
        # The stacks that the worker writes, how many bytes of them were there
        # at the last look, when they grew, and the process to be killed.
        self._output = row.stacks = _make_file()
        # Each write at the end, also after read() has cut it.
        fcntl.fcntl(self._output, fcntl.F_SETFL, os.O_APPEND)
        self._size = 0
        self._grew = self._patience = 0.0
        self.doomed = 0
        # When the newest message of one that is to be replaced began.
        self.sentenced = 0.0
        # Whether the log says why the worker is down.
        self.told = False
        # When the worker was replaced or restarted.
        self.replaced: list[float] = []
        # When the worker was last seen to run, and to serve or to stop.
        self.seen = self.served = time.monotonic()
        # How often the parent has ended the worker, by reason. Prometheus sees
        # no increase of a counter that begins with 1.
        self.reasons = dict.fromkeys(('stuck', 'failing', 'reload'), 0)
        # How often the worker has ended for any other reason.
        self.other = 0
        # The process that was told to stop, and when.
        self.stopping = (0, 0.0)
        # The counts of the worker and of its siblings at the time from which
        # on all requests of the worker fail, how many had failed here and
        # succeeded there in the last turn, and the number of turns.
        self._sound: tuple = ()
        self._turn, self._turns = (0, 0), 0

    def enable_dump(self):
        """In the worker: write the stacks when the parent asks for them."""
        faulthandler.register(DUMP_SIGNAL, self._output)

    def ask_for_stacks(self, now):
        """In the parent: have the worker write the stacks of its threads.

        Where Python code runs a timer does so. A handler of signals would read
        what other threads change meanwhile, which may crash the process.
        """
        self._grew = now
        if now - self.row.ticked < PAUSE:
            self.row.asked, self._patience = 1, PAUSE
        else:
            self._signal(now)

    def _signal(self, now):
        self._grew, self._patience = now, DUMP_TIME
        # One that was stopped would handle it as it goes on, while its threads
        # run, and might crash.
        if self.doomed or not _is_stopped(self.row.pid):
            _kill(self.row.pid, DUMP_SIGNAL)

    def kill_later(self, seconds):
        """In the parent: kill the worker if it still runs then.

        In a thread of the kernel's, as the launcher of the eventlet mode lets
        no other run when it stops.
        """
        threads = eventletutils.is_monkey_patched('thread') and (
            sys.modules['eventlet.patcher'].original('threading')) or threading
        timer = threads.Timer(seconds, _kill, (self.row.pid, signal.SIGKILL))
        timer.daemon = True
        timer.start()

    def dumps(self, now):
        """Whether there are stacks that the worker still writes, or may."""
        size = os.fstat(self._output).st_size
        if size != self._size:
            self._size, self._grew = size, now
        waits = now - self._grew < (INTERVAL if size else self._patience)
        if self.row.asked and not waits:
            # No timer runs any more.
            self.row.asked = 0
            self._signal(now)
            return True
        return waits

    def read(self):
        """Take the stacks that the worker has written."""
        output = os.pread(self._output, self._size, 0)
        os.ftruncate(self._output, 0)
        self._size = 0
        return output.decode(errors='replace').rstrip()

    def allowance(self, timeout, now):
        """For how many seconds the worker may begin no message.

        :param timeout: the value of worker_timeout
        :param now: the value of time.monotonic()
        """
        row = self.row
        if row.state == board.STARTING:
            timeout += START_TIME
        elif not row.full and now - row.ticked < PAUSE:
            running = row.busy(board.RUNNING)
            hanging = sum(not task.request for task in running)
            loses = row.requests() or row.busy(board.REPLYING)
            if loses:
                # oslo.messaging needs that long to notice that the broker has
                # gone, or the caller that a reply is for.
                timeout = max(timeout, 2 * (heartbeat.rabbit(
                    'heartbeat_timeout_threshold', 60) or 60))
                if hanging:
                    # The next self-ping is to have its turn. Where a third one
                    # hangs it is no single connection.
                    timeout = max(timeout, heartbeat.pause(min(hanging, 2)) +
                                  2 * CONF.report_interval)
            if loses or not hanging:
                # The listener may be about to connect to the broker again.
                timeout += heartbeat.reconnect_time()
        recently = [at for at in self.replaced if now - at < REMEMBERED]
        return timeout * 2 ** min(3, max(0, len(recently) - FREE))

    def fails(self, own, others):
        """Whether requests fail here, and hardly any at the siblings.

        Five times in turn, as those of siblings may be of another time: when
        Placement goes away, or comes back, and one worker gets no requests.

        :param own: how many requests of the worker have succeeded and failed
        :param others: the same of its siblings
        """
        counts = (self.row.pid, *own, *others)
        pid, succeeded, failed, fine, wrong = map(
            lambda a, b: a - b, counts, self._sound or counts)
        if not self._sound or pid or succeeded or min(fine, wrong) < 0 or (
                wrong and wrong * 10 >= fine):
            self._sound, self._turn, self._turns = counts, (0, 0), 0
        elif failed > self._turn[0] and fine > self._turn[1]:
            self._turn, self._turns = (failed, fine), self._turns + 1
        return self._turns >= FAILURES


class Supervisor:
    """Replaces the workers of a node that have begun no message for too long.

    :param node: the nova.workers.board.Board of the node
    :param timeout: for how many seconds a worker may begin no message; with 0
        none is replaced, and the log tells of those that are stuck
    :param attempt: called in a trial; see there
    :ivar watched: a Watched for each worker
    :ivar lock: held while the parent forks; who writes to the log from another
        thread of the parent has to hold it, too
    :ivar looked: when the workers were last looked after
    :ivar outage: why a new worker could do no better; None if it could, or
        nobody asked
    :ivar asked: set where somebody asks for ``failing`` without a timeout, as
        that takes a trial
    :ivar failing: whether to start the service again would help
    """

    def __init__(self, node, timeout, attempt):
        self.watched = [Watched(row) for row in node.rows]
        self._timeout = timeout
        self._attempt = attempt
        self.lock = threading.RLock()
        self.looked = time.monotonic()
        # When a message last began, since when a worker gets on, if it does at
        # all: the parent goes on, or a trial told of an outage; and when a
        # message began after none had for long.
        self._newest = self._works = self._resumed = self.looked
        self._trial: trial.Trial | None = None
        # Until when no worker had a thread free for its self-ping.
        self._freed = self.looked
        # When the next trial may begin, and whether the last one succeeded
        # after a pause only.
        self._next_trial = 0.0
        self._hesitates = False
        # Whether no worker could send its self-ping since a message began, and
        # no trial was made since; which message was the newest at the last.
        self._refused, self._tried = False, 0.0
        self.outage: str | None = None
        self.asked = False
        self.failing = False
        # The worker that was replaced and does not serve yet.
        self._replacing: Watched | None = None
        # The workers to be renewed, each with its process of before, the one
        # that was told to stop, and whether to renew all once more.
        self._old: dict[Watched, int] = {}
        self._renewing: Watched | None = None
        self._again = False
        # What the launcher does on SIGTERM, until it does so.
        self._sigterm = signal.getsignal(signal.SIGTERM)

    def start(self):
        """Look after the workers in a thread, from the parent."""
        self._sigterm = signal.getsignal(signal.SIGTERM)
        # A worker that was forked while this thread writes to the log would
        # find a lock of the log held for ever.
        os.register_at_fork(before=self.lock.acquire,
                            after_in_parent=self.lock.release,
                            after_in_child=self.lock.release)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            time.sleep(INTERVAL)
            with self.lock:
                try:
                    self.look(time.monotonic())
                except Exception:
                    LOG.exception('Error while looking after the workers')

    def look(self, now):
        """See to each worker, without waiting.

        :param now: the value of time.monotonic()
        """
        newest = max(self._newest, *(
            watched.row.newest for watched in self.watched))
        if now - self.looked > PAUSE:
            self._works = now
            for watched in self.watched:
                if watched.sentenced:
                    # What held up the parent may have held up the worker.
                    self._spare(watched)
        elif newest - max(self._newest, self._freed) > (
                2 * CONF.report_interval + INTERVAL):
            # Where none had a thread free, all may just have run long ones.
            self._resumed = newest
        # Those with free threads send a self-ping, and a broker that is away
        # refuses each.
        serving = [watched.row for watched in self.watched
                   if watched.row.state == board.SERVING and
                   now - watched.row.ticked < PAUSE]
        unsent = [row.unsent for row in serving if not row.full]
        if CONF.report_interval <= 0 or not any(
                len(row.busy(board.RUNNING, board.REPLYING)) < row.threads
                for row in serving):
            self._freed = now
        self._refused = min(unsent, default=0) > newest != self._tried
        self.looked, self._newest = now, newest
        ends = signal.getsignal(signal.SIGTERM) != self._sigterm
        for watched in self.watched:
            if watched.stopping[0] != watched.row.pid and (
                    ends or watched.row.state == board.STOPPING):
                watched.stopping = (watched.row.pid, now)
            self._end_stop(watched, now)
            self._end_dump(watched, now)
            if not is_child(watched.stopping[0]):
                # Its id may be that of another process one day.
                watched.stopping = (0, watched.stopping[1])
            if is_child(watched.row.pid):
                watched.seen = now
                if watched.row.state in (board.SERVING, board.STOPPING):
                    watched.served = now
        if ends:
            self.failing = False
            return
        self._reload(now)
        # One that stops and has no thread free may be stuck, too.
        alive = [watched for watched in self.watched if not watched.doomed and
                 watched.row.state and is_child(watched.row.pid) and (
                     watched.row.state != board.STOPPING or watched.row.full)]
        stuck = [watched for watched in alive
                 if self.down(watched, now, self._allowance(watched, now))]
        if self._timeout:
            self._restart_failing(alive, now)
            self._replace_stuck(stuck, now)
        else:
            self._tell(alive, now)
        self._find_failing(stuck, now)

    def _allowance(self, watched, now):
        timeout = self._timeout or CONF.service_down_time
        if not self._timeout and (
                watched.row.full and now - watched.row.ticked < PAUSE):
            # Its requests may just be long ones. Without a timeout nobody says
            # how long, and a restart would lose them.
            timeout = max(timeout, CONF.long_rpc_timeout)
        return watched.allowance(timeout, now)

    def stalled(self, watched, now):
        """For how many seconds a worker has begun no message.

        Times at which no worker could do so do not count.
        """
        row = watched.row
        since = max(row.begun, self._works)
        if row.state == board.STARTING or now - row.ticked < PAUSE:
            # The broker may have been away. That is no excuse for one that
            # runs no code at all.
            since = max(since, self._resumed)
        return now - since

    def down(self, watched, now, limit):
        """Whether a worker has begun no message for too long.

        :param limit: seconds that are not too long
        """
        # Without heartbeats a worker that has nothing to do begins nothing.
        return self.stalled(watched, now) > limit and (
            CONF.report_interval > 0 or watched.row.full)

    def _find_failing(self, stuck, now):
        """Find out whether to start the service again would help.

        A worker that stops, or has just ended, is about to start again.
        """
        hopeless = all(
            watched in stuck and watched.row.state != board.STOPPING or
            now - max(watched.seen, watched.row.since) > START_TIME
            for watched in self.watched)
        better = not stuck or self.failing
        if self.asked and not self._timeout and self._try(
                hopeless and stuck, now):
            better = True
            self._next_trial = now + CONF.service_down_time
        # With a timeout those that are stuck are replaced.
        self.failing = hopeless and not self.outage and better

    def _try(self, wanted, now):
        """Find out whether a new worker would get on, and then from when on.

        :param wanted: whether that is asked
        :returns: True when a trial has found out that it would
        """
        if not wanted:
            self._hesitates = False
        if self._trial is None:
            if (self.outage or wanted or self._refused) and (
                    now >= self._next_trial):
                self._trial = trial.Trial(self._attempt)
        elif self._trial.ended:
            error, slow = self._trial.error, now - self._trial.began > PAUSE
            self._trial = None
            self._tried = self._newest
            if error == trial.NO_CONNECTION and self._writes(now):
                # The stuck worker may hold the connections, and its
                # replacement gets them.
                error = None
            if error is None and not self.outage and not self._refused:
                # An outage may have ended meanwhile, and workers need until
                # their next self-ping.
                self._hesitates = slow and not self._hesitates
                if self._hesitates:
                    self._next_trial = now + CONF.report_interval
                return not self._hesitates
            if error and not self.outage:
                LOG.warning('Workers run no messages, and a new one could do '
                            'no better, so none is replaced: %s', error)
            # Once that is over, each worker has all of its time.
            self.outage, self._works = error, now
            self._next_trial = now + CONF.report_interval
        return False

    def _writes(self, now):
        """Whether a worker still writes heartbeats: the database is well."""
        return CONF.servicegroup_driver == 'db' and now - max(
            watched.row.written for watched in self.watched) < (
                2 * CONF.report_interval)

    def _replace_stuck(self, stuck, now):
        replacing = self._replacing
        # One that does not start, again and again, holds up no other.
        if replacing and (
                replacing in stuck or
                now - replacing.replaced[-1] > self._timeout + START_TIME or
                not replacing.doomed and
                replacing.row.state == board.SERVING):
            self._replacing = replacing = None
        wanted = stuck and not replacing
        if self._try(wanted, now) and wanted:
            self._replace(max(stuck, key=lambda watched:
                              self.stalled(watched, now)), now)

    def _replace(self, watched, now):
        begun = watched.row.begun
        stalled = now - begun
        self._dump(watched, now, watched.row.pid, begun)
        LOG.error('Worker %(host)s (pid %(pid)d) has begun no message for '
                  '%(stalled)d seconds, since %(since)s; replacing it',
                  {'host': watched.row.host, 'stalled': stalled,
                   'pid': watched.row.pid,
                   'since': time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(
                       time.time() - stalled))})
        self._replacing = watched
        watched.replaced.append(now)

    def _spare(self, watched):
        watched.doomed, watched.sentenced = 0, 0.0
        watched.replaced.pop()
        if self._replacing is watched:
            self._replacing = None
        LOG.warning('Worker %(host)s (pid %(pid)d) goes on, and is not '
                    'replaced', {'host': watched.row.host,
                                 'pid': watched.row.pid})

    def _dump(self, watched, now, doomed=0, sentenced=0.0):
        """Have a worker write its stacks, before it is killed if it is."""
        watched.doomed, watched.sentenced = doomed, sentenced
        watched.ask_for_stacks(now)

    def _end_dump(self, watched, now):
        if watched.dumps(now):
            return
        if (watched.row.pid == watched.doomed and
                0 < watched.sentenced < watched.row.newest):
            self._spare(watched)
        if watched.doomed:
            watched.reasons['stuck'] += bool(watched.sentenced)
            # If it has ended by itself, the next one is about to clear it.
            if _kill(watched.doomed, signal.SIGKILL) and (
                    watched.row.pid == watched.doomed):
                watched.row.clear()
            watched.doomed, watched.sentenced = 0, 0.0
        if stacks := watched.read():
            LOG.error('Stacks of worker %(host)s:\n%(stacks)s', {
                'host': watched.row.host, 'stacks': stacks})

    def _stop(self, watched, now, reason):
        """Tell a worker to stop; the launcher starts another in its place."""
        watched.reasons[reason] += 1
        watched.stopping = (watched.row.pid, now)
        _kill(watched.row.pid, signal.SIGTERM)

    def _end_stop(self, watched, now):
        """Kill a worker that does not end after it was told to stop.

        The launcher has it end by then, but in Python code.
        """
        (pid, told), limit = watched.stopping, CONF.graceful_shutdown_timeout
        if (limit > 0 and pid == watched.row.pid and not watched.doomed and
                now - told > limit + 1 and is_child(pid)):
            LOG.error('Worker %(host)s (pid %(pid)d) does not stop within '
                      '%(limit)d seconds; killing it', {
                          'host': watched.row.host, 'pid': pid,
                          'limit': limit})
            self._dump(watched, now, pid)

    def _reload(self, now):
        """Renew all workers after a SIGHUP, one after the other.

        In the eventlet mode they are reset, as they always were: to renew a
        worker may end requests that take long.
        """
        # It is blocked, so nothing but this takes it.
        if signal.sigtimedwait([signal.SIGHUP], 0) and mutate():
            if eventletutils.is_monkey_patched('thread'):
                LOG.info('Caught SIGHUP, resetting all workers')
                for watched in self.watched:
                    watched.row.reset = 1
            else:
                self._again = True
        if self._again and not self._old:
            LOG.info('Caught SIGHUP, renewing one worker after the other')
            self._again, self._renewing = False, None
            self._old = {watched: watched.row.pid for watched in self.watched}
        limit = max(0, CONF.graceful_shutdown_timeout)
        for watched, pid in list(self._old.items()):
            row = watched.row
            serves = row.pid != pid and row.state == board.SERVING
            # With no limit, a request that hangs would hold up all others.
            late = watched is self._renewing and (
                now - watched.stopping[1] > limit + START_TIME)
            if serves or late:
                del self._old[watched]
        if self._old and self._renewing not in self._old:
            # Those that may be stuck hold up no other.
            self._renewing = min(self._old, key=lambda watched: (
                watched.row.full or
                self.stalled(watched, now) > 2 * CONF.report_interval))
            if self._renewing.row.pid == self._old[self._renewing]:
                self._stop(self._renewing, now, 'reload')
            else:
                # The process is a new one, and is about to serve.
                self._renewing.stopping = (0, now)

    def _restart_failing(self, alive, now):
        # Without a limit, a request that hangs would keep a process that takes
        # no others, and no new one would take its place.
        if CONF.graceful_shutdown_timeout <= 0:
            return
        # Once each, as there may be a hundred workers.
        counts = {watched: watched.row.counts() for watched in self.watched}
        succeeded, failed = map(sum, zip(*counts.values()))
        for watched in alive:
            row, own = watched.row, counts[watched]
            if row.pid == watched.stopping[0]:
                continue
            others = succeeded - own[0], failed - own[1]
            if watched.fails(own, others) and now - max(
                    watched.replaced, default=-PATIENCE) >= PATIENCE:
                LOG.error('Worker %(host)s (pid %(pid)d) fails: its requests '
                          'fail, and those of its siblings succeed; '
                          'restarting it', {'host': row.host, 'pid': row.pid})
                watched.replaced.append(now)
                self._stop(watched, now, 'failing')

    def _tell(self, alive, now):
        """Log once why a worker is down that nobody replaces."""
        for watched in alive:
            row = watched.row
            stalled = self.stalled(watched, now)
            if stalled <= CONF.service_down_time:
                watched.told = False
            elif not watched.told and (row.full or now - self._newest < (
                    2 * CONF.report_interval)):
                watched.told = True
                LOG.warning('Worker %(host)s (pid %(pid)d) has begun no '
                            'message for %(stalled)d seconds; it runs: '
                            '%(requests)s', {
                                'host': row.host, 'pid': row.pid,
                                'stalled': stalled,
                                'requests': row.requests() or 'nothing'})
                self._dump(watched, now)


def make_log_locks():
    """In a process that was just forked: have locks of its own for the log.

    oslo.log's locks of the eventlet mode are pipes that it shares with the
    parent. A process that is stopped or killed while it writes would hold up
    the log of all others.
    """
    for handler in logging.getLogger(None).logger.handlers:
        handler.createLock()


def mutate():
    """Read the options anew that may change while a service runs.

    :returns: whether that was possible; if not, the log says so
    """
    try:
        CONF.mutate_config_files()
    except (Exception, SystemExit) as exc:
        LOG.error('The configuration cannot be read, so no worker is renewed '
                  'or reset: %s', ' '.join(str(exc).split()))
        return False
    return True


def is_child(pid):
    """Whether a process is a child of this one that has not ended."""
    try:
        return os.waitid(os.P_PID, pid,
                         os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except OSError:
        # Not even a process, if the row is just being cleared.
        return False


def _is_stopped(pid):
    """Whether a process was stopped, by a signal or by a debugger."""
    try:
        return psutil.Process(pid).status() in (
            psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.Error:
        return False


def _make_file():
    """Make a file without a name, and return its descriptor."""
    try:
        return os.memfd_create('stacks')
    except OSError:
        # A unit that is hardened may not do so.
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())


def _kill(pid, signum):
    """Send a signal to a child; never to a process that got the id since.

    :returns: whether the child was there
    """
    found = is_child(pid)
    if found:
        os.kill(pid, signum)
    return found
