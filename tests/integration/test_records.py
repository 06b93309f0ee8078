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

"""Records over upgrades, rollbacks, scale-downs and doubles."""

import re
import time

import ddt

from tests.integration import base

NODE = base.NODE


def workers_of(node, workers):
    return {f'{node}-worker-{n}' for n in range(1, workers + 1)}


class RecordsBase(base.LabTestCase):

    def setUp(self):
        super().setUp()
        self.made = self.cloud()

    def run_service(self, workers, node=NODE, stock=False, mode='threading'):
        return self.start(self.made, workers=workers, node=node, mode=mode,
                          tree=base.stock_tree() if stock else None)

    def present(self):
        return {record.host for record in self.services(self.made)}

    def wait_records(self, *hosts):
        expected = set().union(*hosts)
        self.made.wait(lambda: self.present() == expected, base.RETIRED,
                       f'the records to be those of {sorted(expected)}')

    def retired(self, scheduler):
        return [line.split('Retired ')[1].split(':')[0]
                for line in scheduler.log().splitlines()
                if ' Retired ' in line]


@ddt.ddt
class WorkerRecordsTestCase(RecordsBase):

    def test_scale_down_and_up(self):
        with self.run_service(5):
            self.assertEqual(workers_of(NODE, 5), self.present())
        with self.run_service(2) as scheduler:
            self.wait_records(workers_of(NODE, 2))
            self.assertEqual(
                [f'{NODE}-worker-{n}' for n in (3, 4, 5)],
                sorted(self.retired(scheduler)))
        with self.run_service(5):
            self.wait_records(workers_of(NODE, 5))

    def test_upgrade_and_rollback(self):
        # From stock, with the service stopped.
        with self.run_service(3, stock=True):
            self.assertEqual({NODE}, self.present())
        with self.run_service(3) as scheduler:
            self.wait_records(workers_of(NODE, 3))
            self.assertEqual([NODE], self.retired(scheduler))
        # Back: nothing of the series keeps stock from starting, and what is
        # left of it goes down.
        with self.run_service(3, stock=True) as scheduler:
            self.assertEqual({NODE} | workers_of(NODE, 3), self.present())
            self.made.wait(lambda: self.up(self.made) == {NODE},
                           base.SERVICE_DOWN_TIME + 5, 'the rest to be down')
            self.check_no_traceback(scheduler.log())
        # And there again.
        with self.run_service(3) as scheduler:
            self.wait_records(workers_of(NODE, 3))
            self.check_no_traceback(scheduler.log())

    @ddt.data(*base.MODES)
    def test_switched_off(self, mode):
        # Stock nova, to the queue and the record.
        ctl = self.made.broker.ctl

        def seen(**options):
            with self.start(self.made, workers=2, mode=mode, hosts=False,
                            **options) as service:
                self.check_no_traceback(service.log())
                return (self.present(), *(
                    sorted(re.sub('_[0-9a-f]{32}', '_ID', line) for line in
                           ctl(*what) if self.topic in line)
                    for what in (('list_queues', 'name', 'arguments'),
                                 ('list_consumers', 'queue_name'))))

        self.made.broker.delete_all()
        stock = seen(tree=base.stock_tree())
        self.made.broker.delete_all()
        self.assertEqual(stock, seen(conf={
            self.topic: {'worker_hosts': False, 'worker_timeout': 10}}))

    @ddt.data(*base.MODES)
    def test_deleted_while_the_worker_is_alive(self, mode):
        # Clean-up jobs of deployments do that, by nova's API or in SQL.
        scheduler = self.run_service(3, mode=mode)
        deleted = [record for record in self.services(self.made)
                   if record.host != f'{NODE}-worker-1']
        for statement in (
                'UPDATE services SET deleted = id, '
                f"deleted_at = UTC_TIMESTAMP() WHERE host = '{NODE}-worker-2'",
                f"DELETE FROM services WHERE host = '{NODE}-worker-3'"):
            self.made.database.execute('main', statement)
        self.wait_up(self.made, scheduler, 3 * base.REPORT_INTERVAL + 5)

        # They stay, and it is said once for each.
        time.sleep(2 * base.REPORT_INTERVAL)
        self.assertEqual(workers_of(NODE, 3), self.up(self.made))
        lines = [line for line in scheduler.log().splitlines()
                 if 'created it again' in line]
        self.assertEqual(2, len(lines), lines)
        for record in deleted:
            found = [line for line in lines if record.host in line]
            self.assertEqual(1, len(found), lines)
            self.assertIn(' WARNING ', found[0])
        self.check_no_traceback(scheduler.log())

    def test_record_of_another_node_is_locked(self):
        # The workers have most of all records, which MariaDB reads them all
        # for, if they are written by one statement.
        self.run_service(3)
        self.run_service(1, 'scheduler-node-2')
        with self.made.database.record_locked('scheduler-node-2-worker-1'):
            self.made.wait(
                lambda: 'scheduler-node-2-worker-1' not in self.up(self.made),
                base.SERVICE_DOWN_TIME + 5, 'that one to be down')
            self.assertEqual(workers_of(NODE, 3), self.up(self.made))


@ddt.ddt
class RecordsTestCase(RecordsBase):
    """What does not depend on the service, or is between two of them."""

    def test_rolling_upgrade(self):
        # One node of two is upgraded; the other one's name looks like one of
        # its workers.
        with self.run_service(1, 'k8s-worker-9', stock=True) as stock, \
                self.run_service(1, NODE + '0', stock=True) as other, \
                self.run_service(2, 'k8s') as upgraded, \
                self.run_service(2, NODE) as another:
            everybody = ({'k8s-worker-9', NODE + '0'} |
                         workers_of('k8s', 2) | workers_of(NODE, 2))
            for _look in range(2 * base.SERVICE_DOWN_TIME):
                self.assertEqual(everybody, self.up(self.made))
                time.sleep(1)
            for scheduler in (stock, other, upgraded, another):
                self.assertNotIn('Retired', scheduler.log())
                self.check_no_traceback(scheduler.log())
        # The other one follows.
        with self.run_service(1, 'k8s-worker-9'):
            self.wait_records({NODE + '0'}, workers_of('k8s', 2),
                              workers_of(NODE, 2),
                              workers_of('k8s-worker-9', 1))

    def test_other_binaries_keep_their_records(self):
        self.made.database.execute(
            'main', "INSERT INTO services (created_at, host, `binary`, "
            "topic, report_count, disabled, deleted, version) VALUES "
            "(UTC_TIMESTAMP() - INTERVAL 1 DAY, :host, 'nova-conductor', "
            "'conductor', 1, 0, 0, 1)", host=NODE)
        with self.run_service(3, stock=True):
            pass
        with self.run_service(3):
            self.wait_records(workers_of(NODE, 3))
        self.assertEqual(['nova-conductor'], [
            record.binary for record in self.made.database.services()
            if record.host == NODE])

    def test_clean_up_jobs_of_deployments(self):
        scheduler = self.run_service(3)
        hosts = scheduler.record_hosts()

        def clean_up(chosen):
            # As DELETE /os-services does it.
            for host in chosen:
                self.made.database.execute(
                    'main', 'UPDATE services SET deleted = id, '
                    f"deleted_at = UTC_TIMESTAMP() WHERE host = '{host}' "
                    'AND deleted = 0')
            # One may be back before it could be looked for, so check_back()
            # reads the log.

        def check_back(times):
            self.wait_up(self.made, scheduler, 2 * base.REPORT_INTERVAL + 5)
            for host in hosts:
                self.assertEqual(times, len(re.findall(
                    rf'WARNING .*{host} was deleted while the worker is '
                    'alive', scheduler.log())))

        # nova-operator: all whose last number is not below that of the
        # replicas, be they up or down.
        replicas = 1
        clean_up([host for host in sorted(hosts)
                  if int(host.rpartition('-')[2]) >= replicas])
        check_back(1)

        # openstack-helm, Atmosphere: all that are down.
        workers = scheduler.workers().values()
        for worker in workers:
            self.made.faults.stop(worker)
        self.made.wait(lambda: not self.up(self.made), 30,
                       'all records to be down')
        clean_up(hosts)
        self.assertEqual(set(), self.present())
        for worker in workers:
            self.made.faults.resume(worker)
        check_back(2)
        self.check_no_traceback(scheduler.log())

    def refused(self, node, running, mode):
        """A node does not start beside another, and says why in one line."""
        with self.made.scheduler(node=node, workers=2, mode=mode) as refused:
            mark = len(refused.log())
            self.made.wait(lambda: not refused.running(), 60,
                           f'{node} to refuse to start beside {running}')
            self.assertEqual(1, refused.returncode)
            log = refused.log()[mark:]
        errors = [line for line in log.splitlines()
                  if ' ERROR ' in line or ' CRITICAL ' in line]
        self.assertEqual(1, len(errors), log)
        self.assertLessEqual({node, running},
                             set(re.findall(r'[\w-]+', errors[0])))
        self.check_no_traceback(log)

    @ddt.data(*base.MODES)
    def test_node_named_like_a_worker_of_another(self, mode):
        # The node address of the one is the queue of a worker of the other.
        node, alike = 'n1', 'n1-worker-1'
        with self.run_service(2, node, mode=mode):
            self.refused(alike, node, mode)
            self.assertEqual(workers_of(node, 2), self.up(self.made))
        # Where only the records are left, it is no other node.
        self.made.wait(lambda: not self.up(self.made),
                       base.SERVICE_DOWN_TIME + 5, 'all to be down')
        with self.run_service(2, alike, mode=mode):
            self.refused(node, alike, mode)
            self.assertLessEqual(workers_of(alike, 2), self.up(self.made))

    def test_node_named_like_a_worker(self):
        # Kubernetes' nodes are, and there is a record of that name: its own.
        node = 'k8s-worker-1'
        with self.run_service(2, node, stock=True):
            self.assertEqual({node}, self.present())
        with self.run_service(2, node) as scheduler:
            self.wait_records(workers_of(node, 2))
            self.assertEqual([node], self.retired(scheduler))
