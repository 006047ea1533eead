"""Any recording as one voice: a single channel at 16 kHz, whole or block after block."""

from collections.abc import Generator

import numpy as np
import soxr

from audio import decoder
from audio.ffmpeg import note
from audio.speech_levels import SAMPLE_RATE, levels_db, speech_seconds

WHOLE_BLOCK_SAMPLES = 2**22

# A recording is silent if its samples span less than this: two steps of 16-bit audio.
SILENT_RANGE = 2 / 2**15

# The mean of the channels is not heard if it is so much quieter than the loudest of them, as channels of opposite
# polarity make it; the mean of one voice and silence is 6 dB quieter.
QUIETER_DB = 10

# The stretches of a recording in which that is decided.
MONO_SECONDS = 0.1

# Two channels hold different sounds if the difference of their levels deviates by more than this: of one sound it
# deviates by less than 1 dB, of two people with microphones on one table by 4.5 to 10 dB.
LEVELS_DEVIATION_DB = 4.0


def read_audio(audio_file: str, warnings: list[str] | None = None) -> np.ndarray:
    """Decode a whole file -> float32 samples, mono, 16 kHz, without constant offset.

    Full scale is 1; resampling may go a little beyond. What is doubtful about the recording, such as that half of it
    is missing, is put into `warnings`, in words. Raises ValueError for a file that cannot be decoded, or is empty or
    silent.
    """
    samples = np.concatenate(list(read_blocks(audio_file, WHOLE_BLOCK_SAMPLES, warnings)))
    check_sound(samples, audio_file)
    return samples


def check_sound(samples: np.ndarray, audio_file: str) -> None:
    """Raise ValueError for silence."""
    if not len(samples) or samples.max() - samples.min() < SILENT_RANGE:
        raise ValueError(f"{audio_file} is silent: was the microphone off?")


def read_blocks(
    audio_file: str,
    block_samples: int,
    warnings: list[str] | None = None,
    with_gaps: bool = False,
    channel: int | None = None,
) -> Generator[np.ndarray, None, None]:
    """The same in blocks, for recordings of any length; the last block may be shorter.

    With `with_gaps`, there is silence where the recorder was paused, so that places in the samples are the recording's
    times. One `channel`, counted from 0, is heard alone, if it is given; of a part with fewer, the last. Whoever takes
    only some blocks closes the iterator. Raises ValueError for a file that cannot be decoded or is empty.
    """
    warnings = [] if warnings is None else warnings
    buffer, stream = np.zeros(0, np.float32), (-1, 0, 0)
    resampler: soxr.ResampleStream | None = None
    levels: list[np.ndarray] = []

    def note_levels() -> None:
        note_different_sounds(np.concatenate(levels, axis=1) if levels else np.zeros((2, 0)), warnings)
        levels.clear()

    def rest() -> np.ndarray:
        return resampler.resample_chunk(np.zeros(0, np.float32), last=True) if resampler else np.zeros(0, np.float32)

    try:
        for part, rate, block in decoder.decode(audio_file, warnings, with_gaps):
            if channel is not None:
                only = min(channel, block.shape[1] - 1)
                block = block[:, only : only + 1]
            if stream != (part, rate, block.shape[1]):
                note_levels()
                buffer = np.concatenate([buffer, rest()])
                resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1) if rate != SAMPLE_RATE else None
                stream = (part, rate, block.shape[1])
            levels.append(levels_of_pair(block, rate))
            mono = to_mono(block, rate, warnings)
            buffer = np.concatenate([buffer, resampler.resample_chunk(mono) if resampler else mono])
            while len(buffer) > block_samples:
                yield buffer[:block_samples]
                buffer = buffer[block_samples:]
        yield np.concatenate([buffer, rest()])
    finally:
        note_levels()


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Samples at another rate -> at 16 kHz."""
    return samples if rate == SAMPLE_RATE else soxr.resample(samples, rate, SAMPLE_RATE)


def to_mono(channels: np.ndarray, rate: int, warnings: list[str]) -> np.ndarray:
    """Samples (samples, channels) -> the mean of the channels (samples,), or the loudest one where they cancel.

    A constant offset, as cheap microphones have, is taken off each channel. Whether channels cancel is seen in each
    stretch of MONO_SECONDS, as it may change where recordings were joined.
    """
    channels = channels - channels.mean(axis=0, dtype=np.float64).astype(np.float32)
    if channels.shape[1] == 1:
        return channels[:, 0]
    mono = channels.mean(axis=1)
    starts = np.arange(0, len(mono), max(1, round(MONO_SECONDS * rate)))
    power = np.add.reduceat(np.square(channels), starts, axis=0)
    cancels = np.add.reduceat(np.square(mono), starts) < power.max(axis=1) * 10 ** (-QUIETER_DB / 10)
    if cancels.any():
        usual = int(power[cancels].sum(axis=0).argmax())
        note(f"the mean of its channels is far quieter than number {usual + 1}, which is heard alone", warnings)
        # Another channel only where it is clearly louder, as by another talker: a change of polarity would click.
        loudest = np.where(power.max(axis=1) > 4 * power[:, usual], power.argmax(axis=1), usual)
        lengths = np.diff(starts, append=len(mono))
        is_replaced = np.repeat(cancels, lengths)
        mono[is_replaced] = channels[is_replaced, np.repeat(loudest, lengths)[is_replaced]]
    return mono


def levels_of_pair(channels: np.ndarray, rate: int) -> np.ndarray:
    """The levels of two channels, as `levels_db` gives them (2, stretches); none of one channel, or of surround."""
    if channels.shape[1] != 2:
        return np.zeros((2, 0))
    channels = channels - channels.mean(axis=0)
    return np.stack([levels_db(resample(channel, rate)) for channel in channels.T.copy()])


def note_different_sounds(levels: np.ndarray, warnings: list[str]) -> None:
    """Add a warning if two channels with these levels (2, stretches) hold different sounds, as those of calls do.

    Then the difference of their levels changes all the time; that of one sound, heard twice, does not.
    """
    loudest = levels.max(axis=0)
    if not len(loudest) or min(map(speech_seconds, levels)) < 1:
        return
    is_loud = loudest > max(np.percentile(loudest, 95) - 15, -50)
    if np.std((levels[0] - levels[1])[is_loud]) > LEVELS_DEVIATION_DB:
        note(
            "its channels hold different sounds, perhaps a person each: see `timeline --channels`",
            warnings,
        )
