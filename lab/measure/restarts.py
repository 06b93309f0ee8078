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

"""What operators do to a service that is in use, and that may lose no call."""

# Of the first node; the second has fewer, as it is there to go on serving.
WORKERS = 3
# Seconds for a process to end or to serve; requests may have to end first.
TIMEOUT = 90


class Nodes:
    """Two nodes, and what is done to them; each waits until all serve again.

    :param cloud: a running ``cloud.Cloud``
    :param mode: the concurrency mode
    :param options: for ``Cloud.scheduler``
    """

    #: What is done, by the methods that do it.
    EVENTS = {'terminate_worker': 'SIGTERM of a worker',
              'hup': 'SIGHUP',
              'restart': 'restart of one node after the other',
              'scale_down': 'scale-down from 3 to 2 workers'}

    def __init__(self, cloud, mode, **options):
        self._cloud = cloud
        self._mode = mode
        self._options = options
        self._schedulers = {}
        for node, workers in (('scheduler-node-1', WORKERS),
                              ('scheduler-node-2', 1)):
            self._start(node, workers)

    @property
    def first(self):
        """The ``cloud.Scheduler`` of the first node."""
        return self._schedulers['scheduler-node-1']

    def _start(self, node, workers):
        self._schedulers[node] = self._cloud.scheduler(
            node=node, workers=workers, mode=self._mode, **self._options)
        self._schedulers[node].wait_ready(TIMEOUT)

    def _restart(self, node, workers=None):
        before = self._schedulers[node]
        before.stop(TIMEOUT)
        self._start(node, workers or before.worker_count)

    def terminate_worker(self):
        worker = self.first.workers()[2]
        worker.terminate()
        self._cloud.wait(lambda: not worker.is_running(), TIMEOUT,
                         'the worker to end')
        self.first.wait_ready(TIMEOUT)

    def hup(self):
        """As kolla-ansible does after each deployment."""
        before = set(self.first.workers().values())
        taken = self.first.hups_taken()
        self.first.hup()
        if self._mode == 'eventlet':
            # The processes stay.
            self._cloud.wait(
                lambda: self.first.hups_taken() == taken + WORKERS, TIMEOUT,
                'the workers to take the SIGHUP')
        else:
            self._cloud.wait(
                lambda: not any(worker.is_running() for worker in before),
                TIMEOUT, 'the workers to end')
        self.first.wait_ready(TIMEOUT)

    def restart(self):
        for node in list(self._schedulers):
            self._restart(node)

    def scale_down(self):
        self._restart('scheduler-node-1', 2)

    def scale_up(self):
        """Have as many workers again."""
        self._restart('scheduler-node-1', WORKERS)

    def stop(self):
        """End both, in an orderly way."""
        for scheduler in self._schedulers.values():
            scheduler.stop(TIMEOUT)
