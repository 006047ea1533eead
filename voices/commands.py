"""The commands of `speaker_id.py` that need a model: verify, enrol, identify, timeline, embed, map."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from foundation import parallel, pictures, script
from speaker_encoder import SpeakerEncoder, load_encoder
from voices import database as speaker_database
from voices import map as voice_map
from voices import timeline as speaker_timeline
from voices.answers import decision_for, describe, enrol, identify, model_of, verify
from voices.recordings import hear, list_warnings, write_embeddings


def run(options: argparse.Namespace) -> int:
    """Run the command that the options name, whose files are expanded; returns its exit code."""
    parallel.prepare_process()
    commands = {
        "verify": run_verify,
        "enrol": run_enrol,
        "identify": run_identify,
        "timeline": run_timeline,
        "embed": run_embed,
        "map": run_map,
    }
    return commands[options.command](load_encoder(options.model), options)


def warn(warnings: Sequence[tuple[str, str]]) -> None:
    """Print warnings on the error stream."""
    for file, words in warnings:
        print(f"Warning: {script.printable(file)}: {words}.", file=sys.stderr)


def count(number: int, thing: str) -> str:
    """A number of things in words."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def run_verify(encoder: SpeakerEncoder, options: argparse.Namespace) -> int:
    """The command `verify`: 0 for the same person, 1 for two."""
    decision = decision_for(encoder, options.far, options.threshold)
    answer = verify(encoder, options.first, options.second, decision)
    warn(answer["warnings"])
    same = "the same speaker" if answer["same"] else "different speakers"
    script.show(options.json, answer, f"{same}: score {answer['score']:.3f}, {describe(decision)}.")
    return 0 if answer["same"] else 1


def run_enrol(encoder: SpeakerEncoder, options: argparse.Namespace) -> int:
    """The command `enrol`."""
    files = options.files
    seconds, warnings = enrol(encoder, options.db, options.name, files, options.more)
    warn(warnings)
    answer = {"name": options.name, "recordings": len(files), "speech_seconds": seconds}
    script.show(
        options.json,
        answer,
        f"{options.name} is enrolled: heard {seconds:.1f} s of speech in {count(len(files), 'recording')}.",
    )
    return 0


def run_identify(encoder: SpeakerEncoder, options: argparse.Namespace) -> int:
    """The command `identify`: 1 if nobody was identified in any recording."""
    decision = decision_for(encoder, options.far, options.threshold)
    answers = identify(encoder, options.db, options.files, decision)
    lines = []
    for answer in answers:
        warn(answer["warnings"])
        ranking = ", ".join(f"{name} {score:.3f}" for name, score in answer["ranking"])
        lines.append(f"{script.printable(answer['file'])}: {answer['speaker'] or speaker_database.UNKNOWN} ({ranking})")
    script.show(options.json, answers, "\n".join([*lines, f"With {describe(decision)}."]))
    return 0 if any(answer["speaker"] for answer in answers) else 1


def run_timeline(encoder: SpeakerEncoder, options: argparse.Namespace) -> int:
    """The command `timeline`."""
    files = options.files
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
    script.show(
        options.json, {file: [turn._asdict() for turn in turns] for file, turns in answers.items()}, "\n".join(lines)
    )
    return 0


def run_embed(encoder: SpeakerEncoder, options: argparse.Namespace) -> int:
    """The command `embed`."""
    heard = hear(encoder, options.files)
    warn(list_warnings(heard))
    write_embeddings(options.out, heard)
    script.show(
        options.json,
        {"out": options.out, "recordings": len(heard)},
        f"{options.out} has {count(len(heard), 'embedding')}.",
    )
    return 0


def run_map(encoder: SpeakerEncoder, options: argparse.Namespace) -> int:
    """The command `map`."""
    heard = hear(encoder, options.files)
    warn(list_warnings(heard))
    speakers = voice_map.name_speakers([one.recording.file for one in heard])
    pictures.save(options.out, voice_map.draw_map(np.stack([one.recording.embedding for one in heard]), speakers))
    script.show(
        options.json,
        {"out": options.out, "recordings": len(heard)},
        f"{options.out} shows {count(len(heard), 'recording')}.",
    )
    return 0
