"""What a score means: how often different people score as high, and how often one person scores this low.

This depends on how many recordings are compared: the mean of several embeddings is nearer to every voice than a single
embedding is, so that a threshold for pairs of recordings accepts too many pairs of means. Both rates are measured for
each number of recordings on either side, and stay with the model.
"""

from collections.abc import Sequence

import numpy as np

import feature_store
import metrics
from feature_extraction import SAMPLE_RATE
from foundation import settings
from foundation.model_file import read_model, write_model
from saved_encoder import check_calibration
from speaker_encoder import SpeakerEncoder, embed_features, embed_store, load_encoder, model_fingerprint

# Numbers of recordings on a side. 0 stands for a window of this length, which the timeline compares.
COUNTS = (0, 1, 2, 3, 5, 10)
WINDOW_SECONDS = 1.6

# The false-accept rates whose thresholds are kept, and the least number of false accepts at each. With 30, a rate is
# known roughly (Doddington et al. 2000, "The NIST speaker recognition evaluation") if the trials are independent.
# Trials of few speakers are not, so 30 is the minimum.
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.9)
LEAST_ERRORS = 30

# Utterances of a condition that are used; more would tell little more.
MAX_UTTS = 4000

# Embeddings of whole utterances and of a window of each, both (utterances, dimensions), and the speakers' numbers.
Voices = tuple[np.ndarray, np.ndarray, np.ndarray]

# -------------------------------------- Measuring --------------------------------------


def embed_voices(encoder: SpeakerEncoder, store: feature_store.FeatureStore, rng: np.random.Generator) -> Voices:
    """Embed utterances of a store in one piece, and a window from the middle of each.

    In a large store they are those of some speakers, drawn at random.
    """
    frames = round(WINDOW_SECONDS * SAMPLE_RATE / encoder.feature_settings.hop_length)
    of_speakers = [store.utts_of_speaker[speaker] for speaker in rng.permutation(len(store.speakers))]
    are_enough = np.cumsum([len(utts) for utts in of_speakers]) >= MAX_UTTS
    utts = np.concatenate(of_speakers[: np.argmax(are_enough) + 1 if are_enough.any() else None])
    windows = []
    for utt in utts:
        features = store.read(utt)
        start = max(0, (len(features) - frames) // 2)
        windows.append(features[start : start + frames])
    with settings.override(USE_FULL_SEQUENCE_INFERENCE=True):
        return embed_store(encoder, store, utts), embed_features(encoder, windows), store.speaker_of[utts]


def group_means(embeddings: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The mean embedding of each group of utterances (groups, utterances) -> (groups, dimensions), of length 1."""
    sums = embeddings[groups].sum(axis=1)
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


def draw_scores(voices: Voices, first: int, second: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scores of one person and of different people, means of `first` recordings against means of `second`.

    Each speaker has as many groups of recordings as recordings, and each pair of groups of two speakers is compared;
    of one speaker, as many pairs of groups without a common recording as pairs of recordings.
    """
    whole, windows, speaker_of = voices
    sources = [whole if number else windows for number in (first, second)]
    sizes = [max(1, first), max(1, second)]
    same = [np.zeros(0)]
    groups_of_side: tuple[list, list] = ([], [])
    owners_of_side: tuple[list, list] = ([], [])
    for speaker in np.unique(speaker_of):
        utts = np.flatnonzero(speaker_of == speaker)
        if len(utts) >= sum(sizes):
            drawn = rng.permuted(np.tile(utts, (len(utts) * (len(utts) - 1) // 2, 1)), axis=1)
            sides = np.split(drawn[:, : sum(sizes)], [sizes[0]], axis=1)
            left, right = (group_means(source, groups) for source, groups in zip(sources, sides, strict=True))
            same.append(np.einsum("gd,gd->g", left, right))
        for side, (source, size) in enumerate(zip(sources, sizes, strict=True)):
            if len(utts) >= size:
                drawn = rng.permuted(np.tile(utts, (len(utts), 1)), axis=1)[:, :size]
                groups_of_side[side].append(group_means(source, drawn))
                owners_of_side[side].append(np.full(len(utts), speaker))
    if not groups_of_side[0] or not groups_of_side[1]:
        return np.concatenate(same), np.zeros(0)
    left, right = map(np.concatenate, groups_of_side)
    owners, others = map(np.concatenate, owners_of_side)
    return np.concatenate(same), (left @ right.T)[owners[:, None] != others]


def measure(conditions: Sequence[Voices], source: str, rng: np.random.Generator) -> dict:
    """Thresholds at RATES and false-reject rates there, over all conditions together, for each pair of COUNTS.

    Counts for which there are too few recordings are left out, and so are rates. Raises ValueError if nothing is left.
    `source` says what the conditions are.
    """
    counts: list[int] = []
    cells: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for second in COUNTS:
        of_count = {}
        for first in (*counts, second):
            drawn = [draw_scores(voices, first, second, rng) for voices in conditions]
            same, different = (np.concatenate(kind) for kind in zip(*drawn, strict=True))
            of_count[f"{first} {second}"] = same, different
        fewest = min(min(len(same), len(different)) for same, different in of_count.values())
        if fewest < LEAST_ERRORS:
            break
        counts.append(second)
        cells |= of_count
    num_different = min((len(different) for _, different in cells.values()), default=0)
    rates = [rate for rate in RATES if rate * num_different >= LEAST_ERRORS]
    if len(counts) < 2 or not rates:
        raise ValueError("these are too few recordings for thresholds.")
    curves = {name: curve(same, different, rates) for name, (same, different) in cells.items()}
    return {"source": source, "false_accept_rates": rates, "counts": counts, "curves": curves}


def curve(same: np.ndarray, different: np.ndarray, rates: Sequence[float]) -> list[list[float]]:
    """The lowest thresholds with these false-accept rates or less, and their false-reject rates."""
    labels = np.repeat([1, 0], [len(same), len(different)])
    thresholds, false_accept, false_reject = metrics.error_rates(labels, np.concatenate([same, different]))
    at = [int(np.argmax(false_accept < rate + 1e-9)) for rate in rates]
    return [[round(float(value), 5) for value in values[at]] for values in (thresholds, false_reject)]


def save_calibration(encoder: SpeakerEncoder, calibration: dict) -> None:
    """Write a calibration into the file that the encoder was loaded from. Raises ValueError if it has another model."""
    if model_fingerprint(load_encoder(encoder.path)) != model_fingerprint(encoder):
        raise ValueError(f"{encoder.path} has changed while it was measured: run the same command again.")
    write_model(encoder.path, read_model(encoder.path) | {"calibration": check_calibration(calibration)})


# ---------------------------------------- Using ----------------------------------------


def curve_for(calibration: dict, first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds and false-reject rates at the calibration's rates, for numbers of recordings, 0 for a window.

    Between measured numbers both are interpolated on a logarithmic scale; above the highest one, that is taken.
    """
    corners = [neighbours(calibration["counts"], number) for number in (first, second)]
    total = np.zeros((2, len(calibration["false_accept_rates"])))
    for one, weight in corners[0]:
        for other, other_weight in corners[1]:
            name = f"{min(one, other)} {max(one, other)}"
            total += weight * other_weight * np.array(calibration["curves"][name])
    return total[0], total[1]


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
    thresholds, _ = curve_for(calibration, first, second)
    return float(np.interp(np.log(false_accept_rate), np.log(calibration["false_accept_rates"]), thresholds))


def rates_at(calibration: dict, score: float, first: int, second: int) -> tuple[float, float]:
    """The share of pairs of different people who score as high, and of pairs of one person that score lower.

    Outside the measured rates, it is the last one of them.
    """
    thresholds, false_rejects = curve_for(calibration, first, second)
    log_rates = np.log(calibration["false_accept_rates"])
    as_high = np.exp(np.interp(score, thresholds[::-1], log_rates[::-1]))
    return float(as_high), float(np.interp(score, thresholds[::-1], false_rejects[::-1]))
