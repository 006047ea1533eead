"""Any recording -> samples, block after block: WAV and FLAC bit for bit, and what phones, browsers and films hold.

libsndfile (soundfile) reads the formats whose header tells how many samples there are. FFmpeg (PyAV) reads all others,
and those whose header is missing, damaged or does not tell: libsndfile would stop where it guesses the end to be.
"""

import contextlib
import functools
import io
import mimetypes
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

BLOCK_SAMPLES = 2**20
LOWEST_RATE, HIGHEST_RATE = 4000, 192000

# Far beyond the scale of any format; the power of a frame would overflow.
MAX_SAMPLE = 1e10

# Floating-point samples beyond this are not merely too loud: they are on the scale of integers of 16, 24 or 32 bits.
MAX_FLOAT_SAMPLE = 64
INTEGER_SCALES = (2**15, 2**23, 2**31)

# A length in bytes from here on stands for "not known yet" in the header of a WAV file written to a pipe.
UNKNOWN_BYTES = 2**31 - 2**16

# FFmpeg's readers of sound and film. Others, of playlists for instance, could open further files.
FFMPEG_READERS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,dts,eac3,flac,flv,gsm,ircam,matroska,webm,mov,mp3,mpc,mpc8,mpeg,mpegts,"
    "mpegvideo,nistsphere,nut,ogg,rm,tak,tta,voc,w64,wav,wv,xwma"
)
OTHER_ENDINGS = {".opus", ".oga", ".ogv", ".spx", ".m4v", ".snd", ".sph", ".wv", ".amr", ".dsf", ".qcp", ".m4p", ".mid"}
PICTURES_AND_TEXT = {".avif", ".heic", ".heif", ".ism", ".mks", ".apl", ".ass"}

# FFmpeg's readers that estimate the length from the first bit rate, so that it says nothing of what is missing.
ESTIMATING_READERS = ("aac", "ac3", "amr", "dts", "eac3", "gsm", "mpeg", "mpegts", "mpegvideo")

# What stands at the beginning of a WAV, a FLAC and an Ogg file, and again where another one was joined to it.
OGG_STREAM = rb"OggS\0[\x02\x03\x06\x07]"
FILE_STARTS = (rb"RIFF....WAVEfmt ", rb"fLaC[\x00\x80]\x00\x00\x22", OGG_STREAM)

# Tags that may follow an MP3 file, in bytes; those at its beginning tell their length.
MP3_TAGS_BYTES = 2**12

# Of the claimed length, what may be missing without a word, in seconds: codecs round to their frames.
TOLERANCE_SECONDS = 0.1


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


def decode(audio_file: str, doubts: list[str] | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Decode a file block after block -> sample rate, float32 samples (samples, channels), full scale 1.

    What could not be read of it is put into `doubts`, in words. Raises ValueError, with the reason, for a file that has
    no sound in a known format, is not finite, or has an unusable rate.
    """
    doubts = [] if doubts is None else doubts
    if not Path(audio_file).is_file():  # Reading a named pipe could block for ever.
        raise ValueError(f"{audio_file} {'is not a file' if Path(audio_file).exists() else 'does not exist'}.")
    is_empty = True
    try:
        for rate, block in decode_file(audio_file, doubts):
            if not LOWEST_RATE <= rate <= HIGHEST_RATE:
                raise ValueError(f"{audio_file} has a sample rate of {rate} Hz; 4,000 to 192,000 can be used.")
            if not -MAX_SAMPLE < block.min() <= block.max() < MAX_SAMPLE:  # NaN is neither.
                raise ValueError(f"{audio_file} has samples that are not numbers, or far too large.")
            is_empty = False
            yield rate, block
    except OSError as error:
        raise ValueError(f"{audio_file} cannot be decoded: {error}") from None
    if is_empty:
        raise ValueError(f"{audio_file} is empty.")


def decode_file(audio_file: str, doubts: list[str]) -> Iterator[tuple[int, np.ndarray]]:
    """The same without the checks, by libsndfile where it reads all of the file, else by FFmpeg."""
    with Path(audio_file).open("rb") as file:
        parts = find_parts(file)
        if not parts:
            yield from decode_with_ffmpeg(file, audio_file, doubts)
        elif len(parts) == 1:
            yield from decode_exactly(file, audio_file, doubts)
        else:
            for start, end in zip(parts, [*parts[1:], None], strict=True):
                file.seek(start)
                part = io.BytesIO(file.read(-1 if end is None else end - start))
                yield from decode_exactly(part, audio_file, doubts)


def find_parts(file: BinaryIO) -> list[int]:
    """Where the files begin that were joined into this one; [0] for an ordinary file.

    Nothing for a file that libsndfile would not read whole: an Ogg file of several streams, or an MP3 file that does
    not tell its length, or tells another one.
    """
    start = file.read(16)
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    pattern = next((known for known in FILE_STARTS if re.match(known, start, re.DOTALL)), None)
    if pattern:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            starts = [found.start() for found in re.finditer(pattern, content, re.DOTALL)]
        return [] if pattern == OGG_STREAM and len(starts) > 1 else starts
    is_mp3 = start[:3] == b"ID3" or (start[:1] == b"\xff" and start[1:2] >= b"\xe0")
    return [] if is_mp3 and not mp3_tells_length(file, size) else [0]


def mp3_tells_length(file: BinaryIO, size: int) -> bool:
    """Whether an MP3 file has a Xing header that gives its size in bytes as it is."""
    head = file.read(2**16)
    file.seek(0)
    tag_bytes = 0
    if head[:3] == b"ID3":  # Seven bits in each byte.
        tag_bytes = 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        if tag_bytes + 2048 > len(head):
            return False
    found = re.search(rb"(?:Xing|Info)\0\0\0(.)(.{4})(.{4})", head[tag_bytes : tag_bytes + 2048], re.DOTALL)
    if not found or found[1][0] & 3 != 3:  # It tells the number of frames and that of bytes.
        return False
    return 0 <= size - tag_bytes - int.from_bytes(found[3], "big") <= MP3_TAGS_BYTES


def decode_exactly(file: BinaryIO, name: str, doubts: list[str]) -> Iterator[tuple[int, np.ndarray]]:
    """Decode by libsndfile, which gives the samples as they are; by FFmpeg what libsndfile does not read."""
    import soundfile

    read = 0
    # By its path, which is faster; soundfile cannot encode a name that is not UTF-8, so it gets the bytes.
    source = file if isinstance(file, io.BytesIO) else name if os.name == "nt" else os.fsencode(name)
    with contextlib.suppress(soundfile.LibsndfileError, TypeError), soundfile.SoundFile(source) as sound:
        # A recorder that was killed may have left no length in the header, or one that is too small: sound follows
        # then where the log expects another chunk.
        is_too_small = "Unknown chunk marker" in sound.extra_info and "Exiting parser" in sound.extra_info
        if sound.format != "RAW" and 0 < sound.frames < 2**62 and not is_too_small:
            claimed = sound.frames
            # The log names lengths that the header claims and the file does not have.
            for claimed_bytes, found_bytes in re.findall(r"(\d+) \(should be (\d+)\)", sound.extra_info)[-1:]:
                if int(claimed_bytes) < UNKNOWN_BYTES:
                    claimed = round(sound.frames * int(claimed_bytes) / max(1, int(found_bytes)))
            scale = find_scale(sound, doubts)
            while len(block := sound.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)):
                read += len(block)
                yield sound.samplerate, block if scale == 1 else block / np.float32(scale)
            note_missing(read / sound.samplerate, claimed / sound.samplerate, doubts)
            return
    file.seek(0)
    for rate, block in decode_with_ffmpeg(file, name, doubts):
        if len(block) > read:
            yield rate, block[read:]
        read = max(0, read - len(block))


def find_scale(sound, doubts: list[str]) -> int:
    """By what the samples of a floating-point file are divided: 1, or the scale of integers if they are on that."""
    if sound.subtype not in ("FLOAT", "DOUBLE"):
        return 1
    peak = max((float(np.abs(block).max()) for block in sound.blocks(BLOCK_SAMPLES, dtype="float32")), default=0.0)
    sound.seek(0)
    if not MAX_FLOAT_SAMPLE < peak < MAX_SAMPLE:
        return 1
    scale = next((scale for scale in INTEGER_SCALES if peak <= scale), INTEGER_SCALES[-1])
    doubts.append(f"its samples, up to {peak:,.0f}, are on the scale of integers, and were divided by {scale:,}")
    return scale


def decode_with_ffmpeg(file: BinaryIO, name: str, doubts: list[str]) -> Iterator[tuple[int, np.ndarray]]:
    """Decode the first sound of a file by FFmpeg; broken packets are left out, and what follows them is read.

    Raises ValueError for a file without sound, or in a format that is not known.
    """
    import av

    seconds, broken, packets = 0.0, 0, 0
    rate, num_samples = 0, 0
    pieces: list[np.ndarray] = []
    # The file is handed over open: FFmpeg itself opens nothing.
    options = {"format_whitelist": FFMPEG_READERS, "protocol_whitelist": "none", "ignore_length": "1"}
    try:
        with av.open(file, options=options, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise ValueError(f"{name} has no sound in it.")
            stream = container.streams.audio[0]
            claimed = claimed_seconds(container, file)
            for packet in packets_of(container, stream):
                packets += 1
                try:
                    frames = packet.decode()
                except av.error.FFmpegError:
                    broken += 1
                    continue
                for frame in frames:
                    block = to_float(frame)
                    seconds += len(block) / frame.sample_rate
                    # Streams that are chained may differ in rate and channels.
                    if pieces and (rate != frame.sample_rate or pieces[0].shape[1] != block.shape[1]):
                        yield rate, np.concatenate(pieces)
                        pieces, num_samples = [], 0
                    rate = frame.sample_rate
                    pieces.append(block)
                    num_samples += len(block)
                    if num_samples >= BLOCK_SAMPLES:
                        yield rate, np.concatenate(pieces)
                        pieces, num_samples = [], 0
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{name} cannot be decoded: it is damaged, or no audio in a format known here (FFmpeg: {error.strerror})."
        ) from None
    if pieces:
        yield rate, np.concatenate(pieces)
    if not note_missing(seconds, claimed, doubts) and broken > max(3, 0.02 * packets):
        doubts.append(f"{broken} of its {packets} pieces are broken and were left out")


def packets_of(container, stream) -> Iterator:
    """The packets of a stream; where the file breaks off, they end."""
    import av

    with contextlib.suppress(av.error.FFmpegError):
        yield from container.demux(stream)


def claimed_seconds(container, file: BinaryIO) -> float:
    """How long a file says its sound is, in seconds; 0 if it does not say."""
    if container.format.name in ESTIMATING_READERS:
        return 0.0
    if container.format.name == "mp3":
        place = file.tell()
        file.seek(0)
        head = file.read(2**16)
        file.seek(place)
        if not re.search(rb"Xing|Info|VBRI", head):
            return 0.0
    stream = container.streams.audio[0]
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6


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


def note_missing(read: float, claimed: float, doubts: list[str]) -> bool:
    """Say in words how much of the claimed seconds is missing; returns whether some is."""
    if claimed - read <= TOLERANCE_SECONDS + 0.01 * claimed:
        return False
    doubts.append(f"only {read:.1f} of {claimed:.1f} s could be read")
    return True
