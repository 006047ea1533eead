"""The user's own recordings: find them, embed them, and report what is wrong with them."""

import contextlib
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import feature_extraction
from audio import mono, speech_levels
from audio.recording_lists import Paths, as_paths
from encoder.base import Encoder, unit_length
from encoder.inference import embed_features
from foundation import safe_files, script, settings, threads
from scoring.thresholds import WINDOW_SECONDS, near_strangers
from voices.clustering import find_voices, seem_several
from voices.database import Recording
from voices.speech_detector import cut_pieces, share_of_loud, speech_shares

CHUNK_FILES = 64
LITTLE_SPEECH_SECONDS = 0.5
MOSTLY_SILENT_SHARE = 0.2
CLIPPED_LEVEL = 0.97
CLIPPED_SHARE = 0.001

# Frames that are compared of two recordings, and coefficients, without the first, which is the level; and how similar
# the same audio is at least: quieter, cut or coded anew it has 0.83 or more, other sentences at most 0.35.
# Words of one second can be as similar as 0.6, so recordings below 1.5 s (at 32 ms a frame) are not compared.
LEAST_FRAMES, COMPARED_FRAMES, COMPARED_COEFFICIENTS = 48, 1000, 13
SAME_AUDIO = 0.6

# What is heard of a long recording: more of it would hardly make an embedding surer.
MOST_MINUTES = 30

# Windows of a recording that are compared to find several voices in it: of longer ones, they lie farther apart.
MOST_WINDOWS = 200


# In music and noise, less than this share sounds like speech.
LEAST_SPEECH = 0.1

NO_SPEECH = "hardly any of it sounds like speech: most is noise or music"
SEVERAL_VOICES = "there seem to be two voices or more in it: `timeline` tells them apart"


class Heard(NamedTuple):
    """What was heard in a recording: its row for a database, and why its score may be wrong, in words.

    `beginning` (frames, coefficients) has MFCCs of up to COMPARED_FRAMES, by which the same audio is known again.
    """

    recording: Recording
    faults: list[str]
    beginning: np.ndarray


def hear(encoder: Encoder, files: Paths, skipped: list[tuple[str, str]] | None = None) -> list[Heard]:
    """Embed recordings, one path or several. Raises ValueError for one that cannot be used, or if there are none.

    With `skipped`, files that cannot be used are put there, with the reason, unless they are all.
    """
    paths = as_paths(files)
    if not paths:
        raise ValueError("no recordings were given.")
    heard: list[Heard] = []
    refused: list[tuple[str, str]] = []
    pool = threads.thread_pool(settings.present().NUM_PROCESSES)
    with tqdm(total=len(paths), desc="Listening", disable=None) as progress, threads.one_thread_each:
        for start in range(0, len(paths), CHUNK_FILES):
            chunk = paths[start : start + CHUNK_FILES]
            of_files = list(pool.map(lambda file: listen_or_refuse(file, encoder.feature_settings), chunk))
            refused += [(file, found) for file, found in zip(chunk, of_files, strict=True) if isinstance(found, str)]
            if refused and skipped is None:
                raise ValueError(refused[0][1])
            listened = {file: found for file, found in zip(chunk, of_files, strict=True) if isinstance(found, Listened)}
            heard += hear_listened(encoder, listened) if listened else []
            progress.update(len(chunk))
            script.raise_if_interrupted()
    if not heard:
        raise ValueError(refused[0][1])
    if skipped is not None:
        skipped += refused
    return heard


def hear_listened(encoder: Encoder, listened: dict[str, "Listened"]) -> list[Heard]:
    """Embed recordings, by their files, whose features are there."""
    config = settings.in_one_piece()
    features, levels, digests, faults, pieces = zip(*listened.values(), strict=True)
    shares = threads.thread_pool(config.NUM_PROCESSES).submit(speech_shares, np.stack(pieces))
    seconds = map(speech_levels.speech_seconds, levels)
    for words, several in zip(faults, have_several_voices(encoder, features, levels), strict=True):
        words += [SEVERAL_VOICES] if several else []
    for file, words, share in zip(listened, faults, shares.result(), strict=True):
        words += [NO_SPEECH] if share < LEAST_SPEECH and is_noise(read_beginning(file, [])) else []
    rows = zip(listened, digests, seconds, embed_features(encoder, features, config), strict=True)
    return [
        Heard(Recording(*row), words, of_recording[:COMPARED_FRAMES, 1:COMPARED_COEFFICIENTS].copy())
        for row, words, of_recording in zip(rows, faults, features, strict=True)
    ]


def hear_samples(encoder: Encoder, samples: np.ndarray, name: str) -> Heard:
    """Embed samples (samples,) that have no file of their own. Raises ValueError for less than a frame."""
    digest = hashlib.sha256(samples.tobytes()).hexdigest()
    one = analyse(samples, name, digest, encoder.feature_settings, [])
    [embedding] = embed_features(encoder, [one.features], settings.in_one_piece())
    [share] = speech_shares(one.pieces[None])
    faults = one.faults + ([NO_SPEECH] if share < LEAST_SPEECH and is_noise(samples) else [])
    beginning = one.features[:COMPARED_FRAMES, 1:COMPARED_COEFFICIENTS].copy()
    return Heard(Recording(name, digest, speech_levels.speech_seconds(one.levels), embedding), faults, beginning)


class Listened(NamedTuple):
    """Features (frames, N_MFCC), levels (stretches,), hash of the file, warnings, and pieces to find speech in."""

    features: np.ndarray
    levels: np.ndarray
    digest: str
    faults: list[str]
    pieces: np.ndarray


def listen_or_refuse(file: str, wanted: feature_extraction.FeatureSettings) -> Listened | str:
    """What is needed of a recording, or in words, why it cannot be used."""
    try:
        return listen(file, wanted)
    except ValueError as error:
        return str(error)


def listen(file: str, wanted: feature_extraction.FeatureSettings) -> Listened:
    """What is needed of a recording. Raises ValueError if it cannot be used."""
    faults: list[str] = []
    samples = read_beginning(file, faults)
    return analyse(samples, file, safe_files.digest_of(file), wanted, faults)


def analyse(
    samples: np.ndarray, name: str, digest: str, wanted: feature_extraction.FeatureSettings, faults: list[str]
) -> Listened:
    """What is needed of samples (samples,), and the faults so far. Raises ValueError for less than a frame."""
    feature_extraction.check_length(samples, name, wanted)
    levels = speech_levels.levels_db(samples)
    seconds = speech_levels.speech_seconds(levels)
    found = find_faults(len(samples) / feature_extraction.SAMPLE_RATE, seconds, count_clipped(samples))
    features = feature_extraction.compute_mfcc_fast(samples, wanted)
    pieces = cut_pieces(samples, speech_levels.find_speech(levels))
    return Listened(features, levels, digest, faults + found, pieces)


def is_noise(samples: np.ndarray) -> bool:
    """Whether hardly any sound of a recording (samples,) is speech; it takes far longer than to hear a few pieces."""
    return share_of_loud(samples, speech_levels.find_speech(speech_levels.levels_db(samples))) < LEAST_SPEECH


def read_beginning(file: str, faults: list[str]) -> np.ndarray:
    """The samples of a recording, of a long one its first MOST_MINUTES, so that memory does not grow with its length.

    Raises ValueError as `mono.read_audio` does.
    """
    most_samples = MOST_MINUTES * 60 * feature_extraction.SAMPLE_RATE
    with contextlib.closing(mono.read_blocks(file, most_samples, faults)) as blocks:
        samples = next(blocks)
        if next(blocks, None) is not None:
            faults.append(f"only its first {MOST_MINUTES} minutes were heard")
    mono.check_sound(samples, file)
    return samples


def have_several_voices(encoder: Encoder, features: Sequence[np.ndarray], levels: Sequence[np.ndarray]) -> list[bool]:
    """Whether windows of speech of each recording are of several voices.

    Features are (frames, N_MFCC), levels in decibels (stretches,).
    """
    seconds_per_frame = encoder.feature_settings.hop_length / feature_extraction.SAMPLE_RATE
    frames = round(WINDOW_SECONDS / seconds_per_frame)
    windows: list[np.ndarray] = []
    starts_of: list[np.ndarray] = []
    for of_recording, levels_db in zip(features, levels, strict=True):
        at_most = min(MOST_WINDOWS, 1 + 4 * (len(of_recording) - frames) // frames)
        starts = np.linspace(0, len(of_recording) - frames, max(0, at_most)).astype(int)
        is_speech = speech_levels.find_speech(levels_db)
        share = speech_levels.speech_share(is_speech, starts * seconds_per_frame, WINDOW_SECONDS)
        starts = starts[share >= speech_levels.LEAST_SPEECH_SHARE]
        windows += [of_recording[start : start + frames] for start in starts]
        starts_of.append(starts * seconds_per_frame)
    embeddings = embed_features(encoder, windows, settings.in_one_piece())
    parts = np.split(embeddings, np.cumsum([len(starts) for starts in starts_of])[:-1])
    near = near_strangers(encoder.calibration)
    return [
        seem_several(part, starts, near) and len(find_voices(part, starts, None, near)[0]) > 1
        for part, starts in zip(parts, starts_of, strict=True)
    ]


def is_same_audio(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether one of two beginnings (frames, coefficients) is a part of the other, quieter or coded anew.

    The shorter one is moved along the longer one; the correlation of each coefficient is averaged at each place.
    """
    from scipy.signal import fftconvolve  # Slow, and only needed here.

    short, long = sorted((first, second), key=len)
    number = len(short)
    if number < LEAST_FRAMES:
        return False
    pattern = (short - short.mean(axis=0)) / (number * short.std(axis=0) + 1e-6)
    products = fftconvolve(long, pattern[::-1], mode="valid", axes=0)
    sums, squares = (np.cumsum(np.pad(long.astype(np.float64) ** power, ((1, 0), (0, 0))), axis=0) for power in (1, 2))
    means, mean_squares = ((total[number:] - total[:-number]) / number for total in (sums, squares))
    deviations = np.sqrt((mean_squares - means**2).clip(1e-6))
    return bool((products / deviations).mean(axis=1).max() > SAME_AUDIO)


def count_clipped(samples: np.ndarray) -> int:
    """The number of samples near the ends of the range; after resampling, clipped ones are not exactly there."""
    return int(np.count_nonzero(np.abs(samples) > CLIPPED_LEVEL))


def find_faults(seconds: float, speech_seconds: float, num_clipped: int) -> list[str]:
    """Why the score of a recording may be wrong, in words."""
    found = []
    if not speech_seconds:
        found.append("there is no speech in it")
    elif speech_seconds < LITTLE_SPEECH_SECONDS:
        found.append(f"there is only {speech_seconds:.1f} s of speech in it")
    elif speech_seconds < MOSTLY_SILENT_SHARE * seconds:
        found.append(f"it is mostly silent, with {speech_seconds:.1f} s of speech in {seconds:.1f} s")
    if num_clipped > CLIPPED_SHARE * seconds * feature_extraction.SAMPLE_RATE:
        found.append("it is clipped: it was recorded too loud")
    return found


def list_warnings(heard: Sequence[Heard]) -> list[tuple[str, str]]:
    """The file and the description of every fault."""
    return [(one.recording.file, words) for one in heard for words in one.faults]


def mean_embedding(heard: Sequence[Heard]) -> np.ndarray:
    """The mean of recordings' embeddings, of length 1 -> (dimensions,)."""
    return unit_length(np.sum([one.recording.embedding for one in heard], axis=0))


def speech_seconds(heard: Sequence[Heard]) -> float:
    """The seconds of speech in all recordings together."""
    return sum(one.recording.speech_seconds for one in heard)


def write_embeddings(path: str, heard: Sequence[Heard]) -> None:
    """Write `embeddings` (recordings, dimensions) and `files` as .npz, or rows `file,number,number,...` as .csv."""
    files = [one.recording.file for one in heard]
    embeddings = np.stack([one.recording.embedding for one in heard])
    if path.lower().endswith(".npz"):
        with safe_files.replace_when_whole(path) as file:
            np.savez(file, embeddings=embeddings, files=np.array(files))
        return
    safe_files.write_rows(path, ([name, *row] for name, row in zip(files, embeddings.tolist(), strict=True)))
