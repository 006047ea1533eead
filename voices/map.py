"""Pictures of voices: a map of recordings, where similar voices are near to each other, and all their similarities."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audio.recording_lists import same_letters
from foundation import pictures

if TYPE_CHECKING:
    import matplotlib.figure


# Fewer points than this are laid out by their principal components, more by t-SNE.
LEAST_FOR_TSNE = 12

# More names than this would hide the picture.
MAX_NAMES = 40


def name_speakers(files: Sequence[str]) -> list[str]:
    """A speaker for each file: its folder or, if all are in one folder, its name up to the last `-`
    or `_`, or without the number at its end.

    In LibriSpeech, it is the parent of the file's folder.
    """
    paths = [Path(same_letters(file)).absolute() for file in files]
    if all(path.stem.startswith(f"{path.parent.parent.name}-{path.parent.name}-") for path in paths):
        return [path.parent.parent.name for path in paths]
    if len({path.parent for path in paths}) > 1:
        return [path.parent.name for path in paths]
    return [re.sub("[-_][^-_]*$|(?<=[^\\d])\\d+$", "", path.stem) for path in paths]


def lay_out(embeddings: np.ndarray) -> np.ndarray:
    """Positions (recordings, 2) for embeddings (recordings, dimensions) of length 1.

    Sources: van der Maaten and Hinton 2008, "Visualizing data using t-SNE"; principal components for few recordings.
    """
    if len(embeddings) < 3:
        return np.column_stack([np.arange(len(embeddings)), np.zeros(len(embeddings))])
    if len(embeddings) < LEAST_FOR_TSNE:
        from sklearn.decomposition import PCA  # Slow to import, and only needed here.

        return PCA(2).fit_transform(embeddings)
    from sklearn.manifold import TSNE

    perplexity = min(30, (len(embeddings) - 1) / 3)
    return TSNE(perplexity=perplexity, metric="cosine", init="pca", random_state=0).fit_transform(embeddings)


def draw_map(embeddings: np.ndarray, speakers: Sequence[str], is_wide: bool = True) -> "matplotlib.figure.Figure":
    """Draw the map and the cosine similarities of embeddings (recordings, dimensions), side by side or not."""
    order = np.argsort(np.array(speakers), kind="stable")
    embeddings, speakers = embeddings[order], [speakers[number] for number in order]
    names, first, counts = np.unique(speakers, return_index=True, return_counts=True)
    places = lay_out(embeddings)
    with pictures.style(speakers):
        figure = pictures.new_figure(figsize=(12, 5.5) if is_wide else (5, 9))
        points, matrix = figure.subplots(*((1, 2) if is_wide else (2, 1)))
        colours = pictures.load_matplotlib().colormaps["turbo"](np.linspace(0.05, 0.95, len(names)))
        for number, name in enumerate(names):
            own = places[first[number] : first[number] + counts[number]]
            points.scatter(*own.T, color=colours[number], marker="osD^vP"[number % 6], s=30)
            if len(names) <= MAX_NAMES:
                above = own[:, 0].mean(), own[:, 1].max()
                points.annotate(name, above, (0, 5), textcoords="offset points", ha="center", fontsize="small")
        meaning = "near: similar voices; the axes have no meaning"
        points.set(title="Map of the recordings", xticks=[], yticks=[], xlabel=meaning)
        points.margins(0.1)
        image = matrix.imshow(embeddings @ embeddings.T, vmin=-0.2, vmax=1, cmap="viridis")
        matrix.set(title="Similarity of all pairs")
        matrix.grid(visible=False)
        if len(names) <= MAX_NAMES:
            middle = first + (counts - 1) / 2
            matrix.set_xticks(middle, names, rotation=90)
            matrix.set_yticks(middle, names)
        for edge in first[1:] - 0.5:
            matrix.axhline(edge, color="white", linewidth=0.5)
            matrix.axvline(edge, color="white", linewidth=0.5)
        figure.colorbar(image, ax=matrix, label="cosine similarity")
    return figure
