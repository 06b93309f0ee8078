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

"""Which of what happened under random faults is due to them."""

import dataclasses
import types
from unittest import mock

import fixtures
import testtools

from lab.commands import chaos as command
from lab import faults
from lab.measure import chaos
from lab import rpc

SICK, WELL, PARENT = 11, 12, 10


class TestPlan(testtools.TestCase):

    def test_seed(self):
        events = chaos.plan(7, 600)
        self.assertEqual(events, chaos.plan(7, 600))
        self.assertNotEqual(events, chaos.plan(8, 600))
        self.assertEqual(set(chaos.FAULTS), {event.fault for event in events})
        self.assertEqual(sorted(events), events)
        self.assertEqual(6, len({event[2:4] for event in events}))

    def test_all_is_over_in_time(self):
        for seed in range(20):
            for event in chaos.plan(seed, 60):
                self.assertLessEqual(event.at + event.seconds, 60.01)

    def test_how_many_are_hurt(self):
        for seed in range(20):
            events = [event for event in chaos.plan(seed, 200)
                      if chaos.FAULTS[event.fault].hurts]
            for event in events:
                hurt = [other.worker for other in events
                        if other.node == event.node and other.at <= event.at
                        <= other.at + other.seconds]
                self.assertLessEqual(len(hurt), chaos.MOST_HURT)
                self.assertEqual(len(hurt), len(set(hurt)))


class TestJudge(testtools.TestCase):

    def incident(self, fault, began=10, ended=20, pids=(SICK,)):
        return chaos.Incident(fault, 'the sick', began, ended,
                              frozenset(pids))

    def call(self, outcome='answered', name='one', began=15, ended=35):
        return rpc.Call(began, ended, outcome, name,
                        None if outcome == 'answered' else 'why\nand where')

    def run_by(self, *pids, name='one', at=15):
        return [faults.Execution(name, pid, at + number)
                for number, pid in enumerate(pids)]

    def ended(self, at, pid=SICK, parent=PARENT, began=0):
        return chaos.Worker(pid, parent, 'worker %d' % pid, at, began)

    def check(self, *texts, **what):
        """There is one violation, with these texts; or none."""
        verdict = chaos.Judge(**{
            'calls': (), 'executions': (), 'workers': (), 'incidents': (),
            'held': 1} | what).verdict()
        self.assertEqual(1 if texts else 0, len(verdict.violations),
                         verdict.violations)
        for text in texts:
            self.assertIn(text, verdict.violations[0])
        return verdict.counts

    def test_answered(self):
        self.assertEqual({'answered': 1}, self.check(
            calls=[self.call()], executions=self.run_by(WELL)))

    def test_lost(self):
        what = {'calls': [self.call('lost')],
                'incidents': [self.incident('block')]}
        self.assertEqual(
            {'lost': 1, 'lost, begun by the hurt': 1},
            self.check(executions=self.run_by(SICK), **what))
        # All that somebody who reads it has to know.
        self.check('lost: call one, 15.0 to 35.0 s', 'a worker (pid 12)',
                   'last fault before: blocked, the sick, 10.0 to 20.0 s',
                   executions=self.run_by(WELL), **what)
        self.check('lost: call one', 'before: none', calls=[self.call('lost')],
                   executions=self.run_by(SICK))

    def test_lost_by_whom_nothing_was_to_hurt(self):
        for fault in ('slow', 'term', 'hup', 'restart'):
            self.check('lost: call one', calls=[self.call('lost')],
                       executions=self.run_by(SICK),
                       incidents=[self.incident(fault)])

    def test_lost_with_a_node_of_a_cluster(self):
        node = dataclasses.replace(chaos.FAULTS['close'], costs='lost')
        with mock.patch.dict(chaos.FAULTS, {'rabbitmq': node}):
            for began, ended in ((9, 30), (15, 16)):
                self.assertEqual(
                    {'lost': 1, 'lost or failed with a node': 1},
                    self.check(calls=[self.call('lost', began=14, ended=34)],
                               executions=self.run_by(WELL),
                               incidents=[self.incident(
                                   'rabbitmq', began, ended, ())]))
            for what in ({'calls': [self.call('failed')]},
                         {'calls': [self.call('lost', began=16)]}):
                self.check(what['calls'][0].outcome,
                           executions=self.run_by(WELL), incidents=[
                               self.incident('rabbitmq', 10, 30, ())], **what)

    def test_lost_at_another_time(self):
        what = {'executions': self.run_by(SICK),
                'incidents': [self.incident('block')]}
        self.check('lost', calls=[self.call('lost', began=21)], **what)
        self.check('lost', calls=[self.call('lost', began=1, ended=9)],
                   **what)
        # It was killed for it when it was free again.
        self.check(calls=[self.call('lost', began=21)],
                   workers=[self.ended(22)], **what)

    def test_held(self):
        calls = [self.call('lost'), self.call('lost', 'two')]
        incidents = [self.incident('stop')]
        self.assertEqual(
            {'lost': 2, 'lost, held by the hurt': 2},
            self.check(calls=calls, incidents=incidents, held=2))
        self.check('lost: call two', 'never begun', calls=calls,
                   incidents=incidents)
        self.check(calls=calls, incidents=[
            *incidents, self.incident('gil', pids=[WELL])])
        # One for each call and each of the hurt.
        self.check('lost: call one', calls=[self.call('lost', began=21)],
                   incidents=incidents)

    def test_begun_too_late(self):
        # Its caller has not waited for that.
        what = {'calls': [self.call('lost', ended=25)]}
        late = self.run_by(SICK, at=26)
        self.assertEqual(
            {'lost': 1, 'lost, held by the hurt': 1}, self.check(
                incidents=[self.incident('stop', pids=[WELL]),
                           self.incident('stop')], executions=late, **what))
        # Who held it was killed, and another one has got it.
        self.check(incidents=[self.incident('kill', 22, 22, [WELL])],
                   executions=late, **what)
        self.check('lost: call one, 15.0 to 25.0 s, begun at 26.0 s by',
                   executions=late, **what)
        # Who fails goes on at once.
        self.check('lost: call one', incidents=[self.incident('fail')],
                   executions=late, **what)

    def test_failed(self):
        what = {'calls': [self.call('failed')],
                'executions': self.run_by(SICK)}
        self.assertEqual(
            {'failed': 1, 'failed, begun by the hurt': 1},
            self.check(incidents=[self.incident('fail')], **what))
        # Who is stuck answers nothing.
        self.check('failed: call one', 'who was not hurt: why;',
                   incidents=[self.incident('block')], **what)
        self.check('failed: call one', calls=[self.call('failed')],
                   incidents=[self.incident('fail')])
        # And who fails loses nothing.
        self.check('lost: call one', calls=[self.call('lost')],
                   executions=self.run_by(SICK),
                   incidents=[self.incident('fail')])

    def test_run_again(self):
        what = {'calls': [self.call()], 'executions': self.run_by(WELL, SICK)}
        self.check('run 2 times: call one, 15.00 s by worker 12 (pid 12), '
                   '16.00 s by a worker (pid 11)',
                   workers=[self.ended(None, WELL)], **what)
        close = self.incident('close', 13, 14.5, ())
        self.assertEqual({'answered': 1, 'run again': 1},
                         self.check(incidents=[close], **what))
        for other in (close._replace(ended=12.9),
                      close._replace(began=15.1, ended=17)):
            self.check('run 2 times', incidents=[other], **what)
        # Once more for each.
        self.check('run 4 times', incidents=[close], calls=[self.call()],
                   executions=self.run_by(WELL, SICK, WELL, SICK))

    def test_ended(self):
        self.check('ended: worker 11 (pid 11) at 12.0 s, who was not hurt',
                   workers=[self.ended(12)])
        for fault, at in (('stop', 12), ('stop', 30), ('kill', 11),
                          ('fail', 19), ('term', 99), ('restart', 99)):
            self.assertEqual({'workers ended': 1}, self.check(
                workers=[self.ended(at), self.ended(None, WELL)],
                incidents=[self.incident(fault)]))
        for fault, at in (('stop', 9), ('stop', 36), ('term', 9),
                          ('slow', 12)):
            self.check('ended: worker 11', workers=[self.ended(at)],
                       incidents=[self.incident(fault)])
        self.check('ended: worker 12', workers=[self.ended(12, WELL)],
                   incidents=[self.incident('stop')])

    def test_ended_with_its_parent(self):
        self.check(workers=[self.ended(12, WELL), self.ended(13)],
                   incidents=[self.incident('restart', pids=[PARENT])])
        self.check('ended', workers=[self.ended(12, WELL, parent=13)],
                   incidents=[self.incident('restart', pids=[PARENT])])

    def test_ended_while_it_started(self):
        incident = self.incident('database', began=99, ended=100, pids=())
        for at, began, kinds in ((100, 70, ()), (102, 90, ()),
                                 (100, 69, ['ended']), (103, 90, ['ended'])):
            self.check(*kinds, workers=[self.ended(at, WELL, began=began)],
                       incidents=[incident])

    def test_ended_long_after_its_parent_was_told(self):
        incident = self.incident('hup', pids=[PARENT])
        at = incident.ended + chaos.KILLED_AFTER
        self.check(workers=[self.ended(at, WELL)], incidents=[incident])
        self.check('ended', workers=[self.ended(at + 1, WELL)],
                   incidents=[incident])


class TestCommand(testtools.TestCase):

    def run_command(self, series=(), of_stock=(), **arguments):
        counts = {'answered': 9, 'lost': 2, 'faults': 3, 'skipped': 0}

        def measure(args, events, tree, packages, stem, progress):
            self.measured.append((tree, packages, events))
            return chaos.Verdict(
                counts, list(of_stock if tree == 'stock' else series))

        self.measured = []
        results = mock.Mock(folder=self.useFixture(fixtures.TempDir()).path,
                            command='chaos')
        args = {'seconds': 60, 'seed': 5, 'mode': 'threading',
                'service': 'scheduler',
                'without_companion': False, 'stock': False} | arguments
        with mock.patch('lab.servers.cloud.find_tree', lambda: None), \
                mock.patch('lab.servers.cloud.stock_tree', lambda: 'stock'), \
                mock.patch('lab.servers.cloud.companion',
                           lambda: 'companion'), \
                mock.patch.object(chaos, 'measure', measure):
            code = command.main(types.SimpleNamespace(**args), results)
        return code, [call.args[0] for call in results.note.mock_calls]

    def test_well(self):
        code, notes = self.run_command()
        self.assertEqual(0, code)
        self.assertEqual([(None, ('companion',), chaos.plan(5, 60))],
                         self.measured)
        self.assertEqual(
            ['series, nova-scheduler, seed 5, threading, 60 s: 3 faults, 11 '
             'calls, 2 lost, 0 run again, 0 workers ended; 0 violations.'],
            notes)

    def test_violations(self):
        code, notes = self.run_command(['lost: one', 'run 2 times: two'])
        self.assertEqual(1, code)
        self.assertEqual(['series: lost: one', 'series: run 2 times: two'],
                         notes[:2])
        self.assertIn('2 violations.', notes[2])

    def test_stock_is_told_only(self):
        code, notes = self.run_command(
            of_stock=['lost: one'] * 99, stock=True, without_companion=True)
        self.assertEqual(0, code)
        self.assertEqual([(None, ()), ('stock', ())],
                         [each[:2] for each in self.measured])
        self.assertEqual(command.MOST_TOLD + 3, len(notes))
        self.assertEqual('stock: and 49 more', notes[-3])

    def test_any_seed(self):
        self.run_command(seed=None)
        first = self.measured[0][2]
        self.run_command(seed=None)
        self.assertNotEqual(first, self.measured[0][2])
