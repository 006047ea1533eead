"""Turns: who speaks from when to when, found from whose each window is."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from audio import speech_levels
from feature_extraction import SAMPLE_RATE

STRETCH_SECONDS = speech_levels.SPEECH_FRAME_SAMPLES / SAMPLE_RATE

# Pauses within a turn, and the shortest turn.
PAUSE_SECONDS = 0.6
LEAST_TURN_SECONDS = 0.2


class Turn(NamedTuple):
    """Somebody speaks from `start` to `end`, in seconds.

    If it is an enrolled person, `score` is that of the whole voice, by which it got the name, and `sure` says whether
    that is beyond doubt.
    """

    start: float
    end: float
    speaker: str
    score: float | None = None
    sure: bool | None = None


def find_turns(
    voice_of: np.ndarray,
    middles: np.ndarray,
    is_speech: np.ndarray,
    names: Sequence[str],
    owners: Sequence[tuple[int, float | None, bool | None]],
) -> list[Turn]:
    """Turns from the voices of windows (windows,) with these middles, and stretches of speech (stretches,).

    A stretch of speech belongs to the window that is nearest; `names` and `owners` are those of the voices. Pauses of
    up to PAUSE_SECONDS within a turn belong to it, and what is shorter than LEAST_TURN_SECONDS is no turn, unless all
    are.
    """
    nearest = np.searchsorted((middles[1:] + middles[:-1]) / 2, STRETCH_SECONDS * (np.arange(len(is_speech)) + 0.5))
    of_stretch = np.where(is_speech, voice_of[nearest], -1)
    changes = np.flatnonzero(np.diff(of_stretch, prepend=-2, append=-2))
    spans = join_spans(
        (float(first * STRETCH_SECONDS), float(end * STRETCH_SECONDS), int(of_stretch[first]))
        for first, end in zip(changes[:-1], changes[1:], strict=True)
        if of_stretch[first] >= 0
    )
    spans = join_spans([span for span in spans if span[1] - span[0] >= LEAST_TURN_SECONDS] or spans)
    return [Turn(start, end, names[voice], *owners[voice][1:]) for start, end, voice in spans]


def join_spans(spans: Iterable[tuple[float, float, int]]) -> list[tuple[float, float, int]]:
    """Start, end and state in their order; those of one state with a pause of up to PAUSE_SECONDS are one."""
    joined: list[tuple[float, float, int]] = []
    for start, end, state in spans:
        if joined and joined[-1][2] == state and start - joined[-1][1] <= PAUSE_SECONDS:
            joined[-1] = (joined[-1][0], end, state)
        else:
            joined.append((start, end, state))
    return joined
