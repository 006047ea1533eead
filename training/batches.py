"""The crops of each step, how they are changed before the network reads them, and their embeddings."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import nn

import augmentation
import dataset
import feature_store
import specaug
from encoder.speaker_encoder import SpeakerEncoder
from foundation import parallel
from foundation.settings import Config


def draw_batches(
    encoder: SpeakerEncoder,
    store: feature_store.FeatureStore,
    noise_store: feature_store.FeatureStore | None,
    steps: Iterable[int],
    config: Config,
) -> Iterator[torch.Tensor]:
    """The batches of these steps, each drawn in a thread while the network processes the previous one."""
    pool = parallel.thread_pool(1)
    current = None
    for step in steps:
        following = pool.submit(draw_batch, encoder, store, noise_store, step, config)
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
    config: Config,
) -> torch.Tensor:
    """The crops of a step, on the device: (speakers, utterances, frames, N_MFCC), or (triplets, 3, frames, N_MFCC).

    The crops depend only on SEED, the step and the rank, so that training can continue at any step. Each process draws
    its part of the batch from its own speakers; the triplets are mined in the whole batch.
    """
    rng = np.random.default_rng([config.SEED, step])
    crop_frames = max(1, round(config.SEQ_LEN * (1 + config.SEQ_LEN_JITTER * rng.uniform(-1, 1))))
    is_disturbed = rng.random() < config.DISTURBED_BATCHES
    weights = dataset.draw_speaker_weights(store.speech_seconds, store.corpus_of_speaker, rng, config)
    rng = np.random.default_rng([config.SEED, step, parallel.rank()])
    if config.TRIPLET_MINING == "random":
        utts = dataset.draw_triplets(store.utts_of_speaker, config.BATCH_SIZE // parallel.world_size(), rng)
    else:
        num_speakers = min(config.BATCH_SIZE, len(store.speakers)) // parallel.world_size()
        own_speakers, own_weights = parallel.own_share(store.utts_of_speaker), parallel.own_share(weights)
        utts = dataset.draw_speaker_batch(own_speakers, num_speakers, config.UTTERANCES_PER_SPEAKER, rng, own_weights)
    crops = store.draw_crops(utts.ravel(), crop_frames, rng)
    if is_disturbed:
        crops = disturb(crops, noise_store, rng, config)
    crops = augmentation.random_channel(crops, encoder.feature_std.cpu(), rng, config)
    if config.SPECAUG_TRAINING:
        crops = specaug.mask_crops(crops, encoder.feature_mean.cpu(), rng, config)
    return crops.unflatten(0, utts.shape).to(encoder.feature_mean.device)


def disturb(
    crops: torch.Tensor, noise_store: feature_store.FeatureStore | None, rng: np.random.Generator, config: Config
) -> torch.Tensor:
    """Add room echo, noise or a narrow band to some of the crops (batch, frames, N_MFCC), if the settings say so."""
    if not max(config.ROOM_PROB, config.NOISE_PROB, config.NARROW_BAND_PROB):
        return crops
    noises = None
    if noise_store:
        recordings = rng.integers(len(noise_store.files), size=len(crops))
        noises = noise_store.draw_crops(recordings, crops.shape[1], rng)
    return augmentation.disturb(crops, noises, rng, config)


def embed_batch(network: nn.Module, crops: torch.Tensor, config: Config) -> torch.Tensor:
    """Embed (speakers or triplets, utterances, frames, N_MFCC) -> float32 (..., utterances, dimensions)."""
    use_bfloat16 = config.MIXED_PRECISION and parallel.has_bfloat16(crops.device)

    def embed(rows: torch.Tensor) -> torch.Tensor:
        with torch.autocast(crops.device.type, torch.bfloat16, enabled=use_bfloat16):
            return network(rows).float()

    rows = crops.flatten(0, 1)
    if crops.device.type == "cpu" and parallel.world_size() == 1:
        embeddings = parallel.embed_in_threads(embed, rows, list(network.parameters()), config.NUM_PROCESSES)
    else:
        embeddings = embed(rows)
    return embeddings.unflatten(0, crops.shape[:2])
