"""Thresholds and rates, read out of a calibration that `scoring/calibration.py` measured."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

# The length of the windows that the timeline compares.
WINDOW_SECONDS = 1.6

# The rate that must have LEAST_ERRORS for each number of recordings; lower ones are less sure for many recordings.
USUAL_RATE = 0.01

# The distance, 1 minus the cosine similarity, that 1 % of pairs of strangers are within, in the large pretrained model.
NEAR_STRANGERS = 0.32

# Shares of the scores of one person that lie below the scores that are kept.
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


def curve_for(calibration: dict, first: int, second: int) -> list[np.ndarray]:
    """Thresholds at the calibration's rates, and one person's scores at SHARES, for numbers of recordings, 0 a window.

    Then the line to log-likelihood ratios, if it was measured. Between measured numbers all are interpolated on a
    logarithmic scale; above the highest one, that is taken.
    """
    weighted = [
        [
            weight * other_weight * np.array(part)
            for part in calibration["curves"][f"{min(one, other)} {max(one, other)}"]
        ]
        for one, weight in neighbours(calibration["counts"], first)
        for other, other_weight in neighbours(calibration["counts"], second)
    ]
    return [np.sum(parts, axis=0) for parts in zip(*weighted, strict=True)]


def neighbours(counts: Sequence[int], number: int) -> list[tuple[int, float]]:
    """The measured counts around a number, and their weights: of 3 and 5 for 4, 0.44 and 0.56."""
    if number in counts:
        return [(number, 1.0)]
    if number > counts[-1]:
        return [(counts[-1], 1.0)]
    above = next(count for count in counts if count > number)
    below = counts[counts.index(above) - 1]
    weight = float(np.log(number / below) / np.log(above / below))
    return [(below, 1 - weight), (above, weight)]


def threshold_at(calibration: dict, false_accept_rate: float, first: int, second: int) -> float:
    """The threshold for a false-accept rate, between the measured rates on a logarithmic scale."""
    thresholds = curve_for(calibration, first, second)[0]
    return float(np.interp(np.log(false_accept_rate), np.log(calibration["false_accept_rates"]), thresholds))


def near_strangers(calibration: dict) -> float:
    """The distance that 1 % of pairs of strangers are within, NEAR_STRANGERS if there is no calibration."""
    if calibration.get("normalised") is None:  # Of an older version, whose scores are cosine similarities.
        return 1 - threshold_at(calibration, USUAL_RATE, 1, 1) if calibration else NEAR_STRANGERS
    return calibration["near_strangers"]


def rates_at(calibration: dict, score: float, first: int, second: int) -> tuple[float, float]:
    """The share of pairs of different people who score as high, and of pairs of one person that score lower.

    The first is the lowest or the highest of the measured rates beyond them.
    """
    thresholds, quantiles = curve_for(calibration, first, second)[:2]
    log_rates = np.log(calibration["false_accept_rates"])
    as_high = np.exp(np.interp(score, thresholds[::-1], log_rates[::-1]))
    return float(as_high), float(np.interp(score, quantiles, SHARES))


def log_likelihood_ratio(calibration: dict, score: ArrayLike, first: int, second: int) -> np.ndarray | None:
    """The natural logarithm of how many times likelier scores are of one person than of two; None if not measured."""
    curve = curve_for(calibration, first, second) if calibration else []
    if len(curve) < 3:
        return None
    slope, offset = curve[2]
    return slope * np.asarray(score) + offset
