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

import dataclasses
import hashlib
from pathlib import Path
import re
import shutil
try:
    import tomllib
except ImportError:
    tomllib = None  # common.guarded() tells it in one line.

from common import BUILD
from common import decode
from common import encode
from common import Error
from common import ROOT
from common import shown

SERIES = ROOT / 'series'


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

    def write(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.data)
        path.chmod(0o755 if self.executable else 0o644)


@dataclasses.dataclass(frozen=True)
class Change:
    """One change: a commit message, files it adds, edits of base files."""

    name: str
    message: str
    adds: dict[str, File]
    patch: str

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


def changes(release):
    """Return the changes of a release, in order.

    :raises: Error if a folder is malformed or a file that it adds missing
    """
    if not release.folder.is_dir():
        raise Error(f'{shown(release.folder)} is missing')
    found = [_read(path, release)
             for path in sorted(release.folder.iterdir()) if path.is_dir()]
    numbers = [change.name[:2] for change in found]
    for number in set(numbers):
        if numbers.count(number) > 1:
            raise Error(f'two changes have the number {number} in '
                        f'{shown(release.folder)}')
    return found


def _read(folder, release):
    if not re.fullmatch(r'\d\d-[\w.-]+', folder.name):
        raise Error(f'{shown(folder)} is not named NN-slug')
    message = folder / 'message'
    if not message.is_file():
        raise Error(f'{shown(message)} is missing')
    text = decode(message.read_bytes())
    if not text.strip() or not text.endswith('\n'):
        raise Error(f'{shown(message)} is empty or has no newline at its end')
    adds = {path: _read_added(path, folder, release.root)
            for path in _lines(folder / 'adds')}
    patch = folder / 'edits' / f'{release.name}.patch'
    if patch.is_file():
        edits = decode(patch.read_bytes())
    elif any(folder.glob('edits/*.patch')):
        # Forgotten, or else the release has an empty one.
        raise Error(f'{shown(patch)} is missing')
    else:
        edits = ''
    if not adds and not edits.strip():
        raise Error(f'{shown(folder)} neither adds nor edits anything '
                    f'for {release.name}')
    return Change(folder.name, text, adds, edits)


def _lines(path):
    if not path.is_file():
        return []
    lines = (line.partition('#')[0].strip()
             for line in path.read_text().splitlines())
    return sorted(line for line in lines if line)


def _read_added(name, folder, root):
    path = root / name
    parts = Path(name).parts
    if name.startswith('/') or '..' in parts or '.git' in parts:
        raise Error(f'{shown(folder)} adds {name}: not a path of this '
                    f'repository')
    if path.is_symlink() or not path.is_file():
        raise Error(f'{shown(folder)} adds {shown(path)}, which is missing '
                    f'here')
    return File(path.read_bytes(), bool(path.stat().st_mode & 0o100))


def forgotten(release, series):
    """The files here, at paths of the base, that no change adds."""
    added = {path for change in series for path in change.adds}
    there = (path.relative_to(release.root).as_posix()
             for path in (ROOT / release.base).rglob('*')
             if path.is_file() and path.suffix != '.pyc')
    return sorted(set(there) - added)


def digest(release, series):
    """A digest of everything that the built tree is made from."""
    summer = hashlib.sha256()

    def put(*fields):
        for field in fields:
            data = field if isinstance(field, bytes) else encode(str(field))
            summer.update(b'%d:%s,' % (len(data), data))

    put('1', release.base, release.version, release.sha256)
    for change in series:
        put(change.name, change.message, change.patch)
        for path, file in sorted(change.adds.items()):
            put(path, file.executable, file.data)
    return summer.hexdigest()


def rename(old, new):
    """Give changes that were made from commits their folder names.

    A change that was there keeps its slug, and all keep their numbers as
    long as none came in and the order is the old one.
    """
    names = {change.key: change.name for change in old}
    kept = [names.get(change.key, '') for change in new]
    if all(kept) and kept == sorted(kept):
        numbers = [name[:2] for name in kept]
    else:
        numbers = [f'{place:02}' for place in range(1, len(new) + 1)]
    return [
        dataclasses.replace(
            change, name=f'{number}-{name[3:] or _slug(change.subject)}')
        for change, number, name in zip(new, numbers, kept)]


def _slug(subject):
    return re.sub(r'[^a-z0-9]+', '-', subject.lower()).strip('-')[:50] or 'x'


def store(release, old, new):
    """Write changes over the old ones, touching only what differs.

    The patches of other releases stay with their change.
    """
    olds = {change.key: change for change in old}
    wanted = {}
    for change in new:
        before = olds.get(change.key)
        own = f'edits/{release.name}.patch'
        files = {}
        if before:
            folder = release.folder / before.name
            files = {path.relative_to(folder).as_posix(): path.read_bytes()
                     for path in folder.rglob('*') if path.is_file()}
            files.pop(own, None)
        files['message'] = encode(change.message)
        if not before or set(before.adds) != set(change.adds):
            files.pop('adds', None)
            if change.adds:
                files['adds'] = encode(
                    ''.join(f'{path}\n' for path in sorted(change.adds)))
        if change.patch or any(path.startswith('edits/') for path in files):
            files[own] = encode(change.patch)
        for path, data in files.items():
            wanted[release.folder / change.name / path] = data
    for change in old:
        for path in (release.folder / change.name).rglob('*'):
            if path.is_file() and path not in wanted:
                path.unlink()
    for path, data in wanted.items():
        if not path.is_file() or path.read_bytes() != data:
            File(data).write(path)
    for change in old:
        if change.name not in {change.name for change in new}:
            shutil.rmtree(release.folder / change.name)
    _store_added(release.root, old, new)


def _store_added(root, old, new):
    before = {p: f for change in old for p, f in change.adds.items()}
    after = {p: f for change in new for p, f in change.adds.items()}
    for path in before.keys() - after.keys():
        (root / path).unlink()
    for path, file in after.items():
        if before.get(path) != file:
            file.write(root / path)
