"""SpecAugment: hide a band of coefficients and a stretch of frames, so that the network does not rely on any of them.

Source: Park et al. 2019, "SpecAugment", section 2, without time warping, and with cepstral coefficients instead of mel
bands.
"""

import numpy as np
import torch

import dataset
from foundation import settings
from foundation.settings import Config


def apply_specaug(features: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """Mask features (frames, N_MFCC) with one number, the mean of all their values -> a copy.

    Training takes the mean of each coefficient instead.
    """
    crops = torch.from_numpy(np.array(features)[None])
    fill = crops.mean().expand(crops.shape[2])
    config = settings.present()
    return mask_crops(crops, fill, rng or dataset.shared_generator(config.SEED), config)[0].numpy()


def mask_crops(crops: torch.Tensor, fill: torch.Tensor, rng: np.random.Generator, config: Config) -> torch.Tensor:
    """Mask a band of coefficients and a stretch of frames in some of the crops (batch, frames, N_MFCC).

    `fill` (N_MFCC,), the features' mean, is written into the masks, so that these add no other information.
    """
    batch, num_frames, num_coefficients = crops.shape
    frequency_mask = draw_masks(
        batch, num_coefficients, config.SPECAUG_FREQ_MASK_PROB, config.SPECAUG_FREQ_MASK_MAX_WIDTH, rng
    )
    time_mask = draw_masks(batch, num_frames, config.SPECAUG_TIME_MASK_PROB, config.SPECAUG_TIME_MASK_MAX_WIDTH, rng)
    return torch.where(frequency_mask[:, None, :] | time_mask[:, :, None], fill, crops)


def draw_masks(batch: int, size: int, probability: float, max_width: int, rng: np.random.Generator) -> torch.Tensor:
    """For each row, with `probability`, one run of 1 to `max_width` True anywhere -> bool (batch, size)."""
    width = rng.integers(1, max_width, batch, endpoint=True) * (rng.random(batch) < probability)
    start = (rng.random(batch) * (size - width + 1)).astype(np.int64)
    place = np.arange(size)
    return torch.from_numpy((place >= start[:, None]) & (place < (start + width)[:, None]))
