"""Use a model on your own recordings: verify, enrol, identify, who spoke when, embed, map.

Wherever a command takes files, it takes folders and patterns too. The functions here do what the commands do, without
printing. Exit codes: 0 yes or done, 1 no, 2 a mistake.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import script

DEFAULT_MODEL = Path(__file__).with_name("saved_model") / "pretrained" / "lstm104x5.pt"
DEFAULT_DATABASE = "speakers.db"
NUM_SHOWN = 5


def build_parser() -> script.OptionParser:
    """The command line."""
    parser = script.OptionParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    common = script.OptionParser(add_help=False)
    common.add_argument("--model", default=str(DEFAULT_MODEL), help="a model (default: the best pretrained one)")
    common.add_argument("--json", action="store_true", help="print JSON, for programs")
    decision = script.OptionParser(add_help=False)
    decision.add_argument("--far", type=float, default=0.01, help="false-accept rate of the threshold (default: 0.01)")
    decision.add_argument("--threshold", type=float, help="accept scores from here on, instead of --far")
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
    command = add("identify", "Who of the enrolled speaks?", common, decision, database)
    command.add_argument("files", nargs="+")
    add("list", "Who is enrolled?", common, database)
    command = add("remove", "Remove a person and all that is stored of them.", common, database)
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
    options = build_parser().parse_args()

import matplotlib.figure
import numpy as np

import parallel
import safe_files
import settings
import speaker_database
import speaker_timeline
import voice_map
from recordings import expand_files, hear, list_warnings, mean_embedding, write_embeddings
from speaker_database import Model
from speaker_encoder import SpeakerEncoder, load_encoder, model_fingerprint


class Decision(NamedTuple):
    """Where scores are accepted: the threshold, the false-accept rate that it stands for if known, and its source."""

    threshold: float
    false_accept_rate: float | None
    source: str


# --------------------------------------- Answers ---------------------------------------


def model_of(encoder: SpeakerEncoder) -> Model:
    """What a database remembers of the model."""
    return Model(model_fingerprint(encoder), encoder.dimensions, encoder.path)


def decision_for(encoder: SpeakerEncoder, far: float = 0.01, threshold: float | None = None) -> Decision:
    """The threshold of the model for a false-accept rate, or a given threshold. Raises ValueError if there is none."""
    if threshold is not None:
        if not -1 <= threshold <= 1:
            raise ValueError(f"--threshold {threshold:g} is not between -1 and 1, as scores are.")
        return Decision(threshold, None, "given")
    if not encoder.calibration:
        raise ValueError(
            "the model knows no threshold: conditions.py --calibrate finds some on test data; or give speaker_id.py a "
            "--threshold."
        )
    rates, thresholds = encoder.calibration["false_accept_rates"], encoder.calibration["thresholds"]
    if not min(rates) <= far <= max(rates):
        raise ValueError(
            f"--far {far:g}: the model has thresholds for false-accept rates from {min(rates):g} to {max(rates):g}; "
            "lower rates take more test data."
        )
    at = float(np.interp(np.log(far), np.log(rates), thresholds))
    return Decision(at, far, encoder.calibration["source"])


def verify(encoder: SpeakerEncoder, first: Sequence[str], second: Sequence[str], decision: Decision) -> dict:
    """Compare the voices of two lists of recordings: `same`, `score`, and what the decision rests on."""
    sides = [hear(encoder, files) for files in (first, second)]
    score = float(mean_embedding(sides[0]) @ mean_embedding(sides[1]))
    warnings = list_warnings(sides[0] + sides[1])
    return {"same": score >= decision.threshold, "score": score, **decision._asdict(), "warnings": warnings}


def enrol(
    encoder: SpeakerEncoder, database: str, name: str, files: Sequence[str], more: bool = False
) -> tuple[float, list[tuple[str, str]]]:
    """Add a person to the database, or recordings of one who is there: seconds of speech heard, and warnings.

    Nothing is added unless all recordings can be used. Raises ValueError as `speaker_database.enrol` does.
    """
    name = speaker_database.clean_name(name)
    heard = hear(encoder, files)
    with speaker_database.open_database(database, "create") as connection:
        speaker_database.enrol(connection, name, [one.recording for one in heard], model_of(encoder), more)
    return sum(one.recording.speech_seconds for one in heard), list_warnings(heard)


def identify(encoder: SpeakerEncoder, database: str, files: Sequence[str], decision: Decision) -> list[dict]:
    """Who speaks in each recording: `speaker` or None, and the `ranking` of the NUM_SHOWN best with their scores."""
    with speaker_database.open_database(database) as connection:
        names, enrolled = speaker_database.read_speakers(connection, model_of(encoder))
    if not names:
        raise ValueError(f"nobody is enrolled in {database}.")
    answers = []
    for one in hear(encoder, files):
        scores = enrolled @ one.recording.embedding
        best = np.argsort(-scores, kind="stable")[:NUM_SHOWN]
        speaker = names[best[0]] if scores[best[0]] >= decision.threshold else None
        ranking = [(names[number], float(scores[number])) for number in best]
        file = one.recording.file
        answers.append({"file": file, "speaker": speaker, "ranking": ranking, "warnings": list_warnings([one])})
    return answers


# -------------------------------------- Commands ---------------------------------------


def show(answer: object, text: str) -> None:
    """Print an answer as JSON or as text."""
    print(json.dumps(answer, indent=2) if options.json else text)


def warn(warnings: Sequence[tuple[str, str]]) -> None:
    """Print warnings on the error stream."""
    for file, words in warnings:
        print(f"Warning: do not trust {script.printable(file)}: {words}.", file=sys.stderr)


def run_verify(encoder: SpeakerEncoder) -> int:
    """The command `verify`: 0 for the same person, 1 for two."""
    decision = decision_for(encoder, options.far, options.threshold)
    answer = verify(encoder, expand_files([options.first]), expand_files([options.second]), decision)
    warn(answer["warnings"])
    same = "the same speaker" if answer["same"] else "different speakers"
    show(answer, f"{same}: score {answer['score']:.3f}, {describe(decision)}.")
    return 0 if answer["same"] else 1


def check_ending(path: str, *endings: str) -> None:
    """Raise ValueError for a file to be written with another ending, which may be that of somebody's recording."""
    if not path.lower().endswith(endings):
        raise ValueError(f"--out {path} must end in {' or '.join(endings)}.")


def save_figure(path: str, figure: matplotlib.figure.Figure) -> None:
    """Write a picture as PNG."""
    with safe_files.replace_when_whole(path) as file:
        figure.savefig(file, format="png")


def describe(decision: Decision) -> str:
    """The threshold in words."""
    if decision.false_accept_rate is None:
        return f"threshold {decision.threshold:.3f} as given"
    rate = f"{100 * decision.false_accept_rate:.3g} % of pairs of different speakers score higher"
    return f"threshold {decision.threshold:.3f} ({rate}, measured on {decision.source})"


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
        raise ValueError("RTTM tells recordings apart by their names alone, and two of these have the same.")
    decision = decision_for(encoder, options.far, options.threshold)
    with speaker_database.open_database(options.db) as connection:
        names, enrolled = speaker_database.read_speakers(connection, model_of(encoder))
    answers = {}
    for number, file in enumerate(files, start=1):
        timeline = speaker_timeline.find_timeline(encoder, file, names, enrolled, decision.threshold)
        picture = Path(options.out).with_stem(Path(options.out).stem + (f"-{number}" if len(files) > 1 else ""))
        save_figure(str(picture), speaker_timeline.draw_timeline(timeline, decision.threshold))
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
    save_figure(options.out, voice_map.draw_map(np.stack([one.recording.embedding for one in heard]), speakers))
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
    settings.check_each(settings.all_settings())  # Those of myconfig.py, which are not looked at before.
    without_model = {"list": run_list, "remove": run_remove, "rename": run_rename}
    if options.command in without_model:
        sys.exit(without_model[options.command]())
    sys.exit(commands[options.command](load_encoder(options.model)))


if __name__ == "__main__":
    script.run(main)
