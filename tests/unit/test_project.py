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

"""The form of what the tools do not read: texts, messages, CI."""

import configparser
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import textwrap

import testtools
import yaml

from tests.unit import repository

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(repository.TOOLS))

import changes  # noqa: E402
import run  # noqa: E402

# Changes that need no blueprint, beside the stage of bug fixes.
NO_BLUEPRINT = ('16-scheduler-workers-option',)
SPECS = ROOT / 'specs' / '2027.1' / 'approved'
# Of code. Reviewers are promised no more.
MOST_EDITED_LINES = 250
MOST_PATCHES = 30
MOST_PATCH_LINES = 1425

RENO = {'prelude', 'features', 'issues', 'upgrade', 'deprecations',
        'critical', 'security', 'fixes', 'other'}

JOB = {'name', 'parent', 'abstract', 'description', 'nodeset', 'timeout',
       'vars', 'required-projects', 'override-checkout', 'irrelevant-files',
       'pre-run', 'post-run', 'run', 'files', 'voting', 'group-vars'}
PARENTS = {'openstack-tox', 'devstack-tempest'}
NODESETS = {'debian-bookworm', 'debian-trixie', 'ubuntu-noble',
            'devstack-single-node-debian-bookworm'}

MOST_SPEC_LINES = 250

# What nova-specs' own test wants of a spec of 2027.1.
SECTIONS = {
    'Problem description': ['Use Cases'],
    'Proposed change': [
        'Alternatives', 'Data model impact', 'REST API impact',
        'Security impact', 'Notifications impact', 'Other end user impact',
        'Performance Impact', 'Other deployer impact', 'Developer impact',
        'Upgrade impact'],
    'Implementation': ['Assignee(s)', 'Work Items'],
    'Dependencies': [],
    'Testing': [],
    'Documentation Impact': [],
    'References': [],
    'History': [],
}
# The template has it, the test leaves it open.
OPTIONAL = {'Feature Liaison'}
LICENCE = ('..\n This work is licensed under a Creative Commons Attribution '
           '3.0 Unported\n License.\n\n '
           'http://creativecommons.org/licenses/by/3.0/legalcode\n\n')

# Paths of somebody's machine, and hosts that packages came from.
PRIVATE = re.compile(
    r'(?<![\w.}*-])/(?:home|root|work|Users)/\w'
    r'|https?://[^\s/]*(?:pypi|pythonhosted|simple)')


def tracked():
    """The files of this repository, without what git ignores."""
    done = subprocess.run(
        ['git', '-c', 'safe.directory=*', 'ls-files', '-z', '--cached',
         '--others', '--exclude-standard'],
        cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, 'GIT_CONFIG_GLOBAL': os.devnull})
    if done.returncode:
        raise testtools.TestCase.skipException('not a git repository')
    return [ROOT / name for name in done.stdout.split('\0')
            if name and (ROOT / name).is_file()]


def titles(text):
    """The titles of reStructuredText, each with its line of underlining."""
    found = re.finditer(r'^(?P<title>\S.*)\n(?P<line>([=~^-])\3{2,})$', text,
                        re.MULTILINE)
    return [(match['title'], match['line']) for match in found]


class TestTexts(testtools.TestCase):

    def test_no_machine_paths(self):
        for path in tracked():
            if path == Path(__file__):
                continue
            text = path.read_text(errors='replace')
            self.assertIsNone(PRIVATE.search(text), path)

    def test_readme_names_what_is_there(self):
        known = {'run.py': set(run.WHAT),
                 'series.py': {'build', 'refresh', 'export', 'apply',
                               'wheel', 'check'}}
        for name in ('README.rst', 'CONTRIBUTING.rst', 'series/README.rst',
                     'tox.ini'):
            text = (ROOT / name).read_text()
            commands = re.findall(
                r'tools/(run|series)\.py +(?:--\S+ +\S+ +)*([a-z][a-z0-9]*)',
                text)
            self.assertNotEqual([], commands)
            for tool, command in commands:
                self.assertIn(command, known[f'{tool}.py'], name)
            for path in re.findall(
                    r'(?<![\w./{}-])((?:doc|lab|nova|releasenotes|series|'
                    r'specs|tests|tools|\.ci)/[\w./-]*\w)', text):
                self.assertTrue((ROOT / path).exists(),
                                f'{name} names {path}')

    def test_blocks_of_yaml(self):
        blocks = []
        for path in (ROOT / 'doc' / 'source').rglob('*.rst'):
            for block in re.findall(
                    r'^( *)\.\. code-block:: yaml\n((?:\1 +.*\n|\n)+)',
                    path.read_text(), re.MULTILINE):
                blocks.append(yaml.safe_load(textwrap.dedent(block[1])))
        self.assertGreater(len(blocks), 5)
        for block in blocks:
            self.assertIsInstance(block, (dict, list))

    def test_readme_begins_with_the_commands(self):
        text = (ROOT / 'README.rst').read_text()
        for command in ('demo', 'test'):
            self.assertIn(f'\n   python3 tools/run.py {command}\n',
                          text[:3000])

    def test_list_names_all_changes(self):
        text = (ROOT / 'series' / 'README.rst').read_text()
        for release in ('2026.2',):
            for change in changes.changes(changes.release(release)):
                self.assertIn(f'``{change.subject}``', text)


class TestSeries(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.release = changes.release(run.RELEASE)
        self.changes = changes.changes(self.release)

    def test_messages(self):
        ids = set()
        for change in self.changes:
            subject, blank, *body = change.message.splitlines()
            self.assertLess(len(subject), 50, change.name)
            self.assertRegex(subject, r'^[a-z]+: [A-Z].*[^.]$')
            self.assertEqual('', blank, change.name)
            for line in body:
                self.assertLessEqual(len(line), 72, change.name)
                self.assertEqual(line, line.rstrip(), change.name)
            self.assertGreater(len(body), 3, change.name)
            *_, gap, blueprint, change_id = body
            if change.stage == 'bugs' or change.name in NO_BLUEPRINT:
                self.assertEqual('', blueprint, change.name)
            else:
                self.assertEqual('', gap, change.name)
                start, name = blueprint.rsplit(' ', 1)
                self.assertEqual('Implements: blueprint', start)
                self.assertTrue((SPECS / f'{name}.rst').is_file(), name)
            self.assertRegex(change_id, r'^Change-Id: I[0-9a-f]{40}$')
            self.assertNotIn(change_id, ids)
            ids.add(change_id)

    def each(self):
        """The changes of each release and base that has any."""
        for bases in changes.releases().values():
            for release in bases.values():
                if release.folder.is_dir():
                    yield release, changes.changes(release)

    def test_all_is_added(self):
        for release, series in self.each():
            self.assertEqual([], changes.forgotten(release, series))
        added = {path for change in self.changes for path in change.adds}
        there = {path.relative_to(ROOT).as_posix()
                 for folder in ('doc', 'releasenotes')
                 for path in (ROOT / folder).rglob('*') if path.is_file()}
        self.assertEqual(set(), there - added)

    def test_edits_are_small(self):
        edits = [edit for change in self.changes
                 for path, edit in change.edits.items()
                 if not path.startswith('doc/')
                 and not (ROOT / path).is_file()]
        lines = [line for edit in edits for line in edit.splitlines()
                 if re.match(r'[+-](?!(\+\+|--) )', line)]
        self.assertLess(len(lines), MOST_EDITED_LINES)

    def test_edits_have_few_lines_of_context(self):
        for change in (change for _, series in self.each()
                       for change in series):
            for edit in change.edits.values():
                for hunk in re.split(r'^@@.*\n', edit,
                                     flags=re.MULTILINE)[1:]:
                    context = re.match(r'(?: .*\n)*', hunk)[0]
                    self.assertLessEqual(context.count('\n'), 3, hunk)

    def test_patches_are_few(self):
        patches = [*(ROOT / 'series').rglob('*.patch')]
        self.assertLessEqual(len(patches), MOST_PATCHES)
        lines = 0
        for path in patches:
            for diff in re.split('^(?=diff --git )', path.read_text(),
                                 flags=re.MULTILINE):
                # What takes a file of ours back to an earlier change is no
                # edit of nova.
                edited = re.match('diff --git a/(.+) b/', diff)
                if not edited or not (ROOT / edited[1]).is_file():
                    lines += diff.count('\n')
        self.assertLessEqual(lines, MOST_PATCH_LINES)

    def test_release_notes(self):
        for path in (ROOT / 'releasenotes' / 'notes').iterdir():
            self.assertRegex(path.name, r'^[a-z0-9-]+-[0-9a-f]{16}\.yaml$')
            note = yaml.safe_load(path.read_text())
            self.assertEqual(set(), set(note) - RENO, path.name)
            for section, texts in note.items():
                if section == 'prelude':
                    texts = [texts]
                self.assertIsInstance(texts, list, path.name)
                for text in texts:
                    self.assertIsInstance(text, str, path.name)
            for line in path.read_text().splitlines():
                if not re.search('https?://', line):
                    self.assertLess(len(line), 80, path.name)


class TestShort(testtools.TestCase):

    def test_names_are_there(self):
        # Or nothing would be run, in silence.
        names = ''.join(
            f'{path.stem}\n{path.read_text()}' for path in
            (ROOT / 'tests' / 'integration').glob('test_*.py'))
        modules = re.search(r'\((.*)\)', run.MAIN)[1].split('|')
        for name in (*(f'test_{module}' for module in modules), *re.split(
                '[|.]', f'{run.SHORT[0]}|{run.SHORTEST}')):
            self.assertRegex(names, rf'(?m)^(    def |class )?{name}\b')


class TestZuul(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.parsed = yaml.safe_load((ROOT / '.zuul.yaml').read_text())
        self.jobs = {item['job']['name']: item['job'] for item in self.parsed
                     if 'job' in item}
        self.tox = configparser.ConfigParser(interpolation=None)
        self.tox.read(ROOT / 'tox.ini')

    def test_items(self):
        for item in self.parsed:
            self.assertEqual(1, len(item), item)
            self.assertIn(list(item)[0], ('job', 'project'))

    def test_jobs(self):
        for name, job in self.jobs.items():
            self.assertEqual(set(), set(job) - JOB, name)
            self.assertIn(job['parent'], PARENTS | set(self.jobs))
            self.assertIn(job.get('nodeset', 'debian-bookworm'), NODESETS)
            for when in ('pre-run', 'run', 'post-run'):
                if when in job:
                    plays = yaml.safe_load((ROOT / job[when]).read_text())
                    for play in plays:
                        self.assertIn('hosts', play)
                        self.assertIn('tasks', play)

    def test_tox_environments(self):
        for job in self.jobs.values():
            if job['parent'] == 'nova-scheduler-workers-tox':
                for name in job['vars']['tox_envlist'].split(','):
                    self.assertIn(f'testenv:{name}', self.tox)

    def test_each_suite_has_an_environment_and_a_job(self):
        run_by = {name for job in self.jobs.values()
                  for name in job.get('vars', {}).get('tox_envlist', '')
                  .split(',')}
        for name in (*run.SUITES, *run.GATES, 'short', 'check'):
            self.assertIn(name, run_by)
            self.assertIn(f'{name}', self.tox[f'testenv:{name}']['commands'])

    def test_companion_has_a_job(self):
        job = self.jobs['nova-scheduler-workers-companion']
        self.assertEqual('companion', job['vars']['tox_envlist'])
        self.assertIn('check {env:RELEASE} --base oslo.messaging',
                      self.tox['testenv:companion']['commands'])

    def test_each_release_has_a_job(self):
        for name in set(changes.releases()) - {run.RELEASE}:
            job = self.jobs[f'nova-scheduler-workers-{name}']
            self.assertEqual('nova-scheduler-workers-short', job['parent'])
            self.assertEqual({'RELEASE': name},
                             job['vars']['tox_environment'])

    def test_three_workers_in_devstack(self):
        job = self.jobs['nova-scheduler-workers-devstack']
        conf = job['vars']['devstack_local_conf']['post-config']
        self.assertEqual(3, conf['$NOVA_CONF']['scheduler']['workers'])

    def test_project(self):
        project, = (item['project'] for item in self.parsed
                    if 'project' in item)
        real = {name for name, job in self.jobs.items()
                if not job.get('abstract')}
        for pipeline in ('check', 'gate'):
            self.assertEqual(real, set(project[pipeline]['jobs']))


class TestAlerts(testtools.TestCase):

    def test_rules(self):
        """What the page on monitoring offers does what its own tests say."""
        promtool = shutil.which('promtool')
        if promtool is None:
            self.skipTest('no promtool; on Debian: apt-get install prometheus')
        done = subprocess.run(
            [promtool, 'test', 'rules', 'scheduler-workers-rules-test.yaml'],
            cwd=ROOT / 'doc/source/admin', text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(0, done.returncode, done.stdout)


class TestSpecs(testtools.TestCase):
    """The rules of nova-specs' own test, and a bit more."""

    def setUp(self):
        super().setUp()
        self.specs = [(path.name, path.read_text()) for path in sorted(
            (ROOT / 'specs').glob('*/approved/*.rst'))]
        if not self.specs:
            self.skipTest('there is no spec')

    def test_sections(self):
        for name, text in self.specs:
            found = titles(text)
            lines = [line for _, line in found]
            self.assertEqual('=', lines[0][0], name)
            for title, line in found:
                self.assertGreaterEqual(len(line), len(title), name)
            title, line = found[0]
            self.assertIn(f'\n{line}\n{title}\n{line}\n', text, name)
            sections = {}
            for title, line in found[1:]:
                if line[0] == '=':
                    sections[title] = []
                elif line[0] == '-' and title not in OPTIONAL:
                    list(sections.values())[-1].append(title)
            self.assertEqual(list(SECTIONS), list(sections), name)
            for section, wanted in SECTIONS.items():
                self.assertEqual(wanted, [
                    title for title in sections[section]
                    if title in wanted], f'{name}: {section}')
            self.assertEqual(1, len(re.findall(
                r'^(={3,})\n.+\n\1$', text, re.MULTILINE)),
                f'{name} has to have one title')

    def test_lines(self):
        for name, text in self.specs:
            self.assertLessEqual(text.count('\n'), MOST_SPEC_LINES, name)
            self.assertNotIn('\r', text, name)
            for line in text.split('\n'):
                self.assertEqual(line, line.rstrip(), name)
                if not re.search('https?://', line):
                    self.assertLess(len(line), 80, f'{name}: {line}')

    def test_licence_and_blueprint(self):
        for name, text in self.specs:
            self.assertTrue(text.startswith(LICENCE), name)
            self.assertIn('\nhttps://blueprints.launchpad.net/nova/+spec/'
                          f'{Path(name).stem}\n', text, name)
