"""What of a recording is speech, by its levels."""

import numpy as np

SAMPLE_RATE = 16000
SPEECH_FRAME_SAMPLES = 320

# A window with less speech than this is silence.
LEAST_SPEECH_SHARE = 0.3

# Sound that may be quiet speech is at least so far above the noise, and so far from loud speech in time; below this
# level, everything is noise.
QUIET_ABOVE_NOISE_DB = 6
QUIET_GAP_SECONDS = 0.3
QUIETEST_DB = -80
DIGITAL_SILENCE_DB = -110


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


def find_quiet_speech(level_db: np.ndarray) -> tuple[float, float]:
    """Seconds of sound that may be speech too quiet for `find_speech`, and how many decibels it is below the speech.

    It is QUIET_ABOVE_NOISE_DB above the noise, and no end of a loud word, which decays in a room: QUIET_GAP_SECONDS
    from speech.
    """
    speech = find_speech(level_db)
    if not speech.any():
        return 0.0, 0.0
    gap = round(QUIET_GAP_SECONDS * SAMPLE_RATE / SPEECH_FRAME_SAMPLES)
    near_speech = np.convolve(speech, np.ones(2 * gap + 1))[gap : gap + len(speech)] > 0.5
    is_recorded = level_db > DIGITAL_SILENCE_DB  # Not where the recorder was paused.
    noise_db = max(np.percentile(level_db[is_recorded], 5), QUIETEST_DB)
    quiet = ~near_speech & fill_pauses(level_db > noise_db + QUIET_ABOVE_NOISE_DB)
    if not quiet.any():
        return 0.0, 0.0
    below_db = np.percentile(level_db[speech], 75) - np.percentile(level_db[quiet], 75)
    return float(quiet.sum() * SPEECH_FRAME_SAMPLES / SAMPLE_RATE), float(below_db)


def speech_seconds(level_db: np.ndarray) -> float:
    """How many seconds of a whole recording are speech, by its levels (stretches,)."""
    return float(find_speech(level_db).sum() * SPEECH_FRAME_SAMPLES / SAMPLE_RATE)


def speech_share(levels_db: np.ndarray, starts: np.ndarray, length: float) -> np.ndarray:
    """The share of speech in the stretches of a recording that begin at `starts`, in seconds (stretches,)."""
    speech = find_speech(levels_db)
    sums = np.append(0, np.cumsum(speech))
    places = np.array([starts, starts + length]) * SAMPLE_RATE / SPEECH_FRAME_SAMPLES
    first, last = np.minimum(np.round(places).astype(int), len(speech))
    return (sums[last] - sums[first]) / np.maximum(last - first, 1)
