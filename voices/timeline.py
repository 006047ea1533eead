"""Who spoke when: embeddings of a sliding window are compared with enrolled ones, or with each other."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

import feature_extraction
import speech_levels
from calibration import WINDOW_SECONDS, near_strangers
from feature_extraction import SAMPLE_RATE
from foundation import pictures, script
from speaker_encoder import SpeakerEncoder, embed_features
from voices.clustering import best_path, centre, find_voices, follow_voices, normalise
from voices.database import UNKNOWN
from voices.recordings import count_clipped, find_faults

STEP_SECONDS = 0.4

if TYPE_CHECKING:
    import matplotlib.figure


# A block is a multiple of the stretches in which speech is detected, so that no samples are lost between blocks.
BLOCK_STEPS = speech_levels.SPEECH_FRAME_SAMPLES

# Pauses within a turn, and the shortest turn.
PAUSE_SECONDS = 0.6
LEAST_TURN_SECONDS = 0.2

# Speech in no window with enough of it is not compared, which is mentioned where it is more than this share.
LOST_SHARE = 0.1

# The name of unknown voices that are told apart, before their number.
VOICE = "speaker"

# At most this many enrolled people are looked for: those who are nearest in the most windows.
MAX_CANDIDATES = 8


class Turn(NamedTuple):
    """Somebody speaks from `start` to `end`, in seconds; None or the `score` by which it is an enrolled person.

    That is the mean similarity of the turn's windows, or the similarity of a whole voice that got its name by it.
    """

    start: float
    end: float
    speaker: str
    score: float | None


class Timeline(NamedTuple):
    """The turns, and the data they were found in.

    `middles` (windows,) are in seconds; `candidates` are names; `margins` (windows, candidates), NaN in silence, say by
    how much a window is more similar to an enrolled person than the threshold, or how similar, centred, to a voice that
    was found; the first `num_enrolled` candidates are enrolled; `faults` say in words why the result may be wrong.
    """

    turns: list[Turn]
    middles: np.ndarray
    margins: np.ndarray
    candidates: list[str]
    num_enrolled: int
    faults: list[str]


def find_timeline(
    encoder: SpeakerEncoder,
    recording: str,
    names: Sequence[str],
    enrolled: np.ndarray,
    thresholds: np.ndarray,
    cluster: bool = False,
    num_voices: int | None = None,
) -> Timeline:
    """When each enrolled speaker (speakers, dimensions), or another one, speaks in a recording of any length.

    `thresholds` (2, speakers) are those of a window, and of a voice in many windows. A window below each speaker's
    threshold is of an unknown voice. They are told apart; if the mean of one reaches a speaker's threshold, it is that
    speaker's after all. If `num_voices` says how many people speak at most, all windows are told apart so. With
    `cluster`, voices of nobody enrolled are "speaker 1", "speaker 2" ..., otherwise UNKNOWN. Needs memory for only one
    or two minutes of audio. Raises ValueError for a file that cannot be used.
    """
    doubts: list[str] = []
    blocks = list(embed_windows(encoder, recording, doubts))
    step, window = whole_frames(STEP_SECONDS, encoder), whole_frames(WINDOW_SECONDS, encoder)
    step_seconds, window_seconds = step / SAMPLE_RATE, window / SAMPLE_RATE
    *arrays, num_clipped = zip(*blocks, strict=True)
    embeddings, levels_db = map(np.concatenate, arrays)
    starts = step_seconds * np.arange(len(embeddings))
    is_speech = speech_levels.speech_share(levels_db, starts, window_seconds) >= speech_levels.LEAST_SPEECH_SHARE
    candidates = find_candidates(embeddings[is_speech], enrolled, thresholds[0])
    chosen = [names[number] for number in candidates]
    scores = embeddings @ enrolled[candidates].T
    margins = scores - thresholds[0, candidates]
    # An unknown speaker stands for a margin of 0, so an enrolled one must be nearer than the threshold.
    state = best_path(np.column_stack([margins, np.zeros(len(margins))]) * is_speech[:, None])
    if num_voices:  # Who was below the threshold of a window now and then would be counted twice.
        state = np.full(len(state), len(chosen))
    unknown = state == len(chosen)
    voice, similarities = tell_apart(embeddings, unknown & is_speech, num_voices, near_strangers(encoder.calibration))
    means = [
        embeddings[unknown & is_speech & (voice == number)].mean(axis=0) for number in range(similarities.shape[1])
    ]
    owners = find_owners(means, enrolled[candidates], thresholds[1, candidates])
    if means:
        state = np.where(unknown, np.array(owners)[voice], state)
        scores[unknown] = (normalise(np.stack(means)) @ enrolled[candidates].T)[voice[unknown]]
    if cluster:
        margins = np.column_stack([margins, similarities[:, [owner >= len(chosen) for owner in owners]]])
        free = (f"{VOICE} {number}" for number in itertools.count(1) if f"{VOICE} {number}" not in names)
        chosen += itertools.islice(free, margins.shape[1] - len(candidates))
    margins[~is_speech] = scores[~is_speech] = np.nan
    middles = starts + window_seconds / 2
    speech = speech_levels.find_speech(levels_db)
    stretch_seconds = speech_levels.SPEECH_FRAME_SAMPLES / SAMPLE_RATE
    faults = doubts + find_faults(len(speech) * stretch_seconds, speech.sum() * stretch_seconds, sum(num_clipped))
    num_lost = count_lost(speech, starts[is_speech], window_seconds)
    if num_lost > LOST_SHARE * np.count_nonzero(speech):
        faults.append(f"{num_lost * stretch_seconds:.1f} s of speech are in pieces too short to be compared")
    turns = find_turns(state, middles, speech, chosen)
    turns = [turn._replace(score=mean_score(turn, middles, scores, chosen)) for turn in turns]
    return Timeline(turns, middles, margins, chosen, len(candidates), faults)


def count_lost(speech: np.ndarray, starts: np.ndarray, window_seconds: float) -> int:
    """How many stretches of speech (stretches,) are in no window, of those that begin at `starts`, in seconds."""
    middles = (np.arange(len(speech)) + 0.5) * speech_levels.SPEECH_FRAME_SAMPLES / SAMPLE_RATE
    num_begun, num_ended = np.searchsorted(starts, middles), np.searchsorted(starts + window_seconds, middles)
    return int(np.count_nonzero(speech & (num_begun == num_ended)))


def find_owners(means: Sequence[np.ndarray], enrolled: np.ndarray, thresholds: np.ndarray) -> list[int]:
    """Of each voice with these mean embeddings, the number of the enrolled speaker that it is.

    Enrolled are (speakers, dimensions), thresholds (speakers,). Voices of nobody enrolled get the numbers after these.
    """
    owners, num_strangers = [], 0
    for mean in means:
        above = enrolled @ normalise(mean) - thresholds
        if len(above) and above.max() >= 0:
            owners.append(int(above.argmax()))
        else:
            owners.append(len(enrolled) + num_strangers)
            num_strangers += 1
    return owners


def tell_apart(
    embeddings: np.ndarray, is_heard: np.ndarray, num_voices: int | None, distance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Whose each window is, of the voices that are heard in some windows, numbered in the order of their first words.

    Embeddings are (windows, dimensions), `is_heard` (windows,); `distance` is that of near strangers. Returns the
    voices (windows,), and the similarity of each window to each voice, both centred, 0 where none is heard (windows,
    voices).
    """
    if not is_heard.any():
        return np.zeros(len(embeddings), np.int64), np.zeros((len(embeddings), 0))
    centred = np.zeros_like(embeddings)
    centred[is_heard] = centre(embeddings[is_heard])
    voices = follow_voices(centred, find_voices(embeddings[is_heard], num_voices, distance))
    return voices.voice_of, voices.similarities


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


def find_candidates(embeddings: np.ndarray, enrolled: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The numbers of the enrolled speakers that are farthest above their thresholds in the most windows, ascending.

    They are at most MAX_CANDIDATES.
    """
    if not len(enrolled):
        return np.zeros(0, np.int64)
    blocks = np.array_split(embeddings, len(embeddings) // BLOCK_STEPS + 1)
    nearest = np.concatenate([np.argmax(block @ enrolled.T - thresholds, axis=1) for block in blocks])
    found, counts = np.unique(nearest, return_counts=True)
    return np.sort(found[np.argsort(-counts, kind="stable")[:MAX_CANDIDATES]])


def find_turns(state: np.ndarray, middles: np.ndarray, is_speech: np.ndarray, names: Sequence[str]) -> list[Turn]:
    """Turns from the states of windows (windows,) with these middles, and stretches of speech (stretches,).

    A stretch of speech belongs to the window that is nearest; a state after the names is UNKNOWN. Pauses of up to
    PAUSE_SECONDS within a turn belong to it, and what is shorter than LEAST_TURN_SECONDS is no turn, unless all are.
    """
    stretch = speech_levels.SPEECH_FRAME_SAMPLES / SAMPLE_RATE
    nearest = np.searchsorted((middles[1:] + middles[:-1]) / 2, stretch * (np.arange(len(is_speech)) + 0.5))
    of_stretch = np.where(is_speech, state[nearest], -1)
    changes = np.flatnonzero(np.diff(of_stretch, prepend=-2, append=-2))
    all_names = [*names, UNKNOWN]
    turns = join_turns(
        Turn(float(first * stretch), float(end * stretch), all_names[of_stretch[first]], None)
        for first, end in zip(changes[:-1], changes[1:], strict=True)
        if of_stretch[first] >= 0
    )
    return join_turns([turn for turn in turns if turn.end - turn.start >= LEAST_TURN_SECONDS] or turns)


def join_turns(turns: Iterable[Turn]) -> list[Turn]:
    """Turns in their order, in which those of one speaker with a pause of up to PAUSE_SECONDS are one."""
    joined: list[Turn] = []
    for turn in turns:
        if joined and joined[-1].speaker == turn.speaker and turn.start - joined[-1].end <= PAUSE_SECONDS:
            joined[-1] = joined[-1]._replace(end=turn.end)
        else:
            joined.append(turn)
    return joined


def mean_score(turn: Turn, middles: np.ndarray, scores: np.ndarray, names: Sequence[str]) -> float | None:
    """The mean score (windows, enrolled) of a turn's windows; None for others, or if no window is inside.

    The names begin with those of the enrolled; scores in silence are NaN.
    """
    number = names.index(turn.speaker) if turn.speaker in names else len(names)
    inside = (turn.start <= middles) & (middles < turn.end)
    if number >= scores.shape[1] or not np.isfinite(scores[inside, number]).any():
        return None
    return float(np.nanmean(scores[inside, number]))


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


def draw_timeline(timeline: Timeline, width: float = 12) -> "matplotlib.figure.Figure":
    """Draw the evidence for each voice over time, and the turns as bars below, so many inches wide."""
    import matplotlib.colors  # Slow, and only needed here.
    import matplotlib.figure

    with pictures.style():
        figure = matplotlib.figure.Figure(figsize=(width, 4.5))
        curves, bars = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1 + 0.15 * len(timeline.candidates)))
        rows = list(timeline.candidates)
        rows += [UNKNOWN] if any(turn.speaker == UNKNOWN for turn in timeline.turns) or not rows else []
        # Fixed now, because this style is no longer active when the lines are drawn.
        colours = [matplotlib.colors.to_hex(f"C{number}") for number in range(4)]
        styles = [(colours[number % 4], ("-", ":", "--", "-.")[number // 4 % 4]) for number in range(len(rows))]
        for number, name in enumerate(timeline.candidates):
            colour, line = styles[number]
            # A name that begins with an underscore would not be shown.
            curves.plot(timeline.middles, timeline.margins[:, number], line, color=colour, label=f" {name}")
        if timeline.num_enrolled:
            curves.axhline(0, color="0.3", linestyle="--", linewidth=1, label="threshold of a single window")
        ylabel = "similarity above the threshold" if timeline.num_enrolled else "similarity to each voice"
        if 0 < timeline.num_enrolled < len(timeline.candidates):
            ylabel += f"\n({VOICE} ...: similarity to this voice)"
        curves.set(ylabel=ylabel, xlim=(0, timeline.middles[-1] + timeline.middles[0]))
        if timeline.candidates:
            curves.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=min(round(width / 2), len(rows) + 1))
        for turn in timeline.turns:
            row = rows.index(turn.speaker)
            colour = "0.6" if turn.speaker == UNKNOWN else styles[row][0]
            bars.barh(row, turn.end - turn.start, left=turn.start, height=0.8, color=colour)
        bars.set(xlabel="time (s)", ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)), yticklabels=rows)
    return figure
