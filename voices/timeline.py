"""Who spoke when: the voices in a recording, found with nobody in mind, then compared with the enrolled."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from audio.speech_levels import LEAST_SPEECH_SHARE, speech_share
from encoder.base import Encoder, unit_length
from encoder.inference import embed_features
from foundation import settings
from scoring.thresholds import WINDOW_SECONDS, near_strangers
from voices.answers import Decision, is_rival, score_all
from voices.clustering import CENTRING, LEAST_WINDOWS, best_path, centre, find_voices, follow_voices
from voices.database import UNKNOWN, People, nobody
from voices.turns import Turn, find_turns
from voices.windows import BLOCK_STEPS, STEP_SECONDS, Windows, listen

# The name of unknown voices that are told apart, before their number.
VOICE = "speaker"

# So many windows before and after a change of voice are heard again, in their middle.
NEAR_CHANGES = 2


class Timeline(NamedTuple):
    """The turns, and the data they were found in.

    `middles` (windows,) are in seconds; `candidates` are names; `margins` (windows, candidates), NaN in silence, say by
    how much the score of a window with an enrolled person is above the threshold, or how similar, centred, it is to a
    voice that was found; the first `num_enrolled` candidates are enrolled; `faults` say in words why the result may be
    wrong.
    """

    turns: list[Turn]
    middles: np.ndarray
    margins: np.ndarray
    candidates: list[str]
    num_enrolled: int
    faults: list[str]


class Owner(NamedTuple):
    """The enrolled person whose voice it is, by number, or -1; the score that decided, and whether it is sure."""

    person: int
    score: float | None
    sure: bool | None


NOBODY = Owner(-1, None, None)


def find_timeline(
    encoder: Encoder,
    recording: str,
    people: People | None = None,
    decision: Decision | None = None,
    cluster: bool = True,
    num_voices: int | None = None,
    channel: int | None = None,
) -> Timeline:
    """When each of the enrolled people, and each other voice, speaks in a recording of any length.

    The voices are found first, as many as there seem to be, or `num_voices`. A voice gets the name of the enrolled
    person whose threshold in the decision it exceeds most, and each name belongs to one voice. With `cluster`, the
    others are "speaker 1", "speaker 2" ..., without it, all are UNKNOWN. Of several channels, the mean is heard, or
    `channel` alone, counted from 0. Needs memory for only one or two minutes of audio, and for the features of all.
    Raises ValueError for a file that cannot be used.
    """
    people = people or nobody(encoder.dimensions)
    windows = listen(encoder, recording, channel)
    voice_of, perhaps = cluster_windows(windows, num_voices, near_strangers(encoder.calibration))
    if decision and people.names and not num_voices:
        voice_of = split_voices(encoder, windows, voice_of, people, decision)
    voice_of = hear_changes_again(encoder, windows, voice_of)
    faults = windows.faults + doubt_in_words(voice_of, perhaps) * cluster
    owners = [NOBODY] * int(voice_of.max() + 1)
    if decision and people.names:
        owners = find_owners(encoder, windows, voice_of, people, decision)
    names, shown = name_voices(owners, people, cluster)
    margins = np.zeros((len(windows.embeddings), 0))
    if decision and shown:
        margins = window_margins(encoder, windows.embeddings, people, decision, np.array(shown))
    candidates = [people.names[person] for person in shown]
    strangers = [voice for voice, owner in enumerate(owners) if owner.person < 0]
    if cluster and strangers and windows.is_heard.any():
        margins = np.column_stack([margins, voice_similarities(windows, voice_of)[:, strangers]])
        candidates += [names[voice] for voice in strangers]
    margins[~windows.is_heard] = np.nan
    middles = windows.starts + windows.length / 2
    turns = find_turns(voice_of, middles, windows.is_speech, names, owners)
    return Timeline(turns, middles, margins, candidates, len(shown), faults)


def doubt_in_words(voice_of: np.ndarray, perhaps: int | None) -> list[str]:
    """That there may be another number of voices than was found, if so."""
    number = int(voice_of.max() + 1)
    if perhaps in (None, number):
        return []
    return [f"{number} {'people seem' if number > 1 else 'person seems'} to speak, perhaps {perhaps}"]


def name_voices(owners: Sequence[Owner], people: People, cluster: bool) -> tuple[list[str], list[int]]:
    """The name of each voice, and the enrolled people who speak, in the order of their first words.

    All voices count for the numbers of those without a name, so that the others keep theirs when one gets a name.
    """
    taken = {name.casefold() for name in people.names}
    free = (f"{VOICE} {number}" for number in itertools.count(len(owners) + 1) if f"{VOICE} {number}" not in taken)
    numbered = (f"{VOICE} {number + 1}" for number in range(len(owners)))
    numbers = [name if name not in taken else next(free) for name in numbered] if cluster else [UNKNOWN] * len(owners)
    names = [
        people.names[owner.person] if owner.person >= 0 else number
        for owner, number in zip(owners, numbers, strict=True)
    ]
    return names, list(dict.fromkeys(owner.person for owner in owners if owner.person >= 0))


def window_margins(
    encoder: Encoder, embeddings: np.ndarray, people: People, decision: Decision, shown: np.ndarray
) -> np.ndarray:
    """By how much the scores of windows (windows, dimensions) with some people exceed their thresholds."""
    seconds = np.full(len(embeddings), WINDOW_SECONDS)
    scores = score_all(encoder, embeddings, seconds, people.embeddings[shown], people.seconds[shown])
    return scores - decision.thresholds(0, [people.counts[person] for person in shown.tolist()])


def voice_scores(encoder: Encoder, windows: Windows, voice_of: np.ndarray, people: People) -> np.ndarray:
    """The score of the mean of each voice with each of the people -> (voices, people)."""
    heard = [windows.is_heard & (voice_of == voice) for voice in range(voice_of.max() + 1)]
    means = unit_length(np.stack([windows.embeddings[of_voice].sum(axis=0) for of_voice in heard]))
    seconds = np.array([windows.length + STEP_SECONDS * (np.count_nonzero(of_voice) - 1) for of_voice in heard])
    return score_all(encoder, means, seconds, people.embeddings, people.seconds)


def find_owners(
    encoder: Encoder, windows: Windows, voice_of: np.ndarray, people: People, decision: Decision
) -> list[Owner]:
    """Whose each voice is: an assignment of names to voices, by how much they exceed their thresholds.

    A voice is like one long recording. `voice_of` (windows,) is a number for each window.
    """
    from scipy.optimize import linear_sum_assignment  # Slow to import, and only needed here.

    if not windows.is_heard.any():
        return [NOBODY]
    scores = voice_scores(encoder, windows, voice_of, people)
    margins = scores - decision.thresholds(1, people.counts)
    known = np.flatnonzero((margins >= 0).any(axis=0))
    owners = [NOBODY] * len(scores)
    for voice, place in zip(*linear_sum_assignment(margins[:, known].clip(0), maximize=True), strict=True):
        person, score = int(known[place]), float(scores[voice, known[place]])
        if margins[voice, person] >= 0:
            sure = decision.is_sure(score, 1, people.counts[person], len(people.names))
            others = [other for other in np.flatnonzero(margins[voice] >= 0).tolist() if other != person]
            if any(is_rival(decision, scores[voice], people.counts, person, other) for other in others):
                sure = False
            owners[voice] = Owner(person, score, sure)
    return owners


def split_voices(
    encoder: Encoder, windows: Windows, voice_of: np.ndarray, people: People, decision: Decision
) -> np.ndarray:
    """The voices (windows,) with those divided that are of several people, one of them enrolled.

    In a voice, the windows of an enrolled person who is not its owner go to the voice that this person owns, or are one
    of their own, if their mean exceeds the person's threshold. So do those of nobody enrolled in a voice with an owner.
    """
    owners = find_owners(encoder, windows, voice_of, people, decision)
    voice_of_person = {owner.person: voice for voice, owner in enumerate(owners) if owner.person >= 0}
    divided, num_voices = voice_of.copy(), len(owners)
    for voice, owner in enumerate(owners):
        in_voice = windows.is_heard & (voice_of == voice)
        person_of = find_people(encoder, windows, in_voice, people, decision)
        for person in np.unique(person_of[in_voice]).tolist():
            part = in_voice & (person_of == person)
            if person == owner.person or min(part.sum(), (in_voice & ~part).sum()) < LEAST_WINDOWS:
                continue
            above = voice_scores(encoder, windows._replace(is_heard=part), 0 * voice_of, people)[0]
            above -= decision.thresholds(1, people.counts)
            if person < 0 and above[owner.person] < 0:
                divided[part] = num_voices
                num_voices += 1
            elif person >= 0 and above[person] >= 0:
                divided[part] = voice_of_person.setdefault(person, num_voices)
                num_voices = max(num_voices, divided[part][0] + 1)
    if num_voices == len(owners) and (divided == voice_of).all():
        return voice_of
    centred = centre_heard(windows)
    heard = divided * windows.is_heard - ~windows.is_heard
    means = unit_length(np.stack([centred[heard == voice].sum(axis=0) for voice in np.unique(heard[heard >= 0])]))
    divided = follow_voices(centred, means).voice_of
    # Without the enrolled, the other voices are easier to tell apart.
    owners = find_owners(encoder, windows, divided, people, decision)
    rest = windows.is_heard & np.array([owners[voice].person < 0 for voice in divided.tolist()])
    others, _ = cluster_windows(windows._replace(is_heard=rest), None, near_strangers(encoder.calibration))
    return number_in_order(np.where(rest, len(owners) + others, divided), windows.is_heard)


def number_in_order(voice_of: np.ndarray, is_heard: np.ndarray) -> np.ndarray:
    """Voices (windows,), numbered in the order of their first words; where nobody is heard, that of the nearest window.

    A little speech may be in such a window.
    """
    place_of = {voice: number for number, voice in enumerate(dict.fromkeys(voice_of[is_heard].tolist()))}
    heard = np.flatnonzero(is_heard)
    nearest = heard[np.searchsorted((heard[1:] + heard[:-1]) / 2, np.arange(len(voice_of)))]
    return np.array([place_of[voice] for voice in voice_of[nearest].tolist()])


def find_people(
    encoder: Encoder, windows: Windows, in_voice: np.ndarray, people: People, decision: Decision
) -> np.ndarray:
    """The enrolled person of each window of a voice, -1 for nobody enrolled, both (windows,).

    An enrolled person must be nearer than the threshold; which of them it is shows without what all windows have in
    common.
    """
    candidates = find_candidates(encoder, windows.embeddings[in_voice], people, decision)
    margins = window_margins(encoder, windows.embeddings, people, decision, candidates) * in_voice[:, None]
    is_known = best_path(np.column_stack([margins, np.zeros(len(margins))])) < len(candidates)
    if not is_known.any():
        return np.full(len(in_voice), -1)
    common = CENTRING * windows.embeddings[windows.is_heard].mean(axis=0)
    enrolled = unit_length(people.embeddings[candidates] - common)
    similarities = unit_length(windows.embeddings - common) @ enrolled.T
    return np.where(is_known, candidates[best_path(similarities * (is_known & in_voice)[:, None])], -1)


def cluster_windows(windows: Windows, num_voices: int | None, distance: float) -> tuple[np.ndarray, int | None]:
    """Whose each window is (windows,), of the voices that are heard, numbered in the order of their first words.

    And another number of voices that there may be just as well. `distance` is that of near strangers.
    """
    if not windows.is_heard.any():
        return np.zeros(len(windows.embeddings), np.int64), None
    heard = windows.is_heard
    means, perhaps = find_voices(windows.embeddings[heard], windows.starts[heard], num_voices, distance)
    return follow_voices(centre_heard(windows), means).voice_of, perhaps


def hear_changes_again(encoder: Encoder, windows: Windows, voice_of: np.ndarray) -> np.ndarray:
    """Whose each window is (windows,), found anew: those next to a change of voice are judged by their middle half.

    A window in which the voice changes is of two people, and its middle half more often of one. No voice is lost.
    """
    quarter = len(windows.features[0]) // 4
    if not voice_of.any() or not quarter:
        return voice_of
    changes = np.flatnonzero(np.diff(voice_of))
    around = changes[:, None] + np.arange(1 - NEAR_CHANGES, NEAR_CHANGES + 1)
    shares = speech_share(windows.is_speech, windows.starts + windows.length / 4, windows.length / 2)
    near = np.intersect1d(around, np.flatnonzero(windows.is_heard & (shares >= LEAST_SPEECH_SHARE)))
    middles = [windows.features[number][quarter:-quarter] for number in near.tolist()]
    centred = centre_heard(windows)
    means = [centred[voice_of == voice].sum(axis=0) for voice in range(voice_of.max() + 1)]
    common = CENTRING * windows.embeddings[windows.is_heard].mean(axis=0)
    centred[near] = unit_length(embed_features(encoder, middles, settings.in_one_piece()) - common)
    found = number_in_order(follow_voices(centred, unit_length(np.stack(means))).voice_of, windows.is_heard)
    return found if found.max() == voice_of.max() else voice_of


def centre_heard(windows: Windows) -> np.ndarray:
    """The centred embeddings of the windows, zeros where nobody is heard (windows, dimensions)."""
    centred = np.zeros_like(windows.embeddings)
    centred[windows.is_heard] = centre(windows.embeddings[windows.is_heard])
    return centred


def voice_similarities(windows: Windows, voice_of: np.ndarray) -> np.ndarray:
    """How similar each window is to the mean of each voice, both centred (windows, voices)."""
    centred = centre_heard(windows)
    sums = [centred[voice_of == voice].sum(axis=0) for voice in range(voice_of.max() + 1)]
    return centred @ unit_length(np.stack(sums)).T


def find_candidates(encoder: Encoder, embeddings: np.ndarray, people: People, decision: Decision) -> np.ndarray:
    """The numbers of the enrolled who are farthest above their thresholds in some window, those in the most first."""
    blocks = np.array_split(embeddings, len(embeddings) // BLOCK_STEPS + 1)
    everybody = np.arange(len(people.names))
    margins = (window_margins(encoder, block, people, decision, everybody) for block in blocks)
    nearest, above = map(np.concatenate, zip(*((of.argmax(axis=1), of.max(axis=1)) for of in margins), strict=True))
    found, counts = np.unique(nearest[above >= 0], return_counts=True)
    return found[np.argsort(-counts, kind="stable")]
