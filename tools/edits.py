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

"""Edits of a base's files: one patch of a change, for all releases.

It is a unified diff whose hunks stand where their lines do, whatever their
numbers say. There has to be exactly one such place: so few lines of context
are safe, and a hunk serves all releases that have its lines. ``Releases:
NAME ...`` before the diff of a file makes it that of these releases, in
place of the one of all; without hunks, they leave the file alone.

A file that an earlier change adds may be edited as well. Its last text stands
in this repository, and the patch takes it back to the one before.
"""

import re

from common import Error

HUNK = re.compile(r'^@@ -(\d+)\S* \+(\d+)\S* @@(.*\n)'
                  r'((?:[ +-].*\n(?:\\.*\n)?)+)', re.MULTILINE)
DIFF = re.compile(r'(?:Releases: (.+)\n)?(diff --git a/(.+) b/\3\n'
                  rf'(?P<body>--- a/\3\n\+\+\+ b/\3\n({HUNK.pattern})+)?)',
                  re.MULTILINE)

# Lines of context before and after a hunk, the best first.
CONTEXTS = ((1, 1), (1, 0), (0, 1), (0, 0), (2, 2), (3, 3))


def read(text, names, where):
    """Return the edits that a patch file has: release -> path -> diff.

    :param names: the releases there are
    :param where: the file, for errors
    :raises: Error if it is malformed
    """
    diffs, end = {}, 0
    while diff := DIFF.match(text, end):
        end, path = diff.end(), diff[3]
        for name in diff[1].split() if diff[1] else (None,):
            if name not in (None, *names):
                raise Error(f'{where} names an unknown release {name}')
            if (name, path) in diffs:
                raise Error(f'{where} has two diffs of {path} for '
                            f'{name or "all releases"}')
            diffs[name, path] = diff[2] if diff['body'] else ''
    if end < len(text):
        line = text.count('\n', 0, end) + 1
        raise Error(f'{where} is malformed from line {line} on')
    return {name: {path: found for _, path in diffs
                   if (found := diffs.get((name, path),
                                          diffs.get((None, path))))}
            for name in names}


def write(edits):
    """Return the patch file of edits as :func:`read` returns them.

    What the newest release has is for all that have nothing else.
    """
    text, newest = '', max(edits)
    for path in sorted({path for each in edits.values() for path in each}):
        users = {edits[newest].get(path, ''): []}
        for name in sorted(edits):
            users.setdefault(edits[name].get(path, ''), []).append(name)
        for diff, names in users.items():
            if newest not in names:
                text += f'Releases: {" ".join(names)}\n'
                diff = diff or f'diff --git a/{path} b/{path}\n'
            text += diff
    return text


def apply(diff, text):
    """Return the text of a file after its diff.

    :param text: the one before; None if there is no such file
    :raises: Error unless there is exactly one way to apply it
    """
    if text is None:
        raise Error('there is no such file')
    lines = _lines(text)
    hunks = [_sides(hunk[4]) for hunk in HUNK.finditer(diff)]
    first = _places(lines, [old for old, _ in hunks])
    last = _places(lines[::-1], [old[::-1] for old, _ in hunks[::-1]])[::-1]
    size = len(lines)
    for number in reversed(range(len(hunks))):
        (old, new), at = hunks[number], first[number]
        if at + len(old) + last[number] != size:
            raise Error(f'hunk {number + 1} fits more than once')
        lines[at:at + len(old)] = new
    return ''.join(lines)


def fits(diff, text):
    """Return what :func:`apply` does, or None where it raises Error."""
    try:
        return apply(diff, text)
    except Error:
        return None


def reverse(diff):
    """Return the diff that takes a diff back."""
    return HUNK.sub(lambda hunk: hunk[0][:hunk.start(4) - hunk.start()] + (
        re.sub('^[+-]', lambda sign: '-+'[sign[0] == '-'], hunk[4],
               flags=re.MULTILINE)), diff)


def _lines(text):
    return re.findall(r'.*\n|.+', text)


def _sides(body):
    """The lines that a hunk expects, and those that it makes of them."""
    old, new = [], []
    for sign, line, cut in re.findall(r'(.)(.*\n)(\\.*\n)?', body):
        for side, other in ((old, '+'), (new, '-')):
            if sign != other:
                side.append(line[:-1] if cut else line)
    return old, new


def _places(lines, wanted):
    """The first place of each of the lists of lines, one after another."""
    found, start = [], 0
    for number, old in enumerate(wanted, 1):
        for at in range(start, len(lines) - len(old) + 1):
            if lines[at:at + len(old)] == old:
                break
        else:
            raise Error(f'hunk {number} fits nowhere')
        found.append(at)
        start = at + len(old)
    return found


def fit(diff, text, texts, after=None):
    """Return a diff, each hunk with the context that suits most texts.

    :param diff: as git makes it with one line of context
    :param text: what it was made for
    :param texts: what it should fit, if that can be
    :param after: what it makes of ``text``, if it has to fit backwards
    """
    lines, others = _lines(text), [*map(_lines, texts)]
    made = _lines(after or '')

    def context(found):
        return ''.join(
            f' {line}' if line[-1] == '\n' else
            f' {line}\n\\ No newline at end of file\n' for line in found)

    def once(body):
        old, new = _sides(body)
        found = [sum(there[at:at + len(side)] == side
                     for at in range(len(there) - len(side) + 1)) == 1
                 for there, side in ((lines, old), (made, new),
                                     *((other, old) for other in others))]
        return found[0] and (after is None or found[1]), sum(found)

    def best(hunk):
        parts = re.findall(r'.*\n(?:\\.*\n)?', hunk[4])
        edits = [at for at, part in enumerate(parts) if part[0] != ' ']
        core = parts[edits[0]:edits[-1] + 1]
        start = max(int(hunk[1]) - 1, 0) + edits[0]
        end = start + sum(part[0] != '+' for part in core)
        body, before = max(
            ((context(lines[max(start - before, 0):start]) + ''.join(core)
              + context(lines[end:end + after]), before)
             for before, after in CONTEXTS),
            key=lambda one: once(one[0]))
        old, new = _sides(body)
        moved = edits[0] - min(before, start)
        return (f'@@ -{int(hunk[1]) + moved},{len(old)} '
                f'+{int(hunk[2]) + moved},{len(new)} @@{hunk[3]}{body}')

    return HUNK.sub(best, diff)
