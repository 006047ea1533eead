"""Normalised scores: the same score means the same for recordings of every kind.

Some recordings, such as those by telephone or long ones, are similar to most others, and some are similar to none. So
what strangers would score is subtracted from a score. How similar a recording is to strangers is seen in a cohort, the
training speakers, of whom those count that are most similar to it. After Matějka et al. 2017, "Analysis of score
normalization in multilingual speaker recognition" (adaptive, symmetric); that scores are not divided by a deviation,
the part of the length, and one mean embedding for each speaker of the cohort are our choice.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from encoder.base import Encoder, unit_length
from encoder.inference import embed_store
from foundation import setting_table
from foundation.settings import Config

if TYPE_CHECKING:  # It needs PyTorch.
    from feature_store import FeatureStore

# Utterances of each cohort speaker, and number of cohort speakers that count for a recording (all of a smaller cohort).
COHORT_UTTS = 6
NUM_NEAREST = 30

# How much of the similarity with them is subtracted for both recordings together, and how much for each when it is 2.7
# (e) times as long; what is shorter or longer counts as if it had the first or the last of these numbers of seconds.
# Chosen on the development speakers, thresholds of each corpus measured on the others.
COHORT_WEIGHT, LENGTH_WEIGHT = 0.65, 0.015
LENGTH_SECONDS = (0.3, 60.0)

BLOCK_UTTS = 4096


def kept_speakers(speakers: Sequence[str], config: Config) -> set[str]:
    """Those whom a cohort may have: whose names begin with none of NO_COHORT_CORPORA.

    Raises ValueError if no name begins with one of these.
    """
    excluded = setting_table.split_list(config.NO_COHORT_CORPORA)
    if unknown := [prefix for prefix in excluded if not any(name.startswith(prefix) for name in speakers)]:
        raise ValueError(f"NO_COHORT_CORPORA: no training speaker's name begins with {unknown[0]!r}.")
    return {name for name in speakers if not name.startswith(tuple(excluded))}


def embed_cohort(encoder: Encoder, store: "FeatureStore", config: Config) -> np.ndarray:
    """The mean embedding of each training speaker at the speed of the recordings -> float32 (speakers, dimensions).

    The embeddings have length 1. SEED determines which utterances are drawn. Speakers of NO_COHORT_CORPORA are left
    out; if fewer than two are left, there is no cohort.
    """
    rng = np.random.default_rng(config.SEED)
    names = kept_speakers(encoder.train_speakers, config)  # Without speakers at other speeds, which have other names.
    utts_of_speaker = [utts for name, utts in zip(store.speakers, store.utts_of_speaker, strict=True) if name in names]
    if len(utts_of_speaker) < 2:
        return np.zeros((0, encoder.dimensions), np.float32)
    utts = np.concatenate([rng.permutation(utts)[:COHORT_UTTS] for utts in utts_of_speaker])
    embeddings = embed_store(encoder, store, utts, config)
    return unit_length(np.add.reduceat(embeddings, np.flatnonzero(np.diff(store.speaker_of[utts], prepend=-1))))


def score_offsets(embeddings: np.ndarray, seconds: np.ndarray, cohort: np.ndarray) -> np.ndarray:
    """What is subtracted from each score of recordings, or of means of several -> (recordings,).

    Embeddings are (recordings, dimensions), their lengths in seconds (recordings,), the cohort (speakers, dimensions).
    For example, with offsets of 0.1 and 0.2, a cosine similarity of 0.6 becomes a score of 0.3. Without a cohort they
    are zeros, and scores are cosine similarities.
    """
    if not len(cohort):
        return np.zeros(len(embeddings), np.float32)
    number = min(NUM_NEAREST, len(cohort))
    nearness = np.empty(len(embeddings), np.float32)
    for start in range(0, len(embeddings), BLOCK_UTTS):
        similarities = embeddings[start : start + BLOCK_UTTS] @ cohort.T
        nearness[start : start + BLOCK_UTTS] = np.partition(similarities, -number, axis=1)[:, -number:].mean(axis=1)
    lengths = np.log(np.clip(seconds, *LENGTH_SECONDS)).astype(np.float32)
    return COHORT_WEIGHT / 2 * nearness + LENGTH_WEIGHT * lengths
