"""Lists of recordings: those in a folder, and those that a CSV file names."""

import csv
import glob
import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from audio.decoder import audio_endings
from foundation.paths import expand_home

HEADER = ["speaker", "path", "group"]


# A path, or several.
Paths = str | os.PathLike | Sequence[str | os.PathLike]


def as_paths(files: Paths) -> list[str]:
    """The paths of one recording or several; `~` is the home folder."""
    several = [files] if isinstance(files, (str, os.PathLike)) else files
    return [expand_home(os.fspath(file)) for file in several]


def find_audio_files(folder: str | Path, go_deeper: bool = True, above: str | Path | None = None) -> list[str]:
    """The files in a folder, and with `go_deeper` in the folders below it, that look like sound or film, sorted.

    Hidden files and folders do not count. Links to folders are followed, unless they lead back to where they are, or to
    the folder `above`.
    """
    endings = audio_endings()
    return sorted(
        os.path.join(inside, name)  # noqa: PTH118 - pathlib takes three times as long over 100,000 files.
        for inside, names in walk(folder, go_deeper, above or folder)
        for name in names
        if os.path.splitext(name)[1].lower() in endings and not name.startswith(".")  # noqa: PTH122
    )


def expand_files(names: Sequence[str]) -> list[str]:
    """The audio files that names, folders and patterns stand for. Raises ValueError for one that stands for none.

    Brackets in a pattern stand for themselves, or for one of several letters where nothing matches otherwise.
    """
    files = []
    for name in map(expand_home, names):
        matches = [name] if Path(name).exists() else find_matches(name.replace("[", "[[]")) or find_matches(name)
        found = []
        for match in matches:
            if Path(match).is_dir():
                found += find_audio_files(match)
            elif match == name or Path(match).suffix.lower() in audio_endings():
                found.append(match)
        if not found:
            raise ValueError(f"{name} has no audio files." if matches else f"{name} does not exist.")
        files += found
    return list(dict.fromkeys(files))


def find_matches(pattern: str) -> list[str]:
    """The files and folders that match a pattern, sorted."""
    return sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207


def walk(folder: str | Path, go_deeper: bool, above_all: str | Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder that is not hidden, with the names of its files; circles of links are named and left out."""
    # Folder -> itself and those above it, without links.
    ways = {str(folder): {os.path.realpath(folder), os.path.realpath(above_all)}}
    for inside, folders, names in os.walk(folder, followlinks=True):
        yield inside, names
        above = ways.pop(inside)
        below, folders[:] = [name for name in folders if not name.startswith(".") and go_deeper], []
        for name in below:
            path = os.path.join(inside, name)  # noqa: PTH118
            real = os.path.realpath(path)
            if real in above:
                print(f"Warning: {path} leads back to {real}, and is not followed.", file=sys.stderr)
                continue
            ways[path] = above | {real}
            folders.append(name)


def read_csv(csv_path: str, check_files: bool = False) -> list[tuple[str, str, str]]:
    """The rows `speaker,path` or `speaker,path,group` of a CSV file: speaker, path, and group or "".

    A header is optional, paths are relative to the CSV's folder. Raises ValueError, with the line number, for a row in
    another format, a file listed under two speakers, a speaker in two groups, or with `check_files` a missing file.
    """
    if not Path(csv_path).is_file():
        raise ValueError(f"there is no CSV file {csv_path}.")
    listed: list[tuple[str, str, str]] = []
    speaker_of: dict[str, str] = {}
    group_of: dict[str, str] = {}
    try:
        # Names of files may have bytes that are not UTF-8; `surrogateescape` keeps them as they are.
        with Path(csv_path).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.reader(file, skipinitialspace=True)
            for row in rows:
                place = f"{csv_path}, line {rows.line_num}"
                if not any(field.strip() for field in row) or is_header(row):
                    continue
                if "\0" in "".join(row) or (has_bytes(row[0]) and not has_bytes("".join(row[1:2]))):
                    raise ValueError(f"{place}: the list is not in UTF-8.")
                if len(row) not in (2, 3) or not row[0].strip() or not row[1].strip():
                    raise ValueError(f"{place}: expected `speaker,path`, found {','.join(row)[:80]!r}.")
                speaker, utt = same_letters(row[0].strip()), str(Path(csv_path).parent / expand_home(row[1].strip()))
                group = row[2].strip() if len(row) == 3 else ""
                if check_files and not os.path.isfile(utt):  # noqa: PTH113 - pathlib raises OSError for long paths.
                    raise ValueError(f"{place}: there is no file {utt}.{hint_for(row[1], rows.line_num)}")
                if speaker_of.setdefault(utt, speaker) != speaker:
                    raise ValueError(f"{place}: {utt} is also listed under speaker {speaker_of[utt]!r}.")
                if group_of.setdefault(speaker, group) != group:
                    raise ValueError(
                        f"{place}: speaker {speaker!r} is in two groups, {group_of[speaker]!r} and {group!r}."
                    )
                listed.append((speaker, utt, group))
    except csv.Error as error:
        raise ValueError(f"{csv_path} is not a CSV file: {error}.") from None
    if not listed:
        raise ValueError(f"{csv_path} lists no files.")
    return listed


def is_header(row: list[str]) -> bool:
    """Whether a row names the columns."""
    return [field.strip().lower() for field in row] in (HEADER, HEADER[:2])


def hint_for(path: str, line: int) -> str:
    """Why a listed file may be missing, in words."""
    if has_bytes(path):
        return " The list may not be in UTF-8."
    if "\\" in path and os.name != "nt":
        return " The list seems to come from Windows: write / instead of \\ in its paths."
    return " A header must be `speaker,path`." if line == 1 else ""


def same_letters(name: str) -> str:
    """A name in Unicode's composed form (NFC), because the same letters can be written in two ways."""
    return unicodedata.normalize("NFC", name)


def has_bytes(text: str) -> bool:
    """Whether a text has bytes that are not UTF-8, kept by `surrogateescape`; file names can have such bytes."""
    return any("\udc80" <= letter <= "\udcff" for letter in text)
