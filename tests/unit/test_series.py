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

"""What tools/series.py promises."""

import os
from pathlib import Path
import shutil
import subprocess
import sys
import zipfile

from tests.unit import repository
from tests.unit.repository import edit


class TestBuild(repository.RepositoryTest):

    def test_base_then_a_commit_for_each_change(self):
        self.succeed('build', '1.0')
        self.assertEqual(
            ['Subject of service', 'Subject of workers', 'nova 1.0'],
            self.git('log', '--format=%s').split('\n'))
        self.assertEqual(self.git('rev-parse', 'HEAD~2'),
                         self.git('rev-parse', 'base'))
        self.assertEqual('', self.git('status', '--porcelain', '--ignored'))
        # The sdist's own .gitignore hides nothing of it.
        self.assertIn('nova.egg-info/PKG-INFO', self.git('ls-files'))
        self.assertIn('edited = 0', (self.tree / 'nova' / 'service.py')
                      .read_text())

    def test_same_ids_whoever_builds(self):
        self.succeed('build', '1.0')
        first = self.head()
        shutil.rmtree(self.tree)
        self.write('home/.gitconfig',
                   '[user]\nname = Other\n[commit]\ngpgSign = true\n'
                   '[core]\nautocrlf = true\nhooksPath = /nowhere\n')
        self.succeed('build', '1.0', HOME=str(self.root / 'home'),
                     GIT_AUTHOR_NAME='Somebody', GIT_DIR='/nowhere',
                     TZ='Asia/Tokyo')
        self.assertEqual(first, self.head())

    def test_up_to_date(self):
        self.succeed('build', '1.0')
        self.assertIn('up to date', self.succeed('build', '1.0'))

    def test_builds_again_when_the_series_changed(self):
        self.succeed('build', '1.0')
        self.write('nova/workers/name.py', 'X = 2\n')
        self.assertIn('built', self.succeed('build', '1.0'))
        self.assertEqual('X = 2',
                         self.git('show', 'HEAD:nova/workers/name.py'))

    def test_message_is_verbatim(self):
        message = 'Subject\n\n# not a comment\n  indented  \n\n\nEnd\n'
        self.change('01-workers', message=message)
        self.succeed('build', '1.0')
        self.assertEqual(message.strip(),
                         self.git('log', '-1', '--format=%B', 'HEAD~1'))

    def test_adds_what_the_base_ignores(self):
        self.change('03-ignored', adds={'nova/workers/PKG-INFO': 'x\n'})
        self.succeed('build', '1.0')
        self.assertEqual('x', self.git('show', 'HEAD:nova/workers/PKG-INFO'))

    def test_executable_bit(self):
        (self.root / 'nova/workers/name.py').chmod(0o755)
        self.succeed('build', '1.0')
        self.assertTrue(os.access(self.tree / 'nova/workers/name.py', os.X_OK))
        self.assertTrue(self.git('ls-files', '-s', 'nova/workers/name.py')
                        .startswith('100755'))

    def test_refuses_to_lose_edits(self):
        self.succeed('build', '1.0')
        self.write('build/1.0/nova/new.py', '')
        self.assertIn('edits of your own', self.succeed('build', '1.0'))
        self.write('nova/workers/name.py', 'X = 2\n')
        self.assertIn('edits', self.refuse('build', '1.0'))
        self.assertTrue((self.tree / 'nova/new.py').exists())

    def test_refuses_to_lose_commits(self):
        self.succeed('build', '1.0')
        self.write('build/1.0/nova/new.py', '')
        self.git('checkout', '-q', '-b', 'other')
        self.git('add', '.')
        self.git('commit', '-q', '-m', 'New')
        self.git('checkout', '-q', 'main')
        self.write('nova/workers/name.py', 'X = 2\n')
        self.assertIn('edits', self.refuse('build', '1.0'))

    def test_wrong_hash_of_the_cached_file(self):
        wanted = self.sdist.read_bytes()
        self.sdist.write_bytes(wanted + b'\0')
        text = self.refuse('build', '1.0')
        self.assertRegex(text, '[0-9a-f]{64}.*[0-9a-f]{64}')
        self.assertFalse(self.tree.exists())

    def test_wrong_hash_of_the_download(self):
        links = self.root / 'links'
        links.mkdir()
        shutil.move(self.sdist, links)
        with open(links / 'nova-1.0.tar.gz', 'ab') as file:
            file.write(b'\0')
        text = self.refuse('build', '1.0', PIP_FIND_LINKS=str(links))
        self.assertRegex(text, 'nova 1.0.*[0-9a-f]{64}.*[0-9a-f]{64}')
        self.assertFalse(self.sdist.exists())

    def test_nothing_to_download(self):
        self.sdist.unlink()
        text = self.refuse('build', '1.0', PIP_FIND_LINKS='')
        self.assertIn('cannot download nova 1.0: pip: ', text)
        self.assertIn('nova==1.0', text)

    def test_sdist_that_leads_out(self):
        self.write_sdist({'../../../outside': 'x'})
        self.assertIn('outside', self.refuse('build', '1.0'))
        self.assertFalse((self.root / 'outside').exists())

    def test_patch_that_does_not_apply(self):
        self.change('03-late', patch=edit('nova/service.py', 3))
        self.assertIn('03-late does not apply to nova/service.py in nova '
                      '1.0: hunk 1 fits nowhere', self.refuse('build', '1.0'))
        self.assertFalse(self.tree.exists())

    def test_patch_whose_lines_moved(self):
        self.change('03-late', patch=edit('nova/service.py', 9))
        self.succeed('build', '1.0')
        self.assertIn('\nline_9 = 9\nedited = 0\nline_10 = 10\n',
                      self.git('show', 'HEAD:nova/service.py'))

    def test_patch_that_fits_twice(self):
        # At the place that its numbers name, too.
        self.write_sdist({**repository.BASE, 'nova/twice.py':
                          repository.LINES * 2})
        self.change('03-late', patch=edit('nova/twice.py', 9))
        self.assertIn('03-late does not apply to nova/twice.py in nova 1.0: '
                      'hunk 1 fits more than once',
                      self.refuse('build', '1.0'))

    def test_patch_without_context(self):
        self.change('03-late', patch=edit('nova/service.py', 9).replace(
            '\n line_10 = 10', '').replace(' line_9 = 9\n', ''))
        self.assertIn('hunk 1 fits more than once',
                      self.refuse('build', '1.0'))

    def test_hunks_that_fit_twice_in_one_order(self):
        self.write_sdist({**repository.BASE, 'nova/twice.py':
                          repository.LINES * 2})
        patch = edit('nova/twice.py', 9)
        self.change('03-late', patch=patch + patch[patch.index('@@'):])
        self.succeed('build', '1.0')
        self.assertEqual(
            2, self.git('show', 'HEAD:nova/twice.py').count('edited = 0'))

    def test_patch_of_a_missing_file(self):
        self.change('03-late', patch=edit('nova/missing.py', 9))
        self.assertIn('03-late does not apply to nova/missing.py in nova '
                      '1.0: there is no such file',
                      self.refuse('build', '1.0'))

    def test_patch_that_leads_out(self):
        for path in ('../outside', '.git/config', '/outside'):
            self.change('03-late', patch=edit(path, 9))
            self.assertIn(f'series/nova/03-late/edits.patch edits {path}: '
                          f'not a path', self.refuse('build', '1.0'))

    def test_malformed_patch(self):
        good = edit('nova/scheduler/manager.py', 9)
        patch = edit('nova/service.py', 9)
        for bad, line in (
                (f'{good}x = 1\n', 8),
                (good + patch.replace('@@ -', '@@ '), 9),
                (good[good.index('---'):], 1),
                (good.replace('+++ b/nova', '+++ b/other'), 2),
                (f'new\n{good}', 1)):
            self.change('03-late', patch=bad)
            text = self.refuse('build', '1.0')
            self.assertIn('series/nova/03-late/edits.patch is malformed from '
                          f'line {line} on', text)
        self.change('03-late', patch=good + good)
        self.assertIn('has two diffs of nova/scheduler/manager.py for all '
                      'releases', self.refuse('build', '1.0'))
        self.change('03-late', patch=f'Releases: 1.0 0.8\n{good}')
        self.assertIn('names an unknown release 0.8',
                      self.refuse('build', '1.0'))

    def test_bad_stage(self):
        self.add_stages()
        self.write('series/nova/03-manager/stage', 'names\n')
        self.assertIn('03-manager begins stage names, which another change '
                      'begins', self.refuse('build', '1.0'))
        self.write('series/nova/03-manager/stage', 'Two words\n')
        self.assertIn('series/nova/03-manager/stage is not a name of lower '
                      'case letters', self.refuse('build', '1.0'))

    def test_file_that_is_no_part_of_a_change(self):
        self.write('series/nova/02-service/edits/1.0.patch', '')
        self.assertIn('series/nova/02-service/edits is none of message, adds, '
                      'edits.patch, stage', self.refuse('build', '1.0'))

    def test_added_file_is_missing(self):
        (self.root / 'nova/workers/name.py').unlink()
        self.assertIn('adds nova/workers/name.py',
                      self.refuse('build', '1.0'))

    def test_added_file_is_in_the_base(self):
        self.change('03-late', adds={'nova/service.py': ''})
        self.assertIn('03-late adds nova/service.py',
                      self.refuse('build', '1.0'))

    def test_killed_while_it_builds(self):
        fake = self.write('bin/git', f'#!/bin/sh\ncase "$*" in *tag*) '
                                     f'kill -9 $PPID;; esac\n'
                                     f'exec {shutil.which("git")} "$@"\n',
                          0o755)
        path = f'{fake.parent}{os.pathsep}{os.environ["PATH"]}'
        code, _, _ = self.run_tool('build', '1.0', PATH=path)
        self.assertEqual(-9, code)
        self.assertFalse(self.tree.exists())
        self.succeed('build', '1.0')
        self.assertEqual({'1.0', 'cache', '.lock'},
                         set(os.listdir(self.root / 'build')))

    def test_forgotten_file(self):
        self.write('nova/workers/more.py', '')
        self.assertIn('warning: no change adds nova/workers/more.py',
                      self.succeed('build', '1.0'))

    def test_unknown_release(self):
        self.assertIn('unknown release 9; known: 1.0',
                      self.refuse('build', '9'))

    def test_nothing_for_this_release(self):
        self.add_older()
        self.change('03-late', patch='Releases: 0.9\n' +
                    edit('nova/service.py', 9))
        self.succeed('build', '0.9')
        self.succeed('export', '1.0', 'patches')
        self.assertNotIn('late', (self.root / 'patches/series').read_text())
        self.change('04-later')
        self.assertIn('04-later neither adds nor edits anything',
                      self.refuse('build', '1.0'))

    def test_malformed(self):
        self.write('series/nova/third/message', 'x\n')
        self.assertIn('third', self.refuse('build', '1.0'))
        self.write('series/releases.toml', 'number = ')
        self.assertIn('releases.toml is malformed',
                      self.refuse('build', '1.0'))

    def test_no_git(self):
        self.assertIn('git is not installed',
                      self.refuse('build', '1.0', PATH='/nowhere'))

    def test_usage(self):
        self.assertEqual(2, self.run_tool('make', '1.0')[0])


class TestOtherBase(repository.RepositoryTest):

    base = ('1.0', '--base', repository.COMPANION)

    def setUp(self):
        super().setUp()
        self.add_companion()
        self.tree = self.root / 'build/1.0-oslo.messaging'

    def test_build(self):
        self.succeed('build', *self.base)
        self.assertEqual('Subject of rabbit\noslo.messaging 2.0',
                         self.git('log', '--format=%s'))
        self.assertEqual(
            'oslo_messaging/_drivers/rabbit.py\noslo_messaging/new.py\n'
            'releasenotes/notes/x.yaml',
            self.git('diff', '--name-only', 'base', 'HEAD'))
        self.assertFalse((self.root / 'build/1.0').exists())

    def test_does_not_touch_nova(self):
        self.succeed('build', '1.0')
        self.assertNotIn('releasenotes',
                         os.listdir(self.root / 'build/1.0'))

    def test_forgotten_file(self):
        self.write('oslo.messaging/oslo_messaging/more.py', '')
        self.assertIn('warning: no change adds oslo_messaging/more.py',
                      self.succeed('build', *self.base))
        self.assertNotIn('warning', self.succeed('build', '1.0'))

    def test_refresh(self):
        self.succeed('build', *self.base)
        self.write('build/1.0-oslo.messaging/oslo_messaging/new.py', 'X = 2\n')
        self.write('build/1.0-oslo.messaging/setup.py', '')
        self.write('build/1.0-oslo.messaging/oslo_messaging/more.py', '')
        self.git('add', '.')
        self.git('commit', '-q', '--amend', '--no-edit')
        self.succeed('refresh', *self.base)
        files = self.files()
        self.assertEqual('X = 2\n',
                         files['oslo.messaging/oslo_messaging/new.py'])
        self.assertIn('oslo.messaging/oslo_messaging/more.py', files)
        self.assertIn('+++ b/setup.py',
                      files['series/oslo.messaging/01-rabbit/edits.patch'])
        self.assertIn('oslo_messaging/more.py\n',
                      files['series/oslo.messaging/01-rabbit/adds'])
        self.assertIn('up to date', self.succeed('build', *self.base))

    def test_tells_how_to_refresh(self):
        self.succeed('build', *self.base)
        self.write('build/1.0-oslo.messaging/new.py', '')
        self.assertIn('"refresh 1.0 --base oslo.messaging"',
                      self.refuse('wheel', *self.base))

    def test_export(self):
        out = self.root / 'out'
        self.succeed('export', *self.base, str(out))
        self.assertEqual(['0001-rabbit.patch', 'series'],
                         sorted(os.listdir(out)))

    def test_unknown_base(self):
        self.assertIn('1.0 has no base x; known: nova, oslo.messaging',
                      self.refuse('build', '1.0', '--base', 'x'))

    def test_no_changes(self):
        shutil.rmtree(self.root / 'series/oslo.messaging')
        self.assertIn('series/oslo.messaging is missing',
                      self.refuse('build', *self.base))

    def test_wheel(self):
        out = self.succeed('wheel', *self.base, **TestWheel.offline)
        wheel = Path(self.root, out.split('\n')[-2].split()[0])
        self.assertEqual(
            'oslo_messaging-2.0+workers.7-py3-none-any.whl', wheel.name)
        with zipfile.ZipFile(wheel) as file:
            self.assertIn('oslo_messaging/new.py', file.namelist())


class TestRefresh(repository.RepositoryTest):

    def setUp(self):
        super().setUp()
        # Whatever order somebody wrote them in.
        self.write('series/nova/01-workers/adds',
                   'nova/workers/name.py\nnova/workers/__init__.py\n')
        # The form that refresh writes.
        self.change('02-service', patch=edit('nova/service.py', 3).replace(
            ' @@\n', ' @@ line_2 = 2\n'))
        self.succeed('build', '1.0')

    def commit(self, path, text, message):
        self.write(f'build/1.0/{path}', text)
        self.git('add', '-f', path)
        self.git('commit', '-q', '-m', message)

    def refresh(self):
        """Refresh, which must not change what was committed."""
        root = self.git('rev-parse', 'HEAD^{tree}')
        self.succeed('refresh', '1.0')
        self.assertEqual(root, self.git('rev-parse', 'HEAD^{tree}'))
        self.assertEqual('', self.git('status', '--porcelain'))
        head = self.head()
        self.assertIn('up to date', self.succeed('build', '1.0'))
        shutil.rmtree(self.tree)
        self.succeed('build', '1.0')
        self.assertEqual(head, self.head())

    def names(self):
        return sorted(os.listdir(self.root / 'series/nova'))

    def test_unchanged(self):
        before, head = self.files(), self.head()
        self.succeed('refresh', '1.0')
        self.assertEqual(before, self.files())
        self.assertEqual(head, self.head())

    def test_new_commits(self):
        self.commit('nova/scheduler/manager.py', repository.LINES + 'x = 1\n',
                    'Edit the manager!')
        self.commit('nova/more.py', 'y = 1\n', 'Add more')
        self.refresh()
        self.assertEqual(['01-workers', '02-service', '03-edit-the-manager',
                          '04-add-more'], self.names())
        files = self.files()
        self.assertEqual('y = 1\n', files['nova/more.py'])
        self.assertEqual('nova/more.py\n',
                         files['series/nova/04-add-more/adds'])
        patch = files['series/nova/03-edit-the-manager/edits.patch']
        self.assertIn('\n line_20 = 20\n+x = 1\n', patch)
        self.assertNotIn('\n line_19', patch)
        self.assertNotIn('\nindex', patch)

    def test_amended(self):
        self.write('build/1.0/nova/service.py', repository.LINES + 'x = 1\n')
        self.git('commit', '-q', '-a', '--amend', '--no-edit')
        self.refresh()
        self.assertEqual(['01-workers', '02-service'], self.names())
        patch = self.files()['series/nova/02-service/edits.patch']
        self.assertIn('+x = 1', patch)
        self.assertNotIn('+edited', patch)

    def test_edit_became_an_added_file(self):
        self.git('checkout', '-q', 'base', 'nova/service.py')
        self.write('build/1.0/nova/more.py', 'y = 1\n')
        self.git('add', '.')
        self.git('commit', '-q', '--amend', '--no-edit')
        self.refresh()
        files = self.files()
        self.assertEqual('nova/more.py\n',
                         files['series/nova/02-service/adds'])
        self.assertNotIn('series/nova/02-service/edits.patch', files)

    def test_reordered(self):
        first, second = self.git('rev-list', '--reverse',
                                 'base..HEAD').split()
        self.git('reset', '-q', '--hard', 'base')
        self.git('cherry-pick', second, first)
        self.refresh()
        self.assertEqual(['01-service', '02-workers'], self.names())

    def stages(self):
        return {path.split('/')[2]: text.strip()
                for path, text in self.files().items()
                if path.endswith('/stage')}

    def test_stages_stay(self):
        self.add_stages()
        self.succeed('build', '1.0')
        self.commit('nova/more.py', 'y = 1\n', 'Add more')
        self.refresh()
        self.assertEqual({'01-workers': 'names', '02-service': 'bound-1'},
                         self.stages())
        workers, service, manager, more = self.git(
            'rev-list', '--reverse', 'base..HEAD').split()
        # Without the change that began the second one.
        self.git('reset', '-q', '--hard', 'base')
        self.git('cherry-pick', workers, more, manager)
        self.refresh()
        self.assertEqual({'01-workers': 'names', '02-add-more': 'bound-1'},
                         self.stages())

    def test_stage_in_two_pieces(self):
        self.add_stages()
        self.succeed('build', '1.0')
        workers, service, manager = self.git(
            'rev-list', '--reverse', 'base..HEAD').split()
        self.git('reset', '-q', '--hard', 'base')
        self.git('cherry-pick', service, workers, manager)
        self.assertIn('03-manager begins stage bound-1, which another change '
                      'begins', self.refuse_and_keep())

    def test_dropped(self):
        self.git('reset', '-q', '--hard', 'base')
        self.git('cherry-pick', 'main@{1}')
        self.refresh()
        self.assertEqual(['02-service'], self.names())
        self.assertNotIn('nova/workers/name.py', self.files())

    def refuse_and_keep(self):
        before = self.files()
        text = self.refuse('refresh', '1.0')
        self.assertEqual(before, self.files())
        return text

    def grow(self):
        """Have two later changes edit a file that the first one adds."""
        self.commit('nova/workers/name.py', 'X = 1\nY = 2\n', 'Grow')
        self.commit('nova/workers/name.py', 'W = 0\nX = 3\nY = 2\n',
                    'Grow again')
        self.refresh()

    def test_added_then_edited(self):
        self.grow()
        self.assertEqual(['01-workers', '02-service', '03-grow',
                          '04-grow-again'], self.names())
        self.assertEqual('W = 0\nX = 3\nY = 2\n',
                         self.files()['nova/workers/name.py'])
        self.assertEqual(
            ['X = 1', 'X = 1\nY = 2', 'W = 0\nX = 3\nY = 2'],
            [self.git('show', f'{commit}:nova/workers/name.py')
             for commit in ('HEAD~3', 'HEAD~1', 'HEAD')])

    def test_added_then_edited_everywhere(self):
        # Either side of a hunk would fit more than once with less context.
        text = 'a = 1\n\n\nb = 1\n\n\nc = 1\n'
        self.commit('nova/more.py', text, 'Add more')
        self.commit('nova/more.py', text.replace('b = 1\n', ''), 'Drop b')
        self.refresh()

    def test_emptied_and_filled(self):
        for text in ('X = 1\n', '', 'Y = 2\n'):
            self.commit('nova/more.py', text, f'Have {text or "nothing"}')
        self.refresh()

    def test_edited_earlier(self):
        self.grow()
        first = self.git('rev-parse', 'HEAD~3')
        later = self.git('rev-list', '--reverse', f'{first}..HEAD').split()
        self.git('reset', '-q', '--hard', first)
        self.write('build/1.0/nova/workers/name.py', 'X = 1\nZ = 1\n' * 9)
        self.git('commit', '-q', '-a', '--amend', '--no-edit')
        self.git('cherry-pick', later[0])
        self.refresh()
        self.assertEqual('X = 1\nZ = 1\n' * 9,
                         self.files()['nova/workers/name.py'])
        self.assertEqual(['01-workers', '02-service'], self.names())

    def test_edit_that_does_not_come_off(self):
        self.grow()
        self.write('nova/workers/name.py', 'W = 0\nY = 2\n')
        self.assertIn('04-grow-again does not come off nova/workers/name.py: '
                      'hunk 1 fits nowhere', self.refuse('build', '1.0'))

    def test_added_then_removed(self):
        self.git('rm', '-q', 'nova/workers/name.py')
        self.git('commit', '-q', '-m', 'Remove it')
        self.assertIn('"Remove it" does more to nova/workers/name.py than '
                      'edit lines', self.refuse_and_keep())

    def test_not_built(self):
        shutil.rmtree(self.tree)
        self.assertIn('not built', self.refuse_and_keep())

    def test_not_committed(self):
        self.write('build/1.0/nova/new.py', '')
        self.assertIn('commit or amend', self.refuse_and_keep())

    def test_changed_here(self):
        self.write('nova/workers/name.py', 'X = 2\n')
        self.assertIn('changed here', self.refuse_and_keep())

    def test_merge(self):
        self.git('checkout', '-q', '-b', 'side', 'base')
        self.commit('nova/side.py', '', 'Side')
        self.git('checkout', '-q', 'main')
        self.git('merge', '-q', '-m', 'Merge', 'side')
        self.assertIn('merge', self.refuse_and_keep())

    def test_same_change_id_twice(self):
        message = self.git('log', '-1', '--format=%B')
        self.commit('nova/more.py', '', message)
        self.assertIn('I' + '02' * 20, self.refuse_and_keep())


class TestReleases(repository.RepositoryTest):
    """One patch for all releases, and what of it only some have."""

    older = 'import os\n\n' + repository.LINES
    path = 'series/nova/02-service/edits.patch'

    def setUp(self):
        super().setUp()
        self.change('03-manager', patch=edit('nova/scheduler/manager.py', 3))
        self.add_older()

    def text(self, name, path='nova/service.py'):
        shutil.rmtree(self.root / 'build' / name, ignore_errors=True)
        self.succeed('build', name)
        return (self.root / 'build' / name / path).read_text()

    def amend(self, name='1.0', **files):
        """Amend the last change in a built tree, and refresh."""
        self.tree = self.root / 'build' / name
        self.succeed('build', name)
        for path, text in files.items():
            self.write(f'build/{name}/nova/{path}.py', text)
        self.git('commit', '-q', '-a', '--amend', '--no-edit')
        root = self.git('rev-parse', 'HEAD^{tree}')
        said = self.succeed('refresh', name)
        self.assertEqual(root, self.git('rev-parse', 'HEAD^{tree}'))
        self.assertIn('up to date', self.succeed('build', name))
        return said

    def patch(self):
        return (self.root / 'series/nova/03-manager/edits.patch').read_text()

    def add_context(self, text, older):
        """Add a file to both releases."""
        self.write_sdist({**repository.BASE, 'nova/context.py': text})
        self.add_older(context=older)

    def test_patch_fits_all(self):
        for name in ('1.0', '0.9'):
            self.assertIn('line_3 = 3\nedited = 0\nline_4', self.text(name))

    def test_patch_of_some(self):
        patch = edit('nova/service.py', 3)
        self.write(self.path, 'Releases: 0.9\n' +
                   patch.replace('edited', 'other') + patch)
        self.assertIn('line_3 = 3\nedited = 0\nline_4', self.text('1.0'))
        self.assertIn('line_3 = 3\nother = 0\nline_4', self.text('0.9'))

    def test_no_edit_for_some(self):
        self.write(self.path, edit('nova/service.py', 3) +
                   'Releases: 0.9\n'
                   'diff --git a/nova/service.py b/nova/service.py\n' +
                   edit('nova/scheduler/__init__.py', 8).replace(
                       ' line_8 = 8\n', '').replace(' line_9 = 9\n', ''))
        self.assertIn('edited', self.text('1.0'))
        self.assertEqual(self.older, self.text('0.9'))

    def test_refresh_keeps_a_patch_that_is_right(self):
        before = self.files()
        for name in ('0.9', '1.0'):
            self.succeed('build', name)
            self.assertEqual(
                f'series/nova holds the 3 changes of build/{name}\n',
                self.succeed('refresh', name))
            self.assertEqual(before, self.files())

    def test_refresh_for_all(self):
        said = self.amend(service=self.text('1.0').replace('_9 = 9', '_9 = 0'))
        self.assertIn('03-manager: nova/service.py changes for 0.9 as well',
                      said)
        self.assertNotIn('Releases', self.patch())
        self.assertIn('line_9 = 0', self.text('0.9'))
        said = self.amend('0.9', service=self.text('0.9').replace(
            '_9 = 0', '_9 = 1'))
        self.assertIn('changes for 1.0 as well', said)
        self.assertIn('line_9 = 1', self.text('1.0'))

    def test_refresh_for_all_where_the_context_differs(self):
        self.add_context('before = 1\nafter = 1\n', 'other = 1\nafter = 1\n')
        said = self.amend(context='before = 1\nnew = 1\nafter = 1\n')
        self.assertIn('nova/context.py changes for 0.9 as well', said)
        self.assertNotIn('Releases', self.patch())
        self.assertEqual('other = 1\nnew = 1\nafter = 1\n',
                         self.text('0.9', 'nova/context.py'))

    def test_refresh_with_more_context_where_it_fits_twice(self):
        text = 'a = 1\nx = 1\ny = 1\nb = 1\nx = 1\ny = 1\n'
        self.add_context(text, '\n' + text)
        new = text.replace('a = 1\nx = 1\n', 'a = 1\nx = 1\nnew = 1\n')
        self.amend(context=new)
        self.assertIn('\n a = 1\n x = 1\n+new = 1\n y = 1\n', self.patch())
        self.assertEqual('\n' + new, self.text('0.9', 'nova/context.py'))

    def test_refresh_for_those_that_it_fits(self):
        for older in ('x = 1\n', 'line_1 = 2\n', 'a = 1\nb = 1\n' * 2):
            self.add_context('a = 1\nb = 1\n', older)
            said = self.amend(context='a = 1\nnew = 1\nb = 1\n')
            self.assertIn('03-manager: nova/context.py stays as it is for '
                          '0.9, which the new edit does not fit', said)
            self.assertTrue(self.patch().startswith('diff --git a/nova/con'))
            self.assertIn('+new = 1\n b = 1\nReleases: 0.9\n'
                          'diff --git a/nova/context.py b/nova/context.py\n'
                          'diff', self.patch())
            self.assertEqual(older, self.text('0.9', 'nova/context.py'))
            self.amend(context='a = 1\nb = 1\n')
            self.assertNotIn('context', self.patch())

    def test_refresh_of_an_older_release_alone(self):
        self.add_context('a = 1\nb = 1\n', 'a = 1\nc = 1\nd = 1\n')
        said = self.amend('0.9', context='a = 1\nc = 1\nnew = 1\nd = 1\n')
        self.assertIn('nova/context.py stays as it is for 1.0', said)
        self.assertTrue(self.patch().startswith(
            'Releases: 0.9\ndiff --git a/nova/context.py b/'), self.patch())
        self.assertEqual('a = 1\nb = 1\n',
                         self.text('1.0', 'nova/context.py'))

    def test_refresh_of_what_some_have(self):
        # Each has a diff of its own, and the other's stays.
        self.add_context('a = 1\nb = 1\n', 'c = 1\nd = 1\n')
        self.amend('0.9', context='c = 1\nnew = 1\nd = 1\n')
        self.amend('1.0', context='a = 1\nnew = 1\nb = 1\n')
        self.assertIn('\nReleases: 0.9\n', self.patch())
        said = self.amend('0.9', context='c = 1\nnewer = 1\nd = 1\n')
        self.assertNotIn('as well', said)
        self.assertNotIn('stays as it is', said)
        self.assertEqual('a = 1\nnew = 1\nb = 1\n',
                         self.text('1.0', 'nova/context.py'))
        self.assertEqual('c = 1\nnewer = 1\nd = 1\n',
                         self.text('0.9', 'nova/context.py'))

    def test_refresh_that_breaks_another(self):
        # A later change of the older release alone needs the line as it was.
        self.change('04-late', patch=edit('nova/scheduler/manager.py', 12) +
                    'Releases: 0.9\n' + edit('nova/service.py', 14))
        self.tree = self.root / 'build' / '1.0'
        self.succeed('build', '1.0')
        self.git('checkout', '-q', 'HEAD~1')
        self.write('build/1.0/nova/service.py', (
            self.tree / 'nova/service.py').read_text().replace(
                'line_14 = 14', 'line_14 = 0'))
        self.git('commit', '-q', '-a', '--amend', '--no-edit')
        self.git('cherry-pick', 'main')
        before = self.files()
        self.assertIn('04-late does not apply to nova/service.py in nova 0.9',
                      self.refuse('refresh', '1.0'))
        self.assertEqual(before, self.files())

    def test_refresh_does_not_replace_other_files(self):
        self.tree = self.root / 'build' / '1.0'
        self.succeed('build', '1.0')
        ours = (self.root / 'tools/common.py').read_text()
        self.write('build/1.0/tools/common.py', 'X = 1\n')
        self.git('add', 'tools')
        self.git('commit', '-q', '-m', 'Late')
        before = self.files()
        self.assertIn('tools/common.py is there already, and a change adds '
                      'such a file', self.refuse('refresh', '1.0'))
        self.assertEqual(before, self.files())
        self.assertEqual(ours, (self.root / 'tools/common.py').read_text())

    def test_refresh_that_cannot_write(self):
        self.tree = self.root / 'build' / '1.0'
        self.succeed('build', '1.0')
        self.write('build/1.0/nova/more/x.py', '')
        # All changes after this one get another number.
        self.git('checkout', '-q', 'base')
        self.git('add', 'nova/more')
        self.git('commit', '-q', '-m', 'Early')
        self.git('cherry-pick', 'base..main')
        self.git('branch', '-f', 'main', 'HEAD')
        self.git('checkout', '-q', 'main')
        self.write('nova/more', 'no folder\n')
        before = self.files()
        self.refuse('refresh', '1.0')
        self.assertEqual(before, self.files())
        # Nor is a folder left that is no change.
        self.assertIn('up to date', self.succeed('build', '1.0'))

    def test_refresh_of_more_than_lines(self):
        self.tree = self.root / 'build' / '1.0'
        self.succeed('build', '1.0')
        for command, text in (
                (('rm', '-q', 'nova/service.py'), None),
                (('update-index', '--chmod=+x', 'nova/service.py'), None),
                (('add', 'nova/service.py'), 'a\0b\n')):
            if text:
                self.write('build/1.0/nova/service.py', text)
            self.git(*command)
            self.git('commit', '-q', '-m', 'Late')
            self.git('reset', '-q', '--hard')
            self.assertIn('"Late" does more to nova/service.py '
                          'than edit lines', self.refuse('refresh', '1.0'))
            self.git('reset', '-q', '--hard', 'HEAD~1')

    def test_refresh_without_a_newline_at_the_end(self):
        for text, older in (('a = 1\nb = 1', 'c = 1\nb = 1'),
                            ('b = 1', 'a = 1\nb = 1')):
            self.add_context(text, older)
            for new in (('b = 1', 'b = 1\n'), ('b', 'x = 1\nb'),
                        ('b = 1', 'b = 2')):
                self.amend(context=text.replace(*new))
                self.assertEqual(older.replace(*new),
                                 self.text('0.9', 'nova/context.py'))

    def test_refresh_of_an_empty_file(self):
        self.add_context('', '')
        self.amend(context='a = 1\n')
        self.assertEqual('a = 1\n', self.text('0.9', 'nova/context.py'))


class TestExport(repository.RepositoryTest):

    def export(self):
        self.succeed('export', '1.0', str(self.root / 'out'))
        return self.root / 'out'

    def base(self):
        self.git('worktree', 'add', '-q', str(self.root / 'checkout'), 'base')
        return self.root / 'checkout'

    def test_names(self):
        self.assertEqual(
            ['0001-workers.patch', '0002-service.patch', 'series'],
            sorted(os.listdir(self.export())))
        self.assertEqual('0001-workers.patch\n0002-service.patch\n',
                         (self.root / 'out' / 'series').read_text())

    def test_git_am(self):
        out, checkout = self.export(), self.base()
        done = subprocess.run(
            ['git', '-c', 'user.name=A', '-c', 'user.email=a@example.org',
             'am', *sorted(map(str, out.glob('*.patch')))], cwd=checkout,
            capture_output=True, text=True)
        self.assertEqual((0, ''), (done.returncode, done.stderr))
        self.assertEqual(self.git('log', '--format=%T %B', 'base..main'),
                         self.git('log', '--format=%T %B', 'base..HEAD',
                                  tree=checkout))

    def test_patch(self):
        if not shutil.which('patch'):
            self.skipTest('patch is not installed')
        out, checkout = self.export(), self.base()
        for name in (out / 'series').read_text().split():
            said = subprocess.run(
                ['patch', '-p1', '-i', str(out / name)], cwd=checkout,
                capture_output=True, text=True, check=True).stdout
            self.assertNotIn('offset', said)
            self.assertNotIn('fuzz', said)
        self.git('add', '-A', tree=checkout)
        self.assertEqual('', self.git('diff', '--cached', 'main',
                                      tree=checkout))

    def test_same_text_each_time(self):
        first = {path.name: path.read_text()
                 for path in self.export().iterdir()}
        shutil.rmtree(self.root / 'out')
        shutil.rmtree(self.tree)
        self.assertEqual(first, {path.name: path.read_text()
                                 for path in self.export().iterdir()})

    def test_folder_is_not_empty(self):
        self.write('out/x', '')
        self.assertIn('not an empty folder',
                      self.refuse('export', '1.0', str(self.root / 'out')))
        self.assertEqual(['x'], os.listdir(self.root / 'out'))

    def test_all_or_nothing(self):
        # Where the files may not be as large as one of them is.
        self.change('03-large', adds={'nova/large.py': 'x = 1\n' * 20000})
        self.succeed('build', '1.0')
        out = self.root / 'out'
        done = subprocess.run(
            ['sh', '-c', f'ulimit -f 64; exec "{sys.executable}" '
             f'"{self.root}/tools/series.py" export 1.0 "{out}"'],
            capture_output=True, text=True, cwd=self.root)
        self.assertEqual(1, done.returncode, done.stdout)
        self.assertIn(f'cannot write to {out}: File too large', done.stderr)
        self.assertEqual([], os.listdir(out))
        self.export()

    def test_bad_prefix(self):
        for prefix in ('', '/', '/a b', '/a/../b'):
            self.assertIn(f'and not {prefix!r}', self.refuse(
                'export', '1.0', str(self.root / 'out'), '--layout', 'kolla',
                '--prefix', prefix))
        code, _, err = self.run_tool('export', '1.0', str(self.root / 'out'),
                                     '--prefix', '/a')
        self.assertEqual(2, code)
        self.assertIn('--prefix goes with --layout kolla', err)

    def test_debian(self):
        patches = self.root / 'debian' / 'patches'
        args = 'export', '1.0', str(patches), '--layout', 'debian'
        self.assertIn(f'{patches} is no debian/patches: it has no "series"',
                      self.refuse(*args))
        patches.mkdir(parents=True)
        (patches / 'series').write_text('theirs.patch\n# last')
        self.succeed(*args)
        lines = (patches / 'series').read_text().splitlines()
        self.assertEqual(['theirs.patch', '# last'], lines[:2])
        self.assertEqual(
            sorted([*lines[2:], 'series']), sorted(os.listdir(patches)))
        for name in lines[2:]:
            self.assertTrue(name.startswith('workers-0'), name)
            head = (patches / name).read_text().partition('\n---')[0]
            for field in ('From', 'Subject', 'Origin', 'Forwarded'):
                self.assertEqual(1, head.count(f'\n{field}: '), head)
        before = (patches / 'series').read_bytes()
        self.assertIn(f'{patches} has {lines[2]} already', self.refuse(*args))
        self.assertEqual(before, (patches / 'series').read_bytes())

    def test_stage(self):
        self.add_stages()
        out = str(self.root / 'out')
        for name, wanted in (('names', ['0001-workers.patch']),
                             ('bound-1', ['0001-service.patch',
                                          '0002-manager.patch'])):
            self.succeed('export', '1.0', out, '--stage', name)
            self.assertEqual([*wanted, 'series'], sorted(os.listdir(out)))
            shutil.rmtree(out)
        for name in ('x', ''):
            self.assertIn(f'unknown stage {name}; known: names, bound-1',
                          self.refuse('export', '1.0', out, '--stage', name))

    def test_stage_where_there_are_none(self):
        self.assertIn('unknown stage x; known: none', self.refuse(
            'export', '1.0', str(self.root / 'out'), '--stage', 'x'))

    def test_signoff(self):
        self.write('home/.gitconfig', '[user]\nname = A Developer\n'
                                      'email = developer@example.org\n')
        out = self.root / 'out'
        said = self.succeed('export', '1.0', str(out), '--signoff',
                            HOME=str(self.root / 'home'))
        self.assertNotIn('without', said)
        for path in out.glob('*.patch'):
            self.assertRegex(path.read_text(), (
                r'\nChange-Id: I\d+\n'
                r'Signed-off-by: A Developer <developer@example.org>\n\ndiff'))

    def test_no_signoff(self):
        self.assertIn('without a Signed-off-by', self.succeed(
            'export', '1.0', str(self.root / 'out')))

    def test_signoff_of_nobody(self):
        (self.root / 'home').mkdir()
        self.assertIn(
            'git does not know who you are: set user.name and user.email',
            self.refuse('export', '1.0', str(self.root / 'out'), '--signoff',
                        HOME=str(self.root / 'home'), GIT_CONFIG_NOSYSTEM='1',
                        XDG_CONFIG_HOME=str(self.root / 'home')))
        self.assertFalse((self.root / 'out').exists())

    def test_tree_has_edits(self):
        self.succeed('build', '1.0')
        self.write('build/1.0/nova/new.py', '')
        self.assertIn('refresh',
                      self.refuse('export', '1.0', str(self.root / 'out')))


class TestExportForKolla(repository.RepositoryTest):

    def setUp(self):
        super().setUp()
        if not shutil.which('patch'):
            self.skipTest('patch is not installed')
        self.change('03-tests', adds={'nova/tests/unit/test_new.py': '',
                                      'doc/source/new.rst': 'New\n'})
        self.change('04-more', adds={'nova/more.py': 'x = 1\n',
                                     'doc/source/more.rst': 'More\n'},
                    patch=edit('nova/scheduler/manager.py', 8))
        self.image = self.root / 'image'

    def install(self, prefix, files):
        # As Kolla's images have it: python3 is a link to the real one.
        for path, text in files.items():
            self.write(f'image/{prefix}/{path}', text)

    def export(self, *args):
        self.succeed('export', '1.0', str(self.root / 'out'),
                     '--layout', 'kolla', *args)
        return self.root / 'out'

    def apply(self, folder):
        """Do what Kolla's kolla_patch does in /, with all of a series."""
        for name in (folder / 'series').read_text().split():
            with open(folder / name) as stream:
                done = subprocess.run(
                    ['patch', '-p0', '--fuzz=0', '--ignore-whitespace'],
                    stdin=stream, cwd=self.image, capture_output=True,
                    text=True)
            self.assertEqual((0, ''), (done.returncode, done.stderr),
                             done.stdout)

    def installed(self, prefix):
        folder = self.image / prefix
        return {path.relative_to(folder).as_posix(): path.read_text()
                for path in folder.rglob('*') if path.is_file()}

    def test_applies_to_an_image(self):
        lib = 'var/lib/kolla/venv/lib'
        packages = f'{lib}/python3.12/site-packages'
        self.install(packages, {
            path: text for path, text in repository.BASE.items()
            if path.startswith('nova/')})
        (self.image / lib / 'python3').symlink_to('python3.12')
        before = self.installed(packages)
        self.apply(self.export() / 'nova-base')
        after = self.installed(packages)
        self.assertEqual({'nova/workers/__init__.py', 'nova/workers/name.py',
                          'nova/more.py'}, set(after) - set(before))
        self.assertEqual({'nova/service.py', 'nova/scheduler/manager.py'},
                         {path for path in before
                          if before[path] != after[path]})
        for path, text in after.items():
            self.assertEqual((self.tree / path).read_text(), text)
        # Nothing landed anywhere else.
        self.assertEqual(['var'], os.listdir(self.image))

    def test_prefix(self):
        packages = 'opt/venv/lib/python3.13/site-packages'
        self.install(packages, {
            path: text for path, text in repository.BASE.items()
            if path.startswith('nova/')})
        self.apply(self.export('--prefix', f'/{packages}/') / 'nova-base')
        self.assertIn('nova/more.py', self.installed(packages))

    def test_another_nova(self):
        packages = 'var/lib/kolla/venv/lib/python3/site-packages'
        self.install(packages, {'nova/service.py': repository.LINES.replace(
            'line_4 = 4\n', 'line_4 = "four"\n')})
        folder = self.export() / 'nova-base'
        with open(folder / 'nova-workers-0002-service.patch') as stream:
            done = subprocess.run(['patch', '-p0', '--fuzz=0'], stdin=stream,
                                  cwd=self.image, capture_output=True)
        self.assertEqual(1, done.returncode)

    def test_changes_without_code_are_left_out(self):
        folder = self.export() / 'nova-base'
        names = ['nova-workers-0001-workers.patch',
                 'nova-workers-0002-service.patch',
                 'nova-workers-0004-more.patch']
        self.assertEqual([*names, 'series'], sorted(os.listdir(folder)))
        self.assertEqual(names, (folder / 'series').read_text().split())
        for name in names:
            self.assertNotIn('doc/', (folder / name).read_text())

    def test_images_of_both_bases(self):
        # In one patches_path, no two with one name: Kolla would leave out
        # the second.
        self.add_companion()
        out = self.export()
        self.export('--base', repository.COMPANION)
        self.assertEqual(['nova-base', 'openstack-base'],
                         sorted(os.listdir(out)))
        self.assertEqual(
            ['oslo_messaging-workers-0001-rabbit.patch', 'series'],
            sorted(os.listdir(out / 'openstack-base')))
        packages = 'var/lib/kolla/venv/lib/python3/site-packages'
        self.install(packages, repository.COMPANION_BASE)
        self.apply(out / 'openstack-base')
        self.assertEqual('X = 1\n', self.installed(packages)[
            'oslo_messaging/new.py'])

    def test_folder_of_the_image_is_not_empty(self):
        self.export()
        self.assertIn('nova-base is there already', self.refuse(
            'export', '1.0', str(self.root / 'out'), '--layout', 'kolla'))


class TestWheel(repository.RepositoryTest):

    # pip's odd way to say --no-build-isolation in the environment: the
    # test's own environment has setuptools and pbr, and there is no network.
    offline = {'PIP_NO_BUILD_ISOLATION': '0'}

    def test_name_and_tree(self):
        out = self.succeed('wheel', '1.0', **self.offline)
        wheel = Path(self.root, out.split('\n')[-2].split()[0])
        self.assertEqual('nova-1.0+workers.7-py3-none-any.whl', wheel.name)
        self.assertTrue(wheel.is_file())
        self.assertEqual('', self.git('status', '--porcelain', '--ignored'))

    def test_all(self):
        self.add_companion()
        self.succeed('wheel', '--all', **self.offline)
        self.assertEqual(['nova-1.0+workers.7-py3-none-any.whl',
                          'oslo_messaging-2.0+workers.7-py3-none-any.whl'],
                         sorted(os.listdir(self.root / 'dist')))

    def test_all_without_changes_of_a_base(self):
        self.add_companion()
        shutil.rmtree(self.root / 'series/oslo.messaging')
        self.succeed('wheel', '--all', **self.offline)
        self.assertEqual(['nova-1.0+workers.7-py3-none-any.whl'],
                         os.listdir(self.root / 'dist'))

    def test_all_or_one(self):
        self.assertEqual(2, self.run_tool('wheel')[0])
        self.assertEqual(2, self.run_tool('wheel', '1.0', '--all')[0])

    def test_build_fails(self):
        self.write_sdist({**repository.BASE, 'setup.py': 'raise OSError\n'})
        self.assertIn('cannot build the wheel of nova: pip: ',
                      self.refuse('wheel', '1.0', **self.offline))
        self.assertFalse((self.root / 'dist').exists())
