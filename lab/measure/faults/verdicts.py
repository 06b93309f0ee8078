#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""What a fault did, found out of the looks at it, and where it was harm."""

import collections
import re
import statistics

# Seconds of the goodput at each look.
WIDTH = 2
# Goodput of healthy at which it is well again, and below which it is not.
WELL = 0.8
ILL = 0.5

# What says in the log that something is wrong: the launchers of both modes,
# the series, oslo.messaging, and nova's database driver of the heartbeats.
SAYS = re.compile(
    r'Child \d+ (?:killed by|exited with)|has begun no message for|'
    r'\(pid \d+\) fails: |does not stop within|run no messages, and|'
    r'runs no messages, as|takes no more requests|'
    r'is unreachable|MemoryError|'
    r'Lost connection to backend for server|DBConnectionError')
ENDED = re.compile(r'Child (\d+) (?:killed by|exited with)|'
                   r'\(pid (\d+)\) (?:has begun no message .*replacing it|'
                   r'fails: .*restarting it|does not stop .*killing it)')

# How much more than on stock is put down to chance: calls lost or failed, a
# number and a part of stock's; and so for the seconds until it is healed.
CALLS = 3
SECONDS = 5
PART = 0.1

#: How it was at a time. ``at`` in seconds since the start of the callers;
#: ``up``, the hosts whose records are up, None if the database does not
#: answer; ``said``, whether the log said that
#: something is wrong; ``sound``, whether all workers consume and all records
#: are up; ``share``, the goodput of the last seconds, of healthy;
#: ``workers``, a dict: pid -> name.
Look = collections.namedtuple('Look', 'at up said sound share workers')


class Outcome(collections.namedtuple(
        'Outcome', 'answered lost failed twice goodput error seen healed '
                   'wrongly left')):
    """What a fault did.

    ``answered``, ``lost`` and ``failed`` are requests from its begin on; one
    that nobody waits for is answered when it was run, and lost when it never
    was. ``twice`` is how many were run more than once; ``goodput`` while it
    lasted, of healthy; ``error`` the median of the seconds until a caller had
    its error, None without any; ``seen`` and ``healed`` seconds, None for
    never; ``wrongly`` the names of the workers whose processes ended though
    nothing was wrong with them; ``left`` the hosts of records without a
    worker.
    """

    @property
    def bad(self):
        """How many requests were lost or failed."""
        return self.lost + self.failed

    def part(self, count):
        """So many requests, of all."""
        return count / ((self.answered + self.bad) or 1)


def seconds_until_seen(looks, hosts, since):
    """Seconds until a record was down, or until the log said so.

    :param looks: a list of ``Look``
    :param hosts: the hosts of the records that are looked at
    :param since: when the fault began
    :returns: None for never
    """
    for look in looks:
        down = look.up is not None and not hosts <= look.up
        if look.at >= since and (look.said or down):
            return look.at - since
    return None


def seconds_until_healed(looks, since, well=WELL):
    """Seconds until all was well, and stayed so.

    That is until a look from which on, half of the time at least, callers
    have their answers again, and at no time less than half of them.

    :param looks: a list of ``Look``
    :param since: when the fault ended, or began if it does not end
    :param well: goodput of healthy at which callers have their answers
    :returns: None for never
    """
    # What a look sees began before it.
    looks = [look for look in looks if look.at - WIDTH >= since]
    ill = [number for number, look in enumerate(looks)
           if not look.sound or look.share < ILL]
    rest = looks[ill[-1] + 1 if ill else 0:]
    for number, look in enumerate(rest):
        if look.share >= well <= statistics.median(
                later.share for later in rest[number:]):
            return look.at - since
    return None


def killed_wrongly(looks, log, faulty):
    """The workers whose processes ended though nothing was wrong with them.

    :param looks: a list of ``Look``, the first one before the fault
    :param log: what was logged since
    :param faulty: the pids of those that may have ended
    :returns: their names, sorted
    """
    names = {}
    for look in looks:
        names.update(look.workers)
    ended = set(names) - set(looks[-1].workers)
    # One may come and go between two looks.
    ended |= {int(pid) for match in ENDED.findall(log) for pid in match if pid}
    return sorted(names.get(pid, f'pid {pid}') for pid in ended - set(faulty))


def _more(ours, stock, least):
    return ours > stock * (1 + PART) + least


def worse(fault, stock, ours):
    """In what the series was worse than stock, or did not do its part.

    :param fault: the ``Fault``
    :param stock: its ``Outcome`` on stock
    :param ours: and with the series
    :returns: generator of texts
    """
    # Who answers more callers is called more often, so their part counts too.
    if _more(ours.bad, stock.bad, CALLS) and _more(
            ours.part(ours.bad), stock.part(stock.bad), 0):
        yield f'{ours.bad} calls lost or failed, on stock {stock.bad}'
    if ours.twice > stock.twice + fault.chance:
        yield f'{ours.twice} run twice, on stock {stock.twice}'
    if ours.healed is None:
        # Also where stock is not: the series is there to heal it.
        yield 'never healed' + (
            '' if stock.healed is None
            else f', on stock after {stock.healed:.1f} s')
    elif stock.healed is not None and _more(
            ours.healed, stock.healed, SECONDS):
        yield (f'healed after {ours.healed:.1f} s, on stock after '
               f'{stock.healed:.1f} s')
    if fault.quick_errors and _more(ours.error or 0, stock.error or 0, 0.1):
        yield (f'errors came after {ours.error:.2f} s, on stock after '
               f'{stock.error or 0:.2f} s')
    for what, found in (('killed wrongly', ours.wrongly),
                        ('records left over', ours.left)):
        if found:
            yield f'{what}: ' + ', '.join(found)
