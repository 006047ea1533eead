"""How many voices are in a recording, and which windows are whose, with nobody enrolled."""

import numpy as np

# This part of the mean of all windows, which holds microphone and room, is subtracted before windows are compared.
CENTRING = 0.8

# Voices are joined, the most similar first (Ward 1963). How different joined ones are lies near two values: high for
# different voices, as in the last step, and low for pieces of one voice, as in the step that left MAX_VOICES. Where it
# passes DISTINCT times the geometric mean of the two, voices are joined that differ.
DISTINCT = 1.05
MAX_VOICES = 8

# Two halves of a recording with a similarity of their means above this are one voice. Of recordings of one person 95 %
# are above 0.74, of two people's recordings joined 95 % below 0.65 (three corpora of the development speakers).
ONE_VOICE = 0.74

# The fewest windows that can be a voice, and the most that are compared with each other.
LEAST_WINDOWS = 3
MOST_WINDOWS = 3000


def normalise(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, dimensions) with length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(1e-9)


def centre(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings of windows (windows, dimensions) without most of what they have in common, of length 1."""
    return normalise(embeddings - CENTRING * embeddings.mean(axis=0))


def find_voices(embeddings: np.ndarray, num_voices: int | None = None) -> np.ndarray:
    """The mean, centred, of each voice in windows of speech (windows, dimensions) -> (voices, dimensions).

    The number is found if it is not given. Source: Ward 1963, "Hierarchical grouping to optimize an objective
    function".
    """
    if len(embeddings) < max(2, num_voices or 2 * LEAST_WINDOWS):
        return centre(embeddings).mean(axis=0, keepdims=True)
    from scipy.cluster.hierarchy import fcluster, linkage  # Slow, and only needed here.

    some = np.linspace(0, len(embeddings) - 1, min(len(embeddings), MOST_WINDOWS)).astype(int)
    chosen, centred = embeddings[some], centre(embeddings)[some]
    tree = linkage(centred, "ward")
    number = num_voices or count_voices(tree[::-1, 2], chosen, fcluster(tree, 2, "maxclust"))
    voice_of = fcluster(tree, number, "maxclust")
    return normalise(np.stack([centred[voice_of == voice].mean(axis=0) for voice in np.unique(voice_of)]))


def are_unlike(embeddings: np.ndarray, is_first: np.ndarray) -> bool:
    """Whether windows (windows, dimensions) in two parts, the first of which is given (windows,), are of two voices."""
    if min(is_first.sum(), (~is_first).sum()) < LEAST_WINDOWS:
        return False
    first, second = normalise(np.stack([embeddings[part].mean(axis=0) for part in (is_first, ~is_first)]))
    return float(first @ second) <= ONE_VOICE


def seem_several(embeddings: np.ndarray) -> bool:
    """A quick test for several voices in windows (windows, dimensions), without SciPy.

    The parts are the two sides of the middle along the direction in which the windows vary most.
    """
    if len(embeddings) < 2 * LEAST_WINDOWS:
        return False
    centred = embeddings - embeddings.mean(axis=0)
    return are_unlike(embeddings, centred @ np.linalg.svd(centred, full_matrices=False)[2][0] > 0)


def count_voices(differences: np.ndarray, embeddings: np.ndarray, halves: np.ndarray) -> int:
    """The number of voices, from the differences between joined voices, largest first, and the last two (windows,)."""
    if not are_unlike(embeddings, halves == 1):
        return 1
    at_most = min(MAX_VOICES, len(differences))
    limit = DISTINCT * np.sqrt(differences[0] * differences[at_most - 1])
    return max(2, 1 + int((differences[: at_most - 1] > limit).sum()))
