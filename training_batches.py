"""Training batches: which crops a step reads, and how they are changed before they go into the network."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

import augmentation
import dataset
import feature_store
import myconfig
import specaug
from foundation import parallel
from speaker_encoder import SpeakerEncoder


def draw_batches(
    encoder: SpeakerEncoder,
    store: feature_store.FeatureStore,
    noise_store: feature_store.FeatureStore | None,
    steps: Iterable[int],
) -> Iterator[torch.Tensor]:
    """The batches of these steps, each drawn in a thread while the network processes the previous one."""
    pool = parallel.thread_pool(1)
    current = None
    for step in steps:
        following = pool.submit(draw_batch, encoder, store, noise_store, step)
        if current:
            yield current.result()
        current = following
    if current:
        yield current.result()


def draw_batch(
    encoder: SpeakerEncoder,
    store: feature_store.FeatureStore,
    noise_store: feature_store.FeatureStore | None,
    step: int,
) -> torch.Tensor:
    """The crops of a step, on the device: (speakers, utterances, frames, N_MFCC), or (triplets, 3, frames, N_MFCC).

    The crops depend only on SEED, the step and the rank, so that training can continue at any step. Each process draws
    its part of the batch from its own speakers; the triplets are mined in the whole batch.
    """
    rng = np.random.default_rng([myconfig.SEED, step])
    crop_frames = max(1, round(myconfig.SEQ_LEN * (1 + myconfig.SEQ_LEN_JITTER * rng.uniform(-1, 1))))
    is_disturbed = rng.random() < myconfig.DISTURBED_BATCHES
    weights = dataset.draw_speaker_weights(store.speech_seconds, store.corpus_of_speaker, rng)
    rng = np.random.default_rng([myconfig.SEED, step, parallel.rank()])
    if myconfig.TRIPLET_MINING == "random":
        utts = dataset.draw_triplets(store.utts_of_speaker, myconfig.BATCH_SIZE // parallel.world_size(), rng)
    else:
        num_speakers = min(myconfig.BATCH_SIZE, len(store.speakers)) // parallel.world_size()
        own_speakers, own_weights = parallel.own_share(store.utts_of_speaker), parallel.own_share(weights)
        utts = dataset.draw_speaker_batch(own_speakers, num_speakers, myconfig.UTTERANCES_PER_SPEAKER, rng, own_weights)
    crops = store.draw_crops(utts.ravel(), crop_frames, rng)
    if is_disturbed:
        crops = disturb(crops, noise_store, rng)
    crops = augmentation.random_channel(crops, encoder.feature_std.cpu(), rng)
    if myconfig.SPECAUG_TRAINING:
        crops = specaug.mask_crops(crops, encoder.feature_mean.cpu(), rng)
    return crops.unflatten(0, utts.shape).to(encoder.feature_mean.device)


def disturb(
    crops: torch.Tensor, noise_store: feature_store.FeatureStore | None, rng: np.random.Generator
) -> torch.Tensor:
    """Add room echo, noise or a narrow band to some of the crops (batch, frames, N_MFCC), if the settings say so."""
    if not max(myconfig.ROOM_PROB, myconfig.NOISE_PROB, myconfig.NARROW_BAND_PROB):
        return crops
    noises = None
    if noise_store:
        recordings = rng.integers(len(noise_store.files), size=len(crops))
        noises = noise_store.draw_crops(recordings, crops.shape[1], rng)
    return augmentation.disturb(crops, noises, rng)
