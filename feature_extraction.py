"""From an audio file to MFCC features: as the lecture computes them, then the same numbers faster."""

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import dataset
import myconfig
from audio import mono
from audio.speech_levels import SAMPLE_RATE
from foundation import settings
from foundation.settings import Config

if TYPE_CHECKING:
    import torch

# Frames that are computed at once, and mel bands that are multiplied with the same bins.
BLOCK_FRAMES = 2**7
BANDS_IN_GROUP = 32


class FeatureSettings(NamedTuple):
    """The settings of the same names that features depend on: of `myconfig.py`, or those that a model was made with."""

    n_mfcc: int
    n_fft: int
    hop_length: int
    n_mels: int
    cepstral_mean_normalization: bool


def feature_settings(values: Mapping | None = None) -> FeatureSettings:
    """The settings on which features depend, out of `values` (those of a model, for instance), or of `myconfig.py`."""
    values = vars(myconfig) if values is None else values
    return FeatureSettings(*(values[name.upper()] for name in FeatureSettings._fields))


# --------------------------------- MFCC, as in the lecture -----------------------------


def compute_mfcc(samples: np.ndarray, wanted: FeatureSettings | None = None) -> np.ndarray:
    """Samples -> float32 (frames, N_MFCC), the transpose of `librosa.feature.mfcc` with the `wanted` settings.

    One frame every HOP_LENGTH samples, centred there, zeros beyond the ends. The spectrum's power is summed in mel
    bands, as the ear does; decibels are floored 80 below the loudest band of the recording; the orthonormal cosine
    transform describes the shape of the spectrum, its coarse shape first. After Davis and Mermelstein 1980, "Comparison
    of parametric representations for monosyllabic word recognition"; the mel scale is Slaney's, not that of HTK.
    """
    wanted = wanted or feature_settings()
    power = np.abs(np.fft.rfft(cut_frames(samples, wanted) * hann_window(wanted.n_fft))) ** 2
    mel_power = power @ mel_filters(wanted.n_fft, wanted.n_mels).T
    decibels = 10 * np.log10(mel_power.clip(1e-10))
    mfcc = decibels.clip(decibels.max() - 80) @ cosines(wanted.n_mels, wanted.n_mfcc)
    return (mfcc - wanted.cepstral_mean_normalization * mfcc.mean(axis=0)).astype(np.float32)


def cut_frames(samples: np.ndarray, wanted: FeatureSettings) -> np.ndarray:
    """Samples -> overlapping frames (frames, N_FFT), HOP_LENGTH apart, the first one centred at the first sample."""
    padded = np.pad(samples, wanted.n_fft // 2)
    return np.lib.stride_tricks.sliding_window_view(padded, wanted.n_fft)[:: wanted.hop_length]


def hann_window(n_fft: int) -> np.ndarray:
    """One period of a raised cosine, which fades a frame in and out (n_fft,)."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)


def mel_frequencies(number: int) -> np.ndarray:
    """So many frequencies in Hz, from 0 to half the sample rate, at equal distances on Slaney's mel scale (number,).

    The scale is linear up to 1 kHz, with 15 mels there, and logarithmic above, a factor of 6.4 in 27 mels. Source:
    Slaney 1998, "Auditory toolbox", version 2; librosa's default.
    """
    highest = 15 + 27 * np.log(SAMPLE_RATE / 2 / 1000) / np.log(6.4)
    mels = np.linspace(0, highest, number)
    return np.where(mels < 15, 1000 * mels / 15, 1000 * np.exp(np.log(6.4) / 27 * (mels - 15)))


def mel_filters(n_fft: int, n_mels: int) -> np.ndarray:
    """Triangles over the bins of a Fourier transform, each of area 1 -> float32 (n_mels, n_fft // 2 + 1).

    A triangle begins at the middle of the one before and ends at that of the one after it.
    """
    bins = np.linspace(0, SAMPLE_RATE / 2, n_fft // 2 + 1)
    edges = mel_frequencies(n_mels + 2)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    return (triangles * (2 / (edges[2:] - edges[:-2]))).astype(np.float32)


def cosines(n_mels: int, n_mfcc: int) -> np.ndarray:
    """The orthonormal cosine transform of type 2 (n_mels, n_mfcc): band m counts cos(pi k (m + 1/2) / n_mels) for k."""
    angles = np.pi / n_mels * np.outer(np.arange(n_mels) + 0.5, np.arange(n_mfcc))
    return np.cos(angles) * np.sqrt(np.where(np.arange(n_mfcc) == 0, 1, 2) / n_mels)


# -------------------------------- The same, several times faster -----------------------


def compute_mfcc_fast(samples: np.ndarray, wanted: FeatureSettings) -> np.ndarray:
    """Like `compute_mfcc`, equal up to rounding, but several times faster: this one extracts the features of files.

    Single precision; in blocks that stay in the processor's cache, so that an hour needs no more memory than its
    samples and its result; and each group of mel bands is multiplied with the few bins that it covers.
    """
    constants = mfcc_constants(wanted.n_fft, wanted.n_mels, wanted.n_mfcc)
    frames = cut_frames(samples, wanted)
    mel_power = np.empty((len(frames), wanted.n_mels), np.float32)
    for start in range(0, len(frames), BLOCK_FRAMES):
        spectrum = np.fft.rfft(frames[start : start + BLOCK_FRAMES] * constants.window).astype(np.complex64, copy=False)
        power = np.square(spectrum.view(np.float32))
        groups = [power[:, first:end] @ filters for first, end, filters in constants.mel_groups]
        mel_power[start : start + BLOCK_FRAMES] = np.concatenate(groups, axis=1)
    decibels = 10 * np.log10(mel_power.clip(1e-10))
    mfcc = decibels.clip(decibels.max() - 80) @ constants.transform
    return mfcc - mfcc.mean(axis=0) if wanted.cepstral_mean_normalization else mfcc


class MfccConstants(NamedTuple):
    """The window (n_fft,), groups of mel filters, and the cosine transform (n_mels, n_mfcc), all float32."""

    window: np.ndarray
    mel_groups: list
    transform: np.ndarray


@functools.cache
def mfcc_constants(n_fft: int, n_mels: int, n_mfcc: int) -> MfccConstants:
    """What is the same for all recordings, computed once.

    A group of mel filters has the first row of the power, the row after the last, and the filters (rows, bands). Each
    frequency bin has two rows, for the squares of its real and its imaginary part, whose sum is the power.
    """
    mel_groups = []
    for start in range(0, n_mels, BANDS_IN_GROUP):
        filters = mel_filters(n_fft, n_mels)[start : start + BANDS_IN_GROUP].T
        bins = np.flatnonzero(filters.any(axis=1))
        first, end = (bins[0], bins[-1] + 1) if len(bins) else (0, 1)
        mel_groups.append((2 * first, 2 * end, np.repeat(filters[first:end], 2, axis=0)))
    window, transform = hann_window(n_fft), cosines(n_mels, n_mfcc)
    return MfccConstants(window.astype(np.float32), mel_groups, transform.astype(np.float32))


# --------------------------------- Files, windows, triplets ----------------------------


def extract_features(
    audio_file: str, wanted: FeatureSettings | None = None, warnings: list[str] | None = None
) -> np.ndarray:
    """Audio file -> MFCC features, float32 (frames, N_MFCC). Raises ValueError for a file that cannot be used."""
    wanted = wanted or feature_settings()
    samples = mono.read_audio(audio_file, warnings)
    check_length(samples, audio_file, wanted)
    return compute_mfcc_fast(samples, wanted)


def check_length(samples: np.ndarray, audio_file: str, wanted: FeatureSettings) -> None:
    """Raise ValueError for less than one frame."""
    if len(samples) < wanted.n_fft:
        raise ValueError(
            f"{audio_file} is shorter than one frame, {wanted.n_fft / SAMPLE_RATE:.3f} s: record a few seconds."
        )


def extract_sliding_windows(features: np.ndarray, config: Config | None = None) -> list[np.ndarray]:
    """Features (frames, N_MFCC) -> windows (SEQ_LEN, N_MFCC), SLIDING_WINDOW_STEP frames apart; none if too short."""
    config = config or settings.present()
    starts = range(0, len(features) - config.SEQ_LEN + 1, config.SLIDING_WINDOW_STEP)
    return [features[start : start + config.SEQ_LEN] for start in starts]


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


def trim_features(
    features: np.ndarray, apply_specaug: bool | None = None, rng: np.random.Generator | None = None
) -> np.ndarray:
    """A random crop (SEQ_LEN, N_MFCC); features that are shorter are repeated.

    It is masked if `apply_specaug`, or else SPECAUG_TRAINING, says so.
    """
    import specaug  # It needs PyTorch, which whoever only wants features need not have.

    rng = rng or dataset.shared_generator(myconfig.SEED)
    apply_specaug = myconfig.SPECAUG_TRAINING if apply_specaug is None else apply_specaug
    if len(features) < myconfig.SEQ_LEN:
        crop = np.resize(features, (myconfig.SEQ_LEN, features.shape[1]))
    else:
        start = rng.integers(len(features) - myconfig.SEQ_LEN + 1)
        crop = features[start : start + myconfig.SEQ_LEN]
    return specaug.apply_specaug(crop, rng) if apply_specaug else crop


def get_trimmed_triple_features(
    _: object, spk_to_utts: dataset.SpkToUtts, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Crops of a random triplet -> (3, SEQ_LEN, N_MFCC); the first argument, a number to map over, does not count."""
    return np.stack([trim_features(features, rng=rng) for features in get_triplet_features(spk_to_utts, rng)])


def TrimmedTripletFeaturesFetcher(spk_to_utts: dataset.SpkToUtts) -> Callable[[object], np.ndarray]:
    """The course's name for `get_trimmed_triple_features` of these speakers."""
    return functools.partial(get_trimmed_triple_features, spk_to_utts=spk_to_utts)


def get_batched_triplet_input(
    spk_to_utts: dataset.SpkToUtts, batch_size: int, pool: object = None, rng: np.random.Generator | None = None
) -> "torch.Tensor":
    """Crops of random triplets -> float32 (3 * batch_size, SEQ_LEN, N_MFCC), rows a, p, n, a, p, n ...

    This is the simple version, which decodes three files per triplet and needs no `pool` of processes; training reads
    crops from the feature store.
    """
    import torch

    rng = rng or dataset.shared_generator(myconfig.SEED)
    triplets = [get_trimmed_triple_features(number, spk_to_utts, rng) for number in range(batch_size)]
    return torch.from_numpy(np.concatenate(triplets)).float()
