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
from typing import Any, BinaryIO

import numpy as np

from audio.headers import (
    UNKNOWN_BYTES,
    find_parts,
    find_wav_data,
    mp3_tells_length,
    read_xing_header,
    wav_tells_length,
)
from foundation import script

BLOCK_SAMPLES = 2**20
LOWEST_RATE, HIGHEST_RATE = 4000, 192000

# Far beyond the scale of any format; the power of a frame would overflow.
MAX_SAMPLE = 1e10

# Floating-point samples of which one in a thousand is beyond this are not merely too loud: they are on the scale of
# integers of 16, 24 or 32 bits.
MAX_FLOAT_SAMPLE = 64
INTEGER_SCALES = (2**15, 2**23, 2**31)

# Bytes for each sample of uncompressed sound, by which one sees whether something follows it.
SAMPLE_BYTES = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
SAMPLE_BYTES |= {"ULAW": 1, "ALAW": 1}
MOST_OTHER_BYTES = 2**18

# How libsndfile's log names the length of the sound where the header claims more than the file has.
CLAIMED_BYTES = r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)"
CLAIMED_W64_BYTES = r"^riff : (\d+) \(should be (\d+)\)"

# FFmpeg's readers of sound and film. Others, of playlists for instance, could open further files.
FFMPEG_READERS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,dts,eac3,flac,flv,gsm,ircam,matroska,webm,mov,mp3,mpc,mpc8,mpeg,mpegts,"
    "mpegvideo,nistsphere,nut,ogg,rm,tak,tta,voc,w64,wav,wv,xwma"
)
OTHER_ENDINGS = {".opus", ".oga", ".ogv", ".spx", ".m4v", ".snd", ".sph", ".wv", ".amr", ".dsf", ".qcp", ".m4p", ".mid"}
PICTURES_AND_TEXT = {".avif", ".heic", ".heif", ".ism", ".mks", ".apl", ".ass"}

# FFmpeg's readers that estimate the length from the first bit rate, so that it says nothing of what is missing.
ESTIMATING_READERS = ("mp3", "aac", "ac3", "amr", "dts", "eac3", "gsm", "mpeg", "mpegts", "mpegvideo")

# Of the claimed length, what may be missing without a word, in seconds: codecs round to their frames.
TOLERANCE_SECONDS = 0.1

# FFmpeg's readers of files whose pieces have times of their own: between two, a recorder may have been paused.
TIMED_READERS = ("matroska", "mov", "avi", "flv", "asf", "mpegts", "mpeg", "nut", "ogg", "rm")

# Less than this between two pieces is no gap, but rounded; more than this, in seconds, is damage.
GAP_SECONDS, MOST_GAP_SECONDS = 0.2, 24 * 3600.0


@functools.cache
def reading_metadata() -> dict[str, Any]:
    """The option of PyAV by which titles that are not UTF-8 are read; from version 19 on, they always are."""
    import av

    return {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


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
        raise ValueError(f"{audio_file} is empty.")
    is_empty = True
    for part, rate, block in name_in_errors(decode_parts(audio_file, warnings, with_gaps), audio_file):
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise ValueError(f"{audio_file} has a sample rate of {rate} Hz; 4,000 to 192,000 can be used.")
        if not -MAX_SAMPLE < block.min() <= block.max() < MAX_SAMPLE:  # NaN is neither.
            raise ValueError(f"{audio_file} has samples that are not numbers, or far too large.")
        is_empty = False
        yield part, rate, block
    if is_empty:
        raise ValueError(f"{audio_file} is empty.")


def name_in_errors(blocks: Iterator, audio_file: str) -> Iterator:
    """The same blocks; an error of the system that names no file, as those of FFmpeg's reading, gets this name."""
    try:
        yield from blocks
    except OSError as error:
        raise OSError(error.errno, script.in_words(error), error.filename or audio_file) from None


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


def scale_of(peak: float, share_beyond: float, warnings: list[str]) -> float:
    """The scale of samples with this peak, and this share beyond MAX_FLOAT_SAMPLE."""
    if share_beyond < 0.001 or not peak < MAX_SAMPLE:
        return peak if 1 < peak < MAX_SAMPLE else 1
    scale = next((scale for scale in INTEGER_SCALES if peak <= scale), INTEGER_SCALES[-1])
    warnings.append(f"its samples, up to {peak:,.0f}, are on the scale of integers, and were divided by {scale:,}")
    return scale


def decode_with_ffmpeg(
    file: BinaryIO, name: str, lengths: list[tuple[float, float]], warnings: list[str], with_gaps: bool
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode the first sound of a file by FFmpeg; broken packets are left out, and what follows them is read.

    Raises ValueError for a file without sound, or in a format that is not known.
    """
    import av

    broken, num_packets, scale = 0, 0, 0.0
    xing = read_xing_header(file)
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    # The file is handed over open: FFmpeg itself opens nothing.
    options = {"format_whitelist": FFMPEG_READERS, "protocol_whitelist": "none", "ignore_length": "1"}
    try:
        with av.open(file, "r", options=options, **reading_metadata()) as container:
            if not container.streams.audio:
                raise ValueError(f"{name} has no sound in it.")
            if (number := len(container.streams.audio)) > 1:
                warnings.append(f"it has {number} sound tracks, of which only the first is heard")
            stream = container.streams.audio[0]
            claimed = claimed_seconds(container)
            if container.format.name == "mp3" and xing and xing.start + xing.num_bytes > size:  # It was cut off.
                claimed = xing.num_frames * (stream.codec_context.frame_size or 1152) / stream.rate

            def decode_packets() -> Iterator:
                nonlocal broken, num_packets
                with contextlib.suppress(av.error.FFmpegError):  # Where the file breaks off, its packets end.
                    for packet in container.demux(stream):
                        num_packets += 1
                        try:
                            yield from packet.decode()
                        except av.error.FFmpegError:
                            broken += 1

            is_timed = container.format.name.split(",")[0] in TIMED_READERS
            clock = Clock(is_timed, (container.start_time or 0) / 1e6)
            for rate, block in in_blocks(clock.follow(decode_packets(), with_gaps, warnings)):
                if not scale and block.any():  # Not where a film's sound begins late.
                    is_float = stream.codec_context.name.startswith(("pcm_f32", "pcm_f64"))
                    share_beyond = float(np.mean(np.abs(block) > MAX_FLOAT_SAMPLE)) if is_float else 0.0
                    scale = scale_of(float(np.abs(block).max()), share_beyond, warnings)
                yield rate, block if scale in (0, 1) else block / np.float32(scale)
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{name} cannot be decoded: it is damaged, or no audio in a format known here "
            f"(FFmpeg: {script.in_words(error)})."
        ) from None
    read = clock.heard if broken else clock.now  # A gap of the recorder's is not missing, one of damage is.
    lengths.append((read, claimed))
    if not is_cut(read, claimed) and broken > max(3, 0.02 * num_packets):
        warnings.append(f"{broken} of its {num_packets} pieces are broken and were left out")


class Clock:
    """A recording's own time while its pieces are decoded: `now`, of which sound was `heard`, in seconds from 0 on."""

    def __init__(self, is_timed: bool, start: float) -> None:
        """`is_timed` says whether the pieces have times that can be trusted; the recording starts at `start`."""
        self.is_timed, self.shift = is_timed, -start
        self.now = self.heard = 0.0

    def follow(self, frames: Iterator, with_gaps: bool, warnings: list[str]) -> Iterator[tuple[int, np.ndarray]]:
        """Frames of FFmpeg -> sample rate, samples (samples, channels), with silence in the gaps if it is wanted."""
        for frame in frames:
            block, rate = to_float(frame), frame.sample_rate
            gap = float(frame.time) + self.shift - self.now if self.is_timed and frame.time is not None else 0.0
            if gap < -GAP_SECONDS or gap > MOST_GAP_SECONDS:
                self.shift -= gap
                note("the times of its pieces jump, so that times may be wrong", warnings)
            elif gap > GAP_SECONDS:
                self.now += gap
                left = round(gap * rate) if with_gaps else 0
                while left:
                    silence = np.zeros((min(left, BLOCK_SAMPLES), block.shape[1]), np.float32)
                    left -= len(silence)
                    yield rate, silence
            yield rate, block
            self.now += len(block) / rate
            self.heard += len(block) / rate


def in_blocks(pieces: Iterator[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
    """Pieces, joined -> sample rate, samples (samples, channels); a change of either begins a new block."""
    joined: list[np.ndarray] = []
    block_rate = num_samples = 0
    for rate, piece in pieces:
        is_other = joined and (rate != block_rate or joined[0].shape[1] != piece.shape[1])
        if is_other or num_samples >= BLOCK_SAMPLES:
            yield block_rate, np.concatenate(joined)
            joined, num_samples = [], 0
        block_rate = rate
        joined.append(piece)
        num_samples += len(piece)
    if joined:
        yield block_rate, np.concatenate(joined)


def note(words: str, warnings: list[str]) -> None:
    """Add a doubt, once."""
    if words not in warnings:
        warnings.append(words)


def claimed_seconds(container) -> float:
    """How long a file says its sound is, in seconds; 0 if it does not say."""
    stream = container.streams.audio[0]
    if container.format.name in ESTIMATING_READERS:
        return 0.0
    if tag := re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)", stream.metadata.get("DURATION", "")):  # Of Matroska.
        return 3600 * int(tag[1]) + 60 * int(tag[2]) + float(tag[3])
    is_film = len(container.streams.video) > 0
    if stream.duration and not (is_film and container.format.name in ("asf", "flv", "avi")):
        return float(stream.duration * stream.time_base)
    return 0.0 if is_film else (container.duration or 0) / 1e6


def to_float(frame) -> np.ndarray:
    """The samples of a frame as float32 (samples, channels), integers divided by their full scale."""
    values = frame.to_ndarray()
    if frame.format.is_packed:
        values = values.reshape(-1, frame.layout.nb_channels).T
    if values.dtype == np.uint8:
        return (values.T.astype(np.float32) - 128) / 128
    if values.dtype.kind == "i":
        return values.T.astype(np.float32) / np.float32(-float(np.iinfo(values.dtype).min))
    return values.T.astype(np.float32)


def is_cut(read: float, claimed: float) -> bool:
    """Whether so much of the claimed seconds could not be read that it must be said."""
    return claimed - read > TOLERANCE_SECONDS + 0.01 * claimed
