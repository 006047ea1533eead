"""Figures computed from the scores of trials: error rates, EER, minDCF, Cllr and confidence intervals.

A trial compares two utterances. Its label is 1 if one speaker said both (a target trial) and 0 if not; it is accepted
when its score reaches the threshold.
"""

import numpy as np
from numpy.typing import ArrayLike

NUM_BOOTSTRAPS = 1000
NUM_BOOTSTRAP_BINS = 1000
BLOCK_PAIRS = 4096


def error_rates(
    labels: ArrayLike, scores: ArrayLike, threshold_step: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sweep the threshold -> thresholds (ascending), false-accept rates and false-reject rates, all (thresholds,).

    There is one threshold for each way to divide the scores, the lowest that does so: the lowest score, then just above
    each distinct score. With `threshold_step`, the thresholds are its multiples. Takes O(n log n). Raises ValueError
    unless there are finite scores of both classes.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if labels.shape != scores.shape or labels.ndim != 1:
        raise ValueError(f"there must be one label for each score, not {labels.shape} and {scores.shape}.")
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError("labels must be 0 or 1.")
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} scores are not finite numbers.")
    num_targets = np.count_nonzero(labels)
    num_nontargets = len(labels) - num_targets
    if not num_targets or not num_nontargets:
        raise ValueError(f"{num_targets} target and {num_nontargets} non-target trials: both kinds are needed.")
    order = np.argsort(scores)
    scores = scores[order]
    if threshold_step:
        first, last = np.floor(scores[0] / threshold_step), np.floor(scores[-1] / threshold_step) + 1
        thresholds = np.arange(first, last + 1) * threshold_step
        trials_below = np.searchsorted(scores, thresholds)
    else:
        distinct = np.flatnonzero(np.diff(scores, prepend=-np.inf))
        thresholds = np.append(scores[0], np.nextafter(scores[distinct], np.inf))
        trials_below = np.append(distinct, len(scores))
    targets_below = np.append(0, np.cumsum(labels[order]))[trials_below]
    false_accept = 1 - (trials_below - targets_below) / num_nontargets
    false_reject = targets_below / num_targets
    return thresholds, false_accept, false_reject


def equal_error_rate(thresholds: np.ndarray, false_accept: np.ndarray, false_reject: np.ndarray) -> tuple[float, float]:
    """The rate at which both errors are equal, interpolated between two thresholds, and the nearer of the two.

    Of thresholds with the same rates it is the lowest.
    """
    eer, [nearest] = find_crossing(false_accept[None], false_reject[None])
    is_as_good = (false_accept == false_accept[nearest]) & (false_reject == false_reject[nearest])
    return float(eer[0]), float(thresholds[np.argmax(is_as_good)])


def find_crossing(false_accept: np.ndarray, false_reject: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where falling false-accept rates meet rising false-reject rates, both (rows, thresholds).

    Returns the rate there (rows,), interpolated between the thresholds, and the number of the nearest threshold.
    The first threshold accepts all. A row of NaN gives NaN.
    """
    rows = np.arange(len(false_accept))
    after = np.argmax(false_reject >= false_accept, axis=1)
    before = after - 1
    gap_before = false_accept[rows, before] - false_reject[rows, before]
    gap_after = false_reject[rows, after] - false_accept[rows, after]
    step = false_accept[rows, after] - false_accept[rows, before]
    rate = false_accept[rows, before] + step * gap_before / (gap_before + gap_after)
    return rate, np.where(gap_after < gap_before, after, before)


def min_dcf(false_accept: np.ndarray, false_reject: np.ndarray, p_target: float) -> float:
    """Lowest detection cost over all thresholds (each error costs 1), divided by that of the better constant answer.

    Source: NIST 2016 Speaker Recognition Evaluation Plan, section 3.
    """
    costs = p_target * false_reject + (1 - p_target) * false_accept
    return float(costs.min() / min(p_target, 1 - p_target))


def cllr(labels: ArrayLike, log_likelihood_ratios: ArrayLike) -> float:
    """The cost of log-likelihood ratios (natural logarithms), in bits: 0 if they are certain and right, 1 if all are 0.

    A ratio says how many times likelier a trial is of one person than of two. Source: Brümmer and du Preez 2006,
    "Application-independent evaluation of speaker detection", equation 18.
    """
    labels, ratios = np.asarray(labels), np.asarray(log_likelihood_ratios, float)
    costs = np.logaddexp(0, np.where(labels == 1, -ratios, ratios)) / np.log(2)
    return float((costs[labels == 1].mean() + costs[labels == 0].mean()) / 2)


def min_cllr(labels: ArrayLike, scores: ArrayLike) -> float:
    """The lowest `cllr` that any rising function of the scores has: what is left is not the fault of calibration."""
    from sklearn.isotonic import IsotonicRegression  # Slow to import, and only needed here.

    labels, scores = np.asarray(labels), np.asarray(scores, float)
    weights = np.where(labels == 1, 0.5 / (labels == 1).sum(), 0.5 / (labels == 0).sum())
    posterior = IsotonicRegression(y_min=0, y_max=1).fit(scores, labels, weights).predict(scores)
    with np.errstate(divide="ignore"):
        return cllr(labels, np.log(posterior) - np.log1p(-posterior))


def eer_interval(
    labels: np.ndarray,
    scores: np.ndarray,
    enrol_speakers: np.ndarray,
    test_speakers: np.ndarray,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """95 % confidence interval of the EER, by a bootstrap over speakers, given by name or number for each trial.

    Raises ValueError for fewer than 3 speakers.
    """
    return central_95_percent(bootstrap_eers(labels, scores, enrol_speakers, test_speakers, rng))


def central_95_percent(replicates: np.ndarray) -> tuple[float, float]:
    """The interval that leaves out 2.5 % of the replicates at each end."""
    low, high = np.nanpercentile(replicates, [2.5, 97.5]).tolist()
    return low + 0.0, high + 0.0  # Not -0.0, which would be shown with its sign.


def bootstrap_eers(
    labels: np.ndarray,
    scores: np.ndarray,
    enrol_speakers: np.ndarray,
    test_speakers: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """The EER of each of NUM_BOOTSTRAPS replicates of the data, made by drawing speakers with replacement.

    With the same trials and a generator of the same seed, two systems get the same draws, and the differences of
    their replicates tell whether one is better.

    Trials that share a speaker are not independent, so speakers are drawn with replacement rather than trials: a
    non-target trial counts as often as the product of how often its two speakers were drawn, a target trial as often
    as its speaker. For example, of speakers a, b and c the draw a, a, c counts the target trials of a twice, those of c
    once, the non-target trials of a and c 2 * 1 times, and none that has b. After Owen 2007, "The pigeonhole
    bootstrap", with one draw for both sides of a trial. Raises ValueError for fewer than 3 speakers.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    _, speakers = np.unique([enrol_speakers, test_speakers], return_inverse=True)
    enrol, test = speakers.reshape(2, -1)
    num_speakers = speakers.max() + 1
    if num_speakers < 3:
        raise ValueError(f"a bootstrap over speakers needs 3 or more, and there are {num_speakers}.")
    draws = rng.multinomial(num_speakers, np.full(num_speakers, 1 / num_speakers), NUM_BOOTSTRAPS).astype(np.float32)
    bins, num_bins = score_bins(labels, scores)
    # All trials of one label between the same two speakers get the same weight.
    kinds, kind_of_trial = np.unique((labels * num_speakers + enrol) * num_speakers + test, return_inverse=True)
    order = np.argsort(kind_of_trial, kind="stable")
    bounds = np.searchsorted(kind_of_trial[order], np.arange(0, len(kinds) + BLOCK_PAIRS, BLOCK_PAIRS))
    histograms = np.zeros((2, NUM_BOOTSTRAPS, num_bins))  # Of non-target and target scores in each replicate.
    for block, first in enumerate(range(0, len(kinds), BLOCK_PAIRS)):
        pair, other = np.divmod(kinds[first : first + BLOCK_PAIRS], num_speakers)
        label, speaker = np.divmod(pair, num_speakers)
        trials = order[bounds[block] : bounds[block + 1]]
        cells = (kind_of_trial[trials] - first) * num_bins + bins[trials]
        counts = np.bincount(cells, minlength=len(label) * num_bins).reshape(-1, num_bins).astype(np.float32)
        weights = draws[:, speaker] * np.where(label == 1, 1, draws[:, other])
        for is_target in (0, 1):
            histograms[is_target] += weights[:, label == is_target] @ counts[label == is_target]
    return histogram_eers(*histograms)


def score_bins(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, int]:
    """Put scores into bins that hold equal shares of both classes together -> bin of each score, number of bins."""
    quantiles = np.arange(1, NUM_BOOTSTRAP_BINS // 2) / (NUM_BOOTSTRAP_BINS // 2)
    edges = np.unique([np.quantile(scores[labels == label], quantiles) for label in (0, 1)])
    return np.searchsorted(edges, scores, side="right"), len(edges) + 1


def histogram_eers(nontargets: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """EER of each row of two histograms (rows, bins), with rates linear within a bin; NaN if a class is empty."""

    def cumulative_share(histogram: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            share = np.cumsum(histogram, axis=1) / histogram.sum(axis=1, keepdims=True)
        return np.pad(share, ((0, 0), (1, 0)))

    return find_crossing(1 - cumulative_share(nontargets), cumulative_share(targets))[0]
