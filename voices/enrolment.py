"""Enrol people, and warn of recordings and people that may be confused."""

from collections.abc import Sequence

import numpy as np

from audio.recording_lists import Paths
from encoder.base import Encoder
from voices import database as speaker_database
from voices.answers import NUM_SHOWN, SAME_EMBEDDING, Decision, compare_recordings, model_of, score_all
from voices.database import People
from voices.recordings import Heard, hear, is_same_audio, list_warnings, speech_seconds

# Of new recordings, each is compared with so many of the nearest.
NUM_NEAREST = 5


def enrol(
    encoder: Encoder, database: str, name: str, files: Paths, more: bool = False
) -> tuple[float, list[tuple[str, str]]]:
    """Add a person, or more recordings of an enrolled one; returns the seconds of speech heard, and warnings.

    Nothing is added unless all recordings can be used. A warning stands beside the recording, or beside the name if it
    may be confused. Raises ValueError as `speaker_database.enrol` does.
    """
    check_name(database, name, more)
    return enrol_heard(encoder, database, name, hear(encoder, files), more)


def check_name(database: str, name: str, more: bool) -> None:
    """Check a name before recordings are heard, which takes long. Raises ValueError for one that cannot be used."""
    name = speaker_database.clean_name(name)
    if speaker_database.is_there(database):
        with speaker_database.open_database(database) as connection:
            speaker_database.check_name(connection, name, more)


def enrol_heard(
    encoder: Encoder, database: str, name: str, heard: Sequence[Heard], more: bool
) -> tuple[float, list[tuple[str, str]]]:
    """Do what `enrol` does, with recordings that were heard."""
    name, decision = speaker_database.clean_name(name), usual_decision(encoder)
    with speaker_database.open_database(database, "create") as connection:
        owners, before = speaker_database.read_recordings(connection, model_of(encoder))
        speaker_database.enrol(connection, name, [one.recording for one in heard], model_of(encoder), more)
        people = speaker_database.read_speakers(connection, model_of(encoder))
        alike = speaker_database.names_alike(connection, name)
    words = "is another person, whose name differs in case only: if it is the same one, remove one of them"
    warnings = [(name, f"{other!r} {words}") for other in alike]
    own = before[[owner == name for owner in owners]]
    warnings += find_copies_of_enrolled(heard, owners, before)
    warnings += compare_recordings(encoder, heard, own, people.seconds[people.names.index(name)], decision)
    warnings += find_rivals(encoder, name, heard, people, decision)
    warnings += compare_people(encoder, name, people, decision)
    return speech_seconds(heard), list_warnings(heard) + warnings


def usual_decision(encoder: Encoder) -> Decision | None:
    """A decision for warnings: at 1 %, or the lowest rate that the model has; None without thresholds."""
    if not encoder.calibration:
        return None
    return Decision(max(0.01, encoder.calibration["false_accept_rates"][0]), None, encoder.calibration)


def find_copies_of_enrolled(heard: Sequence[Heard], owners: Sequence[str], before: np.ndarray) -> list[tuple[str, str]]:
    """Warnings of new recordings that are the same as one another, or as one that was enrolled before.

    `owners` have the embeddings `before` (recordings, dimensions).
    """
    warnings = []
    embeddings = np.stack([one.recording.embedding for one in heard])
    for number, one in enumerate(heard):
        similarity = embeddings[:number] @ embeddings[number]
        nearest = [heard[other] for other in np.argsort(-similarity)[:NUM_NEAREST]]
        copies = [other.recording.file for other in nearest if is_same_audio(one.beginning, other.beginning)]
        if len(before) and (before @ embeddings[number]).max() > SAME_EMBEDDING:
            owner = owners[int(np.argmax(before @ embeddings[number]))]
            warnings.append((one.recording.file, f"it sounds like the same recording as one of {owner!r}"))
        elif copies:
            warnings.append((one.recording.file, f"it sounds like the same recording as {copies[0]}"))
    return warnings


def find_rivals(
    encoder: Encoder, name: str, heard: Sequence[Heard], people: People, decision: Decision | None
) -> list[tuple[str, str]]:
    """Warnings of new recordings in which somebody else who is enrolled is likelier than the person of this name."""
    if decision is None:
        return []
    embeddings = np.stack([one.recording.embedding for one in heard])
    seconds = np.array([one.recording.speech_seconds for one in heard])
    margins = score_all(encoder, embeddings, seconds, people.embeddings, people.seconds)
    margins -= decision.thresholds(1, people.counts)
    own = people.names.index(name)
    return [
        (one.recording.file, f"it sounds more like {people.names[best]!r}: is it a recording of {name!r}?")
        for one, of_one, best in zip(heard, margins, margins.argmax(axis=1), strict=True)
        if best != own and of_one[best] >= 0
    ]


def compare_people(encoder: Encoder, name: str, people: People, decision: Decision | None) -> list[tuple[str, str]]:
    """Warnings of enrolled people whose similarity with this one is above the threshold, the most similar first."""
    if decision is None:
        return []
    own = people.names.index(name)
    [scores] = score_all(encoder, people.embeddings[[own]], people.seconds[[own]], people.embeddings, people.seconds)
    thresholds = decision.thresholds(people.counts[own], people.counts)
    alike = [other for other in np.argsort(-scores) if other != own and scores[other] >= thresholds[other]]
    return [
        (name, f"{people.names[other]!r} sounds alike (score {scores[other]:.3f}): identify may confuse them")
        for other in alike[:NUM_SHOWN]
    ]
