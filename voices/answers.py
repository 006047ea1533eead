"""Questions about voices: is it the same person, who is it? Answers are plain values; nothing is printed."""

from typing import NamedTuple

import numpy as np

from foundation.recording_lists import Paths
from speaker_encoder import SpeakerEncoder, model_fingerprint
from voices import database as speaker_database
from voices.database import Model
from voices.recordings import hear, list_warnings, mean_embedding

NUM_SHOWN = 5


class Decision(NamedTuple):
    """When scores are accepted: the threshold, its false-accept rate if known, and its source."""

    threshold: float
    false_accept_rate: float | None
    source: str


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
            "the model has no thresholds: measure some with conditions.py --calibrate on test data, or give "
            "speaker_id.py a --threshold."
        )
    rates, thresholds = encoder.calibration["false_accept_rates"], encoder.calibration["thresholds"]
    if not min(rates) <= far <= max(rates):
        raise ValueError(
            f"--far {far:g}: the model has thresholds for false-accept rates from {min(rates):g} to {max(rates):g}; "
            "lower rates take more test data."
        )
    at = float(np.interp(np.log(far), np.log(rates), thresholds))
    return Decision(at, far, encoder.calibration["source"])


def verify(encoder: SpeakerEncoder, first: Paths, second: Paths, decision: Decision) -> dict:
    """Compare the voices of two lists of recordings: `same`, `score`, and the data of the decision."""
    sides = [hear(encoder, files) for files in (first, second)]
    score = float(mean_embedding(sides[0]) @ mean_embedding(sides[1]))
    warnings = list_warnings(sides[0] + sides[1])
    return {"same": score >= decision.threshold, "score": score, **decision._asdict(), "warnings": warnings}


def enrol(
    encoder: SpeakerEncoder, database: str, name: str, files: Paths, more: bool = False
) -> tuple[float, list[tuple[str, str]]]:
    """Add a person, or more recordings of an enrolled one; returns the seconds of speech heard, and warnings.

    Nothing is added unless all recordings can be used. A warning stands beside the recording, or beside the name if it
    may be confused. Raises ValueError as `speaker_database.enrol` does.
    """
    name = speaker_database.clean_name(name)
    heard = hear(encoder, files)
    with speaker_database.open_database(database, "create") as connection:
        speaker_database.enrol(connection, name, [one.recording for one in heard], model_of(encoder), more)
        alike = speaker_database.names_alike(connection, name)
    warnings = [(name, f"{other!r} is another person, whose name differs in case only") for other in alike]
    return sum(one.recording.speech_seconds for one in heard), list_warnings(heard) + warnings


def identify(encoder: SpeakerEncoder, database: str, files: Paths, decision: Decision) -> list[dict]:
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


def describe(decision: Decision) -> str:
    """The threshold in words."""
    if decision.false_accept_rate is None:
        return f"threshold {decision.threshold:.3f} as given"
    rate = f"{100 * decision.false_accept_rate:.3g} % of pairs of different speakers score higher"
    return f"threshold {decision.threshold:.3f} ({rate}, measured on {decision.source})"
