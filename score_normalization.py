"""Adaptive symmetric score normalisation (AS-norm): what a score means depends on the two recordings.

Some recordings are similar to those of everybody, as those by telephone are, and others to nobody's. So a score is
measured against those of the same two recordings with a cohort: training speakers, of whom the most similar ones count.
Source: Matějka et al. 2017, "Analysis of score normalization in multilingual speaker recognition"; that the cohort has
one mean embedding for each speaker is our choice, to keep models small.
"""

import numpy as np

import myconfig
from feature_store import FeatureStore
from speaker_encoder import SpeakerEncoder, embed_store

# Utterances of each speaker of the cohort, and speakers of the cohort that count for a recording: all of a small one.
COHORT_UTTS = 6
NUM_NEAREST = 100

BLOCK_UTTS = 4096


def embed_cohort(encoder: SpeakerEncoder, store: FeatureStore) -> np.ndarray:
    """The mean embedding of each training speaker at the speed of the recordings -> float32 (speakers, dimensions).

    They have length 1. The utterances are drawn from SEED.
    """
    rng = np.random.default_rng(myconfig.SEED)
    names = set(encoder.train_speakers)  # Without those at other speeds, which have names of their own.
    utts_of_speaker = [utts for name, utts in zip(store.speakers, store.utts_of_speaker, strict=True) if name in names]
    utts = np.concatenate([rng.permutation(utts)[:COHORT_UTTS] for utts in utts_of_speaker])
    embeddings = embed_store(encoder, store, utts)
    sums = np.add.reduceat(embeddings, np.flatnonzero(np.diff(store.speaker_of[utts], prepend=-1)))
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


def cohort_statistics(embeddings: np.ndarray, cohort: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the scores of each utterance with its NUM_NEAREST nearest of a cohort, both (utterances,).

    Embeddings are (utterances, dimensions), the cohort (speakers, dimensions). Raises ValueError if it is all alike.
    """
    blocks = np.split(embeddings, range(BLOCK_UTTS, len(embeddings), BLOCK_UTTS))
    nearest = np.concatenate([np.sort(block @ cohort.T, axis=1)[:, -NUM_NEAREST:] for block in blocks])
    mean, deviation = nearest.mean(axis=1), nearest.std(axis=1)
    if not deviation.all():
        raise ValueError("AS_NORM: the cohort's embeddings are all alike, as those of a collapsed training are.")
    return mean, deviation


def normalize_scores(
    scores: np.ndarray, enrol: np.ndarray, test: np.ndarray, mean: np.ndarray, deviation: np.ndarray
) -> np.ndarray:
    """Cosine similarities of the trials between utterances `enrol` and `test`, all (trials,) -> normalised scores.

    They say how many deviations a score lies above the mean of an utterance's scores with the cohort, on the average of
    the trial's two utterances.
    """
    above_enrol, above_test = ((scores - mean[utts]) / deviation[utts] for utts in (enrol, test))
    return (above_enrol + above_test) / 2
