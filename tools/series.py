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

"""Build the series into a git repository, patches or a wheel.

Needs Python 3.11 or newer, git and pip, and nothing else. build/RELEASE is
a git repository: the base's source distribution tagged ``base``, then one
commit for each folder of series/<base>/. It is where changes are tested and
edited; ``refresh`` writes what was committed there back. The base is nova
unless --base names another, whose tree is build/RELEASE-BASE.
"""

import argparse
import dataclasses
import hashlib
from pathlib import Path
import re
import sys
import tarfile
import zipfile

import apply
import changes
from common import BUILD
from common import Clock
from common import decode
from common import encode
from common import Error
from common import git
from common import guarded
from common import locked
from common import MAINTAINERS
from common import pip
from common import PipError
from common import ROOT
from common import say
from common import scratch
from common import shown
import edits

# The base commit's date; each change is a second younger.
EPOCH = 1790812800

# What tests and tools leave behind in a tree; the sdist has no .gitignore.
EXCLUDE = '__pycache__/\n*.py[co]\n.stestr/\n.coverage*\n.tox/\n'


# The base ------------------------------------------------------------------

def sdist(release):
    """Return the base's source distribution, downloaded once.

    :raises: Error if pip fails or the file is not the one in releases.toml
    """
    cached = BUILD / 'cache' / f'{release.base}-{release.version}.tar.gz'
    if not cached.exists():
        say(f'downloading {release.base} {release.version}')
        _download(release, cached)
    with cached.open('rb') as file:
        got = hashlib.file_digest(file, 'sha256').hexdigest()
    if got != release.sha256:
        raise Error(f'{shown(cached)} has sha256 {got}, and not '
                    f'{release.sha256}; remove it or correct releases.toml')
    return cached


def _download(release, target):
    what = f'{release.base} {release.version}'
    with scratch() as folder:
        # With its hash required, pip refuses a wrong file before it runs
        # anything of it (pip runs a sdist's build backend to download it).
        wanted = folder / 'requirements.txt'
        wanted.write_text(f'{release.base}=={release.version} '
                          f'--hash=sha256:{release.sha256}\n')
        try:
            pip(f'cannot download {what}', 'download', '--no-deps',
                '--no-binary', release.base, '--require-hashes',
                '--requirement', str(wanted), '--dest', str(folder / 'got'))
        except PipError as error:
            got = [line.split()[-1] for line in error.printed
                   if re.match(r'Got +[0-9a-f]{64}$', line)]
            if got:
                raise Error(f'{what} has sha256 {got[0]}, and not '
                            f'{release.sha256}')
            raise
        target.parent.mkdir(exist_ok=True)
        next((folder / 'got').iterdir()).replace(target)


def unpack(archive, target):
    """Unpack a source distribution, without its one top folder.

    Only names, contents and the executable bit are taken: owners would
    make git refuse the tree, and a path may not lead out of it.

    :raises: Error if it holds anything but plain files and folders
    """
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = Path(member.name).parts
            if (member.name.startswith('/') or '..' in parts
                    or '.git' in parts or not (member.isreg()
                                               or member.isdir())):
                raise Error(f'{shown(archive)} holds {member.name}, which '
                            f'is not a plain file')
            if member.isreg():
                data = tar.extractfile(member).read()
                file = changes.File(data, bool(member.mode & 0o100))
                file.write(target.joinpath(*parts[1:]))


# The tree ------------------------------------------------------------------

def assemble(release, series, tree):
    """Make the git repository: the base, then a commit for each change."""
    unpack(sdist(release), tree)
    git(tree, 'init', '--quiet', '--template=', '--initial-branch=main',
        '--object-format=sha1')
    # For whoever works in the tree with a configuration of their own.
    git(tree, 'config', 'core.autocrlf', 'false')
    git(tree, 'config', 'core.fileMode', 'true')
    git(tree, 'add', '--all', '--force')
    _commit(tree, f'{release.base} {release.version}\n', EPOCH)
    git(tree, 'tag', 'base')
    (tree / '.git' / 'info').mkdir(exist_ok=True)
    (tree / '.git' / 'info' / 'exclude').write_text(EXCLUDE)
    for place, change in enumerate(series, 1):
        for path, file in change.adds.items():
            if (tree / path).exists():
                raise Error(f'{change.name} adds {path}, which is there '
                            f'already')
            file.write(tree / path)
        for path, text in change.edited(release, lambda path: _text(
                tree / path)):
            (tree / path).write_bytes(encode(text))
        git(tree, 'add', '--all', '--force')
        _commit(tree, change.message, EPOCH + place)


def _commit(tree, message, date):
    git(tree, 'commit', '--quiet', '--no-verify', '--cleanup=verbatim',
        '--allow-empty', '--file=-', data=message, date=date)


def _text(path):
    return decode(path.read_bytes()) if path.is_file() else None


def state(tree, key):
    """What the last build noted in a tree: its ``digest`` or ``head``."""
    return git(tree, 'config', '--default', '', f'series.{key}').strip()


def _note(tree, digest):
    head = git(tree, 'rev-parse', 'HEAD').strip()
    git(tree, 'config', 'series.head', head)
    git(tree, 'config', 'series.digest', digest)


def dirty(tree):
    return bool(git(tree, 'status', '--porcelain'))


def edited(tree):
    """Whether a tree holds anything that its last build did not make."""
    head = state(tree, 'head')
    return (not head or dirty(tree)
            or git(tree, 'rev-parse', 'HEAD').strip() != head
            or bool(git(tree, 'rev-list', '--all', '--not', head)))


def build(release):
    """Build build/RELEASE, unless it is up to date, and return it.

    :raises: Error if that would lose what somebody did there
    """
    with locked():
        return _build(release)


def _build(release):
    clock = Clock()
    series = changes.changes(release)
    digest = changes.digest(release, series)
    for path in changes.forgotten(release, series):
        say(f'warning: no change adds {path}')
    tree = release.tree
    if tree.exists():
        if not (tree / '.git').is_dir():
            raise Error(f'{shown(tree)} is not a tree this tool built; '
                        f'remove it')
        if state(tree, 'digest') == digest:
            note = ', with edits of your own' if edited(tree) else ''
            say(f'{shown(tree)} is up to date{note}')
            return tree
        if edited(tree):
            raise Error(f'{shown(tree)} has edits that a build would lose: '
                        f'"refresh {release.arguments}" keeps them, or '
                        f'remove it')
    with scratch() as folder:
        assemble(release, series, folder / 'new')
        _note(folder / 'new', digest)
        if tree.exists():
            tree.rename(folder / 'old')
        (folder / 'new').rename(tree)
    say(f'built {shown(tree)}: {len(series)} changes on {release.base} '
        f'{release.version} ({clock})')
    return tree


def pristine(release):
    """Build a release and return its tree, which must have no edits.

    :raises: Error if it has
    """
    tree = build(release)
    if edited(tree):
        raise Error(f'{shown(tree)} has edits: "refresh {release.arguments}" '
                    f'them first, or undo them')
    return tree


# The way back --------------------------------------------------------------

def refresh(release):
    """Write the commits of build/RELEASE back into this repository.

    :raises: Error if either side has changes that this would lose, or if
        the commits do not make a series
    """
    with locked():
        tree = release.tree
        if not tree.exists():
            raise Error(f'{shown(tree)} is not built')
        old = changes.changes(release)
        if state(tree, 'digest') != changes.digest(release, old):
            raise Error(f'the series changed here since {shown(tree)} was '
                        f'built; undo that, or build again')
        if dirty(tree):
            raise Error(f'{shown(tree)} has edits that are not committed; '
                        f'commit or amend them first')
        commits = _commits(tree)
        new = changes.rename(old, list(commits.values()))
        series = _edits(tree, release, new, commits)
        with scratch() as folder:
            # The proof comes before the first file is written: what is
            # stored builds to what was committed.
            assemble(release, series[release.name], folder / 'new')
            if _root(folder / 'new') != _root(tree):
                raise Error(f'the commits of {shown(tree)} do not build to '
                            f'the same files; nothing was written')
            changes.store(release, old, series)
            git(tree, 'fetch', '--quiet', str(folder / 'new'), 'HEAD')
        git(tree, 'reset', '--quiet', '--soft', 'FETCH_HEAD')
        _note(tree, changes.digest(release, series[release.name]))
    say(f'{shown(release.folder)} holds the {len(new)} changes of '
        f'{shown(tree)}')


def _root(tree):
    return git(tree, 'rev-parse', 'HEAD^{tree}')


def _commits(tree):
    """The changes of a tree by commit, their numbers still to be given."""
    if git(tree, 'rev-list', '--max-count=1', 'base', '--not', 'HEAD'):
        raise Error(f'{shown(tree)}: HEAD does not descend from base')
    if git(tree, 'rev-list', '--merges', 'base..HEAD'):
        raise Error(f'{shown(tree)} has a merge commit; a series is a line')
    base = set(_split(git(tree, 'ls-tree', '-r', '-z', '--name-only',
                          'base')))
    found, added = {}, set()
    for commit in git(tree, 'rev-list', '--reverse', 'base..HEAD').split():
        change = _change(tree, commit, base | added)
        for other in found.values():
            if other.key == change.key:
                raise Error(f'two commits of {shown(tree)} are '
                            f'{change.key}')
        added |= change.adds.keys()
        found[commit] = change
    return found


def _change(tree, commit, there):
    message = git(tree, 'cat-file', 'commit', commit).partition('\n\n')[2]
    if not message.endswith('\n'):
        message += '\n'
    subject = message.partition('\n')[0]
    paths = _split(git(tree, 'diff-tree', '-r', '-z', '--no-renames',
                       '--name-only', f'{commit}^', commit))
    adds, diffs = {}, {}
    for path in paths:
        if path in there:
            diffs[path] = _diff(tree, commit, path)
            if not edits.DIFF.fullmatch(diffs[path]):
                raise Error(f'"{subject}" does more to {path} than edit '
                            f'lines')
            continue
        mode = git(tree, 'ls-tree', commit, '--', path)[:6]
        if mode not in ('100644', '100755'):
            raise Error(f'"{subject}" adds {path}, which is not a plain '
                        f'file')
        data = encode(git(tree, 'cat-file', 'blob', f'{commit}:{path}'))
        adds[path] = changes.File(data, mode == '100755')
    return changes.Change('', message, adds, diffs)


def _split(text):
    return text.rstrip('\0').split('\0') if text else []


def _diff(tree, commit, path):
    text = git(tree, 'diff', '--unified=1', '--no-color', '--no-renames',
               '--no-ext-diff', '--no-textconv', '--src-prefix=a/',
               '--dst-prefix=b/', f'{commit}^', commit, '--', path)
    return re.sub(r'^index .*\n', '', text, flags=re.MULTILINE)


def _edits(tree, release, new, commits):
    """The changes of all releases of a base, edited as those of one are.

    What is new there is also for each that had the same edit, if it fits.
    """
    everyone = changes.siblings(release)
    old = {name: {change.key: change.edits for change in changes.changes(one)}
           for name, one in everyone.items()}
    paths = {path for change in new for path in change.edits}.union(
        *(edited for each in old.values() for edited in each.values()))
    texts = {name: _texts(one, paths) for name, one in everyone.items()}
    series, added = {name: [] for name in everyone}, set()
    for change, commit in zip(new, commits):
        now = {name: {**old[name].get(change.key, {})} for name in everyone}
        for path in sorted({*change.edits, *now[release.name]}):
            after = git(tree, 'cat-file', 'blob', f'{commit}:{path}')
            _edit(change, path, now, release.name,
                  {name: texts[name].get(path) for name in everyone}, after,
                  path in added)
        for name, one in everyone.items():
            this = dataclasses.replace(change, edits={
                path: diff for path, diff in now[name].items() if diff})
            texts[name].update(this.edited(one, texts[name].get))
            texts[name].update((path, decode(file.data))
                               for path, file in change.adds.items())
            series[name].append(this)
        added |= change.adds.keys()
        if not change.adds and not any(now.values()):
            raise Error(f'"{change.subject}" is an empty commit')
    return series


def _texts(release, paths):
    with tarfile.open(sdist(release)) as tar:
        return {path: decode(tar.extractfile(member).read())
                for member in tar if member.isreg()
                and (path := member.name.partition('/')[2]) in paths}


def _edit(change, path, now, own, before, after, ours):
    had, diff = now[own].get(path), change.edits.get(path)
    if had and edits.fits(had, before[own]) == after:
        return
    same = [name for name in now
            if name != own and now[name].get(path) == had]
    fit = same
    if diff:
        diff = edits.fit(diff, before[own],
                         [before[name] or '' for name in same],
                         after if ours else None)
        fit = [name for name in same
               if edits.fits(diff, before[name]) is not None]
    for name in (own, *fit):
        now[name][path] = diff
    unfit = [name for name in same if name not in fit]
    if fit:
        say(f'{change.name}: {path} changes for {", ".join(fit)} as well')
    if unfit:
        say(f'{change.name}: {path} stays as it is for {", ".join(unfit)}, '
            f'which the new edit does not fit')


# What others get -----------------------------------------------------------

# Where Kolla's images have Python packages, whatever Python they have.
KOLLA_PREFIX = 'var/lib/kolla/venv/lib/python3/site-packages'


def export(release, folder, layout='git', prefix=KOLLA_PREFIX, stage=None,
           signoff=False):
    """Write the changes as patches, and quilt's list of them, to a folder.

    :param layout: ``git``, for a checkout or for quilt; ``debian``, into the
        ``debian/patches`` of a source package, after those that are there; or
        ``kolla``, a patches_path of kolla-build: for what is installed,
        without documentation and tests, in the folder of the image that has
        it
    :param prefix: with ``kolla``, the folder of the Python packages, from /
    :param stage: only the changes of this stage
    :param signoff: have the user, whom git knows, sign them off
    :raises: Error if there is anything in it, or in the image's folder, or
        if it cannot be written to
    """
    if not all(re.fullmatch(r'[\w.+-]+', part) and part != '..'
               for part in prefix.strip('/').split('/')):
        raise Error('--prefix is a folder from / without white space or "..", '
                    f'and not {prefix!r}')
    if layout == 'kolla':
        folder /= ('nova-base' if release.base == changes.NOVA
                   else 'openstack-base')
    there = folder / 'series'
    if layout == 'debian':
        if not there.is_file():
            raise Error(f'{folder} is no debian/patches: it has no "series"')
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Error(f'{folder} is there already, and not an empty folder')
    identity = apply.identity(Path.cwd()) if signoff else {}
    tree = pristine(release)
    commits = changes.commits(release, tree, stage)
    patches = {}
    for place, (commit, change) in enumerate(commits, 1):
        name, more = f'{place:04}-{change.slug}.patch', ()
        if layout == 'kolla':
            # Kolla remembers those of all images in one list, by name.
            name = f'{release.project}-workers-{name}'
            prefix = prefix.strip('/')
            more = (f'--src-prefix={prefix}/', f'--dst-prefix={prefix}/',
                    '--', release.project, f':!{release.project}/tests')
        text = git(
            tree, 'format-patch', '--stdout', '--no-numbered',
            '--no-signature', '--zero-commit', '--full-index', '--no-stat',
            '--no-renames', *['--signoff'] * signoff,
            f'{commit}^..{commit}', *more, environ=identity)
        if layout == 'debian':
            name = f'workers-{name}'
            # DEP-3 takes those of git for the author and the description.
            text = text.replace('\nSubject: ', '\nOrigin: other, '
                                f'{MAINTAINERS}\nForwarded: no\nSubject: ', 1)
        if text:
            patches[name] = text
    lines = (decode(there.read_bytes()).splitlines()
             if layout == 'debian' else [])
    for name in patches:
        if name in lines or (folder / name).exists():
            raise Error(f'{folder} has {name} already')
    new = '.series.new'
    listed = ''.join(f'{line}\n' for line in (*lines, *patches))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (*patches.items(), (new, listed)):
            (folder / name).write_bytes(encode(text))
        (folder / new).replace(there)
    except BaseException as error:
        # All of it or nothing: half of a series applies as well.
        for name in (*patches, new):
            (folder / name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise Error(f'cannot write to {folder}: {error.strerror}')
        raise
    say(f'wrote {len(patches)} patches and a quilt series to {folder}'
        + ('' if signoff or layout == 'kolla'
           else ', without a Signed-off-by'))


def wheels():
    """Write a wheel of each base that has changes, for all releases."""
    for bases in changes.releases().values():
        for release in bases.values():
            if release.folder.is_dir():
                wheel(release)


def wheel(release):
    """Write the wheel of the built tree to dist/ and return its path.

    :raises: Error if pip fails
    """
    clock = Clock()
    tree = pristine(release)
    say(f'building the wheel of {release.base} {release.local_version}')
    with locked(), scratch() as folder:
        # A copy, because a build writes beside what it reads.
        git(tree, 'archive', f'--output={folder / "tree.tar"}',
            '--prefix=tree/', 'HEAD')
        unpack(folder / 'tree.tar', folder / 'tree')
        # Some builds only take what is listed there.
        for info in (folder / 'tree').glob('*.egg-info'):
            (info / 'SOURCES.txt').write_text(
                git(tree, 'ls-files', '-z').replace('\0', '\n'))
        pip(f'cannot build the wheel of {release.base}', 'wheel',
            '--no-deps', '--wheel-dir', str(folder / 'dist'),
            str(folder / 'tree'), environ=_wheel_environ(release))
        made, = (folder / 'dist').iterdir()
        _verify(release, made, tree)
        target = ROOT / 'dist' / made.name
        target.parent.mkdir(exist_ok=True)
        made.replace(target)
    say(f'{shown(target)} ({clock})')
    return target


def _wheel_environ(release):
    # pbr would ask the git repository it is in, which is this one.
    return {'PBR_VERSION': release.local_version,
            'GIT_CEILING_DIRECTORIES': str(BUILD),
            'SKIP_GIT_SDIST': '1', 'SKIP_GENERATE_AUTHORS': '1',
            'SKIP_WRITE_GIT_CHANGELOG': '1',
            'SOURCE_DATE_EPOCH': str(EPOCH)}


def _verify(release, made, tree):
    name = release.project
    wanted = f'{name}-{release.local_version}-py3-none-any.whl'
    if made.name != wanted:
        raise Error(f'the wheel is {made.name}, and not {wanted}')
    with zipfile.ZipFile(made) as file:
        missing = {path for path in git(tree, 'ls-files', '-z',
                                        '*.py').split('\0')
                   if path.startswith(f'{name}/')} - set(file.namelist())
    if missing:
        raise Error(f'the wheel lacks {min(missing)}')


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog='series', description=__doc__.partition('\n')[0])
    commands = parser.add_subparsers(dest='command', required=True)
    for name, text in (
            ('build', 'make build/RELEASE, a commit for each change'),
            ('refresh', 'write commits made in build/RELEASE back'),
            ('export', 'write patches for git am, patch and quilt'),
            ('apply', "make a branch with the changes on a checkout's HEAD, "
                      'by three-way merge'),
            ('wheel', 'write a wheel to dist/'),
            ('check', 'run the tests that are touched, after each change')):
        command = commands.add_parser(name, help=text, description=text)
        if name == 'apply':
            command.add_argument('checkout', metavar='CHECKOUT', type=Path,
                                 help='a git repository of the base')
            command.add_argument('--branch', metavar='NAME',
                                 help='workers-RELEASE by default, or '
                                      'workers-RELEASE-STAGE')
        command.add_argument('release', metavar='RELEASE',
                             nargs='?' if name == 'wheel' else None)
        command.add_argument('--base', help='nova by default')
        if name in ('export', 'apply'):
            command.add_argument('--stage', metavar='NAME',
                                 help='only the changes of this stage')
            command.add_argument('--signoff', action='store_true',
                                 help='sign them off as user.name and '
                                      'user.email of git\'s configuration')
        if name == 'export':
            command.add_argument('folder', metavar='DIR', type=Path)
            command.add_argument('--layout', default='git',
                                 choices=('git', 'debian', 'kolla'),
                                 help='git by default')
            command.add_argument('--prefix',
                                 help='with kolla, where Python packages '
                                      f'are; {KOLLA_PREFIX} by default')
        if name == 'wheel':
            command.add_argument('--all', action='store_true',
                                 help='of all releases and bases')
        if name == 'check':
            command.add_argument('--from', dest='start', metavar='NN',
                                 default='', help='begin with this change')
    args = parser.parse_args(argv)
    if args.command == 'wheel' and args.all == (
            args.release is not None or args.base is not None):
        parser.error('wheel takes either RELEASE, with --base or not, or '
                     '--all')
    if args.command == 'export' and args.prefix is None:
        args.prefix = KOLLA_PREFIX
    elif args.command == 'export' and args.layout != 'kolla':
        parser.error('--prefix goes with --layout kolla')
    if args.base is None:
        args.base = changes.NOVA
    if args.release is None:
        return wheels()
    release = changes.release(args.release, args.base)
    if args.command == 'export':
        export(release, args.folder, args.layout, args.prefix, args.stage,
               args.signoff)
    elif args.command == 'apply':
        apply.apply(release, pristine(release), args.checkout, args.branch,
                    args.stage, args.signoff)
    elif args.command == 'check':
        import check
        if release.base != changes.NOVA:
            # It is in the environment that the tests run in.
            build(changes.release(release.name))
        check.check(release, pristine(release), args.start)
    else:
        {'build': build, 'refresh': refresh,
         'wheel': wheel}[args.command](release)


if __name__ == '__main__':
    sys.exit(guarded('series', main))
