"""Models saved while they are trained, and training that continues where it was stopped."""

from pathlib import Path

import torch

from encoder.model_files import model_fingerprint
from encoder.saved_models import load_encoder, read_model, save_encoder, write_model
from encoder.speaker_encoder import SpeakerEncoder
from feature_store import FeatureStore
from foundation import processes, setting_table
from foundation.settings import Config
from scoring.score_normalization import embed_cohort
from training.data import Stores
from training.progress import TrainingProgress

REMEDY = "Add START_OVER=true to train from the first step, or choose another SAVED_MODEL_PATH."


def checkpoint_path(saved_model: str) -> str:
    """The path of the last model, saved with the data to continue its training."""
    return str(Path(saved_model).with_suffix(".last.pt"))


def save_models(
    saved_model: str,
    encoder: SpeakerEncoder,
    optimizer: torch.optim.Optimizer,
    progress: TrainingProgress,
    origin: str,
    config: Config,
) -> None:
    """Save the curves, the last model as a checkpoint, and the best model if it is the last; only rank 0 saves.

    If it is cut off before the checkpoint is there, the next training does these steps again; after it, `continue_from`
    saves the best model.
    """
    if processes.rank() > 0:
        return
    progress.plot(Path(saved_model).with_suffix(".png"))
    record = {
        "training_settings": training_settings(config),
        "num_processes": processes.world_size(),
        "data_fingerprint": origin,
        **progress.state(),
    }
    save_encoder(checkpoint_path(saved_model), encoder, optimizer_state_dict=optimizer.state_dict(), **record)
    if progress.is_best():
        save_encoder(saved_model, encoder, **record)


def add_cohort(saved_model: str, encoder: SpeakerEncoder, store: FeatureStore, config: Config) -> None:
    """Add the cohort of score normalisation to the best model of a finished training, unless it has one.

    All processes take part; `encoder`, of the same shape, gets the best weights; only rank 0 writes. Raises ValueError
    if the best model is missing or damaged.
    """
    best = None
    if processes.rank() == 0:
        if not Path(saved_model).exists():
            raise ValueError(
                f"{saved_model} is gone, and {checkpoint_path(saved_model)} is not the best model. {REMEDY}"
            )
        best = load_encoder(saved_model)
    weights = best.cpu().state_dict() if best and not len(best.cohort) else None
    weights = processes.gather_objects(weights)[0]
    if weights is None:
        return
    encoder.load_state_dict(weights)
    cohort = embed_cohort(encoder.eval(), store, config)
    if processes.rank() == 0 and len(cohort):
        print(f"Put a cohort of {len(cohort)} training speakers into the model.", flush=True)
        write_model(saved_model, {**read_model(saved_model), "cohort": torch.from_numpy(cohort)})


def remove_models(saved_model: str) -> None:
    """Delete the model and its checkpoint, so that the next training does not continue from it; only rank 0 does it."""
    if processes.rank() == 0:
        for path in (checkpoint_path(saved_model), saved_model):
            Path(path).unlink(missing_ok=True)


def find_origin(encoder: SpeakerEncoder, stores: Stores, has_initial_models: bool) -> str:
    """A fingerprint of all data and of the initial models; training continues only if it is the same."""
    data = "".join(store.fingerprint() for store in (stores.train, stores.noise, stores.disturbed) if store)
    return data + (model_fingerprint(encoder) if has_initial_models else "")


def training_settings(config: Config) -> dict:
    """The settings on which the trained weights depend."""
    return {name: getattr(config, name) for name in ("TRAINING_STEPS", *setting_table.TRAINING_SETTINGS)}


def find_checkpoint(saved_model: str | None, train_speakers: list[str], config: Config) -> dict | None:
    """The checkpoint of a training on these speakers, for all processes; None if there is none, or none is wanted."""
    is_reader = not config.START_OVER and processes.rank() == 0
    checkpoint = read_checkpoint(saved_model, train_speakers, config) if saved_model and is_reader else None
    return processes.gather_objects(checkpoint)[0]


def read_checkpoint(saved_model: str, train_speakers: list[str], config: Config) -> dict | None:
    """The checkpoint of a model, if there is one. Raises ValueError if it was made with other settings or speakers."""
    path = checkpoint_path(saved_model)
    if not Path(path).exists():
        if Path(saved_model).exists():
            raise ValueError(
                f"{saved_model} exists, but its checkpoint {path} does not. To train it further, set it as "
                "INITIAL_MODELS and choose another SAVED_MODEL_PATH; START_OVER=true deletes it."
            )
        return None
    checkpoint = read_model(path)
    try:
        values = {**setting_table.VALUES_BEFORE, **checkpoint["training_settings"]}
        in_use = setting_table.settings_in_use(vars(config))
        # The initial models come first, because the shape comes from them.
        for name in ("INITIAL_MODELS", *in_use, *setting_table.settings_that_shape("training")):
            before, now = values[name], getattr(config, name)
            if before != now:
                raise ValueError(f"{path} was trained with {name}={before}, and now {name}={now}. {REMEDY}")
        if (before := checkpoint["num_processes"]) != (now := processes.world_size()):
            raise ValueError(f"{path} was trained by {before} processes, and now there are {now}. {REMEDY}")
        if checkpoint["train_speakers"] != train_speakers:
            raise ValueError(f"{path} was trained on other speakers. {REMEDY}")
    except (KeyError, TypeError):
        raise ValueError(f"{path} is not a checkpoint of this version. {REMEDY}") from None
    return checkpoint


def continue_from(
    checkpoint: dict,
    saved_model: str,
    encoder: SpeakerEncoder,
    optimizer: torch.optim.Optimizer,
    progress: TrainingProgress,
    origin: str,
    config: Config,
) -> None:
    """Take over the state of a checkpoint. Raises ValueError if it has another origin, or is damaged."""
    path = checkpoint_path(saved_model)
    try:
        if checkpoint["data_fingerprint"] != origin:
            raise ValueError(f"{path} was trained on other data, or from other initial models. {REMEDY}")
        encoder.load_state_dict(checkpoint["encoder_state_dict"])
        optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
        progress.load_state(checkpoint)
        is_saved = Path(saved_model).exists() and read_model(saved_model).get("losses") == checkpoint["losses"]
        if progress.is_best() and not is_saved:  # Killed between the two saves.
            save_models(saved_model, encoder, optimizer, progress, origin, config)
    except (KeyError, TypeError, RuntimeError):
        raise ValueError(f"{path} is not a checkpoint of this version. {REMEDY}") from None
