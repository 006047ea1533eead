"""Who is enrolled: a SQLite database of embeddings, which several processes may read and write at once.

An embedding identifies a person like a fingerprint. Only the owner can read the file (on Windows, it has the
permissions of its folder), and removed data are overwritten in the file. All its embeddings come from one model:
those of different models cannot be compared.
"""

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from audio.recording_lists import same_letters
from foundation.paths import expand_home
from foundation.script import is_printable

# Marks the file as ours, in the header field that SQLite has for that.
APPLICATION_ID = 0x53505249
SCHEMA = """
CREATE TABLE IF NOT EXISTS model (fingerprint TEXT NOT NULL, dimensions INTEGER NOT NULL, path TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS recordings (
    speaker TEXT NOT NULL,
    file TEXT NOT NULL,
    sha256 TEXT NOT NULL UNIQUE,
    speech_seconds REAL NOT NULL,
    added TEXT NOT NULL,
    embedding BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS recordings_of_speaker ON recordings (speaker);
"""
# SQLite keeps values of any type in any column.
WRONG_TYPES = (
    "(typeof(speaker), typeof(speech_seconds), typeof(added), typeof(embedding)) <> ('text', 'real', 'text', 'blob')"
)
SECONDS_TO_WAIT = 60.0

# The name for speakers who are not in the database, and what answers may call them.
UNKNOWN = "unknown"
STRANGERS = "unknown|nobody i know|(probably|cannot tell).*"

# The longest name.
MOST_LETTERS = 100


class Model(NamedTuple):
    """The model that made the embeddings: a hash of its weights, the length of an embedding, and its path."""

    fingerprint: str
    dimensions: int
    path: str


class Recording(NamedTuple):
    """One recording of somebody: file, hash of its bytes, seconds of speech, embedding (dimensions,) of length 1."""

    file: str
    sha256: str
    speech_seconds: float
    embedding: np.ndarray


class People(NamedTuple):
    """Who is enrolled, sorted by name.

    The mean of each person's embeddings, float32 (people, dimensions), of length 1; the number of the person's
    recordings, and the seconds of speech in all of them.
    """

    names: list[str]
    embeddings: np.ndarray
    counts: list[int]
    seconds: np.ndarray


def nobody(dimensions: int) -> People:
    """No people, whose embeddings would have so many dimensions."""
    return People([], np.zeros((0, dimensions), np.float32), [], np.zeros(0))


def is_there(path: str) -> bool:
    """Whether there is a database; an empty file is none."""
    path = expand_home(path)
    return Path(path).exists() and Path(path).stat().st_size > 0


@contextlib.contextmanager
def open_database(path: str, mode: str = "read") -> Iterator[sqlite3.Connection]:
    """Open a database to "read", "write" or "create" it, for the length of a `with` block.

    All changes are made or none; other processes wait meanwhile. Raises ValueError if the database does not exist
    (unless it is to be created), or if the file is not such a database.
    """
    path = expand_home(path)
    if not Path(path).exists():
        if mode != "create":
            raise ValueError(f"nobody is enrolled yet (there is no {path}): `enrol` adds people.")
        with contextlib.suppress(FileExistsError):  # Another process may have created it.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    try:
        # The absolute path, because SQLite treats some names, such as :memory:, as databases that are lost at the end.
        connection = sqlite3.connect(Path(path).absolute(), timeout=SECONDS_TO_WAIT, isolation_level=None)
        try:
            connection.execute("PRAGMA secure_delete = ON")
            # Lock for writing at once, because SQLite does not wait for others if a transaction reads before it writes.
            connection.execute("BEGIN" if mode == "read" else "BEGIN IMMEDIATE")
            check_or_prepare(connection, path, mode)
            yield connection
            connection.execute("COMMIT")
        finally:
            connection.close()  # Rolls back what was not committed.
    except sqlite3.Error as error:
        raise ValueError(f"{path} cannot be used as a database of speakers: {error}.") from None


def check_or_prepare(connection: sqlite3.Connection, path: str, mode: str) -> None:
    """Create the tables in an empty file for mode "create". Raises ValueError for one that is damaged or not ours."""
    if connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID:
        if connection.execute(f"SELECT 1 FROM recordings WHERE {WRONG_TYPES} LIMIT 1").fetchone():
            raise ValueError(f"{path} is damaged.")
        if mode != "read":
            compose_names(connection)
        return
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise ValueError(f"{path} is a database of another program.")
    if mode != "create":
        raise ValueError(f"nobody is enrolled yet in {path}: `enrol` adds people.")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for statement in SCHEMA.split(";"):
        connection.execute(statement)


def compose_names(connection: sqlite3.Connection) -> None:
    """Write all names in Unicode's composed form, so that two spellings of the same letters are one person."""
    for name in list_names(connection):
        if same_letters(name) != name:
            connection.execute("UPDATE recordings SET speaker = ? WHERE speaker = ?", (same_letters(name), name))


def list_names(connection: sqlite3.Connection) -> list[str]:
    """The names of all speakers, but for values of another type, which a damaged index may have."""
    rows = connection.execute("SELECT DISTINCT speaker FROM recordings").fetchall()
    return [name for (name,) in rows if isinstance(name, str)]


def clean_name(name: str) -> str:
    """A name without spaces around it, in Unicode's composed form.

    Raises ValueError for one that cannot be printed, or is UNKNOWN.
    """
    cleaned = same_letters(name.strip())
    if re.fullmatch(STRANGERS, cleaned, re.IGNORECASE):
        raise ValueError(f"{name!r} is what strangers are called: choose another name.")
    if len(cleaned) > MOST_LETTERS:
        raise ValueError(f"{name[:30]!r}... is longer than {MOST_LETTERS} letters: choose a shorter name.")
    if not cleaned or not is_printable(cleaned):
        raise ValueError(f"{name!r} cannot be a name: it is empty, or has letters that cannot be shown.")
    return cleaned


def enrol(
    connection: sqlite3.Connection, name: str, recordings: Sequence[Recording], model: Model, more: bool = False
) -> None:
    """Add a speaker or, with `more`, recordings of an enrolled speaker.

    Raises ValueError for a name that exists (or with `more` does not), a recording that is enrolled already, or
    another model than that of the database.
    """
    name = clean_name(name)
    check_name(connection, name, more)
    if not check_model(connection, model):
        connection.execute("INSERT INTO model VALUES (?, ?, ?)", model)
    for file, sha256, speech_seconds, embedding in recordings:
        printable = file.encode("utf-8", "backslashreplace").decode()  # A file name may not be UTF-8.
        row = connection.execute("SELECT speaker, file FROM recordings WHERE sha256 = ?", (sha256,)).fetchone()
        if row:
            raise ValueError(f"{printable} is the same recording as {row[1]} of {row[0]!r}.")
        connection.execute(
            "INSERT INTO recordings VALUES (?, ?, ?, ?, datetime('now'), ?)",
            (name, printable, sha256, speech_seconds, embedding.astype("<f4").tobytes()),
        )


def check_name(connection: sqlite3.Connection, name: str, more: bool) -> None:
    """Raise ValueError for a name that exists or, with `more`, does not."""
    if more and not is_enrolled(connection, name):
        raise ValueError(f"nobody called {name!r} is enrolled, to whom recordings could be added.")
    if not more and is_enrolled(connection, name):
        raise ValueError(f"{name!r} is enrolled already: if these are more recordings of the same person, use --more.")


def is_enrolled(connection: sqlite3.Connection, name: str) -> bool:
    """Whether there is a speaker of this name."""
    return connection.execute("SELECT 1 FROM recordings WHERE speaker = ?", (name,)).fetchone() is not None


def check_model(connection: sqlite3.Connection, model: Model) -> bool:
    """Whether the database has a model yet. Raises ValueError if it is another one."""
    row = connection.execute("SELECT fingerprint, dimensions, path FROM model").fetchone()
    if row and row[:2] != model[:2]:
        raise ValueError(
            f"the people in the database were enrolled with another model, {row[2]}, and voices of two models cannot "
            "be compared: name that model (--model), or enrol everybody again in a new database (--db)."
        )
    return row is not None


def names_alike(connection: sqlite3.Connection, name: str) -> list[str]:
    """The names that differ from this one, but only in upper and lower case."""
    return [other for other in list_names(connection) if other != name and other.casefold() == name.casefold()]


def remove(connection: sqlite3.Connection, name: str) -> None:
    """Remove a speaker with all recordings, and the model with the last speaker. Raises ValueError if unknown."""
    name = same_letters(name.strip())
    if not connection.execute("DELETE FROM recordings WHERE speaker = ?", (name,)).rowcount:
        raise ValueError(f"there is no {name!r} in the database.")
    connection.execute("DELETE FROM model WHERE NOT EXISTS (SELECT 1 FROM recordings)")


def rename(connection: sqlite3.Connection, old: str, new: str) -> None:
    """Give a speaker another name. Raises ValueError if the old one is unknown or the new one exists."""
    old, new = same_letters(old.strip()), clean_name(new)
    if not is_enrolled(connection, old):
        raise ValueError(f"there is no {old!r} in the database.")
    if is_enrolled(connection, new):
        raise ValueError(f"{new!r} is enrolled already.")
    connection.execute("UPDATE recordings SET speaker = ? WHERE speaker = ?", (new, old))


def list_speakers(connection: sqlite3.Connection) -> list[tuple[str, int, float, str]]:
    """Name, number of recordings, seconds of speech, and time of the last recording (UTC) of each speaker, by name."""
    return connection.execute(
        "SELECT speaker, count(*), sum(speech_seconds), max(added) FROM recordings GROUP BY speaker ORDER BY speaker"
    ).fetchall()


def read_recordings(connection: sqlite3.Connection, model: Model) -> tuple[list[str], np.ndarray]:
    """The speaker and the embedding of each recording, float32 (recordings, dimensions), in the order of enrolment.

    Raises ValueError if they are of another model or damaged.
    """
    check_model(connection, model)
    names, parts = [], []
    for name, blob in connection.execute("SELECT speaker, embedding FROM recordings"):
        if not isinstance(name, str) or not isinstance(blob, bytes) or len(blob) != 4 * model.dimensions:
            raise ValueError("the database is damaged: it has embeddings of the wrong length.")
        names.append(name)
        parts.append(blob)
    embeddings = np.frombuffer(b"".join(parts), "<f4").reshape(len(parts), model.dimensions)
    if not np.isfinite(np.einsum("rd,rd->r", embeddings, embeddings)).all():
        raise ValueError("the database is damaged: it has embeddings that are not finite.")
    return names, embeddings


def read_people(path: str, model: Model) -> People:
    """Who is enrolled in a database, nobody where there is none. Raises ValueError as `read_recordings` does."""
    if not is_there(path):
        return nobody(model.dimensions)
    with open_database(path) as connection:
        return read_speakers(connection, model)


def read_speakers(connection: sqlite3.Connection, model: Model) -> People:
    """Who is enrolled. Raises ValueError as `read_recordings` does."""
    names, embeddings = read_recordings(connection, model)
    if not names:
        return nobody(model.dimensions)
    seconds_of = {name: seconds for name, _, seconds, _ in list_speakers(connection)}
    order = np.array(sorted(range(len(names)), key=names.__getitem__))
    first = np.array([at for at in range(len(order)) if not at or names[order[at]] != names[order[at - 1]]])
    counts = np.diff(first, append=len(order))
    sums = embeddings[order[first]]
    for number in range(1, counts.max()):  # The second recording of all who have one, then the third ...
        has_one = counts > number
        sums[has_one] += embeddings[order[first[has_one] + number]]
    lengths = np.sqrt(np.einsum("sd,sd->s", sums, sums)).clip(min=1e-12)
    people = [names[at] for at in order[first]]
    return People(people, sums / lengths[:, None], counts.tolist(), np.array([seconds_of[name] for name in people]))
