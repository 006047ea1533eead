"""Who spoke when: embeddings of a sliding window are compared with enrolled ones, or with each other."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import feature_extraction
from audio import mono, speech_levels
from encoder.inference import embed_features, unit_length
from encoder.speaker_encoder import SpeakerEncoder
from feature_extraction import SAMPLE_RATE
from foundation import script, settings
from scoring.calibration import WINDOW_SECONDS, near_strangers
from voices.clustering import CENTRING, best_path, centre, find_voices, follow_voices
from voices.recordings import count_clipped, find_faults
from voices.turns import STRETCH_SECONDS, Turn, find_turns, mean_score

STEP_SECONDS = 0.4

# A block is a multiple of the stretches in which speech is detected, so that no samples are lost between blocks.
BLOCK_STEPS = speech_levels.SPEECH_FRAME_SAMPLES

# Speech in no window with enough of it is not compared, which is mentioned where it is more than this share.
LOST_SHARE = 0.1

# Quiet speech is mentioned from here on.
LEAST_QUIET_SECONDS = 1.0

# The name of unknown voices that are told apart, before their number.
VOICE = "speaker"


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


class Windows(NamedTuple):
    """A recording heard through a sliding window of `length` seconds.

    `embeddings` (windows, dimensions); `starts` (windows,) in seconds; `is_heard` (windows,) where there is enough
    speech; `is_speech` (stretches,); `faults` say in words what may make the result wrong.
    """

    embeddings: np.ndarray
    starts: np.ndarray
    length: float
    is_heard: np.ndarray
    is_speech: np.ndarray
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
    windows = listen(encoder, recording)
    found = assign_windows(windows, enrolled, thresholds, num_voices, near_strangers(encoder.calibration))
    shown = people_to_show(found.person_of[windows.is_heard], found.owner_of, found.candidates)
    strangers = [voice for voice, owner in enumerate(found.owner_of) if owner < 0]
    state, scores = number_states(windows.embeddings, found, strangers, enrolled, shown)
    margins = windows.embeddings @ enrolled[shown].T - thresholds[0, shown]
    shown_names = [names[person] for person in shown]
    if cluster:
        margins = np.column_stack([margins, found.similarities[:, strangers]])
        free = (f"{VOICE} {number}" for number in itertools.count(1) if f"{VOICE} {number}" not in names)
        shown_names += itertools.islice(free, len(strangers))
    margins[~windows.is_heard] = scores[~windows.is_heard] = np.nan
    middles = windows.starts + windows.length / 2
    turns = find_turns(state, middles, windows.is_speech, shown_names)
    turns = [turn._replace(score=mean_score(turn, middles, scores, shown_names)) for turn in turns]
    return Timeline(turns, middles, margins, shown_names, len(shown), windows.faults)


class Assignment(NamedTuple):
    """Whose each window is: `person_of` (windows,), a number of the enrolled, or -1 where it is a voice.

    `voice_of` (windows,) is that voice; `means` (voices, dimensions) its mean embedding, of length 1; `owner_of` the
    number of the enrolled whose voice it is, or -1; `similarities` (windows, voices) are centred; `candidates` are the
    enrolled who may speak.
    """

    person_of: np.ndarray
    voice_of: np.ndarray
    means: np.ndarray
    owner_of: list[int]
    similarities: np.ndarray
    candidates: np.ndarray


def assign_windows(
    windows: Windows, enrolled: np.ndarray, thresholds: np.ndarray, num_voices: int | None, distance: float
) -> Assignment:
    """Give each window to an enrolled person, or to one of the voices of all others; see `cluster_windows`."""
    embeddings, is_heard = windows.embeddings, windows.is_heard
    candidates = find_candidates(embeddings[is_heard], enrolled, thresholds[0])
    person_of = np.full(len(embeddings), -1)
    if not num_voices:  # Who was below the threshold of a window now and then would be counted twice.
        person_of = find_people(embeddings, is_heard, enrolled, thresholds[0], candidates)
    is_unknown = is_heard & (person_of < 0)
    voice_of, similarities = cluster_windows(embeddings, is_unknown, num_voices, distance)
    of_voices = [embeddings[is_unknown & (voice_of == voice)].mean(axis=0) for voice in range(similarities.shape[1])]
    means = unit_length(np.array(of_voices).reshape(len(of_voices), embeddings.shape[1]))
    return Assignment(person_of, voice_of, means, find_owners(means, enrolled, thresholds[1]), similarities, candidates)


def number_states(
    embeddings: np.ndarray, found: Assignment, strangers: Sequence[int], enrolled: np.ndarray, shown: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The state of each window, and its scores with the shown people (windows, people); a voice has those of its mean.

    The states are the places of the shown people, then those of the strangers, the voices that no enrolled person owns.
    """
    scores = embeddings @ enrolled[shown].T
    place_of = {person: place for place, person in enumerate(shown.tolist())}
    state = np.array([place_of.get(person, len(shown)) for person in found.person_of.tolist()], np.int64)
    if len(found.means):
        places = np.array([place_of.get(owner, 0) for owner in found.owner_of], np.int64)
        places[strangers] = len(shown) + np.arange(len(strangers))
        is_unknown = found.person_of < 0
        state[is_unknown] = places[found.voice_of[is_unknown]]
        scores[is_unknown] = (found.means @ enrolled[shown].T)[found.voice_of[is_unknown]]
    return state, scores


def listen(encoder: SpeakerEncoder, recording: str) -> Windows:
    """Embed the windows of a recording, and find its speech. Raises ValueError for a file that cannot be used."""
    faults: list[str] = []
    *arrays, num_clipped = zip(*embed_windows(encoder, recording, faults), strict=True)
    embeddings, levels_db = map(np.concatenate, arrays)
    length = whole_frames(WINDOW_SECONDS, encoder) / SAMPLE_RATE
    starts = whole_frames(STEP_SECONDS, encoder) / SAMPLE_RATE * np.arange(len(embeddings))
    is_heard = speech_levels.speech_share(levels_db, starts, length) >= speech_levels.LEAST_SPEECH_SHARE
    is_speech = speech_levels.find_speech(levels_db)
    seconds, speech_seconds = len(is_speech) * STRETCH_SECONDS, is_speech.sum() * STRETCH_SECONDS
    faults += find_faults(seconds, speech_seconds, sum(num_clipped))
    lost_seconds = count_lost(is_speech, starts[is_heard], length) * STRETCH_SECONDS
    if lost_seconds > LOST_SHARE * speech_seconds:
        faults.append(f"{lost_seconds:.1f} s of speech are in pieces too short to be compared")
    quiet_seconds, below_db = speech_levels.find_quiet_speech(levels_db)
    if quiet_seconds >= LEAST_QUIET_SECONDS:
        faults.append(f"{quiet_seconds:.0f} s of quiet speech ({below_db:.0f} dB below the rest) are not assigned")
    return Windows(embeddings, starts, length, is_heard, is_speech, faults)


def find_people(
    embeddings: np.ndarray, is_heard: np.ndarray, enrolled: np.ndarray, thresholds: np.ndarray, candidates: np.ndarray
) -> np.ndarray:
    """Whose each window is (windows,), of the candidates, by their numbers among the enrolled; -1 for nobody enrolled.

    Nobody enrolled has a margin of 0, so that an enrolled person must be nearer than the threshold. Which of them it is
    shows without what all windows have in common.
    """
    margins = (embeddings @ enrolled[candidates].T - thresholds[candidates]) * is_heard[:, None]
    is_known = best_path(np.column_stack([margins, np.zeros(len(margins))])) < len(candidates)
    if not is_known.any():
        return np.full(len(embeddings), -1)
    common = CENTRING * embeddings[is_heard].mean(axis=0)
    similarities = unit_length(embeddings - common) @ unit_length(enrolled[candidates] - common).T
    path = best_path(similarities * (is_known & is_heard)[:, None])
    return np.where(is_known, candidates[path], -1)


def people_to_show(person_of: np.ndarray, owner_of: Sequence[int], candidates: np.ndarray) -> np.ndarray:
    """The enrolled people who speak, in ascending order; the first candidate if there is nobody, to show how near."""
    speaking = np.unique([*person_of.tolist(), *owner_of])
    speaking = speaking[speaking >= 0].astype(np.int64)
    return speaking if len(speaking) else candidates[:1]


def count_lost(speech: np.ndarray, starts: np.ndarray, window_seconds: float) -> int:
    """How many stretches of speech (stretches,) are in no window, of those that begin at `starts`, in seconds."""
    middles = (np.arange(len(speech)) + 0.5) * speech_levels.SPEECH_FRAME_SAMPLES / SAMPLE_RATE
    num_begun, num_ended = np.searchsorted(starts, middles), np.searchsorted(starts + window_seconds, middles)
    return int(np.count_nonzero(speech & (num_begun == num_ended)))


def find_owners(means: np.ndarray, enrolled: np.ndarray, thresholds: np.ndarray) -> list[int]:
    """Of each voice with these mean embeddings (voices, dimensions), the number of the enrolled who it is, or -1.

    Enrolled are (speakers, dimensions), thresholds (speakers,).
    """
    if not len(enrolled):
        return [-1] * len(means)
    margins = means @ enrolled.T - thresholds
    return np.where(margins.max(axis=1) >= 0, margins.argmax(axis=1), -1).tolist()


def cluster_windows(
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
    encoder: SpeakerEncoder, recording: str, warnings: list[str]
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Of each block of a recording: embeddings (windows, dimensions), levels in decibels, number of clipped samples.

    A recording shorter than a window gives one window. What is doubtful about it is put into `warnings`, in words.
    """
    step, window = whole_frames(STEP_SECONDS, encoder), whole_frames(WINDOW_SECONDS, encoder)
    wanted, config = encoder.feature_settings, settings.in_one_piece()
    window_frames = window // wanted.hop_length
    kept, is_first = np.zeros(0, np.float32), True
    with tqdm(desc="Listening", unit="s", disable=None) as progress:
        for samples in mono.read_blocks(recording, BLOCK_STEPS * step, warnings, with_gaps=True):
            progress.update(round(len(samples) / SAMPLE_RATE))
            script.raise_if_interrupted()
            kept = np.concatenate([kept, samples])
            num_windows = max(1 if is_first else 0, (len(kept) - window) // step + 1)
            embeddings = np.zeros((0, encoder.dimensions), np.float32)
            if num_windows:
                padded = np.pad(kept, (0, max(0, wanted.n_fft - len(kept))))
                features = feature_extraction.compute_mfcc_fast(padded, wanted)
                starts = np.arange(num_windows) * (step // wanted.hop_length)
                windows = [features[start : start + window_frames] for start in starts]
                embeddings = embed_features(encoder, windows, config)
            yield embeddings, speech_levels.levels_db(samples), count_clipped(samples)
            kept, is_first = kept[num_windows * step :], False


def find_candidates(embeddings: np.ndarray, enrolled: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The numbers of the enrolled who are farthest above their thresholds in some window, those in the most first.

    If none is above, the one who is the least below in the most windows.
    """
    if not len(enrolled) or not len(embeddings):
        return np.zeros(0, np.int64)
    blocks = np.array_split(embeddings, len(embeddings) // BLOCK_STEPS + 1)
    margins = (block @ enrolled.T - thresholds for block in blocks)
    nearest, above = map(np.concatenate, zip(*((of.argmax(axis=1), of.max(axis=1)) for of in margins), strict=True))
    found, counts = np.unique(nearest[above >= 0] if (above >= 0).any() else nearest, return_counts=True)
    return found[np.argsort(-counts, kind="stable")][: None if (above >= 0).any() else 1]
