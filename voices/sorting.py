"""Who speaks in many recordings: groups of one voice each, with the names of people who are enrolled."""

import itertools
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from encoder.base import Encoder, unit_length
from voices.answers import Decision, score_all
from voices.database import People
from voices.recordings import NO_SPEECH, SEVERAL_VOICES, Heard

# The name of a group of nobody enrolled, before its number.
VOICE = "voice"

# A group is a rival of a recording's own if the mean score with it is that of so many times as many strangers.
RIVAL_RATE_FACTOR = 5.0


class Group(NamedTuple):
    """Recordings of one voice: its name, the files, and for each whether it is surely of this voice."""

    name: str
    files: list[str]
    sure: list[bool]


def group_recordings(scores: np.ndarray, threshold: float) -> np.ndarray:
    """The group of each recording (recordings,), the largest first, from the scores of all pairs.

    Two groups are joined if the mean score of their pairs reaches the threshold, the most similar ones first. Source:
    Sokal and Michener 1958, average linkage.
    """
    if len(scores) < 2:
        return np.zeros(len(scores), np.int64)
    from scipy.cluster.hierarchy import fcluster, linkage  # Slow, and only needed here.

    first, second = np.triu_indices(len(scores), k=1)
    highest = scores[first, second].max()
    # Distances must not be negative.
    groups = fcluster(linkage(highest - scores[first, second], "average"), highest - threshold, "distance")
    names, counts = np.unique(groups, return_counts=True)
    place_of = {name: place for place, name in enumerate(names[np.argsort(-counts, kind="stable")])}
    return np.array([place_of[group] for group in groups])


def sort_recordings(encoder: Encoder, heard: Sequence[Heard], people: People, decision: Decision) -> list[Group]:
    """Groups of recordings, each of one voice, the largest first; those of one enrolled person are one group.

    A recording is surely of its group if there is one voice in it, and not noise, its mean score with the others there
    reaches the threshold, and that with no other group reaches one of RIVAL_RATE_FACTOR times the false-accept rate.
    """
    embeddings = np.stack([one.recording.embedding for one in heard])
    seconds = np.array([one.recording.speech_seconds for one in heard])
    scores = score_all(encoder, embeddings, seconds, embeddings, seconds)
    group_of = group_recordings(scores, decision.threshold(1, 1))
    is_member = group_of[:, None] == np.arange(group_of.max() + 1)
    others = is_member.sum(axis=0) - is_member  # How many there are in each group beside the recording.
    means = ((scores - np.diag(np.diag(scores))) @ is_member) / np.maximum(others, 1)
    is_near = (means >= decision.threshold(1, 1)) | (others == 0)
    is_rival = (means >= rival_threshold(decision)) & ~is_member
    is_sure = (
        is_near[is_member] & ~is_rival.any(axis=1) & [not {SEVERAL_VOICES, NO_SPEECH} & {*one.faults} for one in heard]
    )
    groups: dict[str, Group] = {}
    taken = {name.casefold() for name in people.names}
    free = (f"{VOICE} {number}" for number in itertools.count(1) if f"{VOICE} {number}" not in taken)
    for number in range(is_member.shape[1]):
        members = np.flatnonzero(is_member[:, number]).tolist()
        name = name_group(encoder, embeddings[members], seconds[members], people, decision) or next(free)
        before = groups.get(name, Group(name, [], []))
        files = [heard[member].recording.file for member in members]
        groups[name] = Group(name, before.files + files, before.sure + is_sure[members].tolist())
    return list(groups.values())


def rival_threshold(decision: Decision) -> float:
    """The threshold for RIVAL_RATE_FACTOR times the false-accept rate, or the given one."""
    if decision.false_accept_rate is None:
        return decision.threshold(1, 1)
    rate = min(RIVAL_RATE_FACTOR * decision.false_accept_rate, decision.calibration["false_accept_rates"][-1])
    return decision._replace(false_accept_rate=rate).threshold(1, 1)


def name_group(
    encoder: Encoder, embeddings: np.ndarray, seconds: np.ndarray, people: People, decision: Decision
) -> str:
    """The enrolled person whose threshold a group exceeds most, or ""."""
    if not people.names:
        return ""
    mean = unit_length(embeddings.sum(axis=0, keepdims=True))
    [scores] = score_all(encoder, mean, seconds.sum(keepdims=True), people.embeddings, people.seconds)
    margins = scores - decision.thresholds(len(embeddings), people.counts)
    return people.names[int(margins.argmax())] if margins.max() >= 0 else ""


def folder_name(name: str) -> str:
    """A name as that of a folder: without what leads elsewhere, or what systems do not allow."""
    return re.sub(r'[\\/:*?"<>|]', "_", name).strip(". ") or "_"


def copy_groups(groups: Sequence[Group], folder: str) -> None:
    """Copy each recording into a folder of its group's name. Raises ValueError if a file is there already."""
    copies = {}
    for group in groups:
        for file in group.files:
            copy = Path(folder) / folder_name(group.name) / Path(file).name
            if copy.exists() or copy in copies:
                raise ValueError(f"{copy} is there already: nothing was copied. Choose another folder.")
            copies[copy] = file
    for copy, file in copies.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
