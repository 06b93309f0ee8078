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

"""Faults of RabbitMQ, of the way to it, and of those who call."""

import contextlib
import functools
import socket
import time

from lab.faults import caller
from lab.measure.faults import fault
from lab.measure.faults import stage as stages
from lab.measure.faults import workers
from lab import rpc

# Seconds that an outage lasts: longer than a stuck worker is let live.
OUTAGE = 15

# Seconds after which RabbitMQ closes a channel with a message that was not
# acknowledged, and in which it looks at that.
CONSUMER_TIMEOUT = 30
TICK = 5

# How many times a quorum queue delivers a message again, and for how long
# nobody runs any.
DELIVERY_LIMIT = 3
HANGING = 80

# Requests that wait when workers start.
BACKLOG = 60

# Seconds that a reply to a caller that is gone is tried for, and how many
# calls a worker may hold that it does not run.
REPLY_TIMEOUT = 30
HELD = 2

PREFETCH = {'oslo_messaging_rabbit': {'rabbit_qos_prefetch_count': 50}}


def restart(name):
    """A restart of a server, which is away meanwhile.

    :param name: of the server, in ``stage.servers``
    """
    def act(stage):
        server = getattr(stage.servers, name)
        server.stop()
        try:
            time.sleep(OUTAGE)
        finally:
            # Others use it next.
            server.start()
    return act


def silent(stage):
    """Nothing passes for a while."""
    for box in stage.boxes.values():
        box.silence()
    time.sleep(OUTAGE)
    for box in stage.boxes.values():
        box.restore()


def half_open(stage):
    """The connections that there are pass nothing any more."""
    stage.may_end(stage.scheduler)
    for box in stage.boxes.values():
        box.abandon()


def _alarm(stage):
    watermark = 'set_vm_memory_high_watermark'
    stage.servers.broker.ctl(watermark, '0.000001')
    try:
        time.sleep(OUTAGE)
    finally:
        stage.servers.broker.ctl(watermark, '0.4')


def _close_connections(stage):
    for _time in range(3):
        stage.servers.broker.ctl('close_all_connections', '--global', 'lab')
        stage.callers.wait_answered(1, stages.READY, stage.cloud.log)


def _closed_while_busy(name, title, **options):
    # Requests wait in each worker until a thread is free.
    return fault.Fault(name, title, _close_connections, 15, ends=True,
                       pause=0, visible=False, chance=5, callers=32, pool=2,
                       work=0.1, **options)


@contextlib.contextmanager
def _two_hosts(stage, listens):
    with socket.socket() as second:
        second.bind(('127.0.0.1', 0))
        if listens:
            # The kernel lets clients connect, and nobody answers them.
            second.listen()
        stage.conf['DEFAULT']['transport_url'] = '%s,guest:guest@%s:%d/' % (
            stage.servers.broker.transport_url.rstrip('/'),
            *second.getsockname())
        yield


@contextlib.contextmanager
def _consumer_timeout(stage):
    broker = stage.servers.broker
    # They are read as a channel is opened.
    names = ('consumer_timeout', 'channel_tick_interval')
    before = [broker.get_env(name) for name in names]
    values = CONSUMER_TIMEOUT * 1000, TICK * 1000
    try:
        for name, value in zip(names, values):
            broker.set_env(name, value)
        yield
    finally:
        for name, value in zip(names, before):
            broker.set_env(name, value)


def _blocked_for_long(stage):
    worker = stage.get_stuck(stage.faults.block, stages.WORK)
    time.sleep(2 * (CONSUMER_TIMEOUT + TICK))
    stage.faults.free(worker)


@contextlib.contextmanager
def anew(stage, *policy):
    """A broker that has nothing but a policy, and nothing after that."""
    broker = stage.servers.broker
    # Exchanges are durable with quorum queues, and else they are not.
    broker.reset()
    if policy:
        broker.ctl('set_policy', '--apply-to', 'queues', 'lab', *policy)
    try:
        yield
    finally:
        broker.reset()


def _hanging_requests(stage):
    stage.may_end(stage.scheduler)
    with stage.callers.resting():
        for each in stage.processes():
            stage.faults.block(each, stages.WORK)
        stage.cast(BACKLOG)
        end = time.monotonic() + HANGING
        while time.monotonic() < end:
            # Each of those that take its place hangs as well.
            stage.may_end(stage.scheduler)
            time.sleep(stages.INTERVAL)
        for each in stage.processes():
            stage.faults.free(each)


def _crash_with_backlog(stage):
    scheduler = stage.scheduler
    with stage.callers.resting():
        # It starts none before there is a backlog.
        stage.faults.stop(scheduler.process)
        _kill_workers(stage)
        stage.cast(BACKLOG)
        stage.faults.resume(scheduler.process)
        stage.cloud.wait(
            lambda: stage.begun() >= stage.fault.pool, stages.READY,
            'requests to be run')
        scheduler.wait_ready(stages.READY)
        _kill_workers(stage)
        scheduler.wait_ready(stages.READY)
        # What is left of it is no fault.
        stage.cloud.wait(
            lambda: not (stage.servers.broker.queue(rpc.TOPIC)[0] or
                         _running(stage)),
            stages.READY, 'the backlog to be run')


def _running(stage):
    """How many calls run that a fault has to do with."""
    return sum(stage.faults.state(worker)['running']
               for worker in stage.scheduler.workers().values())


def _kill_workers(stage):
    stage.may_end(stage.scheduler)
    for worker in stage.scheduler.workers().values():
        worker.kill()


def _dead_callers(stage):
    found = stage.scheduler.workers().values()
    threads = len(found) * stage.fault.pool
    for worker in found:
        stage.faults.block(worker)
    with stage.callers.resting(), caller.dying(
            stage.servers.broker, threads + len(found) * HELD) as kill:
        stage.cloud.wait(lambda: _running(stage) >= threads, stages.READY,
                         'its calls to take all threads')
        kill()
    for worker in found:
        stage.faults.free(worker)


def _backlog(name, title, **options):
    return fault.Fault(
        name, title, _crash_with_backlog, 20, ends=True, visible=False,
        pool=2, work=1, conf=PREFETCH, **options)


def _second_host(name, listens):
    return fault.Fault(
        f'{name}-host', f'blocked, {name} second broker',
        workers.stuck('block', stages.WORK), 60,
        around=functools.partial(_two_hosts, listens=listens))


FAULTS = (
    fault.Fault('rabbitmq-restart', 'RabbitMQ restarted', restart('broker'),
                35, ends=True),
    fault.Fault('rabbitmq-silent', 'RabbitMQ silent', silent, 35, ends=True,
                boxes=('broker',)),
    fault.Fault('rabbitmq-half-open', 'RabbitMQ, half-open', half_open, 140,
                boxes=('broker',)),
    fault.Fault('rabbitmq-alarm', 'RabbitMQ in alarm', _alarm, 35, ends=True),
    fault.Fault('connections-closed', 'all connections closed, 3 times',
                _close_connections, 15, ends=True, pause=0, visible=False,
                chance=5),
    _closed_while_busy('closed-busy', 'the same, all threads busy'),
    _closed_while_busy('closed-busy-companion',
                       'the same, all threads busy, companion',
                       companion=True),
    _second_host('dead', listens=False),
    _second_host('silent', listens=True),
    fault.Fault('consumer-timeout', 'blocked for a consumer_timeout',
                _blocked_for_long, 20, ends=True, pool=2, worker_timeout=0,
                around=_consumer_timeout, companion=True),
    fault.Fault('delivery-limit', 'all requests hang, quorum queue',
                _hanging_requests, 20, ends=True, workers=1, pool=2,
                # RabbitMQ 4 has a limit anyway, of 20.
                around=lambda stage: anew(
                    stage, '^scheduler$',
                    '{"delivery-limit": %d}' % DELIVERY_LIMIT),
                companion=True, conf={
                    'oslo_messaging_rabbit': {
                        'rabbit_quorum_queue': True,
                        'rabbit_qos_prefetch_count': 50}}),
    _backlog('backlog', 'crash with a backlog'),
    _backlog('backlog-companion', 'crash with a backlog, companion',
             companion=True),
    fault.Fault('dead-callers', 'callers killed', _dead_callers, 45, pool=4,
                conf={'oslo_messaging_rabbit': {
                    'kombu_missing_consumer_retry_timeout': REPLY_TIMEOUT}}),
)
