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

"""Booting servers by nova's API, so many at a time, as its users do."""

import collections
from concurrent import futures
import threading
import time

# Seconds between two looks at the servers.
INTERVAL = 0.5

# And at least between two reports of progress.
PROGRESS = 5

ENDS = ('ACTIVE', 'ERROR')

Outcome = collections.namedtuple('Outcome', 'active error unfinished seconds')


class Boots:
    """Boots servers without a network."""

    def __init__(self, connection, image, flavor):
        """Look up what they are booted from.

        :param connection: an ``openstack.connection.Connection``
        :param image: name of an image
        :param flavor: name of a flavor
        """
        self.compute = connection.compute
        self.image = connection.image.find_image(image, False).id
        self.flavor = connection.compute.find_flavor(flavor, False).id

    def run(self, count, at_once, limit, progress=None):
        """Boot servers, each of which ends ACTIVE, in ERROR, or not in time.

        :param count: how many
        :param at_once: how many at a time; the next begins when one has ended
        :param limit: seconds to wait for each
        :param progress: called with an ``Outcome`` from time to time
        :returns: ``Outcome``; its ``seconds`` are from the first to the last
        """
        began = time.monotonic()
        with _Watch(self.compute, began, progress) as watch, \
                futures.ThreadPoolExecutor(at_once) as pool:
            try:
                for done in futures.as_completed([
                        pool.submit(self._boot, watch, number, limit)
                        for number in range(1, count + 1)]):
                    done.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                watch.close()
                raise
            return watch.outcome()

    def _boot(self, watch, number, limit):
        server = self.compute.create_server(
            name='boot-%d' % number, image_id=self.image,
            flavor_id=self.flavor, networks='none')
        watch.wait(server.id, limit)

    def delete(self, timeout=60):
        """Delete all servers.

        :param timeout: seconds to wait until they are gone
        :returns: how many are left
        """
        with futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(self.compute.delete_server, self._left()))
        end = time.monotonic() + timeout
        while self._left() and time.monotonic() < end:
            time.sleep(INTERVAL)
        return len(self._left())

    def _left(self):
        return [server.id for server in self.compute.servers(details=False)]


class _Watch:
    """One thread that looks at all servers, for those that wait for one."""

    def __init__(self, compute, began, progress=None):
        self.compute = compute
        self.began = began
        self.progress = progress or (lambda outcome: None)
        # What could not be deleted is none of these.
        self._others = {server.id for server in compute.servers(
            details=False)}
        self._ended = {}
        self._given_up = set()
        self._told = 0
        self._error = None
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            while not self._closed.wait(INTERVAL):
                for status in ENDS:
                    self._look(status)
        except Exception as error:
            self._error = error
            self.close()

    def _look(self, status):
        # Without details, which cost nova-api much more.
        found = {server.id for server in self.compute.servers(
            details=False, status=status)}
        with self._changed:
            new = found - self._ended.keys() - self._others
            self._ended.update(dict.fromkeys(new, status))
            self._changed.notify_all()
        outcome = self.outcome()
        if new and outcome.seconds - self._told >= PROGRESS:
            self._told = outcome.seconds
            self.progress(outcome)

    def wait(self, server, limit):
        """Wait until a server has ended, for so many seconds at most."""
        with self._changed:
            self._changed.wait_for(
                lambda: server in self._ended or self._closed.is_set(), limit)
            if self._error:
                raise self._error
            if server not in self._ended:
                self._given_up.add(server)

    def outcome(self):
        with self._changed:
            counts = collections.Counter(self._ended.values())
            return Outcome(*(counts[status] for status in ENDS),
                           len(self._given_up - self._ended.keys()),
                           time.monotonic() - self.began)

    def close(self):
        self._closed.set()
        with self._changed:
            self._changed.notify_all()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self.close()
        self._thread.join()
