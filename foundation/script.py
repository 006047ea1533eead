"""What scripts share: their options, and ends that a user understands, each in one sentence."""

import argparse
import errno
import io
import json
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from foundation.paths import PROJECT_DIR

# The error codes of a full disk, and of the limits of a user or a file.
NO_ROOM = tuple(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name))

# Exit codes. Python's own 1 can be the answer "no".
MISTAKE, INTERNAL_ERROR, STOPPED, OUTPUT_CLOSED = 2, 70, 130, 141

# What the files of this project import of others.
PACKAGES = {"torch", "numpy", "scipy", "soundfile", "soxr", "av", "matplotlib", "tqdm", "filelock", "sklearn"}
PACKAGES |= {"librosa", "gradio", "threadpoolctl"}

JOINERS, LATIN, BLANKS = "\u200c\u200d", "A-Za-z\u00aa-\u024f", "\u115f\u1160\u2800\u3164\uffa0"

STOPPED_WORDS = "\nStopped. The same command continues from what is saved, if anything is."

is_interrupted = False

# Set by the page, to stop the work that it has begun.
stop_request = threading.Event()


class OptionParser(argparse.ArgumentParser):
    """The options of a script; a mistake in them is reported in one line, like every mistake."""

    is_intermixing = False

    def __init__(self, **options: Any) -> None:
        prog = {"prog": f"python3 {command_name()}"}
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **prog | options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As ever, but options may also stand between the other arguments of a command."""
        if self.is_intermixing or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self.is_intermixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.is_intermixing = False

    def error(self, message: str) -> NoReturn:
        """End the script."""
        for kind, words in (("float", "not a number"), ("int", "not a whole number")):
            message = message.replace(f"invalid {kind} value:", f"{words}:")
        fail(f"{message}. --help says more.")


def command_name() -> str:
    """What stands behind `python3` to run this script: evaluation.py, or -m experiments.conditions."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"-m {spec.name.removesuffix('.__main__')}" if spec else Path(sys.argv[0]).name


def begin() -> None:
    """Called before a script's slow imports: while they last, Ctrl-C and a missing package are one sentence, too."""

    def stop(*_: object) -> NoReturn:
        print(STOPPED_WORDS, file=sys.stderr, flush=True)
        os._exit(STOPPED)

    def tell(kind: type[BaseException], error: BaseException, where: Any) -> None:
        if words := missing_package(error):
            print(f"Error: {words}", file=sys.stderr)
            os._exit(MISTAKE)
        if isinstance(error, BrokenPipeError):  # As of `--help | head`.
            os._exit(OUTPUT_CLOSED)
        if isinstance(error, OSError):
            print(f"Error: {in_words(error)}.", file=sys.stderr)
            os._exit(MISTAKE)
        sys.__excepthook__(kind, error, where)

    signal.signal(signal.SIGINT, stop)
    sys.excepthook = tell
    warnings.filterwarnings("ignore", "Failed to initialize NumPy")  # PyTorch's words before it is found missing.


def run(main: Callable[[], None]) -> None:
    """Run a script's `main`; an error that a user can fix (ValueError, OSError) becomes one sentence."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # The terminal may lack characters of a file name.
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = tell_unless_interrupt
    code: Any = 0
    try:
        try:
            main()
        except SystemExit as ending:
            code = ending.code
        raise_if_interrupted()
        sys.stdout.flush()
    except BrokenPipeError:  # As of `| head`.
        os._exit(OUTPUT_CLOSED)
    except (ValueError, OSError) as error:
        if getattr(error, "errno", None) in NO_ROOM:
            fail(f"there is no room on the disk ({error}): make some, and the same command goes on.")
        if isinstance(error, OSError) and error.filename and error.strerror:
            fail(f"{error.filename}: {error.strerror.lower()}.")
        fail(str(error) or f"{in_words(error)}.")
    except KeyboardInterrupt:
        print(STOPPED_WORDS, file=sys.stderr)
        sys.exit(STOPPED)
    except Exception as error:
        if words := missing_package(error):
            fail(words)
        if isinstance(error, (MemoryError, RuntimeError)) and "memory" in f"{error!r}".lower():
            fail(
                "there is not enough memory: take fewer or shorter recordings at a time, or in training lower "
                "BATCH_SIZE, SEQ_LEN or LSTM_HIDDEN_SIZE."
            )
        traceback.print_exc()
        sys.exit(INTERNAL_ERROR)
    if "WORLD_SIZE" in os.environ:  # PyTorch's threads between processes sometimes abort where the interpreter ends.
        os._exit(code or 0)
    if code:
        sys.exit(code)


def interrupt(*_: object) -> NoReturn:
    """Stop the script when its threads have finished their current work; a second interrupt stops it at once."""
    global is_interrupted
    is_interrupted = True
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt after a Ctrl-C: its own exception is lost if it comes in a callback of Python's.

    Raise ValueError after a stop request.
    """
    if is_interrupted:
        raise KeyboardInterrupt
    if stop_request.is_set():
        raise ValueError("You stopped it.")


def tell_unless_interrupt(unraisable: Any) -> None:
    """What Python does with an exception that it cannot raise, but for an interrupt, which is remembered."""
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


def fail(message: object) -> NoReturn:
    """End the script with one line on the error stream and exit code 2."""
    try:
        print(f"Error: {printable(str(message))}", file=sys.stderr, flush=True)
    except OSError:  # Nobody reads it.
        os._exit(MISTAKE)
    sys.exit(MISTAKE)


def fail_in_settings(error: Exception) -> NoReturn:
    """Tell a mistake in `myconfig.py` that Python found: end the script, or raise ValueError where there is none."""
    line = error.lineno if isinstance(error, SyntaxError) else traceback.extract_tb(error.__traceback__)[-1].lineno
    words = error.msg if isinstance(error, SyntaxError) else str(error)
    if isinstance(error, NameError):
        words += ": write True and False with capitals, and texts in quotes"
    message = f"myconfig.py, line {line}: {words}."
    if Path(sys.argv[0]).resolve().parent in (PROJECT_DIR, *PROJECT_DIR.iterdir()):
        fail(message)
    raise ValueError(message) from None


def show(as_json: bool, answer: object, text: str) -> None:
    """Print an answer as JSON, for programs, or as text."""
    print(json.dumps(answer, indent=2) if as_json else text)


def is_printable(text: str) -> bool:
    """Whether a text has no line ends, control characters and blanks that look like nothing.

    The joiners between letters, of Persian and Hindi for instance, are none of these; Latin letters need no joiners.
    """
    joins = re.sub(rf"(?<=[^\W\d_{LATIN}]|[\u0900-\u0dff])[{JOINERS}](?=[^\W\d_{LATIN}])", "", text)
    return all(letter.isprintable() and letter not in BLANKS for letter in joins)


def printable(text: str) -> str:
    """The text with line ends and control characters, which file names may have, written as escapes."""
    return "".join(letter if is_printable(letter) else ascii(letter)[1:-1] for letter in text)


def in_words(error: BaseException) -> str:
    """What an error says, or at least of which kind it is, without a full stop at the end."""
    words = getattr(error, "strerror", None) or str(error)  # Errors of FFmpeg have one, too.
    return (words or f"an error of the kind {type(error).__name__}").removesuffix(".")


def missing_package(error: BaseException) -> str | None:
    """What to do if the error is a package that is not installed, in words; None for all else."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if name not in PACKAGES:
        return None
    wanted = "requirements-use.txt" if Path(sys.argv[0]).name == "speaker_id.py" else "requirements.txt"
    return f"{name} is not installed: pip3 install -r {wanted}."
