"""Write a CSV file `speaker,path` for a folder of any layout, for TRAIN_DATA_CSV and TEST_DATA_CSV.

`python3 generate_csv.py my_voices "{speaker}/**" my_voices.csv`. The pattern describes the paths of recordings
in the folder: `{speaker}` is the speaker's name, `*` any part of a name, `**` any folders and names, and `{group}` a
third column by which evaluation.py reports, such as the speaker's sex: `wav/{group}/{speaker}-*.wav`.
"""

import argparse

from foundation import script
from foundation.paths import expand_home

if __name__ == "__main__":
    script.begin()
    parser = script.OptionParser(description=__doc__)
    parser.add_argument("folder", type=expand_home)
    parser.add_argument("pattern")
    parser.add_argument("csv_file", type=expand_home)
    options = parser.parse_args()

import os
import re
from pathlib import Path

from audio.recording_lists import find_audio_files
from foundation import safe_files

WILDCARDS = {"{speaker}": r"(?P<speaker>[^/]+?)", "{group}": r"(?P<group>[^/]+?)", "**": ".*", "*": "[^/]*"}


def compile_pattern(pattern: str) -> re.Pattern:
    """A pattern as a regular expression. Raises ValueError unless it has `{speaker}` exactly once."""
    if pattern.count("{speaker}") != 1 or pattern.count("{group}") > 1:
        raise ValueError(f"the pattern {pattern!r} must have {{speaker}} once, and may have {{group}} once.")
    parts = re.split(r"(\{speaker\}|\{group\}|\*\*|\*)", pattern)
    return re.compile("".join(WILDCARDS.get(part, re.escape(part)) for part in parts))


def list_recordings(folder: str, pattern: str) -> tuple[list[list[str]], int]:
    """Rows [speaker, path] or [speaker, path, group] of a folder's audio files, and how many files do not match.

    Raises ValueError if no file matches.
    """
    expression = compile_pattern(pattern)
    if not Path(folder).is_dir():
        raise ValueError(f"{folder} is not a folder.")
    files = find_audio_files(folder)
    rows = []
    for file in files:
        match = expression.fullmatch(Path(file).relative_to(folder).as_posix())
        if match:
            group = [match["group"]] if "group" in match.groupdict() else []
            rows.append([match["speaker"], file, *group])
    if not rows:
        raise ValueError(f"none of the {len(files)} audio files in {folder} matches {pattern!r}.")
    return sorted(rows), len(files) - len(rows)


def main(options: argparse.Namespace) -> None:
    """Write the CSV file that the command line asks for."""
    if not options.csv_file.lower().endswith(".csv"):
        raise ValueError(f"{options.csv_file}, the file to write, must end in .csv.")
    rows, num_others = list_recordings(options.folder, options.pattern)
    start = Path(options.csv_file).absolute().parent
    relative = ([speaker, path_from(start, file), *group] for speaker, file, *group in rows)
    safe_files.write_rows(options.csv_file, relative)
    others = f" {num_others} files do not match the pattern." if num_others else ""
    print(f"{options.csv_file}: {len({row[0] for row in rows})} speakers, {len(rows)} recordings.{others}")


def path_from(start: Path, file: str) -> str:
    """The path of a file relative to a folder, or its absolute path if there is no relative one."""
    try:
        return Path(os.path.relpath(file, start)).as_posix()
    except ValueError:  # On two drives of Windows.
        return str(Path(file).absolute())


if __name__ == "__main__":
    script.run(lambda: main(options))
