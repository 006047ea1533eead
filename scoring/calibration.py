"""What a score means: how often different people score as high, and how often one person scores this low.

This depends on how many recordings are compared: the mean of several embeddings is nearer to every voice than a single
embedding is, so that a threshold for pairs of recordings accepts too many pairs of means. Both rates are measured for
each number of recordings on either side, of normalised scores if the model has a cohort, and stay with the model. So
does the line that turns scores into log-likelihood ratios: how many times likelier a score is of one person than of
two, as a natural logarithm. Source: Brümmer and du Preez 2006, "Application-independent evaluation of speaker
detection".
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

import dataset
import feature_store
import metrics
from encoder.inference import embed_features, embed_store, unit_length
from encoder.saved_models import check_calibration, update_model
from encoder.speaker_encoder import SpeakerEncoder
from feature_extraction import SAMPLE_RATE
from foundation import settings
from foundation.settings import Config
from scoring.score_normalization import score_offsets

# Numbers of recordings on a side. 0 stands for a window of this length, which the timeline compares.
COUNTS = (0, 1, 2, 3, 5, 10)
WINDOW_SECONDS = 1.6

# The false-accept rates whose thresholds are kept. A rate must make LEAST_ERRORS false accepts among the distinct pairs
# of recordings: with 30 it is known roughly (Doddington et al. 2000, "The NIST speaker recognition evaluation") if they
# are independent. As those of the same two speakers are not, there must also be 1 / rate pairs of speakers.
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.9)
LEAST_ERRORS = 30

# The rate that must have LEAST_ERRORS for each number of recordings; lower ones are less sure for many recordings.
USUAL_RATE = 0.01

# The distance, 1 minus the cosine similarity, that 1 % of pairs of strangers are within, in the large pretrained model.
NEAR_STRANGERS = 0.32

# Shares of the scores of one person that lie below the scores that are kept.
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)

# Utterances of a condition, and of each speaker, that are used; more would tell little more.
MAX_UTTS, MAX_UTTS_OF_SPEAKER = 4000, 50

# Trials of each kind from which the line is computed; more would not change it.
MOST_TRIALS = 20000


class Voices(NamedTuple):
    """Utterances of one condition.

    Embeddings of whole utterances and of a window of each, both (utterances, dimensions); the speakers' numbers and the
    lengths in seconds, both (utterances,).
    """

    whole: np.ndarray
    windows: np.ndarray
    speaker_of: np.ndarray
    seconds: np.ndarray


# -------------------------------------- Measuring --------------------------------------


def embed_voices(
    encoder: SpeakerEncoder, store: feature_store.FeatureStore, rng: np.random.Generator, config: Config
) -> Voices:
    """Embed utterances of a store in one piece, and a window from the middle of each.

    In a large store they are those of some speakers, drawn at random.
    """
    frames = round(WINDOW_SECONDS * SAMPLE_RATE / encoder.feature_settings.hop_length)
    speakers = rng.permutation(len(store.speakers))
    of_speakers = [
        np.sort(rng.permutation(store.utts_of_speaker[speaker])[:MAX_UTTS_OF_SPEAKER]) for speaker in speakers
    ]
    are_enough = np.cumsum([len(utts) for utts in of_speakers]) >= MAX_UTTS
    utts = np.concatenate(of_speakers[: np.argmax(are_enough) + 1 if are_enough.any() else None])
    windows = []
    for utt in utts:
        features = store.read(utt)
        start = max(0, (len(features) - frames) // 2)
        windows.append(features[start : start + frames])
    config = settings.in_one_piece(config)
    whole, of_windows = embed_store(encoder, store, utts, config), embed_features(encoder, windows, config)
    return Voices(whole, of_windows, store.speaker_of[utts], store.utt_seconds[utts])


def embed_all(
    encoder: SpeakerEncoder, stores: Sequence[feature_store.FeatureStore], rng: np.random.Generator, config: Config
) -> list[Voices]:
    """The voices of several stores; speakers of the same name have the same number."""
    number_of = {
        name: number for number, name in enumerate(sorted({name for store in stores for name in store.speakers}))
    }
    voices = []
    for store in stores:
        of_store = embed_voices(encoder, store, rng, config)
        numbers = np.array([number_of[name] for name in store.speakers])
        voices.append(of_store._replace(speaker_of=numbers[of_store.speaker_of]))
    return voices


def draw_scores(
    voices: Voices, first: int, second: int, rng: np.random.Generator, cohort: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of one person and of different people, means of `first` recordings against means of `second`.

    Each speaker has as many groups of recordings as recordings, and each pair of groups of two speakers is compared;
    of one speaker, as many pairs of groups without a common recording as pairs of recordings.
    """
    sizes = [max(1, first), max(1, second)]
    pairs: list[np.ndarray] = [np.zeros((0, sum(sizes)), np.int64)]
    groups_of_side: tuple[list, list] = ([], [])
    for speaker in np.unique(voices.speaker_of):
        utts = np.flatnonzero(voices.speaker_of == speaker)
        if len(utts) >= sum(sizes):
            drawn = rng.permuted(np.tile(utts, (len(utts) * (len(utts) - 1) // 2, 1)), axis=1)
            pairs.append(drawn[:, : sum(sizes)])
        for of_side, size in zip(groups_of_side, sizes, strict=True):
            if len(utts) >= size:
                several = rng.permuted(np.tile(utts, (len(utts), 1)), axis=1)[:, :size] if size > 1 else utts[:, None]
                of_side.append(several)

    def side_of(groups: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean embeddings of groups of utterances (groups, utterances), and what is subtracted from their scores."""
        source = voices.whole if number else voices.windows
        seconds = voices.seconds if number else voices.seconds.clip(max=WINDOW_SECONDS)
        means = unit_length(source[groups].sum(axis=1))
        return means, score_offsets(means, seconds[groups].sum(axis=1), cohort)

    sides = np.split(np.concatenate(pairs), [sizes[0]], axis=1)
    (left, left_offsets), (right, right_offsets) = map(side_of, sides, (first, second))
    same = np.einsum("gd,gd->g", left, right) - left_offsets - right_offsets
    if not groups_of_side[0] or not groups_of_side[1]:
        return same, np.zeros(0)
    groups, others = map(np.concatenate, groups_of_side)
    (left, left_offsets), (right, right_offsets) = side_of(groups, first), side_of(others, second)
    scores = left @ right.T - left_offsets[:, None] - right_offsets
    return same, scores[voices.speaker_of[groups[:, :1]] != voices.speaker_of[others[:, 0]]]


def count_distinct(conditions: Sequence[Voices], first: int, second: int) -> int:
    """How many pairs of groups of these sizes, of different people, have no recording in common with one another.

    A recording counts in each condition, as its noise differs.
    """
    total = 0
    for voices in conditions:
        num_utts = np.unique(voices.speaker_of, return_counts=True)[1]
        groups, others = num_utts // max(1, first), num_utts // max(1, second)
        total += int(groups.sum() * others.sum() - (groups * others).sum())
    return total // 2 if first == second else total


def count_pairs(conditions: Sequence[Voices]) -> int:
    """How many pairs of speakers are compared, each counted once, however many conditions they are in."""
    groups = [np.unique(voices.speaker_of) for voices in conditions]
    total = 0
    for speaker in np.unique(np.concatenate(groups)):
        others = np.concatenate([group for group in groups if speaker in group])
        total += len(np.unique(others[others > speaker]))
    return total


def is_measurable(rate: float, num_pairs: int, num_trials: int) -> bool:
    """Whether so many trials, of so many pairs of speakers, tell the threshold with this false-accept rate."""
    return rate * num_pairs >= 1 and rate * num_trials >= LEAST_ERRORS


def measure(conditions: Sequence[Voices], source: str, rng: np.random.Generator, cohort: np.ndarray) -> dict:
    """Thresholds at RATES, and quantiles of one person's scores, over all conditions, for each pair of COUNTS.

    Scores are normalised by the cohort (speakers, dimensions), unless it is empty. Speakers of different conditions
    have different numbers, unless they are the same. Counts for which there are too few recordings are left out, and so
    are rates. Raises ValueError if nothing is left. `source` says what the conditions are.
    """
    num_pairs, num_trials = count_pairs(conditions), count_distinct(conditions, 1, 1)
    rates = [rate for rate in RATES if is_measurable(rate, num_pairs, num_trials)]
    if not rates:
        raise ValueError("these are too few speakers or recordings for thresholds.")
    counts: list[int] = []
    curves: dict[str, list[list[float]]] = {}
    for second in COUNTS:
        of_count = {}
        for first in (*counts, second):
            drawn = [draw_scores(voices, first, second, rng, cohort) for voices in conditions]
            same, different = (np.concatenate(kind) for kind in zip(*drawn, strict=True))
            is_enough = count_distinct(conditions, first, second) * max(USUAL_RATE, rates[0]) >= LEAST_ERRORS
            if len(same) >= LEAST_ERRORS and is_enough:
                of_count[f"{first} {second}"] = make_curve(same, different, rates)
        if len(of_count) <= len(counts):  # It would not be measured against each of the others.
            break
        counts.append(second)
        curves |= of_count
    if len(counts) < 2:
        raise ValueError("these are too few recordings of each speaker for thresholds.")
    similarities = np.concatenate([draw_scores(voices, 1, 1, rng, cohort[:0])[1] for voices in conditions])
    near = 1 - float(np.quantile(similarities, 1 - max(USUAL_RATE, rates[0])))
    return {
        "source": source,
        "normalised": len(cohort) > 0,
        "near_strangers": round(near, 5),
        "false_accept_rates": rates,
        "counts": counts,
        "curves": curves,
    }


def make_curve(same: np.ndarray, different: np.ndarray, rates: Sequence[float]) -> list[list[float]]:
    """The lowest thresholds with these false-accept rates or less, and the scores of one person at SHARES.

    Then slope and offset of the line from a score to its log-likelihood ratio, by logistic regression.
    """
    from sklearn.linear_model import LogisticRegression  # Slow to import, and only needed here.

    labels = np.repeat([1, 0], [len(same), len(different)])
    at_rates = thresholds_with(labels, np.concatenate([same, different]), rates)
    kept = [np.sort(scores)[:: math.ceil(len(scores) / MOST_TRIALS)] for scores in (same, different)]
    labels = np.repeat([1, 0], [len(scores) for scores in kept])
    line = LogisticRegression(C=1e6, class_weight="balanced").fit(np.concatenate(kept)[:, None], labels)
    return [
        [round(value, 5) for value in at_rates],
        np.quantile(same, SHARES).round(5).tolist(),
        [round(float(line.coef_[0, 0]), 5), round(float(line.intercept_[0]), 5)],
    ]


def thresholds_with(labels: np.ndarray, scores: np.ndarray, false_accept_rates: Sequence[float]) -> list[float]:
    """The lowest thresholds of trials, labels and scores (trials,), with these false-accept rates or less."""
    thresholds, false_accept, _ = metrics.error_rates(labels, scores)
    return [float(thresholds[np.argmax(false_accept < rate + 1e-9)]) for rate in false_accept_rates]


def save_calibration(encoder: SpeakerEncoder, calibration: dict) -> None:
    """Write a calibration into the file that the encoder was loaded from. Raises ValueError if that has changed."""
    encoder.file_digest = update_model(encoder.path, encoder.file_digest, calibration=check_calibration(calibration))


# ---------------------------------------- Using ----------------------------------------


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


def keep_thresholds(encoder: SpeakerEncoder, spk_to_utts: dataset.SpkToUtts) -> None:
    """Put decision thresholds for `speaker_id.py` into a model that has none, each corpus measured by itself."""
    if encoder.calibration or set(encoder.train_speakers) & set(spk_to_utts):
        return
    config = settings.present(**encoder.settings)
    rng = np.random.default_rng(config.SEED)
    source = f"{len(spk_to_utts)} speakers of {config.TEST_DATA_CSV or config.TEST_DATA_DIR}"
    try:
        corpora = dataset.split_by_corpus(spk_to_utts, config.CORPORA).values()
        stores = [feature_store.open_store(data, config=config) for data in corpora]
        measured = measure(embed_all(encoder, stores, rng, config), source, rng, encoder.cohort)
        save_calibration(encoder, measured)
    except (ValueError, OSError) as error:
        print(f"The model gets no decision thresholds for speaker_id.py: {error}")
        return
    print(f"{encoder.path} now has decision thresholds for speaker_id.py, measured on these test data.")
