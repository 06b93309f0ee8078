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

"""What operators do, which is to cost nobody a call."""

import signal
import time
import urllib.parse

from lab.faults import middlebox
from lab.measure.faults import fault
from lab.measure.faults import stage as stages


def _terminate(stage):
    worker = stage.nodes.first.workers()[stages.STUCK]
    stage.faulty.add(worker.pid)
    stage.nodes.terminate_worker()


def _hup(stage):
    if stage.mode == 'threading' or stage.nodes.first.hosts:
        # Else the processes stay.
        stage.may_end(stage.nodes.first)
    stage.nodes.hup()


def _rolling_restart(stage):
    stage.may_end(*stage.schedulers)
    stage.nodes.restart()


def _scale(stage):
    for workers in (5, 2):
        stage.may_end(stage.nodes.first)
        stage.nodes.scale(workers)


def _same_name(stage):
    second = stage.start()
    time.sleep(15)
    stage.may_end(second)
    second.stop()


def _stop_unconnected(stage):
    """Stop another node, which has never reached the broker."""
    url = stage.servers.broker.url
    box = stage.enter_context(middlebox.Middlebox(
        urllib.parse.urlsplit(url).port))
    box.refuse()
    second = stage.cloud.scheduler(
        node='scheduler-node-2', workers=1, mode=stage.mode,
        conf={'DEFAULT': {'transport_url': box.url(
            stage.servers.broker.transport_url)}}, **stage.options)
    stage.cloud.wait(lambda: 'Connection failed' in second.log(), stages.READY,
                     'the worker to look for the broker')
    stage.may_end(second)
    # As after any stop.
    stage.may_stay = second.record_hosts()
    second.process.send_signal(signal.SIGTERM)


def _of_nodes(name, title, act, after=10):
    return fault.Fault(name, title, act, after, ends=True, nodes=True,
                       pause=0, visible=False)


FAULTS = (
    _of_nodes('sigterm', 'SIGTERM of a worker', _terminate),
    _of_nodes('sighup', 'SIGHUP', _hup),
    _of_nodes('rolling-restart', 'rolling restart', _rolling_restart, 15),
    _of_nodes('scale', 'scale 3 to 5 to 2', _scale, 30),
    fault.Fault('same-name', 'two nodes of one name', _same_name, 40,
                ends=True, visible=False),
    # As long as it runs, its record is expected to be up.
    fault.Fault('stop-unconnected', 'stopped before it had a broker',
                _stop_unconnected, 110, ends=True, visible=False),
)
