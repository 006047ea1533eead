"""The one table of settings: what each setting of `myconfig.py` may be, and what depends on it."""

from typing import NamedTuple


class Setting(NamedTuple):
    """A setting's kind, its lowest and highest value or its choices, and what depends on it.

    `kind` is "whole" or "number", "numbers" for a tuple of them, "choice", "path", or "text", which may be empty, as
    may the paths of "paths" with commas between them. `shapes` says what depends on the value: stored "features", every
    "encoder", only an "lstm" or a "transformer", the weights after "training", or nothing that lasts: "run". A model
    remembers the first four. `before` is the value of models and checkpoints that were saved before there was this
    setting.
    """

    shapes: str
    kind: str
    allowed: tuple = ()
    before: object = None


YES_OR_NO = (False, True)

SETTINGS = {
    "TRAIN_DATA_DIR": Setting("run", "path"),
    "TEST_DATA_DIR": Setting("run", "path"),
    "TRAIN_DATA_CSV": Setting("run", "paths"),
    "TEST_DATA_CSV": Setting("run", "paths"),
    "FEATURE_STORE_DIR": Setting("run", "path"),
    "N_MFCC": Setting("features", "whole", (1, 512)),
    "N_FFT": Setting("features", "whole", (64, 16384)),
    "HOP_LENGTH": Setting("features", "whole", (16, 16384)),
    "N_MELS": Setting("features", "whole", (1, 512)),
    "CEPSTRAL_MEAN_NORMALIZATION": Setting("features", "choice", YES_OR_NO),
    "DELTAS": Setting("encoder", "choice", YES_OR_NO, before=False),
    "STACKED_FRAMES": Setting("encoder", "whole", (1, 64), before=1),
    "USE_TRANSFORMER": Setting("encoder", "choice", YES_OR_NO, before=False),
    "LSTM_HIDDEN_SIZE": Setting("lstm", "whole", (1, 4096)),
    "LSTM_NUM_LAYERS": Setting("lstm", "whole", (1, 16)),
    "LSTM_LAYER_NORM": Setting("lstm", "choice", YES_OR_NO, before=False),
    "BI_LSTM": Setting("lstm", "choice", YES_OR_NO),
    "FRAME_AGGREGATION_MEAN": Setting("lstm", "choice", YES_OR_NO),
    "ENSEMBLE_SIZE": Setting("lstm", "whole", (1, 16), before=1),
    "TDNN_CHANNELS": Setting("lstm", "whole", (0, 4096), before=0),
    "TRANSFORMER_DIM": Setting("transformer", "whole", (1, 4096)),
    "TRANSFORMER_ENCODER_LAYERS": Setting("transformer", "whole", (1, 16)),
    "TRANSFORMER_HEADS": Setting("transformer", "whole", (1, 64)),
    "SAVED_MODEL_PATH": Setting("run", "path"),
    "INITIAL_MODELS": Setting("training", "paths"),
    "START_OVER": Setting("run", "choice", YES_OR_NO),
    "TRIPLET_MINING": Setting("training", "choice", ("smooth_batch_hard", "batch_hard", "random")),
    "MINING_SHARPNESS": Setting("training", "number", (0.1, 1000.0)),
    "TRIPLET_ALPHA": Setting("training", "number", (0.0, 2.0)),
    "BATCH_SIZE": Setting("training", "whole", (1, 65536)),
    "UTTERANCES_PER_SPEAKER": Setting("training", "whole", (2, 1024)),
    "MAX_SPEECH_SECONDS": Setting("training", "number", (0.0, 1e9)),
    "CORPORA": Setting("training", "text"),
    "ONE_CORPUS_BATCHES": Setting("training", "number", (0.0, 1.0)),
    "CORPUS_BALANCE": Setting("training", "number", (0.0, 1.0)),
    "SEQ_LEN": Setting("training", "whole", (2, 100000)),
    "SEQ_LEN_JITTER": Setting("training", "number", (0.0, 0.9)),
    "SPEEDS": Setting("training", "numbers", (0.5, 2.0)),
    "TRAINING_STEPS": Setting("run", "whole", (1, 10**9)),
    "LEARNING_RATE": Setting("training", "number", (1e-8, 1.0)),
    "LEARNING_RATE_SCHEDULE": Setting("training", "choice", ("cosine", "constant")),
    "SAVE_MODEL_FREQUENCY": Setting("run", "whole", (1, 10**9)),
    "NUM_VALIDATION_SPEAKERS": Setting("training", "whole", (0, 10**6)),
    "CHANNEL_AUGMENTATION": Setting("training", "number", (0.0, 10.0)),
    "GAIN_AUGMENTATION_DB": Setting("training", "number", (0.0, 40.0)),
    "DISTURBED_BATCHES": Setting("training", "number", (0.0, 1.0)),
    "ROOM_PROB": Setting("training", "number", (0.0, 1.0)),
    "NOISE_PROB": Setting("training", "number", (0.0, 1.0)),
    "NARROW_BAND_PROB": Setting("training", "number", (0.0, 1.0)),
    "NOISE_DIR": Setting("training", "paths"),
    "DISTURBED_DATA_CSV": Setting("training", "paths", before=""),
    "NOISE_SNR_DB": Setting("training", "numbers", (-20.0, 100.0)),
    "SPECAUG_TRAINING": Setting("training", "choice", YES_OR_NO),
    "SPECAUG_FREQ_MASK_PROB": Setting("training", "number", (0.0, 1.0)),
    "SPECAUG_TIME_MASK_PROB": Setting("training", "number", (0.0, 1.0)),
    "SPECAUG_FREQ_MASK_MAX_WIDTH": Setting("training", "whole", (1, 512)),
    "SPECAUG_TIME_MASK_MAX_WIDTH": Setting("training", "whole", (1, 100000)),
    "EVAL_TRIALS": Setting("run", "path"),
    "NUM_EVAL_TRIPLETS": Setting("run", "whole", (1, 10**8)),
    "EVAL_ENROL_UTTS": Setting("run", "whole", (1, 1000)),
    "AS_NORM": Setting("run", "choice", YES_OR_NO),
    "NO_COHORT_CORPORA": Setting("run", "text"),
    "USE_FULL_SEQUENCE_INFERENCE": Setting("run", "choice", YES_OR_NO),
    "SLIDING_WINDOW_STEP": Setting("run", "whole", (1, 100000)),
    "EVAL_THRESHOLD_STEP": Setting("run", "number", (0.0, 1.0)),
    "RESULTS_DIR": Setting("run", "path"),
    "CONDITIONS_DIR": Setting("run", "path"),
    "TEST_NOISE_DIR": Setting("run", "paths"),
    "NUM_PROCESSES": Setting("run", "whole", (1, 1024)),
    "DEVICE": Setting("run", "choice", ("auto", "cuda", "mps", "cpu")),
    "MIXED_PRECISION": Setting("training", "choice", YES_OR_NO),
    "SEED": Setting("training", "whole", (0, 2**63 - 1)),
}


def settings_that_shape(*what: str) -> tuple[str, ...]:
    """The names of the settings that shape any of these."""
    return tuple(name for name, setting in SETTINGS.items() if setting.shapes in what)


MODEL_SETTINGS = settings_that_shape("features", "encoder", "lstm", "transformer")

# The trained weights depend on these too, so a checkpoint is only continued with the same ones.
TRAINING_SETTINGS = (*MODEL_SETTINGS, *settings_that_shape("training"))

VALUES_BEFORE = {name: setting.before for name, setting in SETTINGS.items() if setting.before is not None}


def settings_in_use(values: dict) -> tuple[str, ...]:
    """Those of MODEL_SETTINGS that a model with these values depends on: not those of the other kind of network."""
    return settings_that_shape("features", "encoder", "transformer" if values["USE_TRANSFORMER"] else "lstm")


def split_list(text: str) -> list[str]:
    """The parts of a setting that may have several, with commas between them."""
    return [part.strip() for part in text.split(",") if part.strip()]


def display(value: object) -> str:
    """A value as it is typed on the command line."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def allowed_values(name: str) -> str:
    """In words, what a setting may be."""
    _, kind, allowed, _ = SETTINGS[name]
    if kind == "choice":
        return "one of " + ", ".join(map(str, allowed))
    if not allowed:
        return "a path" if kind != "text" else "a text"
    number = "a whole number" if kind == "whole" else "a number"
    number = "a list of numbers (in myconfig.py a tuple), each" if kind == "numbers" else number
    return f"{number} from {allowed[0]} to {allowed[1]}"


def is_allowed(name: str, value: object) -> bool:
    """Whether a value has the type of this setting, and lies within its limits or is one of its choices."""
    _, kind, allowed, _ = SETTINGS[name]
    if name == "DEVICE":  # Exercises give a `torch.device`; a GPU may have a number.
        value = str(value).partition(":")[0]
    if kind == "choice":
        return any(value == choice and type(value) is type(choice) for choice in allowed)
    if not allowed:
        return isinstance(value, str) and (value != "" or kind != "path")
    if isinstance(value, tuple) != (kind == "numbers"):
        return False
    items = value if isinstance(value, tuple) else (value,)
    types = (int,) if kind == "whole" else (int, float)
    return len(items) > 0 and all(
        isinstance(item, types) and not isinstance(item, bool) and allowed[0] <= item <= allowed[1] for item in items
    )
