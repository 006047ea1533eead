"""The EER during training, of speakers on whom it is not trained."""

import math

import numpy as np

import metrics
from encoder.inference import embed_features
from encoder.speaker_encoder import SpeakerEncoder
from foundation.settings import Config
from training.batches import disturb, draw_crops
from training.data import Stores


def validation_eer(encoder: SpeakerEncoder, stores: Stores, config: Config) -> float:
    """EER over all pairs of crops of the validation utterances; NaN if there are not both kinds of pairs.

    As in training, a share DISTURBED_BATCHES of the crops has room echo, noise or a narrow band, so that the best model
    is chosen for what it is trained for; none is disturbed beforehand. The crops are the same at every step.
    """
    store = stores.validation
    if store is None:
        return math.nan
    rng = np.random.default_rng(config.SEED)
    crops = draw_crops(store, np.arange(len(store.files)), config.SEQ_LEN, rng)
    # Evenly: of 8, a share of 0.25 is the 4th and the 8th.
    is_disturbed = np.diff(np.floor(config.DISTURBED_BATCHES * np.arange(len(crops) + 1))) > 0
    crops[is_disturbed] = disturb(crops[is_disturbed], stores.noise, rng, config)
    embeddings = embed_features(encoder, list(crops.numpy()), config)
    first, second = np.triu_indices(len(embeddings), k=1)
    labels = store.speaker_of[first] == store.speaker_of[second]
    if labels.all() or not labels.any():
        return math.nan
    scores = (embeddings @ embeddings.T)[first, second]
    return metrics.equal_error_rate(*metrics.error_rates(labels, scores))[0]
