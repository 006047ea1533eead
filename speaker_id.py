"""Use a model on your own recordings: verify, enrol, identify, who spoke when, sort, embed, map.

Wherever a command takes files, it takes folders and patterns too. The functions behind the commands are in `voices/`.
Exit codes: 0 yes (of several files, in one of them) or done, 1 no, 3 cannot tell, 2 a mistake.
"""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from foundation import script, setting_checks, settings
from foundation.paths import expand_home

DEFAULT_MODEL = Path(__file__).with_name("saved_model") / "pretrained" / "lstm160-tdnn148.pt"
DEFAULT_DATABASE = "speakers.db"
FILES_HELP = "recordings, folders of them, or patterns"


def build_parser() -> script.OptionParser:
    """The command line."""
    parser = script.OptionParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    common = script.OptionParser(add_help=False)
    common.add_argument(
        "--model", type=expand_home, default=str(DEFAULT_MODEL), help="a model (default: the best pretrained one)"
    )
    common.add_argument("--json", action="store_true", help="print JSON, for programs")
    decision = script.OptionParser(add_help=False)
    decision.add_argument("--far", type=float, default=0.01, help="false-accept rate of the threshold (default: 0.01)")
    decision.add_argument("--explain", action="store_true", help="show how it is known: scores and rates")
    decision.add_argument("--threshold", type=float, help="accept scores of this value or more, instead of --far")
    database = script.OptionParser(add_help=False)
    database.add_argument(
        "--db", type=expand_home, default=DEFAULT_DATABASE, help=f"the database (default: {DEFAULT_DATABASE})"
    )

    def add(name: str, help: str, *parents: script.OptionParser) -> script.OptionParser:
        return commands.add_parser(name, help=help, description=help, parents=parents)

    command = add("verify", "Did the same person say both?", common, decision)
    command.add_argument("first", help="a recording, or a folder of recordings of one person")
    command.add_argument("second", help="the same")
    add_enrol_options(add("enrol", "Add a person; more recordings make it surer.", common, database))
    command = add("identify", "Which enrolled person speaks?", common, decision, database)
    command.add_argument("files", nargs="+", help=FILES_HELP)
    add("list", "Who is enrolled?", common, database)
    add("remove", "Remove a person and all their data.", common, database).add_argument("name", help="who is enrolled")
    command = add("rename", "Give a person another name.", common, database)
    command.add_argument("old", help="an enrolled person")
    command.add_argument("new", help="the name from now on")
    add_timeline_options(add("timeline", "Who spoke when? Draws a picture, too.", common, decision, database))
    command = add("sort", "Who speaks in many recordings? Groups of one voice each.", common, decision, database)
    command.add_argument("files", nargs="+", help=FILES_HELP)
    command.add_argument("--copy-to", type=expand_home, metavar="FOLDER", help="copy each group to a folder in it")
    command = add("embed", "Write the embeddings of recordings to a file.", common)
    command.add_argument("files", nargs="+", help=FILES_HELP)
    command.add_argument(
        "--out", type=expand_home, default="embeddings.npz", help="an .npz or .csv file (default: embeddings.npz)"
    )
    command = add("map", "Draw recordings as points, similar voices near to each other.", common)
    command.add_argument("files", nargs="+", help=FILES_HELP)
    command.add_argument("--out", type=expand_home, default="map.png", help="the picture (default: map.png)")
    return parser


def add_enrol_options(command: script.OptionParser) -> None:
    """The options of `enrol`."""
    command.add_argument("name", help="the person's name, as answers will show it")
    command.add_argument("files", nargs="*", help=FILES_HELP)
    command.add_argument("--from", dest="meeting", type=expand_home, metavar="FILE", help="take a voice of a recording")
    command.add_argument("--voice", help='its name in the timeline, with the same --db and --speakers: "speaker 1"')
    command.add_argument("--speakers", type=int, help="how many people speak in it, as given to the timeline")
    command.add_argument("--more", action="store_true", help="add recordings to somebody who is enrolled")


def add_timeline_options(command: script.OptionParser) -> None:
    """The options of `timeline`."""
    command.add_argument("files", nargs="+", help=FILES_HELP)
    command.add_argument(
        "--unknown",
        choices=("one", "cluster"),
        default="one",
        help="cluster: tell unknown voices apart (speaker 1, speaker 2 ...), as is always done if nobody is enrolled",
    )
    command.add_argument(
        "--speakers", type=int, help="how many people speak, enrolled or not; a wrong number splits or mixes voices"
    )
    command.add_argument(
        "--format",
        choices=("text", "json", "rttm", "csv", "audacity", "srt"),
        default="text",
        help="for people (default), programs, diarisation tools, spreadsheets, Audacity or (srt) players of films",
    )
    command.add_argument("--channels", action="store_true", help="a call with a person on each of two channels")
    command.add_argument("--rttm", action="store_const", dest="format", const="rttm", help="the same as --format rttm")
    command.add_argument("--out", type=expand_home, help="a file for the turns, instead of printing them")
    command.add_argument("--force", action="store_true", help="replace the file of --out if it exists")
    command.add_argument(
        "--plot", type=expand_home, default="timeline.png", help="the picture, numbered if there are several files"
    )


if __name__ == "__main__":
    script.begin()
    options = build_parser().parse_args()

from audio.recording_lists import expand_files
from foundation.paths import find_model
from voices import database as speaker_database

# Functions that can be had from here, and where they are; see `docs/api.md`.
FUNCTIONS = dict.fromkeys(("verify", "identify", "decision_for", "model_of"), "voices.answers")
FUNCTIONS |= {"hear": "voices.recordings", "find_timeline": "voices.timeline", "sort_recordings": "voices.sorting"}
FUNCTIONS |= {"enrol": "voices.enrolment", "read_people": "voices.database", "load_model": "encoder.model_files"}


def __getattr__(name: str) -> Any:
    """One of FUNCTIONS, whose file is loaded when it is used."""
    if name not in FUNCTIONS:
        raise AttributeError(f"module 'speaker_id' has no attribute {name!r}")
    return getattr(importlib.import_module(FUNCTIONS[name]), name)


# ----------------------------- Commands that need no model -----------------------------


def run_list(options: argparse.Namespace) -> int:
    """The command `list`."""
    with speaker_database.open_database(options.db) as connection:
        rows = speaker_database.list_speakers(connection)
    lines = [
        f"{name}: {number} recording{'' if number == 1 else 's'}, {seconds:.1f} s of speech, {added} UTC"
        for name, number, seconds, added in rows
    ]
    people = [
        {"name": name, "recordings": number, "speech_seconds": seconds, "added": f"{added.replace(' ', 'T')}Z"}
        for name, number, seconds, added in rows
    ]
    script.show(options.json, people, "\n".join(lines) or "Nobody is enrolled.")
    return 0


def run_remove(options: argparse.Namespace) -> int:
    """The command `remove`."""
    with speaker_database.open_database(options.db, "write") as connection:
        speaker_database.remove(connection, options.name)
    script.show(options.json, {"removed": options.name}, f"{options.name} is removed.")
    return 0


def run_rename(options: argparse.Namespace) -> int:
    """The command `rename`."""
    with speaker_database.open_database(options.db, "write") as connection:
        speaker_database.rename(connection, options.old, options.new)
    script.show(options.json, {"old": options.old, "new": options.new}, f"{options.old} is now {options.new}.")
    return 0


def check_ending(option: str, path: str, *endings: str) -> None:
    """Raise ValueError if an output file has another ending, because it may be one of the user's recordings."""
    if not path.lower().endswith(endings):
        raise ValueError(f"{option} {path} must end in {' or '.join(endings)}.")


def check_out(options: argparse.Namespace) -> None:
    """Check that --out names a file that can be written, and is none of the others. Raises ValueError."""
    out = Path(options.out)
    if not options.out or out.is_dir() or not out.absolute().parent.is_dir():
        raise ValueError(f"--out {options.out!r} is not a file in a folder that exists.")
    others = [*options.files, options.db, options.model, options.plot]
    if out.resolve() in [Path(other).resolve() for other in others] or out.suffix.lower() == ".png":
        raise ValueError(f"--out {options.out} is a recording, the database, the model or a picture.")
    if out.exists() and not out.is_file():
        raise ValueError(f"--out {options.out} is not an ordinary file.")
    if out.exists() and not options.force:
        raise ValueError(f"{options.out} exists: choose another file, or add --force to replace it.")


def check_timeline(options: argparse.Namespace) -> None:
    """Check the options of `timeline`, and set its format. Raises ValueError."""
    check_ending("--plot", options.plot, ".png")
    if options.channels and options.speakers is not None:
        raise ValueError("choose one of --channels and --speakers.")
    if options.json and options.format not in ("text", "json"):
        raise ValueError(f"choose one of --json and --format {options.format}.")
    if options.out is not None:
        check_out(options)
    if options.format in ("audacity", "srt") and len(options.files) > 1:
        raise ValueError(f"--format {options.format} has no place for the names of {len(options.files)} recordings.")
    if options.format == "rttm" and len({Path(file).stem for file in options.files}) < len(options.files):
        raise ValueError("RTTM identifies recordings only by their names, and two of these have the same name.")


def check_files(options: argparse.Namespace) -> None:
    """Find the recordings that the options name, and check what can be checked before the model is loaded.

    Raises ValueError for what does not exist, or cannot be written.
    """
    if "speakers" in options and options.speakers is not None and options.speakers < 1:
        raise ValueError(f"--speakers {options.speakers} is less than 1.")
    if options.command == "enrol" and (options.meeting is None) != (options.voice is None):
        raise ValueError("--from and --voice belong together: a recording, and the name of a voice in its timeline.")
    if options.command == "enrol" and options.meeting is None and options.speakers is not None:
        raise ValueError("--speakers belongs to --from: how many people speak in that recording.")
    if options.command == "enrol" and (options.meeting is None) == (not options.files):
        raise ValueError("name recordings of the person, or a voice with --from and --voice.")
    if options.command == "enrol" and options.meeting is not None:
        options.meeting, *others = expand_files([options.meeting])
        if others:
            raise ValueError(f"--from takes one recording, and these are {len(others) + 1}.")
    elif options.command == "verify":
        options.first, options.second = expand_files([options.first]), expand_files([options.second])
    else:
        options.files = expand_files(options.files)
    if options.command == "map":
        check_ending("--out", options.out, ".png")
    elif options.command == "embed":
        check_ending("--out", options.out, ".npz", ".csv")
    if options.command == "timeline":
        check_timeline(options)
    if options.command == "enrol" and len(options.files) and Path(options.name).is_file():
        raise ValueError(f"{options.name} is a file: the name of the person comes first.")
    is_named = "db" in options and (speaker_database.is_there(options.db) or options.db != DEFAULT_DATABASE)
    if options.command == "identify" or (options.command in ("timeline", "sort") and is_named):
        with speaker_database.open_database(options.db) as connection:
            speaker_database.list_speakers(connection)
    options.model = find_model(options.model)


def main(options: argparse.Namespace) -> None:
    """Run the command, and end with its exit code."""
    setting_checks.check_each(settings.all_settings())  # The settings of myconfig.py, which were not checked before.
    without_model = {"list": run_list, "remove": run_remove, "rename": run_rename}
    if options.command in without_model:
        sys.exit(without_model[options.command](options))
    check_files(options)
    from voices import commands  # Slow: mistakes do not wait for it.

    sys.exit(commands.run(options))


if __name__ == "__main__":
    script.run(lambda: main(options))
