"""The picture of a timeline: the evidence for each voice, and the turns."""

from typing import TYPE_CHECKING

from foundation import pictures
from voices.database import UNKNOWN
from voices.timeline import VOICE, Timeline

if TYPE_CHECKING:
    import matplotlib.figure


def draw_timeline(timeline: Timeline, width: float = 12) -> "matplotlib.figure.Figure":
    """Draw the evidence for each voice over time, and the turns as bars below, so many inches wide."""
    with pictures.style(timeline.candidates):
        figure = pictures.new_figure(figsize=(width, 4.5))
        curves, bars = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1 + 0.15 * len(timeline.candidates)))
        rows = list(timeline.candidates)
        rows += [turn.speaker for turn in timeline.turns if turn.speaker not in rows][:1] or ([] if rows else [UNKNOWN])
        # Fixed now, because this style is no longer active when the lines are drawn.
        colours = [pictures.load_matplotlib().colors.to_hex(f"C{number}") for number in range(4)]
        styles = [(colours[number % 4], ("-", ":", "--", "-.")[number // 4 % 4]) for number in range(len(rows))]
        for number, name in enumerate(timeline.candidates):
            colour, line = styles[number]
            # A name that begins with an underscore would not be shown.
            curves.plot(timeline.middles, timeline.margins[:, number], line, color=colour, label=f" {name}")
        if timeline.num_enrolled:
            curves.axhline(0, color="0.3", linestyle="--", linewidth=1, label="threshold of a single window")
        ylabel = "similarity above the threshold" if timeline.num_enrolled else "similarity to each voice"
        if 0 < timeline.num_enrolled < len(timeline.candidates):
            ylabel += f"\n({VOICE} ...: similarity to this voice)"
        curves.set(ylabel=ylabel, xlim=(0, timeline.middles[-1] + timeline.middles[0]))
        if timeline.candidates:
            curves.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=min(round(width / 2), len(rows) + 1))
        for turn in timeline.turns:
            row = rows.index(turn.speaker)
            colour = "0.6" if turn.speaker == UNKNOWN else styles[row][0]
            bars.barh(row, turn.end - turn.start, left=turn.start, height=0.8, color=colour)
        bars.set(xlabel="time (s)", ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)), yticklabels=rows)
    return figure
