"""Questions about voices: is it the same person, who is it? Answers are plain values; nothing is printed."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from audio.recording_lists import Paths
from encoder.base import Encoder, unit_length
from encoder.model_files import model_fingerprint
from scoring.score_normalization import score_offsets
from scoring.thresholds import log_likelihood_ratio, rates_at, threshold_at
from voices import database as speaker_database
from voices.database import Model
from voices.recordings import (
    NO_SPEECH,
    SEVERAL_VOICES,
    Heard,
    hear,
    is_same_audio,
    list_warnings,
    mean_embedding,
    speech_seconds,
)

NUM_SHOWN = 5

# An answer is in doubt if, had the false-accept rate been up to this many times lower or higher, it would be another.
DOUBT_FACTOR = 3.0

# Below the threshold, people are different only if so few pairs of one person score lower, and the score is likelier of
# two; above it, another enrolled person makes a doubt if the score is not so many times likelier than that one's.
DIFFERENT_SHARE = 0.05
RIVAL_FACTOR = 20.0

# Recordings of one person are doubted if so few pairs of one person score so low, and those of different people, whom
# nobody would take for one, score as high this often.
UNLIKELY_LOW, LIKELY_HIGH = 0.02, 0.05
NOT_ALIKE = "it does not sound like the other recordings: are they of one person?"

# Rates that went through a logarithm are equal up to this factor.
ALMOST = 1.001

# Embeddings are hardly ever as near as this unless the audio is the same.
SAME_EMBEDDING = 0.98


class Decision(NamedTuple):
    """When scores are accepted: at a false-accept rate, or at a given threshold; and the model's calibration, or {}."""

    false_accept_rate: float | None
    given: float | None
    calibration: dict

    def threshold(self, first: int, second: int) -> float:
        """The threshold for means of these numbers of recordings, 0 for a window of the timeline."""
        if self.false_accept_rate is None:
            return float(self.given or 0)
        return threshold_at(self.calibration, self.false_accept_rate, first, second)

    def thresholds(self, first: int, counts: Sequence[int]) -> np.ndarray:
        """The thresholds for one number of recordings against each of several (counts,)."""
        of_count = {count: self.threshold(first, count) for count in set(counts)}
        return np.array([of_count[count] for count in counts], float)

    def rates(self, score: float, first: int, second: int) -> tuple[float, float] | None:
        """How often different people score as high and one person scores lower, if that was measured."""
        return rates_at(self.calibration, score, first, second) if self.calibration else None

    def is_sure(self, score: float, first: int, second: int, num_enrolled: int = 1) -> bool | None:
        """Whether the answer would be the same at a false-accept rate DOUBT_FACTOR times lower, or higher.

        With more people enrolled, the lower rate is divided by their number, as a stranger can resemble any of them.
        None where that was not measured.
        """
        if not self.calibration:
            return None
        rates, threshold = self.calibration["false_accept_rates"], self.threshold(first, second)
        limit = self.false_accept_rate or rates_at(self.calibration, threshold, first, second)[0]
        as_high, _ = rates_at(self.calibration, score, first, second)
        if score < threshold:
            return as_high >= min(limit * DOUBT_FACTOR, rates[-1] / ALMOST)
        strict = limit / max(DOUBT_FACTOR, num_enrolled)
        if as_high <= rates[0] * ALMOST and strict < rates[0]:
            return None
        return as_high <= strict * ALMOST


def model_of(encoder: Encoder) -> Model:
    """What a database remembers of the model."""
    return Model(model_fingerprint(encoder), encoder.dimensions, encoder.path)


def decision_for(encoder: Encoder, far: float = 0.01, threshold: float | None = None) -> Decision:
    """Decide at the model's thresholds for a false-accept rate, or at a given threshold. Raises ValueError."""
    if threshold is not None:
        if not -1 <= threshold <= 1:
            raise ValueError(f"--threshold {threshold:g} is not between -1 and 1, as scores are.")
        return Decision(None, threshold, encoder.calibration)
    if not encoder.calibration:
        raise ValueError(
            "the model has no thresholds: evaluation.py measures some on the test data, python3 -m "
            "experiments.conditions --calibrate better ones; or give a --threshold."
        )
    lowest, highest = encoder.calibration["false_accept_rates"][0], encoder.calibration["false_accept_rates"][-1]
    if not far >= lowest:  # NaN is neither.
        raise ValueError(
            f"the model does not know at which score {far:g} of strangers pass, but for {lowest:g} and more: give "
            f"--far {lowest:g}, or measure with more speakers (python3 -m experiments.conditions --calibrate)."
        )
    if far > highest:
        raise ValueError(f"--far {far:g}: the model's rates end at {highest:g}; 0.01 is 1 %.")
    return Decision(far, None, encoder.calibration)


def score_all(
    encoder: Encoder, first: np.ndarray, seconds: np.ndarray, second: np.ndarray, other_seconds: np.ndarray
) -> np.ndarray:
    """The score of each of the first embeddings with each of the second, both (sides, dimensions) -> (first, second).

    The seconds of speech of each are (sides,). Scores are normalised where the model's thresholds are.
    """
    offsets, others = (
        score_offsets(embeddings, lengths, encoder.answer_cohort)
        for embeddings, lengths in ((first, seconds), (second, other_seconds))
    )
    return first @ second.T - offsets[:, None] - others


def describe_score(decision: Decision, score: float, first: int, second: int, num_enrolled: int = 1) -> dict:
    """What is known of a score of means of these numbers of recordings, as plain values."""
    rates = decision.rates(score, first, second)
    ratio = log_likelihood_ratio(decision.calibration, score, first, second)
    return {
        "score": score,
        "threshold": decision.threshold(first, second),
        "sure": decision.is_sure(score, first, second, num_enrolled),
        "different_people_score_as_high": rates and rates[0],
        "one_person_scores_lower": rates and rates[1],
        "log_likelihood_ratio": None if ratio is None else float(ratio),
    }


def verdict_of(meaning: dict, decision: Decision) -> str:
    """What `describe_score` means for two voices: "same", "different", or "unclear".

    A given threshold, or one without measured rates, decides for one of the first two.
    """
    if meaning["score"] >= meaning["threshold"]:
        return "same"
    lower, ratio = meaning["one_person_scores_lower"], meaning["log_likelihood_ratio"]
    is_given = decision.false_accept_rate is None or lower is None
    return "different" if is_given or (lower < DIFFERENT_SHARE and (ratio is None or ratio < 0)) else "unclear"


def verify(encoder: Encoder, first: Paths, second: Paths, decision: Decision) -> dict:
    """Compare the voices of two lists of recordings: the `verdict` (see `verdict_of`), `score`, and what it means."""
    sides = [hear(encoder, files) for files in (first, second)]
    embeddings = np.stack([mean_embedding(side) for side in sides])
    seconds = np.array([speech_seconds(side) for side in sides])
    score = float(score_all(encoder, embeddings[:1], seconds[:1], embeddings[1:], seconds[1:])[0, 0])
    counts = [len(side) for side in sides]
    meaning = describe_score(decision, score, *counts)
    is_speech = all(is_of_somebody(one) for one in sides[0] + sides[1])
    warnings = list_warnings(sides[0] + sides[1]) + find_copies(*sides)
    for side, total in zip(sides, seconds, strict=True):
        warnings += compare_recordings(encoder, side, embeddings[:0], float(total), decision)
    verdict = verdict_of(meaning, decision) if is_speech else "unclear"
    if verdict == "different" and {SEVERAL_VOICES, NOT_ALIKE} & {words for _, words in warnings}:
        verdict = "unclear"  # One of the voices may be the same.
    meaning["sure"] = meaning["sure"] if is_speech else False
    return {
        "verdict": verdict,
        "same": verdict == "same",
        **meaning,
        "false_accept_rate": decision.false_accept_rate,
        "recordings": counts,
        "source": decision.calibration.get("source"),
        "warnings": warnings,
    }


def compare_recordings(
    encoder: Encoder, heard: Sequence[Heard], own: np.ndarray, seconds: float, decision: Decision | None
) -> list[tuple[str, str]]:
    """Warnings of recordings that do not sound like the person's others.

    `own` (recordings, dimensions) are embeddings of more recordings; all have so many seconds of speech.
    """
    warnings: list[tuple[str, str]] = []
    if decision is None or not decision.calibration:
        return warnings
    embeddings = np.stack([one.recording.embedding for one in heard])
    for number, one in enumerate(heard):
        others = np.concatenate([np.delete(embeddings, number, axis=0), own])
        is_first_of_two = number == 0 and len(heard) == 2 and not len(own)  # Which one is wrong cannot be said.
        if len(others) and not is_first_of_two:
            lengths = np.array([one.recording.speech_seconds]), np.array([seconds - one.recording.speech_seconds])
            mean = unit_length(others.sum(axis=0, keepdims=True))
            score = float(score_all(encoder, embeddings[[number]], lengths[0], mean, lengths[1])[0, 0])
            as_high, lower = rates_at(decision.calibration, score, 1, len(others))
            if lower < UNLIKELY_LOW and as_high > LIKELY_HIGH:
                warnings.append((one.recording.file, NOT_ALIKE))
    return warnings


def is_of_somebody(one: Heard) -> bool:
    """Whether there is speech in a recording: two recordings of rain score high, too."""
    return NO_SPEECH not in one.faults


def find_copies(first: Sequence[Heard], second: Sequence[Heard]) -> list[tuple[str, str]]:
    """Warnings of recordings that are the same as one on the other side, by their embeddings and their MFCCs."""
    return [
        (one.recording.file, f"it sounds like the same recording as {other.recording.file}")
        for one, other in itertools.product(first, second)
        if one.recording.embedding @ other.recording.embedding > SAME_EMBEDDING
        and (one.recording.sha256 == other.recording.sha256 or is_same_audio(one.beginning, other.beginning))
    ]


def is_rival(decision: Decision, scores: np.ndarray, counts: Sequence[int], best: int, other: int) -> bool:
    """Whether a score with another person is nearly as likely as the best one; always if that was not measured."""
    ratios = [
        log_likelihood_ratio(decision.calibration, float(scores[number]), 1, counts[number]) for number in (best, other)
    ]
    return ratios[0] is None or bool(ratios[0] - ratios[1] < np.log(RIVAL_FACTOR))


def identify(
    encoder: Encoder, database: str, files: Paths, decision: Decision, skipped: list[tuple[str, str]] | None = None
) -> list[dict]:
    """Who speaks in each recording: `speaker` or None, a `verdict`, and `ranking`, at most NUM_SHOWN.

    Each enrolled person has the threshold for their number of recordings. The first of the ranking is farthest above
    it, or the least below; `rivals` are others above theirs who are nearly as likely. The verdict is "known", or
    "probable" where that is in doubt; below all thresholds "unclear" if it may well be the first, else "unknown".
    With `skipped`, files that cannot be used are left out, as `hear` does.
    """
    with speaker_database.open_database(database) as connection:
        people = speaker_database.read_speakers(connection, model_of(encoder))
    names, counts = people.names, people.counts
    if not names:
        raise ValueError(f"nobody is enrolled in {database}: `enrol` adds people.")
    thresholds = decision.thresholds(1, counts)
    answers = []
    heard = hear(encoder, files, skipped)
    embeddings = np.stack([one.recording.embedding for one in heard])
    seconds = np.array([one.recording.speech_seconds for one in heard])
    all_scores = score_all(encoder, embeddings, seconds, people.embeddings, people.seconds)
    for one, scores in zip(heard, all_scores, strict=True):
        best = np.argsort(thresholds - scores, kind="stable")[:NUM_SHOWN]
        is_speech = is_of_somebody(one)
        accepted = [number for number in best if scores[number] >= thresholds[number] and is_speech]
        meaning = describe_score(decision, float(scores[best[0]]), 1, counts[best[0]], len(names))
        rivals = [names[number] for number in accepted[1:] if is_rival(decision, scores, counts, best[0], number)]
        meaning["sure"] = False if rivals else meaning["sure"]
        verdict = "known" if meaning["sure"] is not False else "probable"
        if not accepted:
            verdict = "unclear" if verdict_of(meaning, decision) == "unclear" and is_speech else "unknown"
        answers.append(
            {
                "file": one.recording.file,
                "verdict": verdict,
                "speaker": names[best[0]] if accepted else None,
                **meaning,
                "rivals": rivals,
                "ranking": [(names[number], float(scores[number])) for number in best],
                "enrolled": len(names),
                "false_accept_rate": decision.false_accept_rate,
                "source": decision.calibration.get("source"),
                "warnings": list_warnings([one]),
            }
        )
    return answers
