"""The files of an evaluation: the score of each trial, and the picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from foundation import pictures, safe_files
from scoring.trials import Trials

MAX_SAVED_SCORES = 10**6
PLOT_POINTS = 2000


def write_scores(path: Path, files: Sequence[str], trials: Trials, scores: np.ndarray) -> None:
    """Write lines `label score enrol test`, paths quoted where they have spaces, up to MAX_SAVED_SCORES of them.

    Where several utterances are enrolled, each has a column.
    """
    if len(scores) > MAX_SAVED_SCORES:
        print(f"{path} holds the first {MAX_SAVED_SCORES:,} of {len(scores):,} trials.")
    columns = (column[:MAX_SAVED_SCORES].tolist() for column in (*trials, scores))
    rows = (
        [label, f"{score:.6f}", *(files[utt] for utt in (enrol if isinstance(enrol, list) else [enrol])), files[test]]
        for label, enrol, test, score in zip(*columns, strict=True)
    )
    safe_files.write_rows(path, rows, " ")


def plot_evaluation(
    path: Path, labels: np.ndarray, scores: np.ndarray, sweep: tuple[np.ndarray, np.ndarray, np.ndarray], results: dict
) -> None:
    """Draw a PNG with the score histograms, the DET curve and the threshold sweep; the EER is marked in each."""
    from scipy.special import ndtri  # Slow, and only needed here.

    eer, eer_threshold = results["eer"], results["eer_threshold"]
    score_name = "normalised score" if results["settings"]["AS_NORM"] else "cosine similarity"
    thresholds, false_accept, false_reject = sweep
    shown = np.unique(np.linspace(0, len(thresholds) - 1, PLOT_POINTS).astype(int))
    with pictures.style():
        figure = pictures.new_figure(figsize=(12, 3.8))
        histogram, det, rates = figure.subplots(1, 3)

        bins = np.linspace(scores.min() - 0.01, scores.max() + 0.01, 60)
        histogram.hist(scores[labels == 0], bins, density=True, alpha=0.7, color="C1", label="different speakers")
        histogram.hist(
            scores[labels == 1], bins, density=True, histtype="step", linewidth=2, color="C0", label="same speaker"
        )
        histogram.axvline(eer_threshold, color="0.3", linestyle="--", label="threshold at the EER")
        histogram.set(title="Scores", xlabel=score_name, ylabel="density of trials")
        histogram.legend(loc="upper left")

        # On axes scaled by the normal distribution's quantiles, normal scores make a straight line.
        low, high = 0.5 / len(labels), 1 - 0.5 / len(labels)
        det.plot(ndtri(false_accept.clip(low, high))[shown], ndtri(false_reject.clip(low, high))[shown])
        det.plot(ndtri(max(eer, low)), ndtri(max(eer, low)), "o", markersize=7, color="C1", label=f"EER {eer:.1%}")
        ticks = np.array([0.1, 1, 5, 10, 20, 40, 60])
        for axis in (det.xaxis, det.yaxis):
            axis.set_ticks(ndtri(ticks / 100), [f"{tick:g}" for tick in ticks])
        limits = ndtri([0.0005, 0.7])
        det.set(
            title="DET curve", xlabel="false-accept rate (%)", ylabel="false-reject rate (%)", xlim=limits, ylim=limits
        )
        det.plot(limits, limits, color="0.7", linestyle=":", label="equal rates")
        det.legend(loc="upper right")

        rates.plot(thresholds[shown], 100 * false_accept[shown], color="C1", label="false-accept rate")
        rates.plot(thresholds[shown], 100 * false_reject[shown], color="C0", linestyle="--", label="false-reject rate")
        rates.plot(eer_threshold, 100 * eer, "o", markersize=7, color="0.3", label=f"EER at {eer_threshold:.3f}")
        rates.set(title="Threshold sweep", xlabel=f"threshold on the {score_name}", ylabel="error rate (%)")
        rates.legend(loc="center left")
        pictures.save_or_warn(path, figure)
