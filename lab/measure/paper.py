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

"""Lines carried on: from what was measured to what was not."""

import statistics


class Line:
    """A straight line through measurements, by least squares."""

    def __init__(self, points):
        """Draw it.

        :param points: list of (x, y), three or more
        """
        if len(points) < 3:
            raise ValueError('a line is drawn through three points or more')
        self.points = sorted(points)
        self.slope, self.intercept = statistics.linear_regression(
            *zip(*self.points))

    def at(self, x):
        return self.intercept + self.slope * x

    def reaches(self, y):
        """The x at which it reaches y; infinite if it never does."""
        if self.slope <= 0:
            return float('inf')
        return max(0, (y - self.intercept) / self.slope)


class Limit:
    """Something that is used up as there are more workers."""

    def __init__(self, what, points, most, why, then, square=False):
        """Say what it is.

        :param what: a name, with the unit
        :param points: list of (workers, what was measured)
        :param most: what there can be
        :param why: what sets that limit
        :param then: what happens then, and what helps
        :param square: whether it grows with the square of the workers
        """
        self.what = what
        self.most = most
        self.why = why
        self.then = then
        self._power = 2 if square else 1
        self.line = Line([(workers ** self._power, value)
                          for workers, value in points])

    def at(self, workers):
        """How much it is with so many workers."""
        return self.line.at(workers ** self._power)

    def share(self, workers):
        """How much of the limit that is, in percent."""
        return 100 * self.at(workers) / self.most

    @property
    def workers(self):
        """The number of workers at which the limit is reached."""
        return self.line.reaches(self.most) ** (1 / self._power)
