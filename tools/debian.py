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

"""Debian of other releases: its RabbitMQ, its MariaDB, its nova.

Each is a folder that programs change their root into, made by debootstrap.
Nothing in it is started by itself.
"""

import os
import shutil
import socket
import subprocess

from common import BUILD
from common import Clock
from common import Error
from common import locked
from common import say
from common import scratch
from common import shown

FOLDER = BUILD / 'debian'

# The Debian -> the release of the series whose nova it has, and what a test of
# its packages takes.
NOVA = {'trixie': '2025.1', 'forky': '2026.1', 'sid': '2026.2'}
NOVA_PACKAGES = ('nova-scheduler', 'nova-conductor', 'python3-pymysql',
                 'quilt')

# The version of RabbitMQ -> the Debian that has it.
BROKERS = {'3.10': 'bookworm', '4.0': 'trixie', '4.3': 'sid'}


def broker(version):
    """Return the folder of a Debian with a version of RabbitMQ.

    :param version: a key of BROKERS
    :raises: Error where it cannot be made, or has another version by now
    """
    root = ensure(BROKERS[version], 'rabbitmq-server')
    found = _run(root, 'dpkg-query', '--show', '--showformat=${Version}',
                 'rabbitmq-server')
    if not found.startswith(f'{version}.'):
        raise Error(f'Debian {root.name} has RabbitMQ {found} now, and not '
                    f'{version}; remove {shown(root)} if it is an old one')
    return root


def ensure(suite, *packages):
    """Return the folder of a Debian that has some packages, made if need be.

    :raises: Error if it cannot be made here
    """
    root = FOLDER / suite
    with locked():
        if not root.is_dir():
            _make(root)
        there = _run(root, 'dpkg-query', '--show', '--showformat='
                     '${Package} ${db:Status-Status}\n').splitlines()
        missing = [name for name in packages
                   if f'{name} installed' not in there]
        if missing:
            clock = Clock()
            say(f'installing {", ".join(missing)} of Debian {suite}; this '
                f'takes a minute or two')
            _run(root, 'apt-get', 'install', '--quiet', '--yes',
                 '--no-install-recommends', *missing)
            say(f'installed {", ".join(missing)} into {shown(root)} ({clock})')
    return root


def available():
    """Whether one can be made here."""
    return not os.geteuid() and bool(shutil.which('debootstrap'))


def _make(root):
    if not available():
        raise Error(f'packages of Debian {root.name} take root, and '
                    f'debootstrap: apt-get install debootstrap')
    clock = Clock()
    say(f'making {shown(root)}; this takes a minute or two')
    new = root.with_name(f'{root.name}.new')
    shutil.rmtree(new, ignore_errors=True)
    new.parent.mkdir(parents=True, exist_ok=True)
    with scratch() as folder:
        # An older debootstrap lacks what all newer Debians are made by.
        share = folder / 'debootstrap'
        shutil.copytree('/usr/share/debootstrap', share, symlinks=True)
        script = share / 'scripts' / root.name
        if not script.exists():
            script.symlink_to('sid')
        _call('debootstrap', '--variant=minbase', root.name, str(new),
              DEBOOTSTRAP_DIR=str(share))
    (new / 'etc/hosts').write_text(
        f'127.0.0.1 localhost {socket.gethostname()}\n')
    # Nobody will need it after a power cut.
    (new / 'etc/dpkg/dpkg.cfg.d/unsafe').write_text('force-unsafe-io\n')
    # As on a running system: what several processes share is there.
    (new / 'dev/shm').chmod(0o1777)
    # Packages that are installed there start no service.
    policy = new / 'usr/sbin/policy-rc.d'
    policy.write_text('#!/bin/sh\nexit 101\n')
    policy.chmod(0o755)
    # Last, so that an interrupted one is made again.
    new.rename(root)
    say(f'made {shown(root)} ({clock})')


# Seen by the program alone, and gone with it.
_ENTER = 'mount -t proc proc "$0/proc"; exec chroot "$0" "$@"'


def _run(root, *command):
    return _call('unshare', '--mount', 'sh', '-ec', _ENTER, str(root),
                 *command)


def _call(*command, **environ):
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        errors='replace', env={**os.environ, 'LC_ALL': 'C', 'HOME': '/root',
                               'DEBIAN_FRONTEND': 'noninteractive',
                               **environ})
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Error(f'{" ".join(command)} failed: '
                    f'{lines[-1] if lines else done.returncode}')
    return done.stdout
