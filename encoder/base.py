"""What every speaker encoder has, whoever computes its embeddings: PyTorch in training, NumPy in answers."""

from collections.abc import Sequence

import numpy as np

import feature_extraction


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """The vectors (..., dimensions) divided by their lengths, so that dot products are cosine similarities."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(1e-9)


class Encoder:
    """Features of recordings -> embeddings, and what stays with the network in its file.

    `settings` are those that shaped it. `calibration` has decision thresholds measured by `experiments/conditions.py`,
    and `cohort` the embeddings of some training speakers (speakers, dimensions), against which scores can be
    normalised. `path` is the file it was loaded from, and `file_digest` a hash of that.
    """

    settings: dict
    train_speakers: list[str]
    calibration: dict
    cohort: np.ndarray
    dimensions: int
    path: str = ""
    file_digest: str = ""

    @property
    def feature_settings(self) -> feature_extraction.FeatureSettings:
        """The settings of the features that this encoder reads."""
        return feature_extraction.feature_settings(self.settings)

    @property
    def answer_cohort(self) -> np.ndarray:
        """The cohort by which the scores of answers are normalised; nobody if thresholds are of cosine similarities."""
        return self.cohort if self.calibration.get("normalised", not self.calibration) else self.cohort[:0]

    @property
    def is_on_cpu(self) -> bool:
        """Whether several threads that embed with it work at the same time."""
        return True

    def weights(self) -> dict[str, np.ndarray]:
        """The weights, by their names in PyTorch."""
        raise NotImplementedError

    def embed_batch(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """Features of recordings (frames, N_MFCC), the longest first -> (recordings, dimensions), of any length."""
        raise NotImplementedError
