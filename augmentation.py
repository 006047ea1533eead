"""Changes to the training data that make a network listen to the voice and not to what comes with it."""

import numpy as np
import soxr
import torch

import feature_extraction
import myconfig


def change_speed(samples: np.ndarray, speed: float) -> np.ndarray:
    """Play samples `speed` times as fast, which raises the pitch and the formants with it, as a new speaker's would.

    Source: Ko et al. 2015, "Audio augmentation for speech recognition"; as new speakers: Yamamoto et al. 2019.
    """
    if speed == 1.0:
        return samples
    return soxr.resample(samples, feature_extraction.SAMPLE_RATE * speed, feature_extraction.SAMPLE_RATE)


def random_channel(crops: torch.Tensor, deviation: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Record each crop (batch, frames, N_MFCC) with another microphone: add a random cepstrum to all its frames.

    A channel multiplies the spectrum, so it is a sum in decibels, and also after the cosine transform: what a fixed
    filter does to MFCCs is to shift them (Atal 1974, on cepstral mean subtraction). The shift of each coefficient is
    normal, CHANNEL_AUGMENTATION times its `deviation` (N_MFCC,) in the training data.
    """
    shift = rng.standard_normal((len(crops), 1, crops.shape[2]), dtype=np.float32)
    return crops + myconfig.CHANNEL_AUGMENTATION * deviation * torch.from_numpy(shift)


def spec_augment(crops: torch.Tensor, fill: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Mask a band of coefficients and a stretch of frames in some of the crops (batch, frames, N_MFCC).

    `fill` (N_MFCC,) is written into the masks: the features' mean, so that a mask says nothing.
    Source: Park et al. 2019, "SpecAugment", equations in section 2, without time warping.
    """
    batch, num_frames, num_coefficients = crops.shape
    frequency_mask = draw_masks(
        batch, num_coefficients, myconfig.SPECAUG_FREQ_MASK_PROB, myconfig.SPECAUG_FREQ_MASK_MAX_WIDTH, rng
    )
    time_mask = draw_masks(
        batch, num_frames, myconfig.SPECAUG_TIME_MASK_PROB, myconfig.SPECAUG_TIME_MASK_MAX_WIDTH, rng
    )
    return torch.where(frequency_mask[:, None, :] | time_mask[:, :, None], fill, crops)


def draw_masks(batch: int, size: int, probability: float, max_width: int, rng: np.random.Generator) -> torch.Tensor:
    """For each row, with `probability`, one run of 1 to `max_width` True anywhere -> bool (batch, size)."""
    width = rng.integers(1, max_width, batch, endpoint=True) * (rng.random(batch) < probability)
    start = (rng.random(batch) * (size - width + 1)).astype(np.int64)
    place = np.arange(size)
    return torch.from_numpy((place >= start[:, None]) & (place < (start + width)[:, None]))
