"""Checks of the settings: each by itself, and against each other. Raises ValueError with the first mistake."""

import difflib
import inspect
import os
from collections.abc import Collection
from pathlib import Path

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
    refuse = [
        (not values["SAVED_MODEL_PATH"].endswith(".pt"), "SAVED_MODEL_PATH={SAVED_MODEL_PATH} must end in .pt."),
        (Path(values["SAVED_MODEL_PATH"]).is_dir(), "SAVED_MODEL_PATH={SAVED_MODEL_PATH} is a folder."),
        (
            0 < values["EVAL_THRESHOLD_STEP"] < 1e-5,
            "EVAL_THRESHOLD_STEP={EVAL_THRESHOLD_STEP} is too fine a sweep; 0 is exact.",
        ),
        (
            values["EVAL_TRIALS"] not in ("triplets", "all_pairs") and not Path(values["EVAL_TRIALS"]).is_file(),
            "EVAL_TRIALS={EVAL_TRIALS} is neither triplets nor all_pairs nor the path of a trial list.",
        ),
        (
            values["EVAL_ENROL_UTTS"] > 1 and values["EVAL_TRIALS"] not in ("triplets", "all_pairs"),
            "EVAL_ENROL_UTTS={EVAL_ENROL_UTTS}: a trial list has one recording on either side.",
        ),
    ]
    raise_first(refuse, values)


def check_training(values: dict, typed: Collection[str] = ()) -> None:
    """Check the settings that matter only in training against each other, and those typed. Raises ValueError."""
    check_initial_models(values, typed)
    disturbed = values["DISTURBED_BATCHES"] * max(values[f"{name}_PROB"] for name in ("ROOM", "NOISE", "NARROW_BAND"))
    refuse = [
        (
            values["SAVED_MODEL_PATH"].endswith(".last.pt"),
            "SAVED_MODEL_PATH={SAVED_MODEL_PATH} must not end in .last.pt, the ending of checkpoints.",
        ),
        (
            values["TRIPLET_MINING"] != "random" and values["BATCH_SIZE"] < 2,
            "BATCH_SIZE={BATCH_SIZE}: a batch needs 2 speakers or more.",
        ),
        (1.0 not in values["SPEEDS"], "SPEEDS must include 1.0, the recordings as they are."),
        (len(set(values["SPEEDS"])) < len(values["SPEEDS"]), "SPEEDS names one speed twice."),
        (
            len(values["NOISE_SNR_DB"]) != 2 or values["NOISE_SNR_DB"][0] > values["NOISE_SNR_DB"][-1],
            "NOISE_SNR_DB must be two numbers, the least and the most.",
        ),
        (
            values["CEPSTRAL_MEAN_NORMALIZATION"] and max(disturbed, values["GAIN_AUGMENTATION_DB"]) > 0,
            "CEPSTRAL_MEAN_NORMALIZATION takes away the levels that gains, rooms, noise and narrow bands work on: set "
            "DISTURBED_BATCHES=0 GAIN_AUGMENTATION_DB=0.",
        ),
        (
            values["SPECAUG_TRAINING"] and values["SPECAUG_FREQ_MASK_MAX_WIDTH"] > values["N_MFCC"],
            "SPECAUG_FREQ_MASK_MAX_WIDTH={SPECAUG_FREQ_MASK_MAX_WIDTH} is more than N_MFCC={N_MFCC}.",
        ),
        (
            values["SPECAUG_TRAINING"]
            and values["SPECAUG_TIME_MASK_MAX_WIDTH"] > values["SEQ_LEN"] * (1 - values["SEQ_LEN_JITTER"]),
            "SPECAUG_TIME_MASK_MAX_WIDTH={SPECAUG_TIME_MASK_MAX_WIDTH} is more than the shortest crop, "
            "SEQ_LEN * (1 - SEQ_LEN_JITTER).",
        ),
    ]
    raise_first(refuse, values)


def check_initial_models(values: dict, typed: Collection[str]) -> None:
    """Check that INITIAL_MODELS are there, each once, and stay what they are. Raises ValueError."""
    initial = split_list(values["INITIAL_MODELS"])
    files = {os.path.realpath(path) for path in initial}
    missing = [path for path in initial or [values["INITIAL_MODELS"]] if not is_model(path)]
    saved = os.path.realpath(values["SAVED_MODEL_PATH"])
    refuse = [
        (
            bool(files & {saved, str(Path(saved).with_suffix(".last.pt"))}),
            "SAVED_MODEL_PATH={SAVED_MODEL_PATH} is among INITIAL_MODELS, and would be overwritten: choose another.",
        ),
        (len(files) < len(initial), "INITIAL_MODELS names one model twice."),
        (any(missing), "INITIAL_MODELS: there is no file {missing!r}; commas stand between paths."),
        (
            bool(initial) and "ENSEMBLE_SIZE" in typed,
            "INITIAL_MODELS bring an ENSEMBLE_SIZE with them: leave it out.",
        ),
    ]
    raise_first(refuse, values | {"missing": missing[0] if missing else ""})


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
    num_heads = values["TRANSFORMER_HEADS"]
    refuse = [
        (
            values["USE_TRANSFORMER"] and values["TRANSFORMER_DIM"] % num_heads != 0,
            "TRANSFORMER_DIM={TRANSFORMER_DIM} is not a multiple of TRANSFORMER_HEADS={TRANSFORMER_HEADS}.",
        ),
        (
            values["USE_TRANSFORMER"] and values["ENSEMBLE_SIZE"] > 1,
            "ENSEMBLE_SIZE={ENSEMBLE_SIZE}: only LSTMs form an ensemble, not USE_TRANSFORMER=true.",
        ),
        (
            values["USE_TRANSFORMER"] and values["TDNN_CHANNELS"] > 0,
            "TDNN_CHANNELS={TDNN_CHANNELS}: a TDNN stands beside LSTMs, not beside USE_TRANSFORMER=true.",
        ),
        (
            values["TDNN_CHANNELS"] % 4 != 0 or 0 < values["TDNN_CHANNELS"] < 32,  # 4 is tdnn.NUM_GROUPS.
            "TDNN_CHANNELS={TDNN_CHANNELS} is neither 0 nor a multiple of 4 from 32 up.",
        ),
        (
            values["LSTM_LAYER_NORM"] and values["LSTM_HIDDEN_SIZE"] < 4,
            "LSTM_LAYER_NORM needs LSTM_HIDDEN_SIZE=4 or more, not {LSTM_HIDDEN_SIZE}.",
        ),
        (values["N_MFCC"] > values["N_MELS"], "N_MFCC={N_MFCC} is more than N_MELS={N_MELS}: lower it."),
        (
            values["HOP_LENGTH"] > values["N_FFT"],
            "HOP_LENGTH={HOP_LENGTH} is more than N_FFT={N_FFT}, so samples between the windows would be lost.",
        ),
    ]
    raise_first(refuse, values)


def raise_first(refuse: list[tuple[bool, str]], values: dict) -> None:
    """Raise ValueError with the first sentence whose condition holds, values filled in."""
    for condition, sentence in refuse:
        if condition:
            raise ValueError(sentence.format(**values))


def refuse_contradictions(shape: dict, path: str, typed: Collection[str]) -> None:
    """Raise ValueError if one of the typed settings has another value than in the model at this path."""
    for name in set(settings_in_use(shape)) & set(typed):
        if getattr(myconfig, name) != shape[name]:
            raise ValueError(
                f"{name}={getattr(myconfig, name)} contradicts {path}, which was trained with {shape[name]}."
            )
