"""How many voices are in a recording, and which windows are whose, with nobody enrolled."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from encoder.base import unit_length
from scoring.thresholds import NEAR_STRANGERS, WINDOW_SECONDS

# This part of the mean of all windows, which holds microphone and room, is subtracted before windows are compared.
CENTRING = 0.8

# Numbers of voices from 2 to USUAL_MOST are tried, or more where that clearly pays (see `most_voices`). Each leaves
# something unexplained (see `Voices`), the less, the more voices there are. One voice more must lower it by SHORT_PRICE
# divided by the number of windows, by VOICE_PRICE times the least that is left, and by PIECE_PRICE times what each of
# the last NUM_PIECES voices does: other people do, pieces of one person do not. These were chosen for the pretrained
# models.
USUAL_MOST = 8
SHORT_PRICE = 150.0
VOICE_PRICE = 0.12
PIECE_PRICE = 0.75
NUM_PIECES = 3

# A change of speaker costs as much as this difference of similarity in one window.
SWITCH_COST = 0.6

# How often each window is given to a voice, and the means of the voices are computed from their windows.
REFINEMENTS = 4

# The windows are of several voices if the means of two parts, and CONTRAST_WEIGHT times the contrast (see
# `measure_contrast`), are farther apart than ONE_VOICE times the distance of near strangers. In short recordings, parts
# of one voice differ by chance: ONE_VOICE_SHORT, divided by the square of the number of windows, is added, and the
# contrast counts only from LEAST_FOR_CONTRAST windows on. Of one person's sessions, 89 % are found to be one voice, of
# one person's single recordings 98 %; of six real calls and meetings none is.
ONE_VOICE, ONE_VOICE_SHORT = 0.37, 50.0
CONTRAST_WEIGHT, LEAST_FOR_CONTRAST = 2.0, 30

# The number is in doubt where the parts are nearer to this limit than by such a factor, or where another number costs
# less than such a part of a voice's price more. Without doubt, 95 % of the numbers are right.
DOUBTFUL_UNLIKENESS, DOUBTFUL_PRICE = 1.25, 0.5

# Windows that do not overlap and are so near that one person is likely to speak in both; and windows farther apart than
# a usual turn, in seconds.
NEAR_SECONDS, FAR_SECONDS = (WINDOW_SECONDS, WINDOW_SECONDS + 0.9), 6.0

# The fewest windows that can be a voice, and the most that are compared with each other.
LEAST_WINDOWS = 3
MOST_WINDOWS = 3000


def centre(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings of windows (windows, dimensions) without most of what they have in common, of length 1."""
    return unit_length(embeddings - CENTRING * embeddings.mean(axis=0))


def best_path(scores: np.ndarray) -> np.ndarray:
    """The sequence of states that has the highest sum of scores (windows, states), minus SWITCH_COST per change.

    Source: Viterbi 1967, with equal costs for all changes.
    """
    totals = scores.astype(np.float64)  # In the end, the highest sums of paths that end in each window and state.
    for before, total in zip(totals, totals[1:], strict=False):
        total += np.maximum(before, before.max() - SWITCH_COST)
    best, highest = totals.argmax(axis=1), totals.max(axis=1)
    path = best.copy()
    for number in range(len(scores) - 2, -1, -1):
        if totals[number, path[number + 1]] >= highest[number] - SWITCH_COST:
            path[number] = path[number + 1]
    return path


class Voices(NamedTuple):
    """Voices in the windows of a recording, in the order of their first words.

    `voice_of` (windows,) says whose each window is; `means` (voices, dimensions), centred, are those of the windows
    that each voice got. `unexplained` is the sum over the windows of speech of 1 minus the similarity to the own voice,
    plus SWITCH_COST for each change.
    """

    means: np.ndarray
    voice_of: np.ndarray
    unexplained: float


def follow_voices(centred: np.ndarray, means: np.ndarray) -> Voices:
    """Whose each window is, centred (windows, dimensions), zeros in silence, beginning with means (voices, dimensions).

    A voice that gets no window is left out.
    """
    is_heard = centred.any(axis=1)
    for _ in range(REFINEMENTS):
        similarities = centred @ means.T
        path = best_path(similarities)
        in_order = list(dict.fromkeys(path[is_heard].tolist()))
        means = unit_length(np.stack([centred[path == voice].mean(axis=0) for voice in in_order]))
    number_of = {voice: number for number, voice in enumerate(in_order)}
    explained = similarities[np.arange(len(path)), path].sum() - SWITCH_COST * np.count_nonzero(np.diff(path))
    voice_of = np.array([number_of.get(voice, 0) for voice in path.tolist()])
    return Voices(means, voice_of, float(is_heard.sum() - explained))


def find_voices(
    embeddings: np.ndarray, starts: np.ndarray, num_voices: int | None, near_strangers: float
) -> tuple[np.ndarray, int | None]:
    """The mean, centred, of each voice in windows of speech (windows, dimensions) -> (voices, dimensions).

    And another number of voices that there may be just as well, or None. The windows begin at `starts` (windows,), in
    seconds. The number is found if it is not given. The search begins with the groups of Ward 1963, "Hierarchical
    grouping to optimize an objective function".
    """
    centred = centre(embeddings)
    if len(embeddings) < (2 if num_voices else 2 * LEAST_WINDOWS):
        return unit_length(centred.mean(axis=0, keepdims=True)), None
    from scipy.cluster.hierarchy import linkage  # Slow, and only needed here.

    some = np.linspace(0, len(embeddings) - 1, min(len(embeddings), MOST_WINDOWS)).astype(int)
    tree = linkage(centred[some], "ward")

    def means_of(number: int) -> np.ndarray:
        parts = cut(tree, min(number, len(some)))
        return unit_length(np.stack([centred[some[parts == part]].mean(axis=0) for part in np.unique(parts)]))

    if num_voices:
        return means_of(num_voices), None
    halves = follow_voices(centred[some], means_of(2))
    unlike = unlikeness(embeddings[some], starts[some], halves.voice_of == 0, near_strangers)
    if unlike <= 1 / DOUBTFUL_UNLIKENESS:
        return means_of(1), None
    most = min(most_voices(lambda number: unexplained_by(centred[some], means_of(number)), len(some)), len(some))
    found = [follow_voices(centred, means_of(number)) for number in range(2, most + 1)]
    unexplained = [voices.unexplained for voices in found]
    of_pieces = (unexplained[-NUM_PIECES - 1] - unexplained[-1]) / NUM_PIECES
    price = SHORT_PRICE / len(embeddings) + VOICE_PRICE * min(unexplained) + PIECE_PRICE * max(0, of_pieces)
    costs = {len(voices.means): voices.unexplained + price * len(voices.means) for voices in reversed(found)}
    best, *others = sorted(costs, key=costs.__getitem__)
    if unlike <= 1:
        return means_of(1), best
    means = next(voices.means for voices in found if len(voices.means) == best)
    if unlike < DOUBTFUL_UNLIKENESS:
        return means, 1
    return means, next((other for other in others if costs[other] - costs[best] < DOUBTFUL_PRICE * price), None)


def cut(tree: np.ndarray, number: int) -> np.ndarray:
    """Which of so many groups each window is in (windows,), by the merges of SciPy's `linkage` (windows - 1, 4)."""
    num_windows = len(tree) + 1
    groups = np.arange(num_windows + len(tree))
    for merge in range(num_windows - number - 1, -1, -1):  # The later ones are undone.
        groups[tree[merge, :2].astype(int)] = groups[num_windows + merge]
    return groups[:num_windows]


def unexplained_by(centred: np.ndarray, means: np.ndarray) -> float:
    """What voices with these means leave unexplained of windows (windows, dimensions), at any change of speaker."""
    return float(len(centred) - (centred @ means.T).max(axis=1).sum())


def most_voices(unexplained: Callable[[int], float], num_windows: int) -> int:
    """How many voices are to be tried at most: USUAL_MOST, doubled once or more if each further one pays its price."""
    most = number = USUAL_MOST
    before = unexplained(most)
    while LEAST_WINDOWS * (number := 2 * number) <= num_windows:
        left = unexplained(number)
        if before - left > (number - most) * VOICE_PRICE * left:
            most, before = number, left
    return most


def unlikeness(embeddings: np.ndarray, starts: np.ndarray, is_first: np.ndarray, near_strangers: float) -> float:
    """How unlike windows (windows, dimensions) in two parts are, one of them given (windows,); 1 is the limit.

    Above it, they are of several voices; below it, of one.
    """
    number = len(embeddings)
    if min(is_first.sum(), (~is_first).sum()) < LEAST_WINDOWS:
        return 0.0
    first, second = unit_length(np.stack([embeddings[part].mean(axis=0) for part in (is_first, ~is_first)]))
    distance = 1 - first @ second
    if number >= LEAST_FOR_CONTRAST:
        distance += CONTRAST_WEIGHT * measure_contrast(embeddings, starts)
    return float(distance / (near_strangers * (ONE_VOICE + ONE_VOICE_SHORT / number**2)))


def measure_contrast(embeddings: np.ndarray, starts: np.ndarray) -> float:
    """By how much windows (windows, dimensions) are more similar to near ones than to far ones, in time.

    About 0 if one person speaks, more if people take turns.
    """
    distances = np.abs(starts[:, None] - starts)
    is_near = (distances >= NEAR_SECONDS[0]) & (
        distances < max(NEAR_SECONDS[1], NEAR_SECONDS[0] + np.diff(starts).max())
    )
    is_far = distances > FAR_SECONDS
    if not is_near.any() or not is_far.any():
        return 0.0
    similarities = embeddings @ embeddings.T
    return float(similarities[is_near].mean() - similarities[is_far].mean())


def seem_several(embeddings: np.ndarray, starts: np.ndarray, near_strangers: float = NEAR_STRANGERS) -> bool:
    """A quick test for several voices in windows (windows, dimensions) that begin at `starts`, without SciPy.

    The parts are the two sides of the middle along the direction in which the windows vary most.
    """
    if len(embeddings) < 2 * LEAST_WINDOWS:
        return False
    centred = embeddings - embeddings.mean(axis=0)
    is_first = centred @ np.linalg.svd(centred, full_matrices=False)[2][0] > 0
    return unlikeness(embeddings, starts, is_first, near_strangers) > 1
