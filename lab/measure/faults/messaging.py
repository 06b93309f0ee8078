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

import time

from lab.measure.faults import fault

# Seconds that an outage lasts: longer than a stuck worker is let live.
OUTAGE = 15


def restart(name):
    """A restart of a server, which is away meanwhile.

    :param name: of the server, in ``Servers``
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


FAULTS = (
    fault.Fault('rabbitmq-restart', 'RabbitMQ restarted', restart('broker'),
                35, ends=True),
    fault.Fault('rabbitmq-silent', 'RabbitMQ silent', silent, 35, ends=True,
                boxes=('broker',)),
    fault.Fault('rabbitmq-half-open', 'RabbitMQ, half-open', half_open, 100,
                boxes=('broker',)),
    fault.Fault('rabbitmq-alarm', 'RabbitMQ in alarm', _alarm, 35, ends=True),
)
