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

"""The virtual environment that a release's tests and demo run in.

It holds what the release's lock file pins, and the built tree in place:
edits made in build/RELEASE count at once.
"""

import base64
import hashlib
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import zipfile

import changes
from common import BUILD
from common import Clock
from common import Error
from common import locked
from common import pip
from common import say
from common import scratch
from common import shown


def ensure(name, version=None):
    """Return the Python of a release's environment, made if need be.

    Costs next to nothing when it is up to date. The release has to be
    built. It needs no ensurepip, which Debian has in a package of its own.

    :param version: the Python to make it with, in an environment of its
        own: 3.12, for example; any that the release names if None
    :raises: Error if something is missing or pip fails
    """
    release = changes.release(name)
    if version is not None and version not in release.pythons:
        raise Error(f'{name} runs on Python {_either(release)}, and not on '
                    f'{version!r}')
    env = BUILD / 'env' / (f'{name}-py{version}' if version else name)
    python = env / 'bin' / 'python'
    with locked():
        wanted = _digest(release, env)
        stamp = env / 'stamp'
        if (stamp.is_file() and stamp.read_text() == wanted
                and python.exists()):
            return python
        _make(release, env, _interpreter(release, version))
        # Last, so that an interrupted one is made again.
        stamp.write_text(wanted)
    return python


def extra(python, lock):
    """Return a folder with the packages of one more lock file.

    They come on top of a release's environment, which stays small without
    them.

    :param python: the environment's Python, as ensure() returns it
    :param lock: path of the lock file; what its name says beyond the
        release's is the folder's
    :raises: Error if pip fails
    """
    env = python.parents[1]
    folder = env.with_name(f'{env.name}-{lock.stem.partition("-")[2]}')
    with locked():
        # What is compiled is for the Python that it was installed with.
        wanted = lock.read_text() + _version(python)
        stamp = folder / 'stamp'
        if stamp.is_file() and stamp.read_text() == wanted:
            return folder
        clock = Clock()
        say(f'installing {shown(lock)} into {shown(folder)}')
        shutil.rmtree(folder, ignore_errors=True)
        pip(f'cannot install {shown(lock)}', '--python', str(python),
            'install', '--progress-bar=off', '--no-deps', '--target',
            str(folder), '--requirement', str(lock))
        stamp.write_text(wanted)
    say(f'installed {shown(folder)} ({clock})')
    return folder


def _either(release):
    *others, last = release.pythons
    return f'{", ".join(others)} or {last}' if others else last


def _interpreter(release, version=None):
    running = '{}.{}'.format(*sys.version_info)
    # The one that runs this tool is there for sure.
    versions = [version] if version else sorted(
        release.pythons, key=lambda version: version != running)
    for version in versions:
        for path in (sys.executable, *_on_path(f'python{version}'),
                     *_on_path('python3')):
            if _version(path) == version:
                return path
    names = versions[0] if len(versions) == 1 else _either(release)
    raise Error(f'{release.name} needs Python {names}, and none that runs is '
                f'on PATH')


def _on_path(name):
    """All programs of a name: the first one may be a stand-in that fails."""
    found = (shutil.which(name, path=folder)
             for folder in os.get_exec_path())
    return filter(None, found)


def _version(python):
    done = subprocess.run(
        [python, '-c', 'import sys; print("%d.%d" % sys.version_info[:2])'],
        capture_output=True, text=True)
    return done.stdout.strip()


def _digest(release, env):
    # With its path, because a virtual environment cannot be moved. Which
    # Python runs this tool does not matter: it may be another one next time.
    text = '\n'.join(['1', *release.pythons, str(env), release.version,
                      _entry_points(release)])
    return hashlib.sha256(
        text.encode() + release.lock.read_bytes()).hexdigest()


def _make(release, env, interpreter):
    clock = Clock()
    pinned = [line for line in release.lock.read_text().splitlines()
              if '==' in line and not line.startswith('#')]
    say(f'installing {len(pinned)} packages into {shown(env)}; this takes '
        f'a minute or two')
    shutil.rmtree(env, ignore_errors=True)
    env.parent.mkdir(exist_ok=True)
    done = subprocess.run(
        [interpreter, '-m', 'venv', '--without-pip', str(env)],
        capture_output=True, text=True)
    if done.returncode:
        raise Error(f'cannot make {shown(env)}: {done.stderr}')
    python = str(env / 'bin' / 'python')
    seen = 0

    def progress(line):
        nonlocal seen
        if line.startswith('Collecting '):
            seen += 1
            if seen % 20 == 0:
                say(f'  {seen} of {len(pinned)}')
        elif line.startswith('Installing '):
            say('  installing')

    # Most of it is never imported. What is, is compiled then.
    pip(f'cannot install {shown(release.lock)}', '--python', python,
        'install', '--progress-bar=off', '--no-warn-script-location',
        '--no-compile', '--requirement', str(release.lock), line=progress)
    with scratch() as folder:
        pip(f'cannot install {release.base}', '--python', python, 'install',
            '--no-deps', '--no-index', '--no-warn-script-location',
            str(_pointer(release, folder)))
    say(f'installed {shown(env)} ({clock})')


def _pointer(release, folder):
    """Write a wheel that only points to the built tree.

    That is what an editable install makes too, but pip makes it by running
    the tree's build, which writes into the tree. pip makes the scripts of
    this one. Its metadata are the sdist's own.
    """
    tree = release.tree
    infos = list(tree.glob('*.egg-info'))
    if len(infos) != 1:
        raise Error(f'{shown(tree)} is not built')
    stem = f'{release.base}-{release.version}'
    info = f'{stem}.dist-info'
    files = {
        f'{release.base}-series.pth': f'{tree}\n'.encode(),
        f'{info}/METADATA': (infos[0] / 'PKG-INFO').read_bytes(),
        f'{info}/WHEEL': b'Wheel-Version: 1.0\nGenerator: series\n'
                         b'Root-Is-Purelib: true\nTag: py3-none-any\n',
    }
    files[f'{info}/entry_points.txt'] = _entry_points(release).encode()
    if (path := infos[0] / 'pbr.json').is_file():
        files[f'{info}/pbr.json'] = path.read_bytes()
    files[f'{info}/RECORD'] = _record(files, info)
    wheel = Path(folder) / f'{stem}-py3-none-any.whl'
    with zipfile.ZipFile(wheel, 'w') as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return wheel


def _entry_points(release):
    """Those of the sdist, and the scripts that the series adds."""
    texts = [path.read_text() for path in sorted(
        release.tree.glob('*.egg-info/entry_points.txt'))]
    for name in ('pyproject.toml', 'setup.cfg'):
        path = release.tree / name
        for script in re.findall(
                rf'^ *({release.project}-[\w-]+ = )"?([\w.]+:\w+)"?$',
                path.read_text() if path.is_file() else '', re.MULTILINE):
            line = ''.join(script)
            if texts and line not in texts[0]:
                texts[0] = texts[0].replace(
                    '[console_scripts]\n', f'[console_scripts]\n{line}\n')
    return ''.join(texts)


def _record(files, info):
    lines = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest())
        lines.append(f'{name},sha256={digest.decode().rstrip("=")},'
                     f'{len(data)}')
    return '\n'.join([*lines, f'{info}/RECORD,,', '']).encode()
