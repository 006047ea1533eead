"""Enrol a voice that a timeline has found, from the parts of a recording in which it speaks."""

import contextlib
from collections.abc import Sequence

import numpy as np

from audio import mono
from encoder.base import Encoder
from feature_extraction import SAMPLE_RATE
from voices import database as speaker_database
from voices import timeline
from voices.answers import model_of
from voices.enrolment import check_name, enrol_heard, usual_decision
from voices.recordings import MOST_MINUTES, hear_samples
from voices.turns import Turn

# Shorter turns may be of two people; and what is left out at the ends of a turn, in seconds.
LEAST_SECONDS, EDGE_SECONDS = 1.0, 0.1


def enrol_voice(
    encoder: Encoder,
    database: str,
    name: str,
    recording: str,
    voice: str,
    more: bool = False,
    num_voices: int | None = None,
) -> tuple[float, list[tuple[str, str]]]:
    """Add a person by a voice of a recording, such as "speaker 1", as the timeline calls it with the same database
    and number of voices.

    With `more`, it is added to an enrolled person. Returns the seconds of speech, and warnings. Raises ValueError if
    there is no such voice, or it never speaks long enough, and as `enrolment.enrol` does.
    """
    check_name(database, name, more)
    people = speaker_database.read_people(database, model_of(encoder))
    turns = timeline.find_timeline(encoder, recording, people, usual_decision(encoder), True, num_voices).turns
    voices = list(dict.fromkeys(turn.speaker for turn in turns))
    if voice not in voices:
        raise ValueError(f"there is no voice {voice!r} in {recording}: there is {', '.join(voices) or 'nobody'}.")
    own = [turn for turn in turns if turn.speaker == voice]
    return enrol_turns(encoder, database, name, recording, own, more)


def enrol_turns(
    encoder: Encoder, database: str, name: str, recording: str, turns: Sequence[Turn], more: bool = False
) -> tuple[float, list[tuple[str, str]]]:
    """Add a person by the turns of one voice, as `enrol_voice` does."""
    voice = turns[0].speaker
    long_turns = [turn for turn in turns if turn.end - turn.start >= LEAST_SECONDS]
    if not long_turns:
        raise ValueError(f"{voice} never speaks for {LEAST_SECONDS:g} s in {recording}: that is too little to know it.")
    samples = cut_out(recording, long_turns)
    return enrol_heard(encoder, database, name, [hear_samples(encoder, samples, f"{recording} ({voice})")], more)


def cut_out(recording: str, turns: Sequence[Turn]) -> np.ndarray:
    """The samples of turns, one after the other, MOST_MINUTES of them at most; the recording is read in blocks."""
    parts, position, left = [], 0, MOST_MINUTES * 60 * SAMPLE_RATE
    with contextlib.closing(mono.read_blocks(recording, 60 * SAMPLE_RATE, [], with_gaps=True)) as blocks:
        for samples in blocks:
            for turn in turns:
                start = round((turn.start + EDGE_SECONDS) * SAMPLE_RATE) - position
                end = round((turn.end - EDGE_SECONDS) * SAMPLE_RATE) - position
                part = samples[max(0, start) : max(0, end)][:left]
                parts.append(part)
                left -= len(part)
            position += len(samples)
    return np.concatenate(parts)
