"""Training data: who trains and who validates, which crops a step reads, and how they are changed before."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

import augmentation
import dataset
import feature_store
import specaug
from foundation import parallel
from foundation.settings import Config
from speaker_encoder import SpeakerEncoder

# At most this many utterances of each validation speaker.
VALIDATION_UTTS = 10

# ------------------------------------ Training data -------------------------------------


def open_stores(train_data: dataset.SpkToUtts, validation_data: dataset.SpkToUtts, config: Config) -> tuple:
    """The feature stores of training data, validation data and noise, the last two None where there are none.

    Raises ValueError if there are too few speakers, or processes do not divide the batch.
    """
    store = feature_store.open_store(train_data, config.SPEEDS, config)
    validation_store = feature_store.open_store(validation_data, config=config) if validation_data else None
    noises = dataset.get_noises(config.NOISE_DIR)
    noise_store = feature_store.open_store(noises, config=config) if noises else None
    if len(store.speakers) < 2 * max(len(config.SPEEDS), parallel.world_size()):
        raise ValueError("training needs two speakers or more with files that can be used, for each process.")
    if config.BATCH_SIZE % parallel.world_size():
        raise ValueError(f"BATCH_SIZE={config.BATCH_SIZE} cannot be shared by {parallel.world_size()} processes.")
    return store, validation_store, noise_store


def set_validation_speakers_aside(
    spk_to_utts: dataset.SpkToUtts, known_speakers: Sequence[str], config: Config
) -> tuple[dataset.SpkToUtts, dataset.SpkToUtts]:
    """Split into training data and NUM_VALIDATION_SPEAKERS other speakers, who have two utterances or more.

    Known speakers, on whom an initial model was trained, are never chosen.
    """
    candidates = [speaker for speaker in spk_to_utts if len(spk_to_utts[speaker]) > 1 and speaker not in known_speakers]
    fifth = len(spk_to_utts) // 5
    number = min(config.NUM_VALIDATION_SPEAKERS, len(candidates), fifth)
    if number < 2:
        reason = f"a fifth of the speakers, {fifth}, may be set aside; {len(candidates)} can be"
        if not config.NUM_VALIDATION_SPEAKERS:
            reason = "NUM_VALIDATION_SPEAKERS=0"
        print(f"No validation ({reason}): the best model is the last.", flush=True)
        return spk_to_utts, {}
    all_that_may = "a fifth of all" if number == fifth else "all that can be, with two utterances"
    fewer = f", not {config.NUM_VALIDATION_SPEAKERS}: {all_that_may}"
    is_fewer = number < config.NUM_VALIDATION_SPEAKERS
    print(f"Set aside for validation: {number} speakers{fewer if is_fewer else ''}.", flush=True)
    chosen = set(np.random.default_rng(config.SEED).choice(candidates, number, replace=False).tolist())
    train_data = {speaker: utts for speaker, utts in spk_to_utts.items() if speaker not in chosen}
    return train_data, {speaker: spk_to_utts[speaker][:VALIDATION_UTTS] for speaker in sorted(chosen)}


# --------------------------------------- Batches ----------------------------------------


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
