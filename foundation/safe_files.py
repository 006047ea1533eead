"""Files that are complete or missing, whatever happens while they are written."""

import contextlib
import csv
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import filelock


@contextlib.contextmanager
def replace_when_whole(path: str | Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` for writing, and rename it to `path` if the block ends without an error.

    The folder is made if it is missing. Raises OSError if the disk is full or read-only.
    """
    temporary = Path(f"{path}.tmp")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, completely or not at all."""
    with replace_when_whole(path) as file:
        file.write(text.encode("utf-8", errors="surrogateescape"))


def write_rows(path: str | Path, rows: Iterable[Sequence], delimiter: str = ",") -> None:
    """Write rows as CSV, completely or not at all: see `rows_as_text`."""
    write_text(path, rows_as_text(rows, delimiter))


def rows_as_text(rows: Iterable[Sequence], delimiter: str = ",") -> str:
    """Rows as CSV; fields with a delimiter, a quote or a line end stand in quotes."""
    lines = []
    for row in rows:
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=delimiter).writerow(row)  # It quotes both parts of its own line end, "\r\n".
        lines.append(text.getvalue().removesuffix("\r\n"))
    return "".join(f"{line}\n" for line in lines)


def digest_of(path: str | Path) -> str:
    """A hash of a file's bytes, read a piece at a time; "" if it cannot be read."""
    digest = hashlib.sha256()
    try:
        if not Path(path).is_file():  # Reading a named pipe could block for ever.
            return ""
        with Path(path).open("rb") as content:
            while block := content.read(2**20):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()


@contextlib.contextmanager
def only_one_process(path: str | Path) -> Iterator[None]:
    """Hold the lock of a file that only one process may write. Raises ValueError if another one holds it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    owner = Path(f"{path}.lock.owner")  # Not in the lock itself, which cannot be read on Windows while it is held.
    try:
        with filelock.FileLock(f"{path}.lock", timeout=0):
            with contextlib.suppress(OSError):  # It only helps another process to name this one in its error.
                write_text(owner, str(os.getpid()))
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    owner.unlink()
    except filelock.Timeout:
        who = "another process"
        with contextlib.suppress(OSError):
            who += f", with the id {owner.read_text(encoding='utf-8')},"
        raise ValueError(f"{who} is writing {path}: wait for it, or write elsewhere.") from None
