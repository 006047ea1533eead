"""The crops of each step, how they are changed before the network reads them, and their embeddings."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import nn

import augmentation
import dataset
import specaug
from encoder.speaker_encoder import SpeakerEncoder
from feature_store import FeatureStore
from foundation import parallel, processes, threads
from foundation.settings import Config
from training.data import Stores

# The share of the disturbed batches that are drawn from recordings disturbed beforehand, if there are any.
DISTURBED_BEFOREHAND = 0.5


def draw_batches(
    encoder: SpeakerEncoder, stores: Stores, steps: Iterable[int], config: Config
) -> Iterator[torch.Tensor]:
    """The batches of these steps, each drawn in a thread while the network processes the previous one."""
    pool = threads.thread_pool(1)
    current = None
    for step in steps:
        following = pool.submit(draw_batch, encoder, stores, step, config)
        if current:
            yield current.result()
        current = following
    if current:
        yield current.result()


def draw_batch(encoder: SpeakerEncoder, stores: Stores, step: int, config: Config) -> torch.Tensor:
    """The crops of a step, on the device: (speakers, utterances, frames, N_MFCC), or (triplets, 3, frames, N_MFCC).

    A batch stays as it is, is disturbed here, or is drawn from the recordings disturbed beforehand. The crops depend
    only on SEED, the step and the rank, so that training can continue at any step. Each process draws its part of the
    batch from its own speakers; the triplets are mined in the whole batch.
    """
    rng = np.random.default_rng([config.SEED, step])
    crop_frames = max(1, round(config.SEQ_LEN * (1 + config.SEQ_LEN_JITTER * rng.uniform(-1, 1))))
    is_disturbed, store = rng.random() < config.DISTURBED_BATCHES, stores.train
    if is_disturbed and stores.disturbed and rng.random() < DISTURBED_BEFOREHAND:
        is_disturbed, store = False, stores.disturbed
    weights = dataset.draw_speaker_weights(store.speech_seconds, store.corpus_of_speaker, rng, config)
    rng = np.random.default_rng([config.SEED, step, processes.rank()])
    if config.TRIPLET_MINING == "random":
        utts = dataset.draw_triplets(store.utts_of_speaker, config.BATCH_SIZE // processes.world_size(), rng)
    else:
        num_speakers = min(config.BATCH_SIZE, len(store.speakers)) // processes.world_size()
        own_speakers, own_weights = processes.own_share(store.utts_of_speaker), processes.own_share(weights)
        utts = dataset.draw_speaker_batch(own_speakers, num_speakers, config.UTTERANCES_PER_SPEAKER, rng, own_weights)
    crops = draw_crops(store, utts.ravel(), crop_frames, rng)
    if is_disturbed:
        crops = disturb(crops, stores.noise, rng, config)
    crops = augmentation.random_channel(crops, encoder.feature_std.cpu(), rng, config)
    if config.SPECAUG_TRAINING:
        crops = specaug.mask_crops(crops, encoder.feature_mean.cpu(), rng, config)
    return crops.unflatten(0, utts.shape).to(encoder.feature_mean.device)


def disturb(
    crops: torch.Tensor, noise_store: FeatureStore | None, rng: np.random.Generator, config: Config
) -> torch.Tensor:
    """Add room echo, noise or a narrow band to some of the crops (batch, frames, N_MFCC), if the settings say so."""
    if not max(config.ROOM_PROB, config.NOISE_PROB, config.NARROW_BAND_PROB):
        return crops
    noises = None
    if noise_store:
        recordings = rng.integers(len(noise_store.files), size=len(crops))
        noises = draw_crops(noise_store, recordings, crops.shape[1], rng)
    return augmentation.disturb(crops, noises, rng, config)


def draw_crops(store: FeatureStore, utts: np.ndarray, crop_frames: int, rng: np.random.Generator) -> torch.Tensor:
    """A random crop of each utterance (n,) -> float32 (n, crop_frames, N_MFCC).

    An utterance that occurs n times is divided into n parts with a crop each. A part that is too short for a
    crop is joined with other utterances of its speaker.
    """
    _, inverse, counts = np.unique(utts, return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    occurrence = np.empty(len(utts), dtype=np.int64)
    occurrence[order] = np.arange(len(utts)) - np.repeat(np.cumsum(counts) - counts, counts)
    part_frames = np.maximum(store.num_frames[utts] // counts[inverse], 1)
    part_start = store.start[utts] + np.minimum(occurrence * part_frames, store.num_frames[utts] - 1)
    slack = np.maximum(part_frames - crop_frames, 0)
    rows = (part_start + rng.integers(slack, endpoint=True))[:, None] + np.arange(crop_frames)
    taken = set(utts.tolist())
    for place in np.flatnonzero(part_frames < crop_frames):
        part = np.arange(part_start[place], part_start[place] + part_frames[place])
        rows[place] = lengthen(store, part, store.speaker_of[utts[place]], crop_frames, taken, rng)
    return torch.from_numpy(store.frames[rows].astype(np.float32))


def lengthen(
    store: FeatureStore, rows: np.ndarray, speaker: int, crop_frames: int, taken: set[int], rng: np.random.Generator
) -> np.ndarray:
    """Append utterances of the speaker that no crop of the batch has `taken`, then repeat, to (crop_frames,).

    Crops of a speaker share no frames, so that a positive is not similar for that reason.
    """
    joined, total = [rows], len(rows)
    for partner in rng.permutation(store.utts_of_speaker[speaker]).tolist():
        if total < crop_frames and partner not in taken:
            taken.add(partner)
            joined.append(np.arange(store.start[partner], store.start[partner] + store.num_frames[partner]))
            total += store.num_frames[partner]
    return np.resize(np.concatenate(joined), crop_frames)


def embed_batch(network: nn.Module, crops: torch.Tensor, config: Config) -> torch.Tensor:
    """Embed (speakers or triplets, utterances, frames, N_MFCC) -> float32 (..., utterances, dimensions)."""
    use_bfloat16 = config.MIXED_PRECISION and parallel.has_bfloat16(crops.device)

    def embed(rows: torch.Tensor) -> torch.Tensor:
        with torch.autocast(crops.device.type, torch.bfloat16, enabled=use_bfloat16):
            return network(rows).float()

    rows = crops.flatten(0, 1)
    if crops.device.type == "cpu" and processes.world_size() == 1:
        embeddings = parallel.embed_in_threads(embed, rows, list(network.parameters()), config.NUM_PROCESSES)
    else:
        embeddings = embed(rows)
    return embeddings.unflatten(0, crops.shape[:2])
