"""How settings reach the scripts: `NAME=value` on the command line, checks of every value, and `--help`.

A script calls `read_command_line` before its slow imports, so that help and errors appear at once. What works with
features or a model gets a `Config`: the settings as they are at its start, with those of the model.
"""

import contextlib
import inspect
import os
import sys
import threading
import types
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from foundation import script
from foundation.paths import expand_home
from foundation.setting_checks import check, check_name, myconfig
from foundation.setting_table import SETTINGS, YES_OR_NO, allowed_values, display, settings_in_use

TRUE_WORDS = ("true", "yes", "on", "1")
FALSE_WORDS = ("false", "no", "off", "0")

# What each override that holds at present puts back at its end.
put_back: list[dict] = []
changing = threading.Lock()


class Config(types.SimpleNamespace):
    """A value for each setting, under its name: `config.N_MFCC`. It is made once, and nobody changes it."""

    def but(self, **changes: object) -> "Config":
        """Another one with these values changed, such as those of a model. Raises ValueError for unknown names."""
        return Config(**{**vars(self), **known(changes)})


def all_settings() -> dict:
    """Every setting with its current value, in the order of `myconfig.py`; `~` in a path is the home folder."""
    values = {name: value for name, value in vars(myconfig).items() if name.isupper()}
    for name, value in values.items():
        if name in SETTINGS and SETTINGS[name].kind in ("path", "paths") and isinstance(value, str):
            values[name] = ",".join(map(expand_home, value.split(",")))
    return values


def present(**changes: object) -> Config:
    """The settings as they are now, but for these changes. Raises ValueError for unknown names."""
    return Config(**all_settings()).but(**changes)


def in_one_piece(config: Config | None = None) -> Config:
    """These settings, or the present ones, but with utterances embedded as a whole."""
    return (config or present()).but(USE_FULL_SEQUENCE_INFERENCE=True)


def known(values: dict) -> dict:
    """The same values. Raises ValueError if one is of no setting."""
    for name in values:
        check_name(name, SETTINGS)
    return values


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
    lines = [inspect.cleandoc(description), "", f"Usage: python3 {script.command_name()} [NAME=value ...]", ""]
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


def apply_override(argument: str) -> str:
    """Set one setting from `NAME=value`, and return its name. Raises ValueError."""
    name, equals, text = argument.partition("=")
    values = all_settings()
    check_name(name, values)
    if not equals:
        raise ValueError(f"{name} needs a value: {name}={display(values[name])}, for example.")
    setattr(myconfig, name, parse_value(name, text))
    return name


def parse_value(name: str, text: str) -> object:
    """`text` as a value of the kind that the table of settings gives a setting. Raises ValueError."""
    _, kind, allowed, _ = SETTINGS[name]
    try:
        if allowed is YES_OR_NO:  # (0.0, 1.0) would be equal.
            return (FALSE_WORDS + TRUE_WORDS).index(text.lower()) >= len(FALSE_WORDS)
        if kind in ("whole", "number"):
            return type(allowed[0])(text)
        return tuple(map(float, text.split(","))) if kind == "numbers" else text
    except ValueError:
        raise ValueError(f"{name}={text} is not {allowed_values(name)}.") from None


def report_overruled(shape: dict) -> None:
    """Print which settings of `myconfig.py` a model's own ones replace, if any."""
    names = [name for name in settings_in_use(shape) if getattr(myconfig, name) != shape[name]]
    if names:
        own = ", ".join(f"{name}={display(shape[name])}" for name in names)
        present = ", ".join(display(getattr(myconfig, name)) for name in names)
        print(f"The model's {own} {'are' if len(names) > 1 else 'is'} used, not {present} of myconfig.py.", flush=True)


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
