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

"""The record of a worker that is alive."""

import threading

from oslo_db import api as oslo_db_api
from oslo_log import log as logging
from oslo_utils import timeutils

from nova import context
from nova.db.main import api as main_db_api
from nova.db.main import models
from nova import objects

LOG = logging.getLogger(__name__)


class Record:
    """Writes heartbeats into the record, and makes it again if it is gone.

    :param server: the nova.service.Service, whose service_ref it is
    """

    def __init__(self, server):
        self._server = server
        self._lock = threading.Lock()
        # What stands in it if nobody else writes to it, and how often in
        # succession something else did.
        self._count = server.service_ref.report_count
        self._surprises = 0

    def write(self):
        """Count up report_count, and set last_seen_up to now.

        One statement while nothing is wrong: the workers of a node shared one
        record, and most of their heartbeats changed nothing there. As each
        writes one of its own now, it does so without reading it first, so that
        all in all it is no more.
        """
        # Two own messages may run at the same time.
        with self._lock:
            self._write()

    def _write(self):
        ours = self._server.service_ref
        new = self._count + 1
        if _write(context.get_admin_context(), ours.id, self._count, new):
            self._count = ours.report_count = new
            self._surprises = 0
        elif self.check():
            # The answer to the last one got lost, or somebody else wrote.
            self._surprises += 1
            if self._surprises == 2:
                LOG.warning(
                    'Record %(id)d of %(binary)s on host %(host)s is kept up '
                    'by another process as well. Is there another node with '
                    'the same [DEFAULT] host?',
                    {'id': ours.id, 'binary': ours.binary, 'host': ours.host})

    def check(self):
        """Make the record again if somebody has deleted it.

        The clean-up jobs of deployments delete records that are down, as all
        are while the message broker is away.

        :returns: whether it was there
        """
        ctxt = context.get_admin_context()
        old = self._server.service_ref
        new = objects.Service.get_by_host_and_binary(
            ctxt, old.host, old.binary)
        found = new is not None
        if not found:
            new = objects.Service(ctxt, host=old.host, binary=old.binary,
                                  topic=old.topic, report_count=0)
            new.create()
            LOG.warning('Record %(id)d of %(binary)s on host %(host)s was '
                        'deleted while the worker is alive; created it again '
                        'as record %(new)d', {
                            'id': old.id, 'binary': old.binary,
                            'host': old.host, 'new': new.id})
        self._count = new.report_count
        new.save = self.write
        self._server.service_ref = new
        return found


@oslo_db_api.wrap_db_retry(max_retries=5, retry_on_deadlock=True)
@main_db_api.pick_context_manager_writer
def _write(ctxt, service_id, old, new):
    return main_db_api.model_query(ctxt, models.Service).filter_by(
        id=service_id, report_count=old).update(
            {'report_count': new, 'last_seen_up': timeutils.utcnow()},
            synchronize_session=False)
