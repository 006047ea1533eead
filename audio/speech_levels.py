"""What of a recording is speech, by its levels."""

import numpy as np

SAMPLE_RATE = 16000
SPEECH_FRAME_SAMPLES = 320

# A window with less speech than this is silence.
LEAST_SPEECH_SHARE = 0.3


def levels_db(samples: np.ndarray) -> np.ndarray:
    """The level of each stretch of SPEECH_FRAME_SAMPLES, in decibels of full scale (stretches,)."""
    frames = samples[: len(samples) // SPEECH_FRAME_SAMPLES * SPEECH_FRAME_SAMPLES].reshape(-1, SPEECH_FRAME_SAMPLES)
    return 10 * np.log10(np.mean(np.square(frames), axis=1) + 1e-12)


def find_speech(level_db: np.ndarray) -> np.ndarray:
    """Which stretches of a whole recording are speech -> bool (stretches,), by their levels.

    Speech is within 30 dB of the loud stretches, and above -60 dB of full scale; pauses up to 0.2 s count as speech.
    Noise that is as loud as speech is taken for speech.
    """
    if not len(level_db):
        return np.zeros(0, bool)
    return fill_pauses(level_db > max(np.percentile(level_db, 95) - 30, -60))


def fill_pauses(is_sound: np.ndarray) -> np.ndarray:
    """The same stretches (stretches,), and pauses up to 0.2 s between them."""
    filled, sound = is_sound.copy(), np.flatnonzero(is_sound)
    pause = round(0.2 * SAMPLE_RATE / SPEECH_FRAME_SAMPLES)
    for gap in np.flatnonzero((np.diff(sound) > 1) & (np.diff(sound) <= pause + 1)):
        filled[sound[gap] : sound[gap + 1]] = True
    return filled


def speech_seconds(level_db: np.ndarray) -> float:
    """How many seconds of a whole recording are speech, by its levels (stretches,)."""
    return float(find_speech(level_db).sum() * SPEECH_FRAME_SAMPLES / SAMPLE_RATE)


def speech_share(is_speech: np.ndarray, starts: np.ndarray, length: float) -> np.ndarray:
    """The share of speech (stretches,) in the windows that begin at `starts`, in seconds -> (windows,)."""
    sums = np.append(0, np.cumsum(is_speech))
    places = np.array([starts, starts + length]) * SAMPLE_RATE / SPEECH_FRAME_SAMPLES
    first, last = np.minimum(np.round(places).astype(int), len(is_speech))
    return (sums[last] - sums[first]) / np.maximum(last - first, 1)
