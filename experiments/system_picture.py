"""The whole system on one slide: `python3 -m experiments.system_picture resources/system.png` draws it.

The waveform and the features are those of a voice of the demonstration; the points and the scores are drawn at random,
to show the idea.
"""

import argparse
from typing import TYPE_CHECKING

import numpy as np

import demo_data
import feature_extraction
import metrics
from foundation import pictures, script

if TYPE_CHECKING:
    import matplotlib.axes

SECONDS = 1.3
NUM_STEPS, NUM_LAYERS = 5, 3
SAME, OTHER = "C0", "C1"


def draw_recording(samples: np.ndarray, wave: "matplotlib.axes.Axes", image: "matplotlib.axes.Axes") -> None:
    """The waveform of samples (samples,) at 16 kHz, and its MFCCs without the level."""
    wave.plot(np.arange(len(samples)) / demo_data.SAMPLE_RATE, samples, color="0.35", linewidth=0.5)
    wave.set(title="recording", xlabel="seconds", yticks=[])
    features = feature_extraction.compute_mfcc(samples)[:, 1:]
    image.imshow(((features - features.mean(axis=0)) / features.std(axis=0)).T, aspect="auto", origin="lower")
    image.grid(False)
    image.set(title="features: MFCCs", xlabel="frame", ylabel="coefficient")


def draw_network(axes: "matplotlib.axes.Axes") -> None:
    """Layers of LSTM cells, step after step; the mean of the last layer is the embedding."""
    arrow = {"arrowstyle": "->", "color": "0.5"}
    for step in range(NUM_STEPS):
        for layer in range(NUM_LAYERS):
            axes.text(step, layer, "LSTM", ha="center", va="center", fontsize=7, bbox={"boxstyle": "round", "fc": "w"})
            axes.annotate("", (step, layer - 0.25), (step, layer - 0.75), arrowprops=arrow)
            if step:
                axes.annotate("", (step - 0.3, layer), (step - 0.7, layer), arrowprops=arrow)
        axes.annotate("", ((NUM_STEPS - 1) / 2, NUM_LAYERS - 0.2), (step, NUM_LAYERS - 0.7), arrowprops=arrow)
    axes.text((NUM_STEPS - 1) / 2, NUM_LAYERS, "mean = embedding", ha="center", va="center", fontsize=9)
    axes.text((NUM_STEPS - 1) / 2, -1, "frames", ha="center", va="center", fontsize=9)
    axes.set(title="network", xlim=(-0.6, NUM_STEPS - 0.4), ylim=(-1.3, NUM_LAYERS + 0.3))
    axes.axis("off")


def draw_loss(axes: "matplotlib.axes.Axes") -> None:
    """Embeddings of two speakers on the circle; the loss pulls one of them nearer and pushes the other one away."""
    circle = np.linspace(0, 2 * np.pi, 100)
    axes.plot(np.cos(circle), np.sin(circle), color="0.85", zorder=0)
    angles = {"anchor": (1.1, SAME), "positive": (2.0, SAME), "negative": (0.3, OTHER)}
    points = {name: (np.array([np.cos(angle), np.sin(angle)]), colour) for name, (angle, colour) in angles.items()}
    for name, ((x, y), colour) in points.items():
        axes.plot(x, y, "o", color=colour, markersize=10)
        axes.text(1.25 * x, 1.25 * y, name, ha="left" if name == "negative" else "center", va="center", color=colour)
    anchor, positive, negative = (point for point, _ in points.values())
    pull, push = positive + 0.45 * (anchor - positive), negative + 0.8 * (negative - anchor)
    for (x, y), to, colour in ((positive, pull, SAME), (negative, push, OTHER)):
        axes.annotate("", (to[0], to[1]), (x, y), arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 2})
    axes.text(0.2, -1.35, "max(0, cos(a, n) - cos(a, p) + 0.1)", ha="center", fontsize=8)
    axes.set(title="triplet loss", aspect="equal", xlim=(-1.3, 2), ylim=(-1.5, 1.5))
    axes.axis("off")


def draw_evaluation(axes: "matplotlib.axes.Axes") -> None:
    """Scores of pairs of different people and of one person, and the threshold of the EER."""
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(0.15, 0.15, 4000), rng.normal(0.55, 0.13, 4000)])
    labels = np.repeat([0, 1], 4000)
    eer, threshold = metrics.equal_error_rate(*metrics.error_rates(labels, scores))
    for label, colour, name in ((0, OTHER, "different people"), (1, SAME, "the same person")):
        axes.hist(scores[labels == label], 60, color=colour, alpha=0.6, label=name)
    axes.axvline(threshold, color="0.2")
    axes.set(title=f"evaluation: EER {eer:.0%}", xlabel="cosine of two embeddings", yticks=[])
    axes.set_ylim(top=1.5 * axes.get_ylim()[1])
    axes.legend(loc="upper left", fontsize=8)


def draw(path: str) -> None:
    """Draw the slide into a PNG. Raises OSError if the disk is full or read-only."""
    rng = np.random.default_rng(4)
    samples = demo_data.synthesise(demo_data.draw_voice(rng), SECONDS, rng).astype(np.float32)
    with pictures.style():
        figure = pictures.new_figure(figsize=(14, 3.2))
        panels = figure.subplots(1, 5, width_ratios=(1, 1.1, 1.3, 1.1, 1.2))
        draw_recording(samples, *panels[:2])
        for draw_panel, axes in zip((draw_network, draw_loss, draw_evaluation), panels[2:], strict=True):
            draw_panel(axes)
        pictures.save(path, figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python3 -m experiments.system_picture", description=draw.__doc__)
    parser.add_argument("path")
    options = parser.parse_args()
    script.run(lambda: draw(options.path))
