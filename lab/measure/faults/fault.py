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

"""What a fault is: what happens, to which service, under which callers."""

import contextlib
import dataclasses
import typing

from lab import rpc


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault, and how it is looked at."""

    name: str
    title: str
    #: Called with a ``Stage``; returns when the fault is over, if it ends.
    act: typing.Callable
    #: For how many seconds it is looked at after that.
    after: int = 25
    #: Whether it is over then, or stays.
    ends: bool = False

    # The service.

    #: Whether there are two nodes; on the second one is one worker.
    nodes: bool = False
    workers: int = 3
    #: Threads of each worker.
    pool: int = 8
    #: Seconds; the option of the series.
    worker_timeout: int = 10
    #: More configuration: section -> option -> value.
    conf: dict = dataclasses.field(default_factory=dict)
    #: Whether the series has the companion, also where it is not asked for.
    companion: bool = False
    #: What the schedulers reach by way of a box: ``broker``, ``database``, or
    #: ``cell``, the same database as that of the cell alone.
    boxes: tuple = ()
    #: A context manager of how things are around the services, entered with
    #: a ``Stage`` before they start.
    around: typing.Callable = contextlib.nullcontext

    # The callers: so few calls that one worker could answer them all. What
    # else the machine does is not to be taken for a fault.

    callers: int = 8
    #: What they call; with a ``name``.
    call: typing.Callable = rpc.Client.work
    #: Seconds that each of them waits before a call.
    pause: float = 0.25
    #: Seconds that ``rpc.Client.work`` takes; 0 for no more than it needs.
    work: float = 0

    # What is well.

    #: Whether there is something to be seen.
    visible: bool = True
    #: Called with a ``Stage``: what else has to be so, for it to be healed.
    well: typing.Callable = lambda stage: True
    #: How many more requests than on stock may run twice, by chance.
    chance: int = 0
    #: Whether callers are to have their errors as soon as on stock.
    quick_errors: bool = False
