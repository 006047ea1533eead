"""Any recording -> samples, block after block: WAV and FLAC bit for bit, and what phones, browsers and films hold.

libsndfile (soundfile) reads the formats whose header tells how many samples there are. FFmpeg (PyAV) reads all others,
and those whose header is missing, damaged or does not tell: libsndfile would stop where it guesses the end to be.
"""

import contextlib
import functools
import io
import mimetypes
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from audio.ffmpeg import (
    BLOCK_SAMPLES,
    FFMPEG_READERS,
    MAX_FLOAT_SAMPLE,
    MAX_SAMPLE,
    decode_with_ffmpeg,
    is_cut,
    scale_of,
)
from audio.headers import (
    UNKNOWN_BYTES,
    find_parts,
    find_wav_data,
    mp3_tells_length,
    wav_tells_length,
)
from foundation import script

LOWEST_RATE, HIGHEST_RATE = 4000, 192000

# Bytes for each sample of uncompressed sound, by which one sees whether something follows it.
SAMPLE_BYTES = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
SAMPLE_BYTES |= {"ULAW": 1, "ALAW": 1}
MOST_OTHER_BYTES = 2**18

# How libsndfile's log names the length of the sound where the header claims more than the file has.
CLAIMED_BYTES = r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)"
CLAIMED_W64_BYTES = r"^riff : (\d+) \(should be (\d+)\)"

OTHER_ENDINGS = {".opus", ".oga", ".ogv", ".spx", ".m4v", ".snd", ".sph", ".wv", ".amr", ".dsf", ".qcp", ".m4p", ".mid"}
PICTURES_AND_TEXT = {".avif", ".heic", ".heif", ".ism", ".mks", ".apl", ".ass"}


@functools.cache
def audio_endings() -> frozenset[str]:
    """The endings of files that look like sound or film, lower case with the dot.

    They are those of the formats that can be decoded, and those of the kinds "audio" and "video", so that a file which
    cannot be decoded is refused by name instead of overlooked.
    """
    import av  # Slow, as soundfile is, and only needed where folders are searched or files decoded.
    import soundfile

    endings = {f".{name.lower()}" for name in soundfile.available_formats() if name != "RAW"} | OTHER_ENDINGS
    for name in FFMPEG_READERS.split(","):
        if name in av.formats_available:
            endings |= {f".{extension}" for extension in av.ContainerFormat(name).extensions}
    for types in mimetypes.MimeTypes().types_map:
        endings |= {ending for ending, kind in types.items() if kind.startswith(("audio/", "video/"))}
    return frozenset(endings - PICTURES_AND_TEXT)


def decode(
    audio_file: str, warnings: list[str] | None = None, with_gaps: bool = False
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Decode a file block after block -> part, sample rate, float32 samples (samples, channels), full scale 1.

    The part counts the files that were joined into this one, from 0. With `with_gaps`, there is silence where the
    recorder was paused, and before a film's sound that begins late, so that places in the samples are the times that a
    player shows. What could not be read is put into `warnings`, in words. Raises ValueError, with the reason, for a
    file that has no sound in a known format, is not finite, or has an unusable rate, and OSError for one that the
    system cannot read.
    """
    warnings = [] if warnings is None else warnings
    if not Path(audio_file).is_file():  # Reading a named pipe could block for ever.
        raise ValueError(f"{audio_file} {'is not a file' if Path(audio_file).exists() else 'does not exist'}.")
    if not Path(audio_file).stat().st_size:
        raise ValueError(f"{audio_file} is empty: copy it again, or record anew.")
    is_empty = True
    try:
        for part, rate, block in decode_parts(audio_file, warnings, with_gaps):
            if not LOWEST_RATE <= rate <= HIGHEST_RATE:
                raise ValueError(f"{audio_file} has a sample rate of {rate} Hz; 4,000 to 192,000 can be used.")
            if not -MAX_SAMPLE < block.min() <= block.max() < MAX_SAMPLE:  # NaN is neither.
                raise ValueError(f"{audio_file} is damaged: it has samples that are not numbers, or far too large.")
            is_empty = False
            yield part, rate, block
    except OSError as error:  # Those of FFmpeg's reading name no file.
        raise OSError(error.errno, script.in_words(error), error.filename or audio_file) from None
    if is_empty:
        raise ValueError(f"{audio_file} is empty: copy it again, or record anew.")


def decode_parts(audio_file: str, warnings: list[str], with_gaps: bool) -> Iterator[tuple[int, int, np.ndarray]]:
    """The same without the checks, by libsndfile where it reads all of a part, else by FFmpeg."""
    lengths: list[tuple[float, float]] = []  # Of each part the seconds that were read, and those that it claims.
    with Path(audio_file).open("rb") as file:
        starts = find_parts(file)
        if not starts:
            yield from ((0, *block) for block in decode_with_ffmpeg(file, audio_file, lengths, warnings, with_gaps))
        for part, (start, end) in enumerate(zip(starts, [*starts[1:], None], strict=True)):
            content: BinaryIO = file
            if len(starts) > 1:
                file.seek(start)
                content = io.BytesIO(file.read(-1 if end is None else end - start))
            blocks = decode_exactly(content, audio_file, lengths, warnings, with_gaps)
            yield from ((part, *block) for block in blocks)
    if any(is_cut(*length) for length in lengths):
        read, claimed = sum(length[0] for length in lengths), sum(map(max, lengths))
        warnings.append(f"only {read:.1f} of {claimed:.1f} s could be read")


def decode_exactly(
    file: BinaryIO, name: str, lengths: list[tuple[float, float]], warnings: list[str], with_gaps: bool
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode by libsndfile, which gives the samples as they are; by FFmpeg what libsndfile does not read."""
    import soundfile

    read = 0
    start = file.read(4)
    file.seek(0)
    # MP3 streams begin like this, and libsndfile complains on the error stream about those that it cannot read.
    is_mp3 = start[:3] == b"ID3" or (start[:1] == b"\xff" and start[1:2] >= b"\xe0")
    is_readable = mp3_tells_length(file) if is_mp3 else wav_tells_length(file) if start == b"RIFF" else True
    # By its path, which is faster; soundfile cannot encode a name that is not UTF-8, so it gets the bytes.
    source = file if isinstance(file, io.BytesIO) else name if os.name == "nt" else os.fsencode(name)
    if is_readable:
        with contextlib.suppress(soundfile.LibsndfileError), open_sound(source) as sound:
            if sound.format not in ("RAW", "MP3") or is_mp3:
                scale = find_scale(sound, warnings)
                while 0 < sound.frames < 2**62 and len(
                    block := sound.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)
                ):
                    read += len(block)
                    yield sound.samplerate, block if scale == 1 else block / np.float32(scale)
                if read:
                    lengths.append((read / sound.samplerate, claimed_frames(sound) / sound.samplerate))
                    note_left_over(sound, file, warnings)
                    return
    elif start == b"RIFF" and find_wav_data(file)[1]:
        warnings.append("more follows its sound than its header tells, and was taken for sound, too")
    file.seek(0)
    for rate, block in decode_with_ffmpeg(file, name, lengths, warnings, with_gaps):
        if len(block) > read:
            yield rate, block[read:]
        read = max(0, read - len(block))


def open_sound(source):
    """A file as libsndfile reads it. Raises LibsndfileError, also for a format that soundfile itself does not open."""
    import soundfile

    try:
        return soundfile.SoundFile(source)
    except TypeError:  # As for raw samples, of which the file's name does not tell rate and channels.
        raise soundfile.LibsndfileError(1) from None


def claimed_frames(sound) -> int:
    """How many samples the header claims, of which libsndfile's log tells if they are more than the file has."""
    pattern = CLAIMED_W64_BYTES if sound.format == "W64" else CLAIMED_BYTES
    for claimed, found in re.findall(pattern, sound.extra_info, re.MULTILINE):
        if int(claimed) < UNKNOWN_BYTES:
            return round(sound.frames * int(claimed) / max(1, int(found)))
    return sound.frames


def note_left_over(sound, file: BinaryIO, warnings: list[str]) -> None:
    """Say if far more follows the sound than tags and pictures, in formats whose header may be of an earlier time."""
    if sound.format in ("AU", "AIFF", "CAF", "W64") and sound.subtype in SAMPLE_BYTES:
        rest = file.seek(0, io.SEEK_END) - sound.frames * sound.channels * SAMPLE_BYTES[sound.subtype]
        if rest > MOST_OTHER_BYTES:
            warnings.append(f"{rest:,} bytes behind its sound were not read")


def find_scale(sound, warnings: list[str]) -> float:
    """By what the samples of a floating-point file are divided: its peak if that is above 1, or a scale of integers."""
    if sound.subtype not in ("FLOAT", "DOUBLE"):
        return 1
    blocks = sound.blocks(BLOCK_SAMPLES, dtype="float32")
    peak, num_beyond = 0.0, 0
    for block in blocks:
        peak = max(peak, float(np.abs(block).max()))
        num_beyond += int(np.count_nonzero(np.abs(block) > MAX_FLOAT_SAMPLE))
    sound.seek(0)
    return scale_of(peak, num_beyond / max(1, sound.frames), warnings)
