"""Who spoke when in a call that was recorded with a person on each channel: two at once are heard apart."""

import numpy as np

from audio import decoder
from encoder.base import Encoder
from voices.answers import Decision
from voices.database import People
from voices.timeline import Timeline, find_timeline


def find_timeline_of_channels(encoder: Encoder, recording: str, people: People, decision: Decision | None) -> Timeline:
    """The turns on each of two channels, in the order of time; they overlap where both speak.

    A voice of nobody enrolled is "channel 1" if it is the only one there, else "channel 1, speaker 2" for example.
    Raises ValueError for a recording without two channels.
    """
    num_channels = next(iter(decoder.decode(recording, [])))[2].shape[1]
    if num_channels != 2:
        raise ValueError(
            f"{recording} has {num_channels}, not two channels with a person on each: leave out --channels."
        )
    sides = [find_timeline(encoder, recording, people, decision, channel=channel) for channel in (0, 1)]
    turns, candidates = [], []
    for number, side in enumerate(sides, start=1):
        strangers = {turn.speaker for turn in side.turns if turn.score is None}
        names = {name: f"channel {number}" if len(strangers) < 2 else f"channel {number}, {name}" for name in strangers}
        turns += [turn._replace(speaker=names.get(turn.speaker, turn.speaker)) for turn in side.turns]
        candidates += [names.get(name, name) for name in side.candidates]
    length = min(len(side.middles) for side in sides)
    margins = np.column_stack([side.margins[:length] for side in sides])
    is_enrolled = [number < side.num_enrolled for side in sides for number in range(len(side.candidates))]
    order = np.argsort(~np.array(is_enrolled, dtype=bool), kind="stable")
    faults = [f"channel {number}: {words}" for number, side in enumerate(sides, start=1) for words in side.faults]
    return Timeline(
        sorted(turns, key=lambda turn: turn[:2]),
        sides[0].middles[:length],
        margins[:, order],
        [candidates[number] for number in order],
        sum(is_enrolled),
        faults,
    )
