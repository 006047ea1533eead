"""Any sound that FFmpeg can read (PyAV) -> samples, with the silence where a recorder was paused."""

import contextlib
import functools
import io
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from audio.headers import read_xing_header
from foundation import script

BLOCK_SAMPLES = 2**20

# FFmpeg's readers of sound and film. Others, of playlists for instance, could open further files.
FFMPEG_READERS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,dts,eac3,flac,flv,gsm,ircam,matroska,webm,mov,mp3,mpc,mpc8,mpeg,mpegts,"
    "mpegvideo,nistsphere,nut,ogg,rm,tak,tta,voc,w64,wav,wv,xwma"
)

# FFmpeg's readers that estimate the length from the first bit rate, so that it says nothing of what is missing.
ESTIMATING_READERS = ("mp3", "aac", "ac3", "amr", "dts", "eac3", "gsm", "mpeg", "mpegts", "mpegvideo")

# Of the claimed length, what may be missing without a word, in seconds: codecs round to their frames.
TOLERANCE_SECONDS = 0.1

# FFmpeg's readers of files whose pieces have times of their own: between two, a recorder may have been paused.
TIMED_READERS = ("matroska", "mov", "avi", "flv", "asf", "mpegts", "mpeg", "nut", "ogg", "rm")

# Less than this between two pieces is no gap, but rounded; more than this, in seconds, is damage.
GAP_SECONDS, MOST_GAP_SECONDS = 0.2, 24 * 3600.0


# Far beyond the scale of any format; the power of a frame would overflow.
MAX_SAMPLE = 1e10

# Floating-point samples of which one in a thousand is beyond this are not merely too loud: they are on the scale of
# integers of 16, 24 or 32 bits.
MAX_FLOAT_SAMPLE = 64
INTEGER_SCALES = (2**15, 2**23, 2**31)


@functools.cache
def reading_metadata() -> dict[str, Any]:
    """The option of PyAV by which titles that are not UTF-8 are read; from version 19 on, they always are."""
    import av

    return {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


def decode_with_ffmpeg(
    file: BinaryIO, name: str, lengths: list[tuple[float, float]], warnings: list[str], with_gaps: bool
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode the first sound of a file by FFmpeg; broken packets are left out, and what follows them is read.

    Raises ValueError for a file without sound, or in a format that is not known.
    """
    import av

    scale = 0.0
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

            packets = Packets()
            is_timed = container.format.name.split(",")[0] in TIMED_READERS
            clock = Clock(is_timed, (container.start_time or 0) / 1e6)
            for rate, block in in_blocks(clock.follow(packets.decode(container, stream), with_gaps, warnings)):
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
    read = clock.heard if packets.broken else clock.now  # A gap of the recorder's is not missing, one of damage is.
    lengths.append((read, claimed))
    if not is_cut(read, claimed) and packets.broken > max(3, 0.02 * packets.number):
        warnings.append(f"{packets.broken} of its {packets.number} pieces are broken and were left out")


class Packets:
    """The packets of a file while they are decoded: their `number`, of which some are `broken`."""

    def __init__(self) -> None:
        self.number = self.broken = 0

    def decode(self, container, stream) -> Iterator:
        """The frames of all packets that are whole; where the file breaks off, its packets end."""
        import av

        with contextlib.suppress(av.error.FFmpegError):
            for packet in container.demux(stream):
                self.number += 1
                try:
                    yield from packet.decode()
                except av.error.FFmpegError:
                    self.broken += 1


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
    """Add a warning, once."""
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


def scale_of(peak: float, share_beyond: float, warnings: list[str]) -> float:
    """The scale of samples with this peak, and this share beyond MAX_FLOAT_SAMPLE."""
    if share_beyond < 0.001 or not peak < MAX_SAMPLE:
        return peak if 1 < peak < MAX_SAMPLE else 1
    scale = next((scale for scale in INTEGER_SCALES if peak <= scale), INTEGER_SCALES[-1])
    warnings.append(f"its samples, up to {peak:,.0f}, are on the scale of integers, and were divided by {scale:,}")
    return scale


def is_cut(read: float, claimed: float) -> bool:
    """Whether so much of the claimed seconds could not be read that it must be said."""
    return claimed - read > TOLERANCE_SECONDS + 0.01 * claimed
