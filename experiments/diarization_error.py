"""Diarisation error rate (DER): for how much of the speech the wrong people are named. Pure NumPy and SciPy.

Source: NIST 2009 Rich Transcription evaluation plan, section 6.1, with its collar, and overlapping speech scored.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

COLLAR_SECONDS = 0.25


class Span(NamedTuple):
    """Somebody speaks from `start` to `end`, in seconds."""

    start: float
    end: float
    speaker: str


class DiarizationErrors(NamedTuple):
    """Seconds of reference speech, of which `missed` and `confused`, and seconds of speech that is a false alarm."""

    speech: float
    missed: float
    false_alarm: float
    confused: float

    @property
    def rate(self) -> float:
        """All errors as a share of the reference speech."""
        return (self.missed + self.false_alarm + self.confused) / self.speech


def activity(spans: Sequence[Span], speakers: Sequence[str], middles: np.ndarray) -> np.ndarray:
    """Who speaks at these times -> bool (speakers, times)."""
    active = np.zeros((len(speakers), len(middles)), bool)
    for start, end, speaker in spans:
        active[speakers.index(speaker)] |= (start <= middles) & (middles < end)
    return active


def diarization_errors(
    reference: Sequence[Span], found: Sequence[Span], collar: float = COLLAR_SECONDS
) -> DiarizationErrors:
    """Compare turns with a reference; names of found speakers do not count.

    Each found speaker stands for at most one of the reference, so that most time is right. Times nearer than `collar`
    seconds to the start or end of a turn of the reference do not count, as nobody can mark these exactly. Where several
    people speak at once, each of them counts. Raises ValueError for a reference without turns.
    """
    if not reference:
        raise ValueError("the reference has no turns.")
    from scipy.optimize import linear_sum_assignment  # Slow, and only needed here.

    edges = [time + shift for span in reference for time in span[:2] for shift in (-collar, 0, collar)]
    edges += [time for span in found for time in span[:2]]
    times = np.unique(edges)
    middles, lengths = (times[1:] + times[:-1]) / 2, np.diff(times)
    for time in (time for span in reference for time in span[:2]):
        lengths = np.where(np.abs(middles - time) < collar, 0, lengths)
    names, others = (list(dict.fromkeys(span.speaker for span in spans)) for spans in (reference, found))
    truth, guess = activity(reference, names, middles), activity(found, others, middles)
    together = (truth * lengths) @ guess.T
    rows, columns = linear_sum_assignment(-together)
    right = sum(truth[row] & guess[column] for row, column in zip(rows, columns, strict=True)) + np.zeros(len(middles))
    num_truth, num_guess = truth.sum(axis=0), guess.sum(axis=0)
    return DiarizationErrors(
        float(num_truth @ lengths),
        float((num_truth - num_guess).clip(min=0) @ lengths),
        float((num_guess - num_truth).clip(min=0) @ lengths),
        float((np.minimum(num_truth, num_guess) - right) @ lengths),
    )
