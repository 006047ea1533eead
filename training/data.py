"""Before the first step: who trains and who validates, the opened stores, and the normalisation of the features."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

import dataset
import feature_store
from encoder.speaker_encoder import SpeakerEncoder
from feature_store import FeatureStore
from foundation import processes
from foundation.settings import Config

# At most this many utterances of each validation speaker.
VALIDATION_UTTS = 10

# Utterances, and frames of each, that the normalisation is computed from.
NORMALISATION_UTTS, NORMALISATION_FRAMES = 2000, 500


class Stores(NamedTuple):
    """The opened feature stores of a training, None for what there is not."""

    train: FeatureStore  # All SPEEDS.
    disturbed: FeatureStore | None = None  # Other recordings of training speakers, disturbed beforehand; all SPEEDS.
    noise: FeatureStore | None = None
    validation: FeatureStore | None = None  # Other speakers.


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


def open_stores(train_data: dataset.SpkToUtts, validation_data: dataset.SpkToUtts, config: Config) -> Stores:
    """Open the feature stores of the training speakers, their disturbed recordings, noise, and validation speakers.

    Raises ValueError if there are too few speakers, or processes do not divide the batch.
    """
    if config.BATCH_SIZE % processes.world_size():
        raise ValueError(f"BATCH_SIZE={config.BATCH_SIZE} cannot be shared by {processes.world_size()} processes.")
    disturbed = find_disturbed(train_data, config)
    noises = dataset.get_noises(config.NOISE_DIR)
    stores = Stores(
        feature_store.open_store(train_data, config.SPEEDS, config),
        feature_store.open_store(disturbed, config.SPEEDS, config) if disturbed else None,
        feature_store.open_store(noises, config=config) if noises else None,
        feature_store.open_store(validation_data, config=config) if validation_data else None,
    )
    for store, of_what in ((stores.train, "training"), (stores.disturbed, config.DISTURBED_DATA_CSV)):
        if store and len(store.speakers) < 2 * max(len(config.SPEEDS), processes.world_size()):
            raise ValueError(f"{of_what} needs two speakers or more with files that can be used, for each process.")
    return stores


def find_disturbed(train_data: dataset.SpkToUtts, config: Config) -> dataset.SpkToUtts:
    """The training speakers' recordings in the list DISTURBED_DATA_CSV, or none; ValueError for a list of others."""
    if not config.DISTURBED_DATA_CSV or not config.DISTURBED_BATCHES:
        return {}
    listed = dataset.get_csv_spk_to_utts(config.DISTURBED_DATA_CSV, check_files=True)
    found = {speaker: utts for speaker, utts in listed.items() if speaker in train_data}
    if not found:
        raise ValueError(f"{config.DISTURBED_DATA_CSV} names no training speaker: was it made from other data?")
    print(
        f"Disturbed beforehand: {sum(map(len, found.values()))} recordings of {len(found)} training speakers; "
        f"{len(listed) - len(found)} other speakers of the list are not used.",
        flush=True,
    )
    return found


def set_normalisation(encoder: SpeakerEncoder, store: FeatureStore, seed: int) -> None:
    """Give the encoder the mean and standard deviation of each coefficient over a sample of the training utterances."""
    rng = np.random.default_rng(seed)
    utts = rng.choice(len(store.files), min(NORMALISATION_UTTS, len(store.files)), replace=False)
    frames = torch.from_numpy(np.concatenate([store.read(utt, NORMALISATION_FRAMES) for utt in np.sort(utts)]))
    encoder.feature_mean.copy_(frames.mean(dim=0))
    encoder.feature_std.copy_(frames.std(dim=0).clamp(min=1e-3))
