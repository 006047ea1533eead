"""From an audio file to MFCC features: decode, mix to mono, resample, and compute MFCCs as librosa does, but faster."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import librosa
import numpy as np
import scipy  # Its parts are loaded at first use: scripts that do not need them start a second faster.
import soundfile
import soxr
import torch

import dataset
import myconfig

SAMPLE_RATE = 16000
BLOCK_SAMPLES = 2**20
BLOCK_FRAMES = 2**9
BANDS_IN_GROUP = 32
SPEECH_FRAME_SAMPLES = 320

# A recording is silent if its samples span less than this: two steps of 16-bit audio.
SILENT_RANGE = 2 / 2**15

# Full scale is 1, or 2**15 in wrongly scaled float files; with far larger samples the power of a frame overflows.
MAX_SAMPLE = 1e9


def decode(audio_file: str) -> Iterator[tuple[int, np.ndarray]]:
    """Decode any file that libsndfile can read, in blocks -> sample rate, float32 samples (the mean of the channels).

    Raises ValueError, with the reason, for a file that is not audio, is not finite, or has an unusable rate.
    """
    if not Path(audio_file).is_file():  # Reading a pipe may never end.
        raise ValueError(f"{audio_file} {'is not a file' if Path(audio_file).exists() else 'does not exist'}.")
    try:
        # soundfile cannot encode a name that is not UTF-8, so it gets the bytes.
        with soundfile.SoundFile(audio_file if os.name == "nt" else os.fsencode(audio_file)) as file:
            if not 4000 <= file.samplerate <= 192000:
                raise ValueError(
                    f"{audio_file} has a sample rate of {file.samplerate} Hz; 4,000 to 192,000 can be used."
                )
            while len(block := file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)):
                if not -MAX_SAMPLE < block.min() <= block.max() < MAX_SAMPLE:  # NaN is neither.
                    raise ValueError(f"{audio_file} has samples that are not numbers, or far too large.")
                yield file.samplerate, block.mean(axis=1) if block.shape[1] > 1 else block[:, 0]
    except soundfile.LibsndfileError as error:  # It reports some damaged files as missing.
        raise ValueError(
            f"{audio_file} cannot be decoded: it is damaged, or not audio in a known format "
            f"(libsndfile: {error.error_string.rstrip('.')})."
        ) from None
    except (OSError, TypeError) as error:
        raise ValueError(f"{audio_file} cannot be decoded: {error}") from None


def read_audio(audio_file: str) -> np.ndarray:
    """Decode a whole file -> float32 samples, mono, 16 kHz.

    Full scale is 1; float files and resampling may go a little beyond. Raises ValueError for a file that cannot be
    decoded, or is empty, silent or too short.
    """
    decoded = list(decode(audio_file))
    if not decoded:
        raise ValueError(f"{audio_file} is empty.")
    rate = decoded[0][0]
    samples = np.concatenate([block for _, block in decoded])
    if samples.max() - samples.min() < SILENT_RANGE:
        raise ValueError(f"{audio_file} is silent.")
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    if len(samples) < myconfig.N_FFT:
        raise ValueError(f"{audio_file} is shorter than one frame, {myconfig.N_FFT / SAMPLE_RATE:.3f} s.")
    return samples


def read_blocks(audio_file: str, block_samples: int) -> Iterator[np.ndarray]:
    """The samples of `read_audio` in blocks, for recordings of any length; the last block may be shorter.

    Raises ValueError for a file that cannot be decoded or is empty.
    """
    resampler, buffer = None, np.zeros(0, np.float32)
    for rate, block in decode(audio_file):
        if rate != SAMPLE_RATE:
            resampler = resampler or soxr.ResampleStream(rate, SAMPLE_RATE, 1)
            block = resampler.resample_chunk(block)
        buffer = np.concatenate([buffer, block])
        while len(buffer) > block_samples:
            yield buffer[:block_samples]
            buffer = buffer[block_samples:]
    if resampler:
        buffer = np.concatenate([buffer, resampler.resample_chunk(np.zeros(0, np.float32), last=True)])
    if not len(buffer):
        raise ValueError(f"{audio_file} is empty.")
    yield buffer


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
    is_loud = level_db > max(np.percentile(level_db, 95) - 30, -60)
    pause = round(0.2 * SAMPLE_RATE / SPEECH_FRAME_SAMPLES)
    return scipy.ndimage.binary_closing(np.pad(is_loud, pause), np.ones(pause + 1))[pause:-pause]


def speech_seconds(level_db: np.ndarray) -> float:
    """How many seconds of a whole recording are speech, by its levels (stretches,)."""
    return float(find_speech(level_db).sum() * SPEECH_FRAME_SAMPLES / SAMPLE_RATE)


@functools.cache
def mfcc_matrices(n_fft: int, n_mels: int, n_mfcc: int) -> tuple[torch.Tensor, list, torch.Tensor]:
    """The constants of the MFCC: window (n_fft,), groups of mel filters, and cosines (n_mels, n_mfcc).

    A group is: first row, row after the last, filters (rows, bands); the groups avoid most multiplications with zero.
    Each frequency bin has two rows, for the real and the imaginary part.
    """
    window = torch.hann_window(n_fft, periodic=True)
    mel_filters = torch.from_numpy(librosa.filters.mel(sr=SAMPLE_RATE, n_fft=n_fft, n_mels=n_mels).T.copy())
    mel_groups = []
    for filters in mel_filters.split(BANDS_IN_GROUP, dim=1):
        bins = filters.any(dim=1).nonzero()
        first, end = (int(bins.min()), int(bins.max()) + 1) if len(bins) else (0, 1)
        mel_groups.append((2 * first, 2 * end, filters[first:end].repeat_interleave(2, dim=0)))
    cosines = scipy.fft.dct(np.eye(n_mels, dtype=np.float32), type=2, norm="ortho", axis=1)[:, :n_mfcc]
    return window, mel_groups, torch.from_numpy(cosines.copy())


def compute_mfcc(samples: np.ndarray) -> np.ndarray:
    """Samples -> float32 (frames, N_MFCC), the transpose of `librosa.feature.mfcc` with the settings' window and hop.

    One frame every HOP_LENGTH samples, centred there, zeros beyond the ends; decibels of the mel power, floored 80 dB
    below the loudest band of the recording; orthonormal DCT. After Davis and Mermelstein 1980, "Comparison of
    parametric representations for monosyllabic word recognition"; the mel scale is Slaney's, not that of HTK.
    """
    window, mel_groups, cosines = mfcc_matrices(myconfig.N_FFT, myconfig.N_MELS, myconfig.N_MFCC)
    half = myconfig.N_FFT // 2
    padded = torch.nn.functional.pad(torch.from_numpy(samples), (half, half))
    frames = padded.unfold(0, myconfig.N_FFT, myconfig.HOP_LENGTH)
    decibels = torch.empty(len(frames), myconfig.N_MELS)
    # In blocks, so that an hour needs no more memory than its samples and its result.
    for start in range(0, len(frames), BLOCK_FRAMES):
        spectrum = torch.fft.rfft(frames[start : start + BLOCK_FRAMES] * window)
        power = torch.view_as_real(spectrum).square_().flatten(1)
        mel_power = torch.cat([power[:, first:end] @ filters for first, end, filters in mel_groups], dim=1)
        decibels[start : start + BLOCK_FRAMES] = 10 * torch.log10(mel_power.clamp(min=1e-10))
    mfcc = decibels.clamp(min=float(decibels.max()) - 80) @ cosines
    if myconfig.CEPSTRAL_MEAN_NORMALIZATION:
        mfcc -= mfcc.mean(dim=0)
    return mfcc.numpy()


def extract_features(audio_file: str) -> np.ndarray:
    """Audio file -> MFCC features, float32 (frames, N_MFCC). Raises ValueError for a file that cannot be used."""
    return compute_mfcc(read_audio(audio_file))


def extract_sliding_windows(features: np.ndarray) -> list[np.ndarray]:
    """Features (frames, N_MFCC) -> windows (SEQ_LEN, N_MFCC), SLIDING_WINDOW_STEP frames apart; none if too short."""
    starts = range(0, len(features) - myconfig.SEQ_LEN + 1, myconfig.SLIDING_WINDOW_STEP)
    return [features[start : start + myconfig.SEQ_LEN] for start in starts]


def get_triplet_features(
    spk_to_utts: dataset.SpkToUtts, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of a random anchor, positive and negative; a speaker's only utterance is split into two halves."""
    anchor, pos, neg = dataset.get_triplet(spk_to_utts, rng)
    if anchor == pos:
        features = extract_features(anchor)
        middle = max(1, len(features) // 2)
        return features[:middle], features[-middle:], extract_features(neg)
    return extract_features(anchor), extract_features(pos), extract_features(neg)


def crop_features(features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random crop (SEQ_LEN, N_MFCC); features that are shorter are repeated."""
    if len(features) < myconfig.SEQ_LEN:
        return np.resize(features, (myconfig.SEQ_LEN, features.shape[1]))
    start = rng.integers(len(features) - myconfig.SEQ_LEN + 1)
    return features[start : start + myconfig.SEQ_LEN]


def get_batched_triplet_input(
    spk_to_utts: dataset.SpkToUtts, batch_size: int, rng: np.random.Generator | None = None
) -> torch.Tensor:
    """Crops of random triplets -> float32 (3 * batch_size, SEQ_LEN, N_MFCC), rows a, p, n, a, p, n ...

    This is the simple version, which decodes three files per triplet; training reads crops from the feature store.
    """
    rng = rng or dataset.shared_generator(myconfig.SEED)
    triplets = (get_triplet_features(spk_to_utts, rng) for _ in range(batch_size))
    return torch.from_numpy(np.stack([crop_features(features, rng) for triplet in triplets for features in triplet]))
