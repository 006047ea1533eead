"""Checks of the settings: each by itself, and against each other. Raises ValueError with the first mistake."""

import difflib
import inspect
import os
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace

from foundation import script
from foundation.paths import find_model
from foundation.setting_table import SETTINGS, allowed_values, display, is_allowed, settings_in_use, split_list

try:
    import myconfig
except Exception as error:  # Users edit it, so it can raise anything.
    script.fail_in_settings(error)


def check_name(name: str, names: Collection[str]) -> None:
    """Raise ValueError, with the most similar one of the names of settings, for an unknown name."""
    if name not in names:
        nearest = difflib.get_close_matches(name.upper(), names, n=1, cutoff=0.5)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        raise ValueError(f"there is no setting {name!r}.{hint} --help lists all settings.")


def check_each(values: dict) -> None:
    """Check that all settings and no others are there, then do the checks of `check_model`. Raises ValueError."""
    if missing := SETTINGS.keys() - values.keys():
        raise ValueError(f"{min(missing)} is missing in myconfig.py.")
    typed_by_mistake = {
        name for name, value in vars(myconfig).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    for name in (*values, *typed_by_mistake):
        check_name(name, SETTINGS)
    check_model(values)


def check(values: dict) -> None:
    """Check all settings, alone and against each other, except the checks of `check_training`. Raises ValueError."""
    check_each(values)
    config = SimpleNamespace(**values)
    is_list = config.EVAL_TRIALS not in ("triplets", "all_pairs")
    if not config.SAVED_MODEL_PATH.endswith(".pt"):
        raise ValueError(f"SAVED_MODEL_PATH={config.SAVED_MODEL_PATH} must end in .pt.")
    if Path(config.SAVED_MODEL_PATH).is_dir():
        raise ValueError(f"SAVED_MODEL_PATH={config.SAVED_MODEL_PATH} is a folder.")
    if 0 < config.EVAL_THRESHOLD_STEP < 1e-5:
        raise ValueError(f"EVAL_THRESHOLD_STEP={config.EVAL_THRESHOLD_STEP} is too fine a sweep; 0 is exact.")
    if is_list and not Path(config.EVAL_TRIALS).is_file():
        raise ValueError(
            f"EVAL_TRIALS={config.EVAL_TRIALS} is neither triplets nor all_pairs nor the path of a trial list."
        )
    if is_list and config.EVAL_ENROL_UTTS > 1:
        raise ValueError(f"EVAL_ENROL_UTTS={config.EVAL_ENROL_UTTS}: a trial list has one recording on either side.")


def check_training(values: dict, typed: Collection[str] = ()) -> None:
    """Check the settings that matter only in training against each other, and those typed. Raises ValueError."""
    check_initial_models(values, typed)
    config = SimpleNamespace(**values)
    disturbed = config.DISTURBED_BATCHES * max(config.ROOM_PROB, config.NOISE_PROB, config.NARROW_BAND_PROB)
    if config.SAVED_MODEL_PATH.endswith(".last.pt"):
        raise ValueError(
            f"SAVED_MODEL_PATH={config.SAVED_MODEL_PATH} must not end in .last.pt, the ending of checkpoints."
        )
    if config.TRIPLET_MINING != "random" and config.BATCH_SIZE < 2:
        raise ValueError(f"BATCH_SIZE={config.BATCH_SIZE}: a batch needs 2 speakers or more.")
    if 1.0 not in config.SPEEDS:
        raise ValueError("SPEEDS must include 1.0, the recordings as they are.")
    if len(set(config.SPEEDS)) < len(config.SPEEDS):
        raise ValueError("SPEEDS names one speed twice.")
    if len(config.NOISE_SNR_DB) != 2 or config.NOISE_SNR_DB[0] > config.NOISE_SNR_DB[1]:
        raise ValueError("NOISE_SNR_DB must be two numbers, the least and the most.")
    if config.CEPSTRAL_MEAN_NORMALIZATION and max(disturbed, config.GAIN_AUGMENTATION_DB) > 0:
        raise ValueError(
            "CEPSTRAL_MEAN_NORMALIZATION takes away the levels that gains, rooms, noise and narrow bands work on: set "
            "DISTURBED_BATCHES=0 GAIN_AUGMENTATION_DB=0."
        )
    if config.SPECAUG_TRAINING and config.SPECAUG_FREQ_MASK_MAX_WIDTH > config.N_MFCC:
        raise ValueError(
            f"SPECAUG_FREQ_MASK_MAX_WIDTH={config.SPECAUG_FREQ_MASK_MAX_WIDTH} is more than N_MFCC={config.N_MFCC}."
        )
    shortest_crop = config.SEQ_LEN * (1 - config.SEQ_LEN_JITTER)
    if config.SPECAUG_TRAINING and shortest_crop < config.SPECAUG_TIME_MASK_MAX_WIDTH:
        raise ValueError(
            f"SPECAUG_TIME_MASK_MAX_WIDTH={config.SPECAUG_TIME_MASK_MAX_WIDTH} is more than the shortest crop, "
            "SEQ_LEN * (1 - SEQ_LEN_JITTER)."
        )


def check_initial_models(values: dict, typed: Collection[str]) -> None:
    """Check that INITIAL_MODELS are there, each once, and stay what they are. Raises ValueError."""
    initial, saved = split_list(values["INITIAL_MODELS"]), values["SAVED_MODEL_PATH"]
    files = {os.path.realpath(path) for path in initial}
    if files & {os.path.realpath(saved), str(Path(os.path.realpath(saved)).with_suffix(".last.pt"))}:
        raise ValueError(f"SAVED_MODEL_PATH={saved} is among INITIAL_MODELS, and would be overwritten: choose another.")
    if len(files) < len(initial):
        raise ValueError("INITIAL_MODELS names one model twice.")
    for path in initial or [values["INITIAL_MODELS"]]:
        if path and not is_model(path):
            raise ValueError(f"INITIAL_MODELS: there is no file {path!r}; commas stand between paths.")
    if initial and "ENSEMBLE_SIZE" in typed:
        raise ValueError("INITIAL_MODELS bring an ENSEMBLE_SIZE with them: leave it out.")


def is_model(path: str) -> bool:
    """Whether there is a model at this path, or a shipped one of this name."""
    try:
        return bool(find_model(path))
    except ValueError:
        return False


def check_model(values: dict) -> None:
    """Check each value alone, and those that shape a model against each other. Raises ValueError."""
    for name, value in values.items():
        if not is_allowed(name, value):
            _, kind, allowed, _ = SETTINGS[name]
            # A number in quotes would look right without them.
            is_text = isinstance(allowed[0], str) if kind == "choice" else False
            shown = repr(value) if isinstance(value, str) and not is_text else display(value)
            raise ValueError(f"{name}={shown} is not {allowed_values(name)}.")
    config = SimpleNamespace(**values)
    if config.USE_TRANSFORMER and config.TRANSFORMER_DIM % config.TRANSFORMER_HEADS != 0:
        raise ValueError(
            f"TRANSFORMER_DIM={config.TRANSFORMER_DIM} is not a multiple of "
            f"TRANSFORMER_HEADS={config.TRANSFORMER_HEADS}."
        )
    if config.USE_TRANSFORMER and config.ENSEMBLE_SIZE > 1:
        raise ValueError(
            f"ENSEMBLE_SIZE={config.ENSEMBLE_SIZE}: only LSTMs form an ensemble, not USE_TRANSFORMER=true."
        )
    if config.USE_TRANSFORMER and config.TDNN_CHANNELS > 0:
        raise ValueError(
            f"TDNN_CHANNELS={config.TDNN_CHANNELS}: a TDNN stands beside LSTMs, not beside USE_TRANSFORMER=true."
        )
    if config.TDNN_CHANNELS % 4 != 0 or 0 < config.TDNN_CHANNELS < 32:  # 4 is forward.NUM_GROUPS.
        raise ValueError(f"TDNN_CHANNELS={config.TDNN_CHANNELS} is neither 0 nor a multiple of 4 from 32 up.")
    if config.LSTM_LAYER_NORM and config.LSTM_HIDDEN_SIZE < 4:
        raise ValueError(f"LSTM_LAYER_NORM needs LSTM_HIDDEN_SIZE=4 or more, not {config.LSTM_HIDDEN_SIZE}.")
    if config.N_MFCC > config.N_MELS:
        raise ValueError(f"N_MFCC={config.N_MFCC} is more than N_MELS={config.N_MELS}: lower it.")
    if config.HOP_LENGTH > config.N_FFT:
        raise ValueError(
            f"HOP_LENGTH={config.HOP_LENGTH} is more than N_FFT={config.N_FFT}, so samples between the windows would "
            "be lost."
        )


def refuse_contradictions(shape: dict, path: str, typed: Collection[str]) -> None:
    """Raise ValueError if one of the typed settings has another value than in the model at this path."""
    for name in set(settings_in_use(shape)) & set(typed):
        if getattr(myconfig, name) != shape[name]:
            raise ValueError(
                f"{name}={getattr(myconfig, name)} contradicts {path}, which was trained with {shape[name]}."
            )
