"""What scripts share: their options, and errors that a user can fix, reported in one sentence."""

import argparse
import errno
import io
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

# The error codes of a full disk, and of the limits of a user or a file.
NO_ROOM = tuple(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name))


class OptionParser(argparse.ArgumentParser):
    """The options of a script; a mistake in them is reported in one line, like every mistake."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """End the script."""
        fail(f"{message}. --help says more.")


def run(main: Callable[[], None]) -> None:
    """Run a script's `main`; an error that a user can fix (ValueError, OSError) becomes one sentence."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # The terminal may lack characters of a file name.
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGINT, interrupt)
    try:
        main()
    except (ValueError, OSError) as error:
        if getattr(error, "errno", None) in NO_ROOM:
            fail(f"there is no room on the disk ({error}): make some, and the same command goes on.")
        if isinstance(error, OSError) and error.filename and error.strerror:
            fail(f"{error.filename}: {error.strerror.lower()}.")
        fail(error)
    except KeyboardInterrupt:
        print("\nStopped. The same command continues from what is saved, if anything is.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if isinstance(error, (MemoryError, RuntimeError)) and "memory" in f"{error!r}".lower():
            fail(
                "there is not enough memory: take fewer or shorter recordings at a time, or in training lower "
                "BATCH_SIZE, SEQ_LEN or LSTM_HIDDEN_SIZE."
            )
        traceback.print_exc()
        sys.exit(70)  # Python's own exit code 1 can be an answer.


def interrupt(*_: object) -> NoReturn:
    """Stop the script when its threads have finished their current work; a second interrupt stops it at once."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt


def fail(message: object) -> NoReturn:
    """End the script with one line on the error stream and exit code 2."""
    print(f"Error: {printable(str(message))}", file=sys.stderr)
    sys.exit(2)


def printable(text: str) -> str:
    """The text with line ends and control characters, which file names may have, written as escapes."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
