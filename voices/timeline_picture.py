"""The picture of a timeline: the evidence for each voice, and the turns."""

import math
from typing import TYPE_CHECKING

import numpy as np

from foundation import pictures
from voices.database import UNKNOWN
from voices.formats import clock
from voices.timeline import VOICE, Timeline

if TYPE_CHECKING:
    import matplotlib.figure

LINES = ("-", ":", "--", "-.")

# Points of a curve; in a long recording, each is the mean of several windows.
MOST_POINTS = 400

# Distances between the marks of the time axis, in seconds.
TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)


def draw_timeline(timeline: Timeline, width: float = 12) -> "matplotlib.figure.Figure":
    """Draw the evidence for each voice over time, and the turns as bars below, so many inches wide.

    Those who speak stand in the order of their first words; turns in doubt are hatched.
    """
    with pictures.style(timeline.candidates):
        matplotlib = pictures.load_matplotlib()
        rows = list(dict.fromkeys([*(turn.speaker for turn in timeline.turns), *timeline.candidates])) or [UNKNOWN]
        height = 2.6 + 0.28 * len(rows)
        figure = pictures.new_figure(figsize=(width, 1.9 + height))
        curves, bars = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 0.6 + 0.28 * len(rows)))
        # Fixed now, because this style is no longer active when the lines are drawn.
        palette = [matplotlib.colors.to_hex(colour) for colour in matplotlib.colormaps["tab10"].colors]
        style_of = {
            name: (palette[number % 10], LINES[number // 10 % 4]) for number, name in enumerate(rows) if name != UNKNOWN
        }
        middles, margins = thin_out(timeline.middles, timeline.margins)
        for number, name in enumerate(timeline.candidates):
            colour, line = style_of[name]
            # A name that begins with an underscore would not be shown.
            curves.plot(middles, margins[:, number], line, color=colour, label=f" {name}", linewidth=1)
        if timeline.num_enrolled:
            curves.axhline(0, color="0.3", linestyle="--", linewidth=1, label="threshold of a single window")
        ylabel = "score above the threshold" if timeline.num_enrolled else "similarity to each voice"
        if 0 < timeline.num_enrolled < len(timeline.candidates):
            ylabel += f"\n({VOICE} ...: similarity to this voice)"
        curves.set(ylabel=ylabel, xlim=(0, timeline.middles[-1] + timeline.middles[0]))
        if timeline.candidates:
            curves.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=min(round(width / 2), len(rows) + 1))
        for turn in timeline.turns:
            colour, _ = style_of.get(turn.speaker, ("0.6", ""))
            look = (
                {"color": colour}
                if turn.sure is not False
                else {"facecolor": "white", "edgecolor": colour, "hatch": "////"}
            )
            bars.barh(rows.index(turn.speaker), turn.end - turn.start, left=turn.start, height=0.8, **look)
        bars.set(
            xlabel="time (minutes:seconds)", ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)), yticklabels=rows
        )
        bars.xaxis.set_major_formatter(lambda seconds, _: clock(seconds).removesuffix(".0"))
        seconds = timeline.middles[-1] + timeline.middles[0]
        step = next((step for step in TICKS if seconds / step <= 0.9 * width), TICKS[-1])
        bars.xaxis.set_major_locator(matplotlib.ticker.MultipleLocator(step))
    return figure


def thin_out(middles: np.ndarray, margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most MOST_POINTS means of neighbouring windows: their middles (points,) and margins (points, candidates)."""
    number = math.ceil(len(middles) / MOST_POINTS)
    starts = np.arange(0, len(middles), number)
    is_known = np.isfinite(margins)
    counts = np.add.reduceat(is_known, starts, axis=0, dtype=int)
    sums = np.add.reduceat(np.where(is_known, margins, 0), starts, axis=0)
    means = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return np.add.reduceat(middles, starts) / np.diff(starts, append=len(middles)), means
