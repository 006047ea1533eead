"""A recording heard through a sliding window: an embedding every 0.4 s, and where there is speech."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import feature_extraction
from audio import mono, speech_levels
from encoder.base import Encoder
from encoder.inference import embed_features
from feature_extraction import SAMPLE_RATE
from foundation import script, settings, threads
from scoring.thresholds import WINDOW_SECONDS
from voices import speech_detector
from voices.recordings import count_clipped, find_faults
from voices.turns import STRETCH_SECONDS

STEP_SECONDS = 0.4

# A block is a multiple of the stretches in which speech is detected, so that no samples are lost between blocks.
BLOCK_STEPS = speech_levels.SPEECH_FRAME_SAMPLES

# Speech in no window with enough of it is not compared, which is mentioned where it is more than this share.
LOST_SHARE = 0.1


class Windows(NamedTuple):
    """A recording heard through a sliding window of `length` seconds.

    `embeddings` (windows, dimensions); `features` of each window (frames, N_MFCC); `starts` (windows,) in seconds;
    `is_heard` (windows,) where there is enough speech; `is_speech` (stretches,); `faults` say in words what may make
    the result wrong.
    """

    embeddings: np.ndarray
    features: list[np.ndarray]
    starts: np.ndarray
    length: float
    is_heard: np.ndarray
    is_speech: np.ndarray
    faults: list[str]


def listen(encoder: Encoder, recording: str, channel: int | None = None) -> Windows:
    """Embed the windows of a recording, or of one of its channels, and find its speech.

    Raises ValueError for a file that cannot be used.
    """
    faults: list[str] = []
    *arrays, features, num_clipped = zip(*embed_windows(encoder, recording, faults, channel), strict=True)
    embeddings, probabilities = map(np.concatenate, arrays)
    all_features = [window for of_block in features for window in of_block]
    length = whole_frames(WINDOW_SECONDS, encoder) / SAMPLE_RATE
    starts = whole_frames(STEP_SECONDS, encoder) / SAMPLE_RATE * np.arange(len(embeddings))
    is_speech = speech_detector.find_speech(probabilities)
    is_heard = speech_levels.speech_share(is_speech, starts, length) >= speech_levels.LEAST_SPEECH_SHARE
    seconds, speech_seconds = len(is_speech) * STRETCH_SECONDS, is_speech.sum() * STRETCH_SECONDS
    faults += find_faults(seconds, speech_seconds, sum(num_clipped))
    lost_seconds = count_lost(is_speech, starts[is_heard], length) * STRETCH_SECONDS
    if lost_seconds > LOST_SHARE * speech_seconds:
        faults.append(f"{lost_seconds:.1f} s of speech are in pieces too short to be compared")
    return Windows(embeddings, all_features, starts, length, is_heard, is_speech, faults)


def count_lost(speech: np.ndarray, starts: np.ndarray, window_seconds: float) -> int:
    """How many stretches of speech (stretches,) are in no window, of those that begin at `starts`, in seconds."""
    middles = (np.arange(len(speech)) + 0.5) * speech_levels.SPEECH_FRAME_SAMPLES / SAMPLE_RATE
    num_begun, num_ended = np.searchsorted(starts, middles), np.searchsorted(starts + window_seconds, middles)
    return int(np.count_nonzero(speech & (num_begun == num_ended)))


def whole_frames(seconds: float, encoder: Encoder) -> int:
    """The samples of about so many seconds that are a whole number of the encoder's frames."""
    hop = encoder.feature_settings.hop_length
    return max(1, round(seconds * SAMPLE_RATE / hop)) * hop


def embed_windows(
    encoder: Encoder, recording: str, warnings: list[str], channel: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray, list[np.ndarray], int]]:
    """Of each block of a recording: embeddings (windows, dimensions), how probable speech is (stretches,), the features
    of each window (frames, N_MFCC), and the number of clipped samples.

    A recording shorter than a window gives one window. What is doubtful about it is put into `warnings`, in words.
    """
    step, window = whole_frames(STEP_SECONDS, encoder), whole_frames(WINDOW_SECONDS, encoder)
    wanted, config = encoder.feature_settings, settings.in_one_piece()
    window_frames = window // wanted.hop_length
    kept, is_first = np.zeros(0, np.float32), True
    detector, pool = speech_detector.SpeechDetector(), threads.thread_pool(config.NUM_PROCESSES)
    with tqdm(desc="Listening", unit=" s heard", disable=None) as progress:
        for samples in mono.read_blocks(recording, BLOCK_STEPS * step, warnings, True, channel):
            progress.update(round(len(samples) / SAMPLE_RATE))
            script.raise_if_interrupted()
            kept = np.concatenate([kept, samples])
            num_windows = max(1 if is_first else 0, (len(kept) - window) // step + 1)
            with threads.one_thread_each:
                heard = pool.submit(detector.hear, samples)
                windows: list[np.ndarray] = []
                if num_windows:
                    padded = np.pad(kept, (0, max(0, wanted.n_fft - len(kept))))
                    features = feature_extraction.compute_mfcc_fast(padded, wanted)
                    starts = np.arange(num_windows) * (step // wanted.hop_length)
                    windows = [features[start : start + window_frames] for start in starts]
                embeddings, probabilities = embed_features(encoder, windows, config), heard.result()
            yield embeddings, probabilities, windows, count_clipped(samples)
            kept, is_first = kept[num_windows * step :], False
