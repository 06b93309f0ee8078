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

"""Pictures of what the lab found, for a README, a page of paper, a slide.

They can be read in black and white and by the colour-blind: what differs by
colour differs by its line and marker, or by its hatching, as well. The same
data make the same file, byte for byte.
"""

import itertools
import math
import textwrap

from lab import LabError
from lab.spread import shown

# Okabe and Ito's colours, those first that are dark enough on paper; and what
# tells them apart without the colour: dashes, marker, hatching.
STYLES = (
    ('#D55E00', (0, (5, 2)), 's', '///'),
    ('#0072B2', 'solid', 'o', ''),
    ('#009E73', (0, (1, 1)), '^', '...'),
    ('#000000', (0, (5, 1, 1, 1)), 'D', 'xxx'),
    ('#CC79A7', (0, (3, 1, 1, 1, 1, 1)), 'v', '\\\\\\'),
    ('#E69F00', (0, (8, 3)), 'P', '++'),
    ('#56B4E9', (0, (1, 3)), 'X', 'oo'),
)

# Inches and points: text can be read where a README is 800 pixels wide.
WIDTH, HEIGHT, FONT = 8, 4.2, 12
DPI = 150
# Columns and rows of Grafana's grid, in inches.
COLUMN, ROW = 0.42, 0.34
# What a panel has around it.
LEFT, TOP = 0.55, 0.3
# From so many groups of bars on, they lie, so that what they are can be read;
# and the inches of each then.
LYING, LINE = 8, 0.42
# The letters of a label of which only two stand side by side.
LONG = 20

RC = {
    'font.family': 'DejaVu Sans', 'font.size': FONT,
    'axes.titlesize': FONT, 'axes.grid': True, 'grid.alpha': 0.4,
    'axes.spines.top': False, 'axes.spines.right': False,
    'axes.axisbelow': True, 'legend.frameon': False,
    'hatch.linewidth': 0.8, 'savefig.facecolor': 'white',
}


def write(data, stem):
    """Draw a picture and write it.

    :param data: what ``results.Results`` keeps of it
    :param stem: path of the files, without .svg and .png
    :returns: the paths of the files
    """
    # Slow to import, and only needed here.
    import matplotlib
    from matplotlib import figure

    # A salt, or ids are random; and no date. The text is drawn, so it looks
    # the same wherever the fonts are not.
    with matplotlib.rc_context(RC | {'svg.hashsalt': data['name'],
                                     'svg.fonttype': 'path'}):
        panels = data.get('panels') or {data['y']: data['series']}
        lines = len(data.get('groups', ()))
        made = figure.Figure(
            figsize=(WIDTH, HEIGHT if lines < LYING else 1.5 + LINE * lines),
            layout='constrained')
        made.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
        axes = made.subplots(1, len(panels), squeeze=False)[0]
        draw = _lines if data['kind'] == 'lines' else _bars
        # A label looks the same in all panels.
        styles = _styles(dict.fromkeys(itertools.chain(*panels.values())))
        for one, (y, series) in zip(axes, panels.items()):
            one.set_ylabel(y)
            draw(one, data, series, styles)
        made.suptitle(data['picture'], fontsize=FONT + 1)
        handles = {}
        for one in axes:
            for handle, label in zip(*one.get_legend_handles_labels()):
                handles.setdefault(label, handle)
        made.legend(handles.values(), handles, loc='outside lower center',
                    ncols=min(len(handles), 3 if max(map(len, handles))
                              < LONG else 2))
        return _save(made, stem)


def dashboard(panels, stem):
    """Draw the panels of a dashboard of Grafana, each at its place.

    :param panels: pairs of a panel, as its JSON has it, and of a list of
        pairs: a label, and points of time in seconds and value
    :param stem: path of the files, without .svg and .png
    :returns: the paths of the files
    """
    import matplotlib
    from matplotlib import figure
    from matplotlib import ticker

    places = [panel['gridPos'] for panel, _series in panels]
    rows = max(place['y'] + place['h'] for place in places)
    with matplotlib.rc_context(RC | {'svg.hashsalt': 'dashboard',
                                     'svg.fonttype': 'path',
                                     'font.size': FONT - 3,
                                     'axes.titlesize': FONT - 2}):
        width, height = 24 * COLUMN, rows * ROW
        made = figure.Figure(figsize=(width, height))
        for panel, series in panels:
            place = panel['gridPos']
            left = place['x'] * COLUMN + LEFT * (
                2.5 if panel['type'] == 'state-timeline' else 1)
            right = (place['x'] + place['w']) * COLUMN - LEFT / 4
            top = height - place['y'] * ROW - TOP
            bottom = height - (place['y'] + place['h']) * ROW + TOP * 1.6
            axes = made.add_axes([
                left / width, bottom / height, (right - left) / width,
                max(top - bottom, 0.1) / height])
            axes.set_title(textwrap.fill(panel['title'], 4 * place['w']),
                           loc='left')
            # What is zero all the time would hide what is not.
            series = sorted(series)
            if panel['type'] == 'timeseries':
                series = [(label, points) for label, points in series
                          if any(value for _, value in points)] or series[:1]
            if panel['type'] == 'stat':
                axes.axis('off')
                worst = max((value for _, points in series
                             for _, value in points), default=math.nan)
                axes.text(0.5, 0.5, f'{worst:g} at most', size=FONT + 6,
                          ha='center', va='center')
                continue
            styles = _styles([label for label, _points in series])
            if panel['type'] == 'state-timeline':
                _states(axes, series)
                continue
            for label, points in series:
                colour, dashes, _marker, _hatch = styles[label]
                axes.plot(*zip(*points), color=colour, linestyle=dashes,
                          label=label)
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_locator(ticker.MaxNLocator(5))
            axes.set_xlabel('seconds')
            axes.legend(fontsize=FONT - 5)
        return _save(made, stem)


def _save(made, stem):
    """Write a figure as it is the same each time: without a date."""
    paths = [f'{stem}.svg', f'{stem}.png']
    made.savefig(paths[0], metadata={'Date': None})
    made.savefig(paths[1], dpi=DPI, metadata={'Software': None})
    return paths


def _states(axes, series):
    """A line for each label: whether it was 1 or 0."""
    for row, (_label, points) in enumerate(series):
        for state, name in ((1, 'up'), (0, 'down')):
            colour, *_, hatch = STYLES[state]
            spans = [(at, 1) for at, value in points if value == state]
            axes.broken_barh(spans, (row - 0.35, 0.7), facecolor=colour,
                             hatch=hatch, label=None if row else name)
    axes.set_yticks(range(len(series)), [label for label, _ in series])
    axes.invert_yaxis()
    axes.set_xlabel('seconds')
    axes.legend(loc='lower right', bbox_to_anchor=(1, 1), ncols=2,
                fontsize=FONT - 5)


def _ends(value):
    """The median, the least and the most of a number or a ``Spread``."""
    ends = (getattr(value, 'median', value), getattr(value, 'least', value),
            getattr(value, 'most', value))
    # What is infinite has no place in a picture.
    return [end if math.isfinite(end) else math.nan for end in ends]


def _styles(labels):
    """A dict: label -> style, which stock and series always have.

    :raises LabError: when there are more of them than can be told apart
    """
    styles = {label: style for label, style in zip(
        ('stock', 'series'), STYLES) if label in labels}
    others = [label for label in labels if label not in styles]
    left = STYLES[2:] if styles else STYLES
    if len(others) > len(left):
        raise LabError('a picture has %d styles, and is to show %s' % (
            len(STYLES), ', '.join(labels)))
    return styles | dict(zip(others, left))


def _label(value):
    value = getattr(value, 'median', value)
    return 'not measured' if math.isnan(value) else shown(value)


def _lines(axes, data, series, styles):
    for number, (label, points) in enumerate(series.items()):
        colour, dashes, marker, _ = styles[label]
        xs = [x for x, _ in points]
        middle, least, most = zip(*(_ends(y) for _, y in points))
        axes.plot(xs, middle, color=colour, linestyle=dashes, marker=marker,
                  # Those below can be seen where lines run together.
                  markersize=max(4, 8 - 1.5 * number), label=label,
                  linewidth=max(1.5, 3 - 0.75 * number),
                  # Of many points only some are marked.
                  markevery=max(1, len(xs) // 12))
        axes.fill_between(xs, least, most, color=colour, alpha=0.2,
                          linewidth=0)
    axes.set_xlabel(data['x'])
    if data['scale'] == 'log':
        axes.set(xscale='log', yscale='log')
    else:
        axes.set_ylim(bottom=0)
    for x, text in data['marks']:
        axes.axvline(x, color='black', linestyle='dotted')
        axes.annotate(text, (x, 1), xycoords=('data', 'axes fraction'),
                      xytext=(4, 2), textcoords='offset points',
                      fontsize=FONT - 1)


def _bars(axes, data, series, styles):
    lying = len(data['groups']) >= LYING
    width = 0.8 / len(series)
    places = range(len(data['groups']))
    for number, (label, values) in enumerate(series.items()):
        colour, _, _, hatch = styles[label]
        middle, least, most = zip(*map(_ends, values))
        # What is infinite, or was not measured, has no bar, but says so.
        middle = [0 if math.isnan(value) else value for value in middle]
        bars = (axes.barh if lying else axes.bar)(
            [place + (number - (len(series) - 1) / 2) * width
             for place in places], middle, width, label=label, color=colour,
            hatch=hatch, edgecolor='white' if not hatch else 'black',
            **{'xerr' if lying else 'yerr': [
                # Of one value there is no range to be shown.
                [a - b or math.nan for a, b in zip(*ends)]
                for ends in ((middle, least), (most, middle))]},
            ecolor='black', capsize=3)
        axes.bar_label(bars, [_label(value) for value in values], padding=2,
                       fontsize=FONT - 2)
    if lying:
        axes.set_yticks(list(places), data['groups'])
        axes.invert_yaxis()
        axes.set_xlabel(axes.get_ylabel())
        axes.set_ylabel('')
        axes.set_xscale(data['scale'])
    else:
        axes.set_xticks(list(places), data['groups'])
        axes.set_yscale(data['scale'])
    axes.grid(axis='y' if lying else 'x', visible=False)
    axes.margins(**{'x' if lying else 'y': 0.1})
