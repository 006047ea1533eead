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

import dataset
import feature_store
import metrics
from encoder.base import Encoder, unit_length
from encoder.inference import embed_features, embed_store
from encoder.model_files import check_calibration
from encoder.saved_models import update_model
from feature_extraction import SAMPLE_RATE
from foundation import settings
from foundation.settings import Config
from scoring.score_normalization import score_offsets
from scoring.thresholds import SHARES, USUAL_RATE, WINDOW_SECONDS, log_likelihood_ratio

# Numbers of recordings on a side. 0 stands for a window of WINDOW_SECONDS.
COUNTS = (0, 1, 2, 3, 5, 10)

# The false-accept rates whose thresholds are kept. A rate must make LEAST_ERRORS false accepts among the distinct pairs
# of recordings: with 30 it is known roughly (Doddington et al. 2000, "The NIST speaker recognition evaluation") if they
# are independent. As those of the same two speakers are not, there must also be 1 / rate pairs of speakers.
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.9)
LEAST_ERRORS = 30

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
    encoder: Encoder, store: feature_store.FeatureStore, rng: np.random.Generator, config: Config
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
    encoder: Encoder, stores: Sequence[feature_store.FeatureStore], rng: np.random.Generator, config: Config
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


def save_calibration(encoder: Encoder, calibration: dict) -> None:
    """Write a calibration into the file that the encoder was loaded from. Raises ValueError if that has changed."""
    encoder.file_digest = update_model(encoder.path, encoder.file_digest, calibration=check_calibration(calibration))


def cllr_of_answers(
    encoder: Encoder, labels: np.ndarray, similarities: np.ndarray, normalised: np.ndarray, config: Config
) -> dict[str, float | None]:
    """Cllr of the scores that `speaker_id.py` has: at best, and as the model's calibration turns them into ratios.

    The second is None if the model has no calibration, or one of an older version.
    """
    scores = normalised if len(encoder.answer_cohort) else similarities
    ratios = log_likelihood_ratio(encoder.calibration, scores, config.EVAL_ENROL_UTTS, 1)
    as_calibrated = None if ratios is None else metrics.cllr(labels, ratios)
    return {"min_cllr": metrics.min_cllr(labels, scores), "cllr": as_calibrated}


def keep_thresholds(encoder: Encoder, spk_to_utts: dataset.SpkToUtts) -> None:
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
    print(f"{encoder.path} now has decision thresholds for speaker_id.py --model, for recordings like these test data.")
