"""A small demonstration corpus of synthetic voices, so that everything can be tried before any download.

The voices follow the source-filter model of speech (Fant 1960, "Acoustic theory of speech production"): a
source, the pulses of the vocal folds or the hiss of a constriction, goes through a filter, the resonances (formants) of
the vocal tract. MFCCs describe the filter, and a speaker's vocal tract length scales all formants at once: that is
what a network can learn here. As in recordings, other things change too: words, pitch, loudness, room and noise.
"""

import shutil
from pathlib import Path

import filelock
import numpy as np
import scipy  # Its parts are loaded at first use, so most scripts start a second faster.
import soundfile
from tqdm import tqdm

DEMO_DIR = Path("data/demo")
TRAIN_DIR = DEMO_DIR / "train"
TEST_DIR = DEMO_DIR / "test"

SAMPLE_RATE = 16000
NUM_TRAIN_SPEAKERS = 40
NUM_TEST_SPEAKERS = 20
SESSIONS = 3
UTTS_PER_SESSION = 4
SEED = 1234

# The first four formants in Hz of ten vowels in a vocal tract of mean length: roughly between those of men and women
# in Peterson and Barney 1952, "Control methods used in a study of the vowels", table II, which has no fourth formant.
VOWELS = np.array(
    [
        [290, 2540, 3160, 3900],
        [410, 2240, 2820, 3800],
        [570, 2080, 2730, 3800],
        [760, 1890, 2630, 3750],
        [790, 1160, 2640, 3600],
        [580, 880, 2560, 3500],
        [450, 1090, 2460, 3500],
        [340, 910, 2460, 3500],
        [700, 1300, 2590, 3600],
        [500, 1500, 1830, 3500],
    ]
)
BANDWIDTHS_HZ = np.array([70, 90, 130, 200])

# Centre frequencies in Hz of the noise of consonants such as s, sh, f and h.
FRICATIVES_HZ = np.array([6000, 3400, 5000, 1800])


def build_if_missing() -> None:
    """Write the corpus below DEMO_DIR unless it is there; always the same audio. Takes about 20 seconds."""
    if DEMO_DIR.exists():
        return
    DEMO_DIR.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(DEMO_DIR.parent / "demo.lock"):
        if DEMO_DIR.exists():  # Another process was faster.
            return
        print(f"Building the demonstration corpus of synthetic voices in {DEMO_DIR} (this happens once).", flush=True)
        unfinished = DEMO_DIR.with_name("demo.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        num_speakers = NUM_TRAIN_SPEAKERS + NUM_TEST_SPEAKERS
        for number in tqdm(range(num_speakers), desc="Synthesising", unit="speaker", disable=None):
            part = TRAIN_DIR.name if number < NUM_TRAIN_SPEAKERS else TEST_DIR.name
            write_speaker(unfinished / part / str(1001 + number), np.random.default_rng([SEED, number]))
        unfinished.rename(DEMO_DIR)


def write_speaker(folder: Path, rng: np.random.Generator) -> None:
    """Draw a speaker's voice and write its utterances as <speaker>/<session>/<speaker>-<session>-<number>.flac."""
    voice = draw_voice(rng)
    for session in range(1, SESSIONS + 1):
        session_folder = folder / str(session)
        session_folder.mkdir(parents=True)
        room = draw_room(rng)
        for number in range(UTTS_PER_SESSION):
            speech = synthesise(voice, duration_seconds=rng.uniform(3, 5), rng=rng)
            path = session_folder / f"{folder.name}-{session}-{number:04}.flac"
            soundfile.write(path, record(speech, room, rng), SAMPLE_RATE, subtype="PCM_16")


def draw_voice(rng: np.random.Generator) -> dict:
    """Draw the properties that all utterances of a speaker share."""
    is_high = rng.random() < 0.5
    return {
        # All formants are divided by the length of the vocal tract, relative to the mean of the table.
        "tract_length": rng.normal(0.95 if is_high else 1.05, 0.06),
        # Each formant also has a small offset of its own, because vocal tracts differ in shape.
        "formant_offset": rng.normal(1, 0.06, 4),
        "pitch_hz": rng.normal(200 if is_high else 118, 18),
        "pitch_range": rng.uniform(0.05, 0.2),
        "jitter": rng.uniform(0.005, 0.02),
        "tilt": rng.uniform(0.85, 0.97),
        "breath": rng.uniform(0.01, 0.06),
        "bandwidth": rng.uniform(0.8, 1.4),
        "syllable_seconds": rng.uniform(0.16, 0.28),
    }


def synthesise(voice: dict, duration_seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Random syllables of a voice, each a consonant's noise and a vowel -> samples at 16 kHz."""
    # The mood of the voice changes from one utterance to the next.
    mood_pitch, mood_formants = rng.normal(1, 0.08), rng.normal(1, 0.015)
    pieces, seconds = [], 0.0
    while seconds < duration_seconds:
        length = voice["syllable_seconds"] * rng.uniform(0.6, 1.5)
        pieces.append(fricative(voice, rng.uniform(0.03, 0.1), rng))
        pieces.append(vowel(voice, length, mood_pitch, mood_formants, rng))
        if rng.random() < 0.15:
            pieces.append(np.zeros(int(rng.uniform(0.05, 0.3) * SAMPLE_RATE)))
        seconds = sum(map(len, pieces)) / SAMPLE_RATE
    return np.concatenate(pieces)


def vowel(voice: dict, seconds: float, mood_pitch: float, mood_formants: float, rng: np.random.Generator) -> np.ndarray:
    """A gliding pitch through the formants of a random vowel."""
    num_samples = int(seconds * SAMPLE_RATE)
    # The pitch glides, and jitters every 5 ms; a pulse starts where the phase passes a whole number.
    glide = 1 + voice["pitch_range"] * np.linspace(rng.normal(), rng.normal(), num_samples)
    jitter = np.repeat(rng.normal(1, voice["jitter"], num_samples // 80 + 1), 80)[:num_samples]
    phase = np.cumsum(voice["pitch_hz"] * mood_pitch * np.clip(glide, 0.5, 2) * jitter) / SAMPLE_RATE
    source = np.diff(np.floor(phase), prepend=0) + voice["breath"] * rng.normal(size=num_samples)
    # The folds close less abruptly than a pulse: two poles remove 12 dB per octave, the lips add 6 dB per octave.
    source = scipy.signal.lfilter([1, -1], np.convolve([1, -voice["tilt"]], [1, -0.9]), source)
    # A speaker's formants of a vowel are a little different each time.
    formants = VOWELS[rng.integers(len(VOWELS))] * rng.normal(1, 0.03, 4) * mood_formants
    formants = formants * voice["formant_offset"] / voice["tract_length"]
    sound = resonate(source, formants, BANDWIDTHS_HZ * voice["bandwidth"])
    return 0.1 * sound / np.sqrt(np.mean(sound**2)) * np.sin(np.pi * np.linspace(0, 1, num_samples)) ** 0.5


def fricative(voice: dict, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """The hiss of a random consonant."""
    centre = min(rng.choice(FRICATIVES_HZ) * rng.normal(1, 0.05) / voice["tract_length"], 7500)
    num_samples = int(seconds * SAMPLE_RATE)
    sound = resonate(rng.normal(size=num_samples), np.array([centre]), np.array([1200]))
    return rng.uniform(0.01, 0.04) * sound / np.sqrt(np.mean(sound**2)) * np.hanning(num_samples)


def resonate(source: np.ndarray, frequencies_hz: np.ndarray, bandwidths_hz: np.ndarray) -> np.ndarray:
    """Send a source through resonances in series, two poles each (Klatt 1980, "Software for a cascade/parallel
    formant synthesizer")."""
    for frequency, bandwidth in zip(frequencies_hz, bandwidths_hz, strict=True):
        radius = np.exp(-np.pi * bandwidth / SAMPLE_RATE)
        poles = [1, -2 * radius * np.cos(2 * np.pi * frequency / SAMPLE_RATE), radius**2]
        source = scipy.signal.lfilter([sum(poles)], poles, source)
    return source


def draw_room(rng: np.random.Generator) -> dict:
    """Draw the properties that a session shares: the room's echo, the microphone's tone, the distance and the noise."""
    seconds = rng.uniform(0.05, 0.35)
    decay = np.exp(-6.9 * np.arange(int(seconds * SAMPLE_RATE)) / (seconds * SAMPLE_RATE))
    echo = decay * rng.normal(size=len(decay))
    echo *= rng.uniform(0.1, 0.6) / np.sqrt(np.sum(echo**2))
    return {
        "response": np.concatenate([[1.0], echo]),
        "tone": rng.uniform(-0.5, 0.5),
        "gain": 10 ** rng.uniform(-0.7, 0.2),
        "noise_tone": rng.uniform(0, 0.95),
        "snr_db": rng.uniform(15, 35),
    }


def record(speech: np.ndarray, room: dict, rng: np.random.Generator) -> np.ndarray:
    """Speech as a session's microphone hears it, in [-1, 1]."""
    heard = scipy.signal.fftconvolve(speech, room["response"])
    heard = scipy.signal.lfilter([1, room["tone"]], [1], heard)
    noise = scipy.signal.lfilter([1], [1, -room["noise_tone"]], rng.normal(size=len(heard)))
    noise *= np.sqrt(np.mean(heard**2) / np.mean(noise**2)) * 10 ** (-room["snr_db"] / 20)
    heard = room["gain"] * (heard + noise)
    return heard / max(1.0, np.abs(heard).max())
