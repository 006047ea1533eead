"""Changes to the training data that make a network learn the voice and not the recording conditions."""

import math
from collections.abc import Sequence

import numpy as np
import soxr
import torch

import feature_extraction
from audio import mono
from foundation.settings import Config

# Of noises 40 % are recordings, if there are any, 30 % babble, and 30 % coloured noise.
RECORDING_END, BABBLE_END = 0.4, 0.7


def change_speed(samples: np.ndarray, speed: float) -> np.ndarray:
    """Play samples `speed` times as fast (speed perturbation): pitch and formants become those of another speaker.

    Source: Ko et al. 2015, "Audio augmentation for speech recognition"; as new speakers: Yamamoto et al. 2019.
    """
    if speed == 1.0:
        return samples
    return soxr.resample(samples, feature_extraction.SAMPLE_RATE * speed, feature_extraction.SAMPLE_RATE)


def features_at_speeds(
    file: str, wanted: feature_extraction.FeatureSettings, speeds: Sequence[float], warnings: list[str]
) -> list[np.ndarray]:
    """Features of a file at each speed, the file decoded once. Raises ValueError for one that cannot be used."""
    samples = mono.read_audio(file, warnings)
    feature_extraction.check_length(samples, file, wanted)
    return [feature_extraction.compute_mfcc_fast(change_speed(samples, speed), wanted) for speed in speeds]


def random_channel(
    crops: torch.Tensor, feature_std: torch.Tensor, rng: np.random.Generator, config: Config
) -> torch.Tensor:
    """Simulate another microphone and distance for each crop (batch, frames, N_MFCC): shift all its frames equally.

    A channel multiplies the spectrum. This is a sum in decibels, and also after the cosine transform: a fixed filter
    shifts the MFCCs (Atal 1974, on cepstral mean subtraction). The shift of each coefficient is normal,
    CHANNEL_AUGMENTATION times its standard deviation in the training data, `feature_std` (N_MFCC,). A gain adds its
    decibels to all N_MELS bands, so sqrt(N_MELS) times as much to the first coefficient, whose cosine is 1 /
    sqrt(N_MELS), and nothing to the others.
    """
    shift = torch.from_numpy(rng.standard_normal((len(crops), 1, crops.shape[2]), dtype=np.float32))
    shift *= config.CHANNEL_AUGMENTATION * feature_std
    gain_db = torch.from_numpy(rng.normal(0, config.GAIN_AUGMENTATION_DB, (len(crops), 1)).astype(np.float32))
    shift[..., 0] += gain_db * math.sqrt(config.N_MELS)
    return crops + shift


# -------------------------- Rooms, noise and telephones, in mel bands ------------------

# An MFCC frame is the decibels of the mel bands times orthonormal cosines, so the transposed cosines give the bands
# back, smoothed over their neighbours. Noise and echoes are added to the power of these bands. This is much faster than
# changing the samples: each training step can draw new disturbances, and the feature store stays clean.


def disturb(crops: torch.Tensor, noises: torch.Tensor | None, rng: np.random.Generator, config: Config) -> torch.Tensor:
    """Simulate a room, noise or a narrow band for some of the crops (batch, frames, N_MFCC).

    `noises` are crops of noise recordings of the same shape; with None, only voices and coloured noise are used. The
    settings ROOM_PROB, NOISE_PROB and NARROW_BAND_PROB are the probabilities.
    """
    probabilities = (config.ROOM_PROB, config.NOISE_PROB, config.NARROW_BAND_PROB)
    in_room, in_noise, in_band = (
        torch.from_numpy(rng.random(len(crops)) < probability) for probability in probabilities
    )
    cosines = torch.from_numpy(feature_extraction.mfcc_constants(config.N_FFT, config.N_MELS, config.N_MFCC).transform)
    decibels = crops @ cosines.T
    loudest = decibels.amax(dim=(1, 2), keepdim=True)
    power = to_power(decibels - loudest)
    power[in_room] = add_echoes(power[in_room], rng, config.HOP_LENGTH)
    recordings = None if noises is None else to_power(noises[in_noise] @ cosines.T)
    power[in_noise] = add_noise(power[in_noise], power, recordings, rng, config.NOISE_SNR_DB)
    power[in_band] = narrow_band(power[in_band], rng)
    decibels = 10 * torch.log10(power.clamp(min=1e-10))
    # The same floor as in librosa's MFCC: 80 dB below the loudest band.
    decibels = torch.maximum(decibels, decibels.amax(dim=(1, 2), keepdim=True) - 80)
    is_disturbed = (in_room | in_noise | in_band)[:, None, None]
    return torch.where(is_disturbed, (decibels + loudest) @ cosines, crops)


def add_echoes(power: torch.Tensor, rng: np.random.Generator, hop_length: int) -> torch.Tensor:
    """Add decaying echoes of each frame's mel power (batch, frames, N_MELS) to the next frames (reverberation).

    Frames are `hop_length` samples apart. The echoes decay exponentially, by 60 dB in 0.2 to 1 s (Sabine's
    reverberation time), and have -15 to 3 dB of the direct sound's power.
    """
    seconds_per_frame = hop_length / feature_extraction.SAMPLE_RATE
    decay = to_power(-60 * seconds_per_frame / uniform(rng, 0.2, 1.0, len(power)))
    # The echoes of a steady sound of power 1 add up to decay + decay^2 + ... = decay / (1 - decay).
    loudness = to_power(uniform(rng, -15, 3, len(power))) / (decay / (1 - decay))
    echo, echoes = torch.zeros_like(power[:, :1]), [torch.zeros_like(power[:, :1])]
    for frame in power.split(1, dim=1)[:-1]:
        echo = decay * (echo + frame)
        echoes.append(echo)
    return power + loudness * torch.cat(echoes, dim=1)


def add_noise(
    power: torch.Tensor,
    voices: torch.Tensor,
    recordings: torch.Tensor | None,
    rng: np.random.Generator,
    snr_db: tuple[float, float],
) -> torch.Tensor:
    """Add noise to mel power (batch, frames, N_MELS), at a ratio of signal to noise from `snr_db`, lowest and highest.

    The noise is one of three: a recording, if there are any (same shape); a babble of 1 to 7 of the `voices` (voices,
    frames, N_MELS); or coloured noise, with a random uneven slope of -9 to 1.5 dB per octave.
    """
    batch, _, num_bands = power.shape
    frequencies, widths = mel_bands(num_bands)
    num_heard = rng.integers(1, 8, (batch, 1))
    order = rng.random((batch, len(voices))).argsort(axis=1)
    place_of_voice = order.argsort(axis=1)  # In the order 2, 0, 1, voice 0 has place 1, voice 1 place 2.
    is_heard = place_of_voice < num_heard
    noise = torch.einsum("bv,vfm->bfm", torch.from_numpy(is_heard.astype(np.float32)), voices)
    slope = uniform(rng, -9, 1.5, batch) * (frequencies.clamp(min=60) / 1000).log2()
    unevenness = torch.from_numpy(rng.normal(0, 0.7, (batch, 1, num_bands)).astype(np.float32)).cumsum(dim=2)
    # Below RECORDING_END a recording, then babble up to BABBLE_END, coloured noise above.
    draw = uniform(rng, 0 if recordings is not None else RECORDING_END, 1, batch)
    noise = torch.where(draw > BABBLE_END, to_power(slope + unevenness), noise)
    if recordings is not None:
        noise = torch.where(draw < RECORDING_END, recordings, noise)
    level = (power @ widths).mean(dim=1) / (noise @ widths).mean(dim=1).clamp(min=1e-20)
    return power + level[:, None, None] * to_power(-uniform(rng, *snr_db, batch)) * noise


def narrow_band(power: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Limit mel power (batch, frames, N_MELS) to the band of a telephone (half of the crops) or a codec (the others).

    A telephone has nothing above 3.3 to 4 kHz, little below 50 to 350 Hz, and below 4 kHz a companding noise 36 dB
    below each frame (ITU-T G.711). A codec has nothing above 3 to 8 kHz.
    """
    batch, _, num_bands = power.shape
    frequencies, widths = mel_bands(num_bands)
    is_telephone = uniform(rng, 0, 1, batch) < 0.5
    upper = torch.where(is_telephone, uniform(rng, 3300, 4000, batch), uniform(rng, 3000, 8000, batch))
    lower = torch.where(is_telephone, uniform(rng, 50, 350, batch), 1.0)
    above, below = (frequencies / upper).log2().clamp(min=0), (lower / frequencies).log2().clamp(min=0)
    power = power * to_power(-200 * above - 24 * below)  # Decibels per octave outside the band.
    # Mel bands hold power per Hz, so the noise is spread evenly over its 4 kHz.
    companding_noise = 10**-3.6 * (power @ widths)[:, :, None] / 4000
    return power + companding_noise * (is_telephone & (frequencies < 4000))


def to_power(decibels: torch.Tensor) -> torch.Tensor:
    """Decibels as power, 10 ** (decibels / 10), by the faster natural exponential."""
    return torch.exp(math.log(10) / 10 * decibels)


def mel_bands(num_bands: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Centre frequencies and widths of librosa's mel bands, in Hz, both (num_bands,)."""
    edges = feature_extraction.mel_frequencies(num_bands + 2).astype(np.float32)
    return torch.from_numpy(edges[1:-1]), torch.from_numpy((edges[2:] - edges[:-2]) / 2)


def uniform(rng: np.random.Generator, low: float, high: float, batch: int) -> torch.Tensor:
    """Random numbers (batch, 1, 1), one for each crop."""
    return torch.from_numpy(rng.uniform(low, high, (batch, 1, 1)).astype(np.float32))
