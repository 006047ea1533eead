"""Adaptive symmetric score normalisation (AS-norm): the meaning of a score depends on the two recordings.

Some recordings, such as those by telephone, are similar to most others, and some are similar to none. So a score is
compared with the scores of both recordings against a cohort: the training speakers that are most similar to them.
Source: Matějka et al. 2017, "Analysis of score normalization in multilingual speaker recognition"; one mean
embedding for each speaker of the cohort is our choice, to keep models small.
"""

from collections.abc import Sequence

import numpy as np

from encoder.inference import embed_store, unit_length
from encoder.speaker_encoder import SpeakerEncoder
from feature_store import FeatureStore
from foundation import setting_table
from foundation.settings import Config

# Utterances of each cohort speaker, and number of cohort speakers that count for a recording (all of a smaller cohort).
COHORT_UTTS = 6
NUM_NEAREST = 100

# Scores with cohort speakers that differ less than this are equal but for rounding.
LEAST_DEVIATION = 1e-5

BLOCK_UTTS = 4096


def kept_speakers(speakers: Sequence[str], config: Config) -> set[str]:
    """Those whom a cohort may have: whose names begin with none of NO_COHORT_CORPORA.

    Raises ValueError if no name begins with one of these.
    """
    excluded = setting_table.split_list(config.NO_COHORT_CORPORA)
    if unknown := [prefix for prefix in excluded if not any(name.startswith(prefix) for name in speakers)]:
        raise ValueError(f"NO_COHORT_CORPORA: no training speaker's name begins with {unknown[0]!r}.")
    return {name for name in speakers if not name.startswith(tuple(excluded))}


def embed_cohort(encoder: SpeakerEncoder, store: FeatureStore, config: Config) -> np.ndarray:
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


def cohort_statistics(embeddings: np.ndarray, cohort: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each utterance's scores with its most similar of the cohort, both (utterances,).

    Those are NUM_NEAREST speakers.

    Embeddings are (utterances, dimensions), the cohort (speakers, dimensions). Raises ValueError if all of it is equal.
    """
    blocks = np.split(embeddings, range(BLOCK_UTTS, len(embeddings), BLOCK_UTTS))
    nearest = np.concatenate([np.sort(block @ cohort.T, axis=1)[:, -NUM_NEAREST:] for block in blocks])
    mean, std = nearest.mean(axis=1), nearest.std(axis=1)
    if std.min() < LEAST_DEVIATION:
        raise ValueError("AS_NORM: the cohort's embeddings are all alike, as those of a collapsed training are.")
    return mean, std


def normalize_scores(
    scores: np.ndarray, enrol: np.ndarray, test: np.ndarray, mean: np.ndarray, std: np.ndarray
) -> np.ndarray:
    """Cosine similarities of the trials between utterances `enrol` and `test`, all (trials,) -> normalised scores.

    A normalised score is the number of standard deviations above the mean of an utterance's scores with the cohort,
    averaged over the trial's two utterances.
    """
    above_enrol, above_test = ((scores - mean[utts]) / std[utts] for utts in (enrol, test))
    return (above_enrol + above_test) / 2
