"""Who spoke when: embeddings of a sliding window, compared with those of the enrolled, and smoothed into turns."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import matplotlib.figure
import numpy as np
from tqdm import tqdm

import feature_extraction
import myconfig
import settings
from feature_extraction import SAMPLE_RATE
from speaker_encoder import SpeakerEncoder, embed_features

WINDOW_SECONDS = 1.6
STEP_SECONDS = 0.4
BLOCK_STEPS = 150

# A window with less speech than this is silence.
LEAST_SPEECH_SHARE = 0.3

# Passing from one speaker to another costs as much as this difference of similarity in one window.
SWITCH_COST = 0.6

# Of many enrolled people, so many at most are looked for: those who are nearest in the most windows.
MAX_CANDIDATES = 8

UNKNOWN = "unknown"


class Turn(NamedTuple):
    """Somebody speaks from `start` to `end`, in seconds; `score` is the mean similarity, None for UNKNOWN."""

    start: float
    end: float
    speaker: str
    score: float | None


class Timeline(NamedTuple):
    """The turns, and what they were found from.

    `middles` (windows,) are in seconds; `similarities` (windows, candidates) are NaN in silence; `candidates` are
    names.
    """

    turns: list[Turn]
    middles: np.ndarray
    similarities: np.ndarray
    candidates: list[str]


def find_timeline(
    encoder: SpeakerEncoder, recording: str, names: Sequence[str], enrolled: np.ndarray, threshold: float
) -> Timeline:
    """Who of the enrolled (speakers, dimensions), and who else, speaks when in a recording of any length.

    Needs the memory of one minute of audio. Raises ValueError for a file that cannot be used.
    """
    with settings.override(**encoder.settings):
        step_seconds = steps_to_seconds(1)
        first_middle = window_frames() * myconfig.HOP_LENGTH / SAMPLE_RATE / 2
        blocks = list(embed_windows(encoder, recording))
    embeddings, is_speech = (np.concatenate(column) for column in zip(*blocks, strict=True))
    candidates = find_candidates(embeddings[is_speech], enrolled)
    chosen = [names[number] for number in candidates]
    similarities = embeddings @ enrolled[candidates].T
    # Whoever is known must be nearer than the threshold, which is the similarity of the unknown.
    scores = np.column_stack([similarities, np.full(len(similarities), threshold)])
    state = np.where(is_speech, best_path(np.where(is_speech[:, None], scores, 0)), -1)
    similarities[~is_speech] = np.nan
    middles = first_middle + step_seconds * np.arange(len(state))
    return Timeline(join_turns(state, middles, step_seconds, similarities, chosen), middles, similarities, chosen)


def window_frames() -> int:
    """Frames of a window."""
    return max(1, round(WINDOW_SECONDS * SAMPLE_RATE / myconfig.HOP_LENGTH))


def step_frames() -> int:
    """Frames from one window to the next."""
    return max(1, round(STEP_SECONDS * SAMPLE_RATE / myconfig.HOP_LENGTH))


def steps_to_seconds(steps: int) -> float:
    """How long so many steps of the window are."""
    return steps * step_frames() * myconfig.HOP_LENGTH / SAMPLE_RATE


def embed_windows(encoder: SpeakerEncoder, recording: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Embeddings (windows, dimensions) of a recording's windows, and which of these are speech, block after block."""
    step, window = step_frames(), window_frames()
    block_samples, window_samples = BLOCK_STEPS * step * myconfig.HOP_LENGTH, window * myconfig.HOP_LENGTH
    overlap = window_samples - step * myconfig.HOP_LENGTH
    kept = np.zeros(0, np.float32)
    is_first = True
    with tqdm(desc="Listening", unit="s", disable=None) as progress:
        for samples in feature_extraction.read_blocks(recording, block_samples):
            progress.update(round(len(samples) / SAMPLE_RATE))
            kept = np.concatenate([kept, samples])
            num_windows = (len(kept) - overlap) // (window_samples - overlap)
            if num_windows < 1 and not is_first:
                continue  # The end of the recording, which the last window has heard.
            features = feature_extraction.compute_mfcc(np.pad(kept, (0, max(0, myconfig.N_FFT - len(kept)))))
            starts = np.arange(max(1, num_windows)) * step
            embeddings = embed_features(encoder, [features[start : start + window] for start in starts])
            yield embeddings, speech_share(kept, starts * myconfig.HOP_LENGTH, window_samples) >= LEAST_SPEECH_SHARE
            kept = kept[len(starts) * step * myconfig.HOP_LENGTH :]
            is_first = False


def speech_share(samples: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """The share of speech in the stretches of samples that begin at `starts` (stretches,)."""
    speech = feature_extraction.find_speech(samples)
    sums = np.append(0, np.cumsum(speech))
    frame = feature_extraction.SPEECH_FRAME_SAMPLES
    first, last = (np.minimum(place // frame, len(speech)) for place in (starts, starts + length))
    return (sums[last] - sums[first]) / np.maximum(last - first, 1)


def find_candidates(embeddings: np.ndarray, enrolled: np.ndarray) -> np.ndarray:
    """The numbers of those enrolled who are nearest in the most windows, at most MAX_CANDIDATES, ascending."""
    if not len(enrolled):
        return np.zeros(0, np.int64)
    blocks = np.array_split(embeddings, len(embeddings) // BLOCK_STEPS + 1)
    nearest = np.concatenate([np.argmax(block @ enrolled.T, axis=1) for block in blocks])
    found, counts = np.unique(nearest, return_counts=True)
    return np.sort(found[np.argsort(-counts, kind="stable")[:MAX_CANDIDATES]])


def best_path(scores: np.ndarray) -> np.ndarray:
    """The sequence of states that has the highest sum of scores (windows, states), less SWITCH_COST for each change.

    Source: Viterbi 1967, with equal costs for all changes.
    """
    total = scores[0]
    came_from = np.zeros(scores.shape, np.int64)
    for number, score in enumerate(scores[1:], start=1):
        best = total.argmax()
        is_change = total[best] - SWITCH_COST > total
        came_from[number] = np.where(is_change, best, np.arange(len(total)))
        total = score + np.where(is_change, total[best] - SWITCH_COST, total)
    path = np.empty(len(scores), np.int64)
    path[-1] = total.argmax()
    for number in range(len(scores) - 1, 0, -1):
        path[number - 1] = came_from[number, path[number]]
    return path


def join_turns(
    state: np.ndarray, middles: np.ndarray, step_seconds: float, similarities: np.ndarray, names: Sequence[str]
) -> list[Turn]:
    """Runs of one state (windows,) as turns; -1 is silence, and what comes after the names is UNKNOWN."""
    bounds = np.flatnonzero(np.diff(state, prepend=-2, append=-2))
    turns = []
    for first, end in zip(bounds[:-1], bounds[1:], strict=True):
        if state[first] == -1:
            continue
        is_known = state[first] < len(names)
        speaker = names[state[first]] if is_known else UNKNOWN
        score = float(similarities[first:end, state[first]].mean()) if is_known else None
        start = middles[first] - step_seconds / 2 if first else 0.0
        is_last = end == len(state)
        stop = middles[end - 1] + (middles[0] if is_last else step_seconds / 2)
        turns.append(Turn(float(start), float(stop), speaker, score))
    return turns


def to_rttm(turns: Sequence[Turn], recording: str) -> str:
    """Turns as RTTM, the format of NIST's Rich Transcription evaluations: one line a turn."""
    name = Path(recording).stem.replace(" ", "_")
    lines = (
        f"SPEAKER {name} 1 {turn.start:.3f} {turn.end - turn.start:.3f} <NA> <NA> {turn.speaker.replace(' ', '_')} "
        "<NA> <NA>\n"
        for turn in turns
    )
    return "".join(lines)


def draw_timeline(timeline: Timeline, threshold: float) -> matplotlib.figure.Figure:
    """Draw the similarity to each candidate over time, and the turns as bars below."""
    with matplotlib.rc_context(fname=Path(__file__).with_name("figures.mplstyle")):
        figure = matplotlib.figure.Figure(figsize=(12, 4.5))
        curves, bars = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        rows = [*timeline.candidates, UNKNOWN]
        for number, name in enumerate(timeline.candidates):
            curves.plot(timeline.middles, timeline.similarities[:, number], label=name, color=f"C{number}")
        curves.axhline(threshold, color="0.3", linestyle="--", label="threshold")
        curves.set(ylabel="cosine similarity", xlim=(0, timeline.middles[-1] + timeline.middles[0]))
        curves.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(rows))
        for turn in timeline.turns:
            row = rows.index(turn.speaker)
            colour = "0.6" if turn.speaker == UNKNOWN else f"C{row}"
            bars.barh(row, turn.end - turn.start, left=turn.start, height=0.8, color=colour)
        bars.set(xlabel="time (s)", ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)), yticklabels=rows)
    return figure
