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

"""The releases and the changes of the series, as files of this repository.

A change is read whole into memory, with the files it adds: what is built,
compared and written back is the same object.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from pathlib import Path
import re
try:
    import tomllib
except ImportError:
    tomllib = None  # common.guarded() tells it in one line.

from common import BUILD
from common import decode
from common import encode
from common import Error
from common import git
from common import ROOT
from common import shown
import edits

SERIES = ROOT / 'series'

# What the folder of a change holds.
FILES = ('message', 'adds', 'edits.patch', 'stage')


# What a release is named after; others are the companion's.
NOVA = 'nova'


@dataclasses.dataclass(frozen=True)
class Release:
    """One base of a release that the series is made for."""

    name: str
    base: str
    version: str
    sha256: str
    pythons: tuple[str, ...]
    modes: tuple[str, ...]
    lock: Path
    number: int

    @property
    def local_version(self):
        return f'{self.version}+workers.{self.number}'

    @property
    def arguments(self):
        """How the user names it to series.py."""
        return (self.name if self.base == NOVA
                else f'{self.name} --base {self.base}')

    @property
    def project(self):
        """The base's name in file names, and its Python package."""
        return re.sub(r'[-_.]+', '_', self.base)

    @property
    def tree(self):
        """Where it is built."""
        return BUILD / (self.name if self.base == NOVA
                        else f'{self.name}-{self.base}')

    def extra_lock(self, name):
        """A lock file for more than the release's own has."""
        return self.lock.with_stem(f'{self.lock.stem}-{name}')

    @property
    def folder(self):
        """Where this base's changes are."""
        return SERIES / self.base

    @property
    def root(self):
        """What the paths of the files that its changes add start from."""
        return ROOT if self.base == NOVA else ROOT / self.base


def releases():
    """Return all of releases.toml: release name -> base -> Release.

    :raises: Error if the file is malformed
    """
    path = SERIES / 'releases.toml'
    try:
        table = tomllib.loads(path.read_text())
        number = table.pop('number')
        found = {}
        for name, value in table.items():
            pythons = tuple(value.pop('pythons'))
            modes = tuple(value.pop('modes', ('threading', 'eventlet')))
            lock = SERIES / value.pop('lock')
            found[name] = {
                base: Release(name, base, one['version'], one['sha256'],
                              pythons, modes, lock, number)
                for base, one in value.items()}
    except (tomllib.TOMLDecodeError, KeyError, TypeError,
            AttributeError) as error:
        raise Error(f'{shown(path)} is malformed: {error!r}')
    return found


def siblings(release):
    """Return all releases that have the base of one: name -> Release."""
    return {name: bases[release.base] for name, bases in releases().items()
            if release.base in bases}


def release(name, base=NOVA):
    """Return a base of the release of that name in releases.toml.

    :raises: Error if there is none, or if the file is malformed
    """
    found = releases()
    if name not in found:
        known = ', '.join(sorted(found)) or 'none'
        raise Error(f'unknown release {name}; known: {known}')
    if base not in found[name]:
        known = ', '.join(found[name]) or 'none'
        raise Error(f'{name} has no base {base}; known: {known}')
    return found[name][base]


@dataclasses.dataclass(frozen=True)
class File:
    """A file that a change adds."""

    data: bytes
    executable: bool = False

    @classmethod
    def read(cls, path):
        return cls(path.read_bytes(), bool(path.stat().st_mode & 0o100))

    def write(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.data)
        path.chmod(0o755 if self.executable else 0o644)


@dataclasses.dataclass(frozen=True)
class Change:
    """One change: a commit message, files it adds, diffs of base files."""

    name: str
    message: str
    adds: dict[str, File]
    edits: dict[str, str]
    stage: str = ''

    @property
    def slug(self):
        return self.name.partition('-')[2]

    @property
    def subject(self):
        return self.message.partition('\n')[0]

    @property
    def key(self):
        """What tells this change from others, whatever its number."""
        found = re.findall(r'^Change-Id: *(\S+)', self.message, re.MULTILINE)
        return found[-1] if found else self.subject

    def edited(self, release, read):
        """Yield the path and the new text of each base file it edits.

        :param read: returns the text of a file, None if there is none
        :raises: Error if an edit does not fit it
        """
        for path, diff in self.edits.items():
            try:
                yield path, edits.apply(diff, read(path))
            except Error as error:
                raise Error(f'{self.name} does not apply to {path} in '
                            f'{release.base} {release.version}: {error}')


def changes(release):
    """Return the changes of a release, in order.

    :raises: Error if a folder is malformed or a file that it adds missing
    """
    if not release.folder.is_dir():
        raise Error(f'{shown(release.folder)} is missing')
    names = siblings(release)
    found = [_read(path, release, names)
             for path in sorted(release.folder.iterdir()) if path.is_dir()]
    numbers = [change.name[:2] for change in found]
    for number in set(numbers):
        if numbers.count(number) > 1:
            raise Error(f'two changes have the number {number} in '
                        f'{shown(release.folder)}')
    return _staged(_derived(found))


def _derived(series):
    """Give changes the files that they add without what later ones edit."""
    adders = {path: change for change in reversed(series)
              for path in change.adds}
    texts, found = {}, []
    for change in reversed(series):
        for path, diff in change.edits.items():
            if path in adders and adders[path] is not change:
                text = texts.get(path)
                if text is None:
                    text = decode(adders[path].adds[path].data)
                try:
                    texts[path] = edits.apply(edits.reverse(diff), text)
                except Error as error:
                    raise Error(f'{change.name} does not come off {path}: '
                                f'{error}')
        found.insert(0, dataclasses.replace(change, adds={
            path: dataclasses.replace(file, data=encode(texts[path]))
            if path in texts else file
            for path, file in change.adds.items()}))
        for path in change.adds:
            # What edits it before is an edit of the base, or wrong.
            adders.pop(path, None)
    return found


def final(series):
    """The files that changes add, as the last of them leaves each."""
    files = {}
    for change in series:
        files |= change.adds
        for path in change.edits.keys() & files.keys():
            files[path] = dataclasses.replace(files[path], data=encode(
                edits.apply(change.edits[path], decode(files[path].data))))
    return files


def _staged(series):
    """Give changes that begin no stage the one of the change before."""
    found = []
    for change in series:
        before = found[-1].stage if found else ''
        change = dataclasses.replace(change, stage=change.stage or before)
        if change.stage != before and change.stage in [
                other.stage for other in found]:
            raise Error(f'{change.name} begins stage {change.stage}, which '
                        f'another change begins; a stage is in one piece')
        found.append(change)
    return found


def commits(release, tree, stage=None):
    """Return the commits of a built tree and their changes, in order.

    A bug that a release does not have is an empty commit there, left out.

    :param stage: only those of this stage
    :raises: Error if there is no such stage
    """
    series = changes(release)
    known = dict.fromkeys(change.stage for change in series if change.stage)
    if stage is not None and stage not in known:
        raise Error(f'unknown stage {stage}; known: '
                    f'{", ".join(known) or "none"}')
    found = git(tree, 'rev-list', '--reverse', 'base..HEAD').split()
    return [(commit, change) for commit, change in zip(found, series)
            if stage in (None, change.stage)
            and (change.adds or change.edits)]


def _read(folder, release, names):
    if not re.fullmatch(r'\d\d-[\w.-]+', folder.name):
        raise Error(f'{shown(folder)} is not named NN-slug')
    for path in folder.iterdir():
        if path.name not in FILES:
            raise Error(f'{shown(path)} is none of {", ".join(FILES)}')
    text = _text(folder / 'message')
    if not text.strip() or not text.endswith('\n'):
        raise Error(f'{shown(folder)}/message is missing or empty, or has no '
                    f'newline at its end')
    adds = {path: _read_added(path, folder, release.root)
            for path in filter(None, _text(
                folder / 'adds').splitlines())}
    patch = folder / 'edits.patch'
    diffs = edits.read(_text(patch), names, shown(patch))[release.name]
    for path in diffs:
        _check(path, f'{shown(patch)} edits')
    if not adds and not _text(patch).strip():
        raise Error(f'{shown(folder)} neither adds nor edits anything')
    stage = _text(folder / 'stage').rstrip('\n')
    if not re.fullmatch(r'[a-z0-9-]*', stage):
        raise Error(f'{shown(folder)}/stage is not a name of lower case '
                    f'letters, digits and "-"')
    return Change(folder.name, text, adds, diffs, stage)


def _text(path):
    return decode(path.read_bytes()) if path.is_file() else ''


def _read_added(name, folder, root):
    path = root / name
    _check(name, f'{shown(folder)} adds')
    if path.is_symlink() or not path.is_file():
        raise Error(f'{shown(folder)} adds {shown(path)}, which is missing '
                    f'here')
    return File.read(path)


def _check(name, what):
    parts = Path(name).parts
    if name.startswith('/') or '..' in parts or '.git' in parts:
        raise Error(f'{what} {name}: not a path of this repository')


def forgotten(release, series):
    """The files here, at paths of the base, that no change adds."""
    added = {path for change in series for path in change.adds}
    there = (path.relative_to(release.root).as_posix()
             for path in (ROOT / release.base).rglob('*')
             if path.is_file() and path.suffix != '.pyc')
    return sorted(set(there) - added)


def digest(release, series):
    """A digest of everything that the built tree is made from."""
    made = [(change.name, change.message, sorted(change.edits.items()),
             sorted(change.adds.items())) for change in series]
    return hashlib.sha256(repr(
        (release.base, release.version, release.sha256, made)
    ).encode()).hexdigest()


def rename(old, new):
    """Give changes that were made from commits their names and stages.

    A change that was there keeps its slug and stage, and all keep their
    numbers as long as none came in and the order is the old one.
    """
    names = {change.key: change.name for change in old}
    kept = [names.get(change.key, '') for change in new]
    if all(kept) and kept == sorted(kept):
        numbers = [name[:2] for name in kept]
    else:
        numbers = [f'{place:02}' for place in range(1, len(new) + 1)]
    stages = {change.key: change.stage for change in old}
    return _staged(
        dataclasses.replace(
            change, name=f'{number}-{name[3:] or _slug(change.subject)}',
            stage=stages.get(change.key, ''))
        for change, number, name in zip(new, numbers, kept))


def _slug(subject):
    return re.sub(r'[^a-z0-9]+', '-', subject.lower()).strip('-')[:50] or 'x'


def store(release, old, new):
    """Write changes over the old ones, touching only what differs.

    All of them or none.

    :param old: what :func:`changes` returned for the release
    :param new: the changes of each release of its base, by name
    :raises: Error if they would replace a file that is none of theirs
    """
    there = {release.folder / change.name / name
             for change in old for name in FILES}
    there |= {release.root / path for change in old for path in change.adds}
    orders = {change.key: list(change.adds) for change in old}
    wanted, stage = {}, ''
    for each in zip(*new.values()):
        change, folder = each[0], release.folder / each[0].name
        paths = [path for path in orders.get(change.key, ())
                 if path in change.adds]
        paths += sorted(change.adds.keys() - set(paths))
        texts = (change.message, ''.join(f'{path}\n' for path in paths),
                 edits.write({name: change.edits
                              for name, change in zip(new, each)}),
                 f'{change.stage}\n' if change.stage != stage else '')
        stage = change.stage
        wanted |= {folder / name: File(encode(text))
                   for name, text in zip(FILES, texts) if text}
    wanted |= {release.root / path: file
               for path, file in final(new[release.name]).items()}
    gone = there - wanted.keys()
    before = {path: File.read(path) for path in there | wanted.keys()
              if path.is_file()}
    wanted = {path: file for path, file in wanted.items()
              if before.get(path) != file}
    for path in wanted:
        if path.exists() and path not in there:
            raise Error(f'{shown(path)} is there already, and a change adds '
                        f'such a file; nothing was written')
    try:
        for path, file in wanted.items():
            file.write(path)
        for path in gone:
            path.unlink(missing_ok=True)
    except BaseException:
        for path in (*wanted, *gone):
            # Each of them, whatever becomes of another.
            with contextlib.suppress(OSError):
                if path in before:
                    before[path].write(path)
                else:
                    path.unlink(missing_ok=True)
                    path.parent.rmdir()
        raise
    for folder in {release.folder / change.name for change in old}:
        if not any(folder.iterdir()):
            folder.rmdir()
