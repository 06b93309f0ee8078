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


"""``nova-worker-probe`` tells a health check how the workers of a node are.

It asks the service at one of its ``[healthcheck] uri``. A health check runs
every few seconds, so only the standard library is imported here.
"""

import argparse
import json
import os
import socket
import struct
import sys
import time

# What it found has codes of its own: 1, 2, 126 and 127 are those of Python,
# of bad usage and of the shell. Without an answer nobody knows whether the
# service runs, whether it is stock nova, or who else listens there.
WELL = 0
BAD_USAGE = 2
FAIL = 10
WARN = 11
NONE_SERVES = 12
NO_SERVICE = 13
SILENT = 14

# To start the service again helps.
_RESTART = (FAIL, SILENT)

_TIMEOUT = 10
_SIZE = 1 << 24


def main(argv=None):
    """Print how the workers are.

    :param argv: the arguments; those of the process if None
    :returns: the return code
    """
    parser = argparse.ArgumentParser(
        prog='nova-worker-probe', description=__doc__.partition('\n')[0])
    parser.add_argument('uri', type=_uri,
                        help='unix:///PATH or tcp://ADDRESS:PORT, as in '
                             '[healthcheck] uri of the service')
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument('--liveness', action='store_true',
                      help='return 10 if it helps to start the service '
                           'again, and 0 otherwise')
    kind.add_argument('--readiness', action='store_true',
                      help='return 0 if a worker serves')
    args = parser.parse_args(argv)
    try:
        code, lines = _judge(_ask(args.uri))
    except (BlockingIOError, TimeoutError):
        code, lines = SILENT, [f'no answer in {_TIMEOUT} seconds']
    except Exception as exc:
        code, lines = NO_SERVICE, [
            f'no nova with workers answers at {args.uri}: {exc!r}']
    stream = sys.stderr if code else sys.stdout
    if args.liveness:
        code = FAIL if code in _RESTART else WELL
    elif args.readiness and code == WARN:
        code = WELL
    _tell(lines, stream)
    return code


def _uri(text):
    """The type of URIs for argparse."""
    scheme, _found, path = text.partition('://')
    host, _colon, port = path.rpartition(':')
    if not (scheme == 'unix' and 0 < len(os.fsencode(path)) < 108 or
            scheme == 'tcp' and host and port.isascii() and port.isdigit() and
            0 < int(port) < 65536):
        raise argparse.ArgumentTypeError(
            f'{text!r} is no unix:///PATH or tcp://ADDRESS:PORT')
    return text


def _ask(uri):
    """What the service tells of its workers."""
    scheme, _found, path = uri.partition('://')
    host, _colon, port = path.rpartition(':')
    end = time.monotonic() + _TIMEOUT
    if scheme == 'unix':
        sock = socket.socket(socket.AF_UNIX)
        # With settimeout() it fails at once where many wait to connect.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO,
                        struct.pack('ll', _TIMEOUT, 0))
        sock.connect(path)
    else:
        try:
            sock = socket.create_connection(
                (host.strip('[]'), int(port)), _TIMEOUT)
        except TimeoutError:
            # The host is another one, or away, or behind a firewall.
            raise ConnectionError('no connection')
    # Not http.client, which takes more time to import than all of the rest.
    answer = b''
    with sock:
        sock.settimeout(_TIMEOUT)
        sock.sendall(b'GET /workers HTTP/1.0\r\n\r\n')
        while (data := sock.recv(65536)) and len(answer) < _SIZE:
            answer += data
            if not answer.startswith(b'HTTP/'[:len(answer)]):
                break
            sock.settimeout(max(0.001, end - time.monotonic()))
    head, _empty, body = answer.partition(b'\r\n\r\n')
    if b' 200 ' not in head.partition(b'\r\n')[0]:
        raise ValueError(f'the answer is {answer[:40]!r}')
    return json.loads(body)  # noqa: N324, as nothing of oslo is imported


def _judge(told):
    """The return code, and what to print."""
    workers, serving = told['workers'], told['serving']
    lines = [f'{worker["host"]}: {worker["output"]}'
             for worker in workers if worker['output']]
    if told['output']:
        lines.append(told['output'])
    lines.append(f'{serving} of {len(workers)} serve')
    if told['status'] == 'fail':
        return FAIL, lines
    if not serving:
        return NONE_SERVES, lines
    return (WELL if told['status'] == 'pass' else WARN), lines


def _tell(lines, stream):
    try:
        print('\n'.join(lines), file=stream, flush=True)
    except (OSError, ValueError):
        # What was found is true even if nobody reads it. Python would try
        # again at its end, and end with a code of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == '__main__':
    sys.exit(main())
