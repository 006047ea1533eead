"""The commands of `speaker_id.py` that need a model: verify, enrol, identify, timeline, sort, embed, map."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from demo_data import DEMO_DIR
from encoder.base import Encoder
from encoder.model_files import load_model
from foundation import pictures, safe_files, script, threads
from voices import database as speaker_database
from voices import formats, sorting, wording
from voices import map as voice_map
from voices import timeline as speaker_timeline
from voices.answers import decision_for, identify, model_of, verify
from voices.channels import find_timeline_of_channels
from voices.database import UNKNOWN, clean_name
from voices.enrolment import enrol
from voices.naming import enrol_voice
from voices.recordings import Heard, hear, list_warnings, write_embeddings
from voices.timeline_picture import draw_timeline
from voices.turns import Turn


def run(options: argparse.Namespace) -> int:
    """Run the command that the options name, whose files are expanded; returns its exit code."""
    threads.prepare_process()
    commands = {
        "verify": run_verify,
        "enrol": run_enrol,
        "identify": run_identify,
        "timeline": run_timeline,
        "sort": run_sort,
        "embed": run_embed_or_map,
        "map": run_embed_or_map,
    }
    encoder = load_model(options.model)
    if DEMO_DIR.as_posix() in encoder.calibration.get("source", "").replace("\\", "/"):
        words = "it has learnt from synthetic voices, so what it says of real ones is not to be relied on"
        warn([(options.model, words)])
    return commands[options.command](encoder, options)


def warn(warnings: Sequence[tuple[str, str]]) -> None:
    """Print warnings on the error stream."""
    for file, words in warnings:
        print(f"Warning: {script.printable(file)}: {wording.sentence(words)}", file=sys.stderr)


def hear_all(encoder: Encoder, files: Sequence[str]) -> list[Heard]:
    """Hear recordings, and warn of them and of those that were left out."""
    skipped: list[tuple[str, str]] = []
    heard = hear(encoder, files, skipped)
    warn_of_skipped(skipped)
    warn(list_warnings(heard))
    return heard


def warn_of_skipped(skipped: Sequence[tuple[str, str]]) -> None:
    """Print which files were left out, and why."""
    for _, reason in skipped:
        print(f"Warning: left out: {script.printable(reason)}", file=sys.stderr)


def count(number: int, thing: str) -> str:
    """A number of things in words."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def run_verify(encoder: Encoder, options: argparse.Namespace) -> int:
    """The command `verify`: 0 for the same person, 1 for two, 3 if that cannot be told."""
    decision = decision_for(encoder, options.far, options.threshold)
    answer = verify(encoder, options.first, options.second, decision)
    warn(answer["warnings"])
    lines = [wording.VERDICTS[answer["verdict"]], wording.meaning_in_words(answer, decision)]
    if options.explain or not lines[1]:
        lines += [wording.score_in_words(answer, decision), wording.decision_in_words(decision)]
    script.show(options.json, answer, "\n".join(line for line in lines if line))
    return wording.EXIT_CODES[answer["verdict"]]


def run_enrol(encoder: Encoder, options: argparse.Namespace) -> int:
    """The command `enrol`."""
    files, db, more = options.files or [options.meeting], options.db, options.more
    if options.meeting:
        found = enrol_voice(encoder, db, options.name, options.meeting, options.voice, more, options.speakers)
    else:
        found = enrol(encoder, db, options.name, files, more)
    seconds, warnings = found
    warn(warnings)
    name = clean_name(options.name)
    with speaker_database.open_database(options.db) as connection:
        [total] = [row[1] for row in speaker_database.list_speakers(connection) if row[0] == name]
    answer = {"name": name, "recordings": len(files), "speech_seconds": seconds, "recordings_in_all": total}
    words = f"{name} is enrolled: heard {seconds:.1f} s of speech in {count(len(files), 'recording')}"
    script.show(options.json, answer, f"{words}, {total} in all." if options.more else f"{words}.")
    return 0


def run_identify(encoder: Encoder, options: argparse.Namespace) -> int:
    """The command `identify`: 1 if nobody was identified in any recording, 3 if it cannot tell in some."""
    decision = decision_for(encoder, options.far, options.threshold)
    skipped: list[tuple[str, str]] = []
    found = identify(encoder, options.db, options.files, decision, skipped)
    warn_of_skipped(skipped)
    lines = []
    for answer in found:
        warn(answer["warnings"])
        lines.append(f"{script.printable(answer['file'])}: {wording.name_in_words(answer)}")
        if options.explain:
            ranking = ", ".join(f"{name} {score:.3f}" for name, score in answer["ranking"])
            nearest = answer["ranking"][0][0]
            lines.append(f"    {ranking}. With {nearest}: {wording.score_in_words(answer, decision)}")
    if options.explain:
        lines.append(wording.decision_in_words(decision, found[0]["enrolled"]))
    script.show(options.json, found, "\n".join(lines))
    verdicts = {answer["verdict"] for answer in found}
    return 0 if verdicts & {"known", "probable"} else 3 if "unclear" in verdicts else 1


def run_timeline(encoder: Encoder, options: argparse.Namespace) -> int:
    """The command `timeline`."""
    people = speaker_database.read_people(options.db, model_of(encoder))
    decision = decision_for(encoder, options.far, options.threshold) if people.names else None
    cluster = options.unknown == "cluster" or options.speakers is not None or not people.names
    found: dict[str, list[Turn]] = {}
    notes: dict[str, str] = {}  # What is said of each picture.
    for number, file in enumerate(options.files, start=1):
        if options.channels:
            timeline = find_timeline_of_channels(encoder, file, people, decision)
        else:
            timeline = speaker_timeline.find_timeline(encoder, file, people, decision, cluster, options.speakers)
        warn([(file, words) for words in timeline.faults])
        found[file] = timeline.turns
        picture = Path(options.plot)
        picture = picture.with_stem(f"{picture.stem}-{number}") if len(options.files) > 1 else picture
        if pictures.save_or_warn(picture, draw_timeline(timeline)):
            notes[file] = f"The picture of {script.printable(file)} is {script.printable(str(picture))}.\n"
    kind = "json" if options.json else options.format
    is_for_people = kind == "text" and not options.out
    if not is_for_people:  # The output is for programs.
        print("".join(notes.values()), end="", file=sys.stderr)
    if options.out:
        safe_files.write_text(options.out, formatted(found, kind))
        print(f"{options.out} has the turns.", file=sys.stderr)
    elif not is_for_people:
        print(formatted(found, kind), end="")
    else:
        print(formatted(found, kind) + "".join(notes.values()), end="")
        if not decision and any(found.values()):
            print(f"Nobody is enrolled in {options.db}, so the voices have numbers.")
        elif any(turn.speaker == UNKNOWN for turns in found.values() for turn in turns):
            print(f"{UNKNOWN}: nobody who is enrolled. --unknown cluster tells these voices apart.")
        if any(turn.sure is False for turns in found.values() for turn in turns):
            print("A name with a question mark is in doubt.")
        if decision and options.explain:
            print(wording.decision_in_words(decision, len(people.names)))
    if cluster and not options.speakers and any(found.values()):
        words = "How many people speak is an estimate: if it is wrong, give the number with --speakers."
        print(words, file=None if is_for_people else sys.stderr)
    return 0


def formatted(found: dict[str, list[Turn]], format: str) -> str:
    """The turns of recordings in one of the formats."""
    if format == "json":
        plain = {file: [formats.to_plain(turn) for turn in turns] for file, turns in found.items()}
        return json.dumps(plain, indent=2) + "\n"
    if format == "csv":
        return formats.to_csv(found)
    if format == "rttm":
        return "".join(formats.to_rttm(turns, file) for file, turns in found.items())
    if format == "text" and len(found) > 1:
        return "".join(f"{script.printable(file)}:\n{formats.to_text(turns)}" for file, turns in found.items())
    write = {"text": formats.to_text, "audacity": formats.to_audacity, "srt": formats.to_srt}[format]
    return "".join(write(turns) for turns in found.values())


def run_sort(encoder: Encoder, options: argparse.Namespace) -> int:
    """The command `sort`."""
    people = speaker_database.read_people(options.db, model_of(encoder))
    decision = decision_for(encoder, options.far, options.threshold)
    heard = hear_all(encoder, options.files)
    groups = sorting.sort_recordings(encoder, heard, people, decision)
    if options.copy_to:
        sorting.copy_groups(groups, options.copy_to)
    lines = [
        f"{group.name}: {script.printable(file)}{'' if sure else ' ?'}"
        for group in groups
        for file, sure in zip(group.files, group.sure, strict=True)
    ]
    if options.explain:
        lines.append(wording.decision_in_words(decision))
    num_unsure = sum(not sure for group in groups for sure in group.sure)
    lines.append(f"{count(len(heard), 'recording')}, {count(len(groups), 'voice')}; {num_unsure} unsure (?).")
    if options.copy_to:
        lines.append(f"Copies are in {script.printable(options.copy_to)}, a folder for each voice.")
    script.show(options.json, [group._asdict() for group in groups], "\n".join(lines))
    return 0


def run_embed_or_map(encoder: Encoder, options: argparse.Namespace) -> int:
    """The commands `embed` and `map`."""
    heard = hear_all(encoder, options.files)
    if options.command == "embed":
        write_embeddings(options.out, heard)
    else:
        speakers = voice_map.name_speakers([one.recording.file for one in heard])
        pictures.save(options.out, voice_map.draw_map(np.stack([one.recording.embedding for one in heard]), speakers))
    verb = "has the embeddings of" if options.command == "embed" else "shows"
    words = f"{options.out} {verb} {count(len(heard), 'recording')}."
    script.show(options.json, {"out": options.out, "recordings": len(heard)}, words)
    return 0
