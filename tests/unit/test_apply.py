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

"""What tools/apply.py promises to somebody's checkout."""

import os
import shutil

from tests.unit import repository

BRANCH = 'workers-1.0'


class TestApply(repository.RepositoryTest):

    def setUp(self):
        super().setUp()
        self.checkout = self.root / 'checkout'
        self.checkout.mkdir()
        self.git('init', '-q', '-b', 'master', tree=self.checkout)
        for path, text in repository.BASE.items():
            if not path.startswith('nova.egg-info'):
                self.write(f'checkout/{path}', text)
        # The base has moved on since.
        self.write('checkout/nova/service.py', repository.LINES.replace(
            'line_1 = 1\n', 'before = 1\nline_1 = 1\n'))
        self.write('checkout/README', '')
        self.commit()

    def commit(self):
        self.git('add', '-A', tree=self.checkout)
        self.git('commit', '-q', '-m', 'Theirs', tree=self.checkout)

    def apply(self, *args, checkout=None, **environ):
        return self.run_tool(
            'apply', str(checkout or self.checkout), '1.0', *args,
            **{**self.identity(), **environ})

    @staticmethod
    def identity(name='A Reviewer', email='reviewer@example.org'):
        return {'GIT_CONFIG_GLOBAL': os.devnull, 'GIT_CONFIG_NOSYSTEM': '1',
                'GIT_AUTHOR_NAME': name, 'GIT_AUTHOR_EMAIL': email,
                'GIT_COMMITTER_NAME': name, 'GIT_COMMITTER_EMAIL': email}

    def applied(self, *args, **kwargs):
        code, out, err = self.apply(*args, **kwargs)
        self.assertEqual((0, ''), (code, err), out)
        return out

    def refused(self, *args, **kwargs):
        before = self.everything()
        code, _, err = self.apply(*args, **kwargs)
        self.assertEqual((1, 1), (code, err.count('\n')), err)
        self.assertEqual(before, self.everything())
        return err

    def everything(self):
        """All that is in the checkout, its repository's own files too."""
        return {str(path): path.read_bytes() for path
                in sorted(self.checkout.rglob('*')) if path.is_file()}

    def log(self, form, span=f'master..{BRANCH}'):
        return self.git('log', '--reverse', f'--format={form}', span,
                        tree=self.checkout)

    def test_a_commit_for_each_change(self):
        self.applied()
        self.assertEqual(
            'Subject of workers\n\nBody.\n\nChange-Id: ' + 'I' + '01' * 20 +
            '\n\nSubject of service\n\nBody.\n\nChange-Id: I' + '02' * 20,
            self.log('%B'))
        who = 'A Reviewer <reviewer@example.org>'
        self.assertEqual({f'{who} {who}'},
                         set(self.log('%an <%ae> %cn <%ce>').split('\n')))
        self.assertEqual(
            'nova/service.py\nnova/workers/__init__.py\nnova/workers/name.py',
            self.git('diff', '--name-only', 'master', BRANCH,
                     tree=self.checkout))
        text = self.git('show', f'{BRANCH}:nova/service.py',
                        tree=self.checkout)
        self.assertTrue(text.startswith('before = 1\n'))
        self.assertIn('line_3 = 3\nedited = 0\n', text)

    def test_nothing_else_changes(self):
        self.write('checkout/nova/service.py', 'of my own\n')
        self.write('checkout/README', 'staged\n')
        self.git('add', 'README', tree=self.checkout)
        self.write('checkout/untracked', '')
        before = self.everything()
        self.applied('--branch', 'try/it')
        self.assertEqual(before, {path: data for path, data
                                  in self.everything().items()
                                  if path in before})
        self.assertEqual(
            {'refs/heads/master', 'refs/heads/try/it'},
            set(self.git('for-each-ref', '--format=%(refname)',
                         tree=self.checkout).split()))
        self.assertFalse((self.checkout / '.git/FETCH_HEAD').exists())
        self.git('fsck', '--strict', tree=self.checkout)
        shutil.rmtree(self.root / 'build')
        self.git('fsck', '--strict', tree=self.checkout)

    def test_conflict(self):
        self.write('checkout/nova/service.py', repository.LINES.replace(
            'line_3 = 3\n', 'line_3 = "three"\n'))
        self.commit()
        self.assertEqual(
            f'series: 02-service conflicts with {self.checkout} in '
            f'nova/service.py; nothing was changed\n', self.refused())

    def test_file_that_is_there(self):
        self.write('checkout/nova/workers/name.py', 'X = 3\n')
        self.commit()
        self.assertIn('01-workers conflicts', self.refused())

    def test_file_that_has_gone(self):
        (self.checkout / 'nova/service.py').unlink()
        self.commit()
        self.assertIn('in nova/service.py;', self.refused())

    def test_some_is_there_already(self):
        self.applied()
        first = self.log('%H').split()[0]
        self.git('merge', '-q', '--ff-only', first, tree=self.checkout)
        out = self.applied('--branch', 'rest')
        self.assertIn('01-workers is there already', out)
        self.assertEqual('Subject of service',
                         self.log('%s', 'master..rest'))
        self.git('merge', '-q', '--ff-only', 'rest', tree=self.checkout)
        self.assertIn('has all of the changes already',
                      self.refused('--branch', 'none'))

    def test_there_already_and_changed_since(self):
        # Where a later change of the series is next to it.
        path = 'nova/scheduler/manager.py'
        self.change('03-beside', patch=repository.edit(path, 3, 'beside'))
        self.change('04-there', patch=(
            f'diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n'
            '@@ -4,2 +4,3 @@\n beside = 0\n+there = 0\n line_4 = 4\n'))
        self.applied()
        self.git('checkout', '-q', BRANCH, tree=self.checkout)
        self.assertIn('has all of the changes already',
                      self.refused('--branch', 'none'))

    def test_stages(self):
        self.add_stages()
        self.assertIn('unknown stage x; known: names, bound-1',
                      self.refused('--stage', 'x'))
        out = self.applied('--stage', 'bound-1')
        self.assertIn(f'note: {self.checkout} does not have 01-workers, '
                      f'which is before stage bound-1', out)
        self.assertEqual('Subject of service\nSubject of manager',
                         self.log('%s', f'master..{BRANCH}-bound-1'))
        self.assertNotIn('note', self.applied('--stage', 'names'))
        self.git('merge', '-q', '--ff-only', f'{BRANCH}-names',
                 tree=self.checkout)
        self.assertNotIn('note', self.applied('--stage', 'bound-1',
                                              '--branch', 'next'))
        self.assertEqual('Subject of service\nSubject of manager',
                         self.log('%s', 'master..next'))

    def test_signoff(self):
        self.applied('--signoff')
        who = 'A Reviewer <reviewer@example.org>'
        self.assertEqual(
            f'Body.\n\nChange-Id: I{"01" * 20}\nSigned-off-by: {who}\n\n'
            f'Body.\n\nChange-Id: I{"02" * 20}\nSigned-off-by: {who}',
            self.log('%b').strip())

    def test_branch_is_there(self):
        self.applied()
        self.assertIn(f'has a branch {BRANCH} already', self.refused())

    def test_bad_branch(self):
        for name in ('a..b', ''):
            self.assertIn(f"'{name}' is not a valid branch name",
                          self.refused('--branch', name))

    def test_nobody(self):
        self.assertIn('git does not know who you are', self.refused(
            **{name: '' for name in self.identity() if 'CONFIG' not in name}))

    def test_no_repository(self):
        self.assertIn('/missing is missing',
                      self.refused(checkout=self.root / 'missing'))
        self.write('file', '')
        self.assertIn('/file is not a folder',
                      self.refused(checkout=self.root / 'file'))
        self.assertIn('not a git repository',
                      self.refused(checkout=self.root / 'series',
                                   GIT_CEILING_DIRECTORIES=str(self.root)))

    def test_worktree(self):
        self.git('worktree', 'add', '-q', '--detach', str(self.root / 'wt'),
                 tree=self.checkout)
        self.write('wt/more', '')
        self.git('add', 'more', tree=self.root / 'wt')
        self.git('commit', '-q', '-m', 'More', tree=self.root / 'wt')
        self.applied(checkout=self.root / 'wt')
        self.assertEqual('More\nSubject of workers\nSubject of service',
                         self.log('%s'))

    def test_shallow(self):
        self.write('checkout/more', '')
        self.commit()
        whole, self.checkout = self.checkout, self.root / 'shallow'
        self.git('clone', '-q', '--depth=1', f'file://{whole}',
                 str(self.checkout), tree=self.root)
        self.applied()
        self.assertEqual('Subject of workers\nSubject of service',
                         self.log('%s'))
        self.assertEqual('3', self.git('rev-list', '--count', BRANCH,
                                       tree=self.checkout))

    def test_other_base(self):
        self.add_companion()
        self.git('rm', '-q', '-r', '.', tree=self.checkout)
        for path, text in repository.COMPANION_BASE.items():
            self.write(f'checkout/{path}', text)
        self.commit()
        self.applied('--base', repository.COMPANION)
        self.assertEqual('Subject of rabbit', self.log('%s'))
