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

"""Numbers that were measured, and how they are shown."""

import math
import statistics


class Spread:
    """Some measurements of one thing, shown as their median and range."""

    def __init__(self, values):
        """Keep them.

        :param values: numbers, at least one
        """
        self.values = list(values)
        self.median = statistics.median(self.values)
        self.least = min(self.values)
        self.most = max(self.values)

    @classmethod
    def ratios(cls, values, base):
        """The ratios of measurements that were made in pairs.

        Of two zeros it is 1, as they are the same, and of a number to zero
        it is infinite.
        """
        return cls(value / below if below else math.inf if value else 1.0
                   for value, below in zip(values, base, strict=True))

    def __str__(self):
        if len(self.values) == 1:
            return shown(self.median)
        return '%s (%s to %s)' % tuple(map(shown, (
            self.median, self.least, self.most)))


def shown(value):
    """A cell of a table as text; three digits of a number that is no int."""
    if not isinstance(value, float):
        return f'{value:,}' if isinstance(value, int) else str(value)
    if not math.isfinite(value):
        return 'infinite' if value > 0 else str(value)
    return f'{value:,.0f}' if abs(value) >= 100 else f'{value:.3g}'
