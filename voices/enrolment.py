"""Enrol people, and warn of recordings and people that may be confused."""

from collections.abc import Sequence

import numpy as np

from audio.recording_lists import Paths
from encoder.base import Encoder, unit_length
from scoring.thresholds import rates_at
from voices import database as speaker_database
from voices.answers import NUM_SHOWN, SAME_EMBEDDING, Decision, model_of, score_all
from voices.database import People
from voices.recordings import Heard, hear, is_same_audio, list_warnings, speech_seconds

# Recordings of one person are doubted if so few pairs of one person score so low, and those of different people, whom
# nobody would take for one, score as high this often.
UNLIKELY_LOW, LIKELY_HIGH = 0.02, 0.05

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
    warnings = [(name, f"{other!r} is another person, whose name differs in case only") for other in alike]
    own = before[[owner == name for owner in owners]]
    warnings += find_copies_of_enrolled(heard, owners, before)
    warnings += compare_recordings(encoder, heard, own, people.seconds[people.names.index(name)], decision)
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


def compare_recordings(
    encoder: Encoder, heard: Sequence[Heard], own: np.ndarray, seconds: float, decision: Decision | None
) -> list[tuple[str, str]]:
    """Warnings of new recordings that do not sound like the person's others.

    `own` (recordings, dimensions) are embeddings of those that were enrolled before; all have so many seconds of
    speech.
    """
    warnings = []
    embeddings = np.stack([one.recording.embedding for one in heard])
    for number, one in enumerate(heard):
        others = np.concatenate([np.delete(embeddings, number, axis=0), own])
        is_first_of_two = number == 0 and len(heard) == 2 and not len(own)  # Which one is wrong cannot be said.
        if decision is not None and len(others) and not is_first_of_two:
            lengths = np.array([one.recording.speech_seconds]), np.array([seconds - one.recording.speech_seconds])
            mean = unit_length(others.sum(axis=0, keepdims=True))
            score = float(score_all(encoder, embeddings[[number]], lengths[0], mean, lengths[1])[0, 0])
            as_high, lower = rates_at(decision.calibration, score, 1, len(others))
            if lower < UNLIKELY_LOW and as_high > LIKELY_HIGH:
                warnings.append(
                    (one.recording.file, "it does not sound like the other recordings: are they of one person?")
                )
    return warnings


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
