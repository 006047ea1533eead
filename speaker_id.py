"""Use a model on your own recordings: verify, enrol, identify, who spoke when, embed, map.

Wherever a command takes files, it takes folders and patterns too. The functions here do what the commands do, without
printing. Exit codes: 0 yes or done, 1 no, 2 a mistake.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from foundation import script, settings

DEFAULT_MODEL = Path(__file__).with_name("saved_model") / "pretrained" / "lstm104x5.pt"
DEFAULT_DATABASE = "speakers.db"


def build_parser() -> script.OptionParser:
    """The command line."""
    parser = script.OptionParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    common = script.OptionParser(add_help=False)
    common.add_argument("--model", default=str(DEFAULT_MODEL), help="a model (default: the best pretrained one)")
    common.add_argument("--json", action="store_true", help="print JSON, for programs")
    decision = script.OptionParser(add_help=False)
    decision.add_argument("--far", type=float, default=0.01, help="false-accept rate of the threshold (default: 0.01)")
    decision.add_argument("--threshold", type=float, help="accept scores of this value or more, instead of --far")
    database = script.OptionParser(add_help=False)
    database.add_argument("--db", default=DEFAULT_DATABASE, help=f"the database (default: {DEFAULT_DATABASE})")

    def add(name: str, help: str, *parents: script.OptionParser) -> script.OptionParser:
        return commands.add_parser(name, help=help, description=help, parents=parents)

    command = add("verify", "Did the same person say both?", common, decision)
    command.add_argument("first", help="a recording, or a folder of recordings of one person")
    command.add_argument("second", help="the same")
    command = add("enrol", "Add a person; more recordings make it surer.", common, database)
    command.add_argument("name")
    command.add_argument("files", nargs="+")
    command.add_argument("--more", action="store_true", help="add recordings to somebody who is enrolled")
    command = add("identify", "Which enrolled person speaks?", common, decision, database)
    command.add_argument("files", nargs="+")
    add("list", "Who is enrolled?", common, database)
    command = add("remove", "Remove a person and all their stored data.", common, database)
    command.add_argument("name")
    command = add("rename", "Give a person another name.", common, database)
    command.add_argument("old")
    command.add_argument("new")
    command = add("timeline", "Who spoke when? Draws a picture, too.", common, decision, database)
    command.add_argument("files", nargs="+")
    command.add_argument("--rttm", action="store_true", help="print RTTM, which diarisation tools read")
    command.add_argument("--out", default="timeline.png", help="the picture, numbered if there are several files")
    command = add("embed", "Write the embeddings of recordings to a file.", common)
    command.add_argument("files", nargs="+")
    command.add_argument("--out", default="embeddings.npz", help="an .npz or .csv file (default: embeddings.npz)")
    command = add("map", "Draw recordings as points, similar voices near to each other.", common)
    command.add_argument("files", nargs="+")
    command.add_argument("--out", default="map.png", help="the picture (default: map.png)")
    return parser


if __name__ == "__main__":
    script.begin()
    options = build_parser().parse_args()

import numpy as np

from foundation import parallel, pictures
from speaker_encoder import SpeakerEncoder, load_encoder
from voices import database as speaker_database
from voices import map as voice_map
from voices import timeline as speaker_timeline
from voices.answers import decision_for, describe, enrol, identify, model_of, verify
from voices.recordings import expand_files, hear, list_warnings, write_embeddings

# -------------------------------------- Commands ---------------------------------------


def show(answer: object, text: str) -> None:
    """Print an answer as JSON or as text."""
    print(json.dumps(answer, indent=2) if options.json else text)


def warn(warnings: Sequence[tuple[str, str]]) -> None:
    """Print warnings on the error stream."""
    for file, words in warnings:
        print(f"Warning: {script.printable(file)}: {words}.", file=sys.stderr)


def run_verify(encoder: SpeakerEncoder) -> int:
    """The command `verify`: 0 for the same person, 1 for two."""
    decision = decision_for(encoder, options.far, options.threshold)
    answer = verify(encoder, expand_files([options.first]), expand_files([options.second]), decision)
    warn(answer["warnings"])
    same = "the same speaker" if answer["same"] else "different speakers"
    show(answer, f"{same}: score {answer['score']:.3f}, {describe(decision)}.")
    return 0 if answer["same"] else 1


def check_ending(path: str, *endings: str) -> None:
    """Raise ValueError if an output file has another ending, because it may be one of the user's recordings."""
    if not path.lower().endswith(endings):
        raise ValueError(f"--out {path} must end in {' or '.join(endings)}.")


def run_enrol(encoder: SpeakerEncoder) -> int:
    """The command `enrol`."""
    files = expand_files(options.files)
    seconds, warnings = enrol(encoder, options.db, options.name, files, options.more)
    warn(warnings)
    answer = {"name": options.name, "recordings": len(files), "speech_seconds": seconds}
    show(answer, f"{options.name} is enrolled: heard {seconds:.1f} s of speech in {len(files)} recordings.")
    return 0


def run_identify(encoder: SpeakerEncoder) -> int:
    """The command `identify`: 1 if nobody was identified in any recording."""
    decision = decision_for(encoder, options.far, options.threshold)
    answers = identify(encoder, options.db, expand_files(options.files), decision)
    lines = []
    for answer in answers:
        warn(answer["warnings"])
        ranking = ", ".join(f"{name} {score:.3f}" for name, score in answer["ranking"])
        lines.append(f"{script.printable(answer['file'])}: {answer['speaker'] or speaker_database.UNKNOWN} ({ranking})")
    show(answers, "\n".join([*lines, f"With {describe(decision)}."]))
    return 0 if any(answer["speaker"] for answer in answers) else 1


def run_list() -> int:
    """The command `list`."""
    with speaker_database.open_database(options.db) as connection:
        rows = speaker_database.list_speakers(connection)
    lines = [
        f"{name}: {number} recordings, {seconds:.1f} s of speech, {added} UTC" for name, number, seconds, added in rows
    ]
    keys = ("name", "recordings", "speech_seconds", "added")
    show([dict(zip(keys, row, strict=True)) for row in rows], "\n".join(lines) or "Nobody is enrolled.")
    return 0


def run_remove() -> int:
    """The command `remove`."""
    with speaker_database.open_database(options.db, "write") as connection:
        speaker_database.remove(connection, options.name)
    show({"removed": options.name}, f"{options.name} is removed.")
    return 0


def run_rename() -> int:
    """The command `rename`."""
    with speaker_database.open_database(options.db, "write") as connection:
        speaker_database.rename(connection, options.old, options.new)
    show({"old": options.old, "new": options.new}, f"{options.old} is now {options.new}.")
    return 0


def run_timeline(encoder: SpeakerEncoder) -> int:
    """The command `timeline`."""
    check_ending(options.out, ".png")
    if options.rttm and options.json:
        raise ValueError("choose one of --rttm and --json.")
    files = expand_files(options.files)
    if options.rttm and len({Path(file).stem for file in files}) < len(files):
        raise ValueError("RTTM identifies recordings only by their names, and two of these have the same name.")
    decision = decision_for(encoder, options.far, options.threshold)
    with speaker_database.open_database(options.db) as connection:
        names, enrolled = speaker_database.read_speakers(connection, model_of(encoder))
    answers = {}
    for number, file in enumerate(files, start=1):
        timeline = speaker_timeline.find_timeline(encoder, file, names, enrolled, decision.threshold)
        picture = Path(options.out).with_stem(Path(options.out).stem + (f"-{number}" if len(files) > 1 else ""))
        pictures.save(str(picture), speaker_timeline.draw_timeline(timeline, decision.threshold))
        warn([(file, words) for words in timeline.faults])
        answers[file] = timeline.turns
    if options.rttm:
        print("".join(speaker_timeline.to_rttm(turns, file) for file, turns in answers.items()), end="")
        return 0
    lines = []
    for file, turns in answers.items():
        lines += [f"{script.printable(file)}:"] if len(files) > 1 else []
        for turn in turns:
            score = "-" if turn.score is None else f"{turn.score:.3f}"
            lines.append(f"{turn.start:.1f} {turn.end:.1f} {turn.speaker} {score}")
    show({file: [turn._asdict() for turn in turns] for file, turns in answers.items()}, "\n".join(lines))
    return 0


def run_embed(encoder: SpeakerEncoder) -> int:
    """The command `embed`."""
    check_ending(options.out, ".npz", ".csv")
    heard = hear(encoder, expand_files(options.files))
    warn(list_warnings(heard))
    write_embeddings(options.out, heard)
    show({"out": options.out, "recordings": len(heard)}, f"{options.out} has {len(heard)} embeddings.")
    return 0


def run_map(encoder: SpeakerEncoder) -> int:
    """The command `map`."""
    check_ending(options.out, ".png")
    heard = hear(encoder, expand_files(options.files))
    warn(list_warnings(heard))
    speakers = voice_map.name_speakers([one.recording.file for one in heard])
    pictures.save(options.out, voice_map.draw_map(np.stack([one.recording.embedding for one in heard]), speakers))
    show({"out": options.out, "recordings": len(heard)}, f"{options.out} shows {len(heard)} recordings.")
    return 0


def main() -> None:
    """Run the command, and end with its exit code."""
    parallel.prepare_process()
    commands = {
        "verify": run_verify,
        "enrol": run_enrol,
        "identify": run_identify,
        "timeline": run_timeline,
        "embed": run_embed,
        "map": run_map,
    }
    settings.check_each(settings.all_settings())  # The settings of myconfig.py, which were not checked before.
    without_model = {"list": run_list, "remove": run_remove, "rename": run_rename}
    if options.command in without_model:
        sys.exit(without_model[options.command]())
    sys.exit(commands[options.command](load_encoder(options.model)))


if __name__ == "__main__":
    script.run(main)
