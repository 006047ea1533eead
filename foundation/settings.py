"""How settings reach the scripts: `NAME=value` on the command line, checks of every value, and `--help`.

A script calls `read_command_line` before its slow imports, so that help and errors appear at once. What works with
features or a model gets a `Config`: the settings as they are at its start, with those of the model.
"""

import contextlib
import difflib
import inspect
import os
import sys
import threading
import types
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from foundation import script
from foundation.paths import expand_home

try:
    import myconfig
except Exception as error:  # Users edit it, so it can raise anything.
    script.fail_in_settings(error)

from foundation.model_path import find_model
from foundation.setting_tables import (
    CHOICES,
    LIMITS,
    LISTS,
    OPTIONAL_PATHS,
    OPTIONAL_TEXTS,
    PATHS,
    settings_in_use,
)

TRUE_WORDS = ("true", "yes", "on", "1")
FALSE_WORDS = ("false", "no", "off", "0")

# What each override that holds at present puts back at its end.
put_back: list[dict] = []
changing = threading.Lock()


class Config(types.SimpleNamespace):
    """A value for each setting, under its name: `config.N_MFCC`. It is made once, and nobody changes it."""


def all_settings() -> dict:
    """Every setting with its current value, in the order of `myconfig.py`; `~` in a path is the home folder."""
    values = {name: value for name, value in vars(myconfig).items() if name.isupper()}
    for name in {*PATHS, *OPTIONAL_PATHS} & values.keys():
        if isinstance(values[name], str):
            values[name] = ",".join(map(expand_home, values[name].split(",")))
    return values


def present(**changes: object) -> Config:
    """The settings as they are now, but for these changes, such as the settings of a model.

    Raises ValueError for unknown names.
    """
    return Config(**all_settings() | known(changes))


def in_one_piece(config: Config | None = None) -> Config:
    """These settings, or the present ones, but with utterances embedded as a whole."""
    return Config(**vars(config or present()) | {"USE_FULL_SEQUENCE_INFERENCE": True})


def known(values: dict) -> dict:
    """The same values. Raises ValueError if one is of no setting."""
    for name in values:
        if not hasattr(myconfig, name):
            raise ValueError(f"there is no setting {name!r}.")
    return values


def split_list(text: str) -> list[str]:
    """The parts of a setting that may have several, with commas between them."""
    return [part.strip() for part in text.split(",") if part.strip()]


def read_command_line(
    description: str, *more_checks: Callable[[dict, Collection[str]], None], arguments: Collection[str] | None = None
) -> frozenset[str]:
    """Apply `NAME=value` arguments to `myconfig`, answer `--help`, and check all settings; exits on a mistake.

    Returns the names that were typed: if one contradicts a model, that is an error. `more_checks`, such as
    `check_training`, come after `check`, and get the values and these names. `arguments` are those of the process, if
    none are given.
    """
    if int(os.environ.get("RANK", "0")) > 0:  # Of the processes that torchrun starts, only the first one prints.
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - until the script ends.
    arguments = sys.argv[1:] if arguments is None else arguments
    if "-h" in arguments or "--help" in arguments:
        print(help_text(description), flush=True)
        sys.exit(0)
    try:
        typed = frozenset([apply_override(argument) for argument in arguments])
        check(all_settings())
        for check_values in more_checks:
            check_values(all_settings(), typed)
    except (ValueError, OSError) as error:
        script.fail(error)
    return typed


def help_text(description: str) -> str:
    """The script's description, then every setting with its comment and current value, by section."""
    lines = [inspect.cleandoc(description), "", f"Usage: python3 {Path(sys.argv[0]).name} [NAME=value ...]", ""]
    comment: list[str] = []
    for line in inspect.getsource(myconfig).splitlines():
        name = line.split(" = ")[0]
        if line.startswith("# ----"):
            lines += [line.strip("# -") + ":", ""]
        elif line.startswith("# "):
            comment.append("      " + line[2:])
        elif name.isupper() and hasattr(myconfig, name):
            lines += [f"  {name}={display(getattr(myconfig, name))}", *comment]
        elif not line and comment:
            lines.append("")
            comment = []
    return "\n".join(lines)


def display(value: object) -> str:
    """A value as it is typed on the command line."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def apply_override(argument: str) -> str:
    """Set one setting from `NAME=value`, and return its name. Raises ValueError."""
    name, equals, text = argument.partition("=")
    values = all_settings()
    check_name(name, values)
    if not equals:
        raise ValueError(f"{name} needs a value: {name}={display(values[name])}, for example.")
    setattr(myconfig, name, parse_value(name, text))
    return name


def check_name(name: str, names: Collection[str]) -> None:
    """Raise ValueError, with the most similar one of the names of settings, for an unknown name."""
    if name not in names:
        nearest = difflib.get_close_matches(name.upper(), names, n=1, cutoff=0.5)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        raise ValueError(f"there is no setting {name!r}.{hint} --help lists all settings.")


def parse_value(name: str, text: str) -> object:
    """`text` as a value of the type that CHOICES, LIMITS and LISTS give a setting. Raises ValueError."""
    try:
        if CHOICES.get(name) == (False, True):
            return (FALSE_WORDS + TRUE_WORDS).index(text.lower()) >= len(FALSE_WORDS)
        if name not in LIMITS:
            return text
        number = type(LIMITS[name][0])
        return tuple(map(number, text.split(","))) if name in LISTS else number(text)
    except ValueError:
        raise ValueError(f"{name}={text} is not {allowed_values(name)}.") from None


def allowed_values(name: str) -> str:
    """In words, what a setting may be."""
    if name in CHOICES:
        return "one of " + ", ".join(map(str, CHOICES[name]))
    low, high = LIMITS[name]
    kind = "a whole number" if isinstance(low, int) else "a number"
    kind = "a list of numbers (in myconfig.py a tuple), each" if name in LISTS else kind
    return f"{kind} from {low} to {high}"


def check_each(values: dict) -> None:
    """Check that all settings and no others are there, then do the checks of `check_model`. Raises ValueError."""
    names = (*LIMITS, *CHOICES, *PATHS, *OPTIONAL_TEXTS)
    if missing := set(names) - values.keys():
        raise ValueError(f"{min(missing)} is missing in myconfig.py.")
    typed_by_mistake = {
        name for name, value in vars(myconfig).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    for name in (*values, *typed_by_mistake):
        check_name(name, names)
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
    initial = split_list(values["INITIAL_MODELS"])
    files = {os.path.realpath(path) for path in initial}
    missing = [path for path in initial or [values["INITIAL_MODELS"]] if not is_model(path)]
    saved = os.path.realpath(values["SAVED_MODEL_PATH"])
    disturbed = values["DISTURBED_BATCHES"] * max(values[f"{name}_PROB"] for name in ("ROOM", "NOISE", "NARROW_BAND"))
    refuse = [
        (
            values["SAVED_MODEL_PATH"].endswith(".last.pt"),
            "SAVED_MODEL_PATH={SAVED_MODEL_PATH} must not end in .last.pt, the ending of checkpoints.",
        ),
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
    raise_first(refuse, values | {"missing": missing[0] if missing else ""})


def report_overruled(shape: dict) -> None:
    """Print which settings of `myconfig.py` a model's own ones replace, if any."""
    names = [name for name in settings_in_use(shape) if getattr(myconfig, name) != shape[name]]
    if names:
        own = ", ".join(f"{name}={display(shape[name])}" for name in names)
        present = ", ".join(display(getattr(myconfig, name)) for name in names)
        print(f"The model's {own} {'are' if len(names) > 1 else 'is'} used, not {present} of myconfig.py.", flush=True)


def is_model(path: str) -> bool:
    """Whether there is a model at this path, or a shipped one of this name."""
    try:
        return bool(find_model(path))
    except ValueError:
        return False


def check_model(values: dict) -> None:
    """Check each value alone, and those that shape a model against each other. Raises ValueError."""
    for name, value in values.items():
        if name == "DEVICE":  # Exercises give a `torch.device`; a GPU may have a number.
            value = str(value).partition(":")[0]
        if name in CHOICES:
            valid = any(value == choice and type(value) is type(choice) for choice in CHOICES[name])
        elif name in LIMITS:
            valid = is_within_limits(name, value)
        else:
            valid = isinstance(value, str) and (value != "" or name in OPTIONAL_TEXTS)
        if not valid:
            expected = allowed_values(name) if name in CHOICES or name in LIMITS else "a path"
            # A number in quotes would look right without them.
            is_text = isinstance(CHOICES.get(name, (0,))[0], str)
            shown = repr(value) if isinstance(value, str) and not is_text else display(value)
            raise ValueError(f"{name}={shown} is not {expected}.")
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


def is_within_limits(name: str, value: object) -> bool:
    """Whether a number, or each number of a tuple, has the type and lies in the range that LIMITS gives."""
    low, high = LIMITS[name]
    if isinstance(value, tuple) != (name in LISTS):
        return False
    items = value if isinstance(value, tuple) else (value,)
    kinds = (int,) if isinstance(low, int) else (int, float)
    return len(items) > 0 and all(
        isinstance(item, kinds) and not isinstance(item, bool) and low <= item <= high for item in items
    )


def refuse_contradictions(shape: dict, path: str, typed: Collection[str]) -> None:
    """Raise ValueError if one of the typed settings has another value than in the model at this path."""
    for name in set(settings_in_use(shape)) & set(typed):
        if getattr(myconfig, name) != shape[name]:
            raise ValueError(
                f"{name}={getattr(myconfig, name)} contradicts {path}, which was trained with {shape[name]}."
            )


@contextlib.contextmanager
def override(**values: object) -> Iterator[None]:
    """Change these settings in `myconfig` inside a `with` block: for notebooks and tests. Raises ValueError.

    They are those of the process, so that all threads see them. Also if blocks of several threads overlap, all is as
    before when the last has ended.
    """
    with changing:
        before = {name: getattr(myconfig, name) for name in known(values)}
        put_back.append(before)
        vars(myconfig).update(values)
    try:
        yield
    finally:
        with changing:
            place = next(number for number, other in enumerate(put_back) if other is before)
            del put_back[place]
            for name, value in before.items():
                # Another thread may have entered later, and still be inside: then it puts this back.
                later = next((other for other in put_back[place:] if name in other), vars(myconfig))
                later[name] = value
