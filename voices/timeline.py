"""Who spoke when: embeddings of a sliding window are compared with enrolled ones and smoothed into turns."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

import feature_extraction
import speech_levels
from feature_extraction import SAMPLE_RATE
from foundation import pictures, script
from speaker_encoder import SpeakerEncoder, embed_features
from voices.database import UNKNOWN
from voices.recordings import count_clipped, find_faults

WINDOW_SECONDS = 1.6
STEP_SECONDS = 0.4

if TYPE_CHECKING:
    import matplotlib.figure


# A block is a multiple of the stretches in which speech is detected, so that no samples are lost between blocks.
BLOCK_STEPS = speech_levels.SPEECH_FRAME_SAMPLES

# A window with less speech than this is silence.
LEAST_SPEECH_SHARE = 0.3

# A change of speaker costs as much as this difference of similarity in one window.
SWITCH_COST = 0.6

# At most this many enrolled people are looked for: those who are nearest in the most windows.
MAX_CANDIDATES = 8


class Turn(NamedTuple):
    """Somebody speaks from `start` to `end`, in seconds; `score` is the mean similarity, None for UNKNOWN."""

    start: float
    end: float
    speaker: str
    score: float | None


class Timeline(NamedTuple):
    """The turns, and the data they were found in.

    `middles` (windows,) are in seconds; `similarities` (windows, candidates) are NaN in silence; `candidates` are
    names; `faults` say in words why the result may be wrong.
    """

    turns: list[Turn]
    middles: np.ndarray
    similarities: np.ndarray
    candidates: list[str]
    faults: list[str]


def find_timeline(
    encoder: SpeakerEncoder, recording: str, names: Sequence[str], enrolled: np.ndarray, threshold: float
) -> Timeline:
    """When each enrolled speaker (speakers, dimensions), or an unknown one, speaks in a recording of any length.

    Needs memory for only one or two minutes of audio. Raises ValueError for a file that cannot be used.
    """
    doubts: list[str] = []
    blocks = list(embed_windows(encoder, recording, doubts))
    step, window = whole_frames(STEP_SECONDS, encoder), whole_frames(WINDOW_SECONDS, encoder)
    step_seconds, window_seconds = step / SAMPLE_RATE, window / SAMPLE_RATE
    *arrays, num_clipped = zip(*blocks, strict=True)
    embeddings, levels_db = map(np.concatenate, arrays)
    starts = step_seconds * np.arange(len(embeddings))
    is_speech = speech_share(levels_db, starts, window_seconds) >= LEAST_SPEECH_SHARE
    candidates = find_candidates(embeddings[is_speech], enrolled)
    chosen = [names[number] for number in candidates]
    similarities = embeddings @ enrolled[candidates].T
    # The threshold is the similarity of unknown speakers, so an enrolled speaker must be nearer than it.
    scores = np.column_stack([similarities, np.full(len(similarities), threshold)])
    state = np.where(is_speech, best_path(np.where(is_speech[:, None], scores, 0)), -1)
    similarities[~is_speech] = np.nan
    middles = starts + window_seconds / 2
    # A window decides for the step at its middle; the first and the last one also decide for the recording's ends.
    seconds = len(levels_db) * speech_levels.SPEECH_FRAME_SAMPLES / SAMPLE_RATE
    bounds = np.array([0.0, *(middles[1:] - step_seconds / 2), seconds])
    speech_seconds = speech_levels.speech_seconds(levels_db)
    faults = doubts + find_faults(seconds, speech_seconds, sum(num_clipped))
    return Timeline(join_turns(state, bounds, similarities, chosen), middles, similarities, chosen, faults)


def whole_frames(seconds: float, encoder: SpeakerEncoder) -> int:
    """The samples of about so many seconds that are a whole number of the encoder's frames."""
    hop = encoder.feature_settings.hop_length
    return max(1, round(seconds * SAMPLE_RATE / hop)) * hop


def embed_windows(
    encoder: SpeakerEncoder, recording: str, doubts: list[str]
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Of each block of a recording: embeddings (windows, dimensions), levels in decibels, number of clipped samples.

    A recording shorter than a window gives one window. What is doubtful about it is put into `doubts`, in words.
    """
    step, window = whole_frames(STEP_SECONDS, encoder), whole_frames(WINDOW_SECONDS, encoder)
    wanted = encoder.feature_settings
    window_frames = window // wanted.hop_length
    kept, is_first = np.zeros(0, np.float32), True
    with tqdm(desc="Listening", unit="s", disable=None) as progress:
        for samples in feature_extraction.read_blocks(recording, BLOCK_STEPS * step, doubts):
            progress.update(round(len(samples) / SAMPLE_RATE))
            script.raise_if_interrupted()
            kept = np.concatenate([kept, samples])
            num_windows = max(1 if is_first else 0, (len(kept) - window) // step + 1)
            embeddings = np.zeros((0, encoder.dimensions), np.float32)
            if num_windows:
                padded = np.pad(kept, (0, max(0, wanted.n_fft - len(kept))))
                features = feature_extraction.compute_mfcc(padded, wanted)
                starts = np.arange(num_windows) * (step // wanted.hop_length)
                windows = [features[start : start + window_frames] for start in starts]
                embeddings = embed_features(encoder, windows, in_one_piece=True)
            yield embeddings, speech_levels.levels_db(samples), count_clipped(samples)
            kept, is_first = kept[num_windows * step :], False


def speech_share(levels_db: np.ndarray, starts: np.ndarray, length: float) -> np.ndarray:
    """The share of speech in the stretches of a recording that begin at `starts`, in seconds (stretches,)."""
    speech = speech_levels.find_speech(levels_db)
    sums = np.append(0, np.cumsum(speech))
    places = np.array([starts, starts + length]) * SAMPLE_RATE / speech_levels.SPEECH_FRAME_SAMPLES
    first, last = np.minimum(np.round(places).astype(int), len(speech))
    return (sums[last] - sums[first]) / np.maximum(last - first, 1)


def find_candidates(embeddings: np.ndarray, enrolled: np.ndarray) -> np.ndarray:
    """The numbers of the enrolled speakers that are nearest in the most windows, at most MAX_CANDIDATES, ascending."""
    if not len(enrolled):
        return np.zeros(0, np.int64)
    blocks = np.array_split(embeddings, len(embeddings) // BLOCK_STEPS + 1)
    nearest = np.concatenate([np.argmax(block @ enrolled.T, axis=1) for block in blocks])
    found, counts = np.unique(nearest, return_counts=True)
    return np.sort(found[np.argsort(-counts, kind="stable")[:MAX_CANDIDATES]])


def best_path(scores: np.ndarray) -> np.ndarray:
    """The sequence of states that has the highest sum of scores (windows, states), minus SWITCH_COST per change.

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


def join_turns(state: np.ndarray, bounds: np.ndarray, similarities: np.ndarray, names: Sequence[str]) -> list[Turn]:
    """Join runs of one state (windows,) into turns; -1 is silence, and a number after the names is UNKNOWN.

    Window number n decides for the time from bounds[n] to bounds[n + 1], in seconds.
    """
    changes = np.flatnonzero(np.diff(state, prepend=-2, append=-2))
    turns = []
    for first, end in zip(changes[:-1], changes[1:], strict=True):
        if state[first] == -1:
            continue
        is_known = state[first] < len(names)
        speaker = names[state[first]] if is_known else UNKNOWN
        score = float(similarities[first:end, state[first]].mean()) if is_known else None
        turns.append(Turn(float(bounds[first]), float(bounds[end]), speaker, score))
    return turns


def one_word(text: str) -> str:
    """A name without spaces and line ends, which separate fields and lines."""
    return "_".join(text.split())


def to_rttm(turns: Sequence[Turn], recording: str) -> str:
    """Turns as RTTM, the format of NIST's Rich Transcription evaluations: one line per turn."""
    name = one_word(Path(recording).stem)
    lines = (
        f"SPEAKER {name} 1 {turn.start:.3f} {turn.end - turn.start:.3f} <NA> <NA> {one_word(turn.speaker)} <NA> <NA>\n"
        for turn in turns
    )
    return "".join(lines)


def draw_timeline(timeline: Timeline, threshold: float) -> "matplotlib.figure.Figure":
    """Draw the similarity to each candidate over time, and the turns as bars below."""
    import matplotlib.colors  # Slow, and only needed here.
    import matplotlib.figure

    with pictures.style():
        figure = matplotlib.figure.Figure(figsize=(12, 4.5))
        curves, bars = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        rows = [*timeline.candidates, UNKNOWN]
        # Fixed now, because this style is no longer active when the lines are drawn.
        colours = [matplotlib.colors.to_hex(f"C{number}") for number in range(4)]
        styles = [(colours[number % 4], ("-", ":", "--", "-.")[number // 4]) for number in range(MAX_CANDIDATES)]
        for number, name in enumerate(timeline.candidates):
            colour, line = styles[number]
            # A name that begins with an underscore would not be shown.
            curves.plot(timeline.middles, timeline.similarities[:, number], line, color=colour, label=f" {name}")
        curves.axhline(threshold, color="0.3", linestyle="--", linewidth=1, label="threshold")
        curves.set(ylabel="cosine similarity", xlim=(0, timeline.middles[-1] + timeline.middles[0]))
        curves.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(rows))
        for turn in timeline.turns:
            row = rows.index(turn.speaker)
            colour = "0.6" if turn.speaker == UNKNOWN else styles[row][0]
            bars.barh(row, turn.end - turn.start, left=turn.start, height=0.8, color=colour)
        bars.set(xlabel="time (s)", ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)), yticklabels=rows)
    return figure
