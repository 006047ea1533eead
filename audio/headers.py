"""What the header of a sound file tells of its length, and whether it is true; where files were joined into one."""

import io
import mmap
import re
from typing import BinaryIO, NamedTuple

# What stands at the beginning of a WAV, a FLAC and an Ogg file, and again where another one was joined to it.
OGG_STREAM = rb"OggS\0[\x02\x03\x06\x07]"
FILE_STARTS = (
    rb"(?:RIFF|RIFX|RF64)....WAVE(?:fmt |JUNK|junk|bext|FLLR|LIST|ds64|fact|iXML|PAD |PEAK)",
    rb"fLaC[\x00\x80]\x00\x00\x22",
    OGG_STREAM,
)

# A length in bytes from here on stands for "not known yet" in the header of a WAV file written to a pipe.
UNKNOWN_BYTES = 2**31 - 2**16

# The most bytes of an MP3 frame, by which headers of encoders may be off, and those of the tag that may follow.
MP3_FRAME_BYTES = 1500
ID3V1_BYTES = 128


class XingHeader(NamedTuple):
    """What an MP3 file tells of itself, if it does: frames, bytes of its stream, and where in the file this begins."""

    num_frames: int
    num_bytes: int
    start: int


def find_parts(file: BinaryIO) -> list[int]:
    """Where the files begin that were joined into this one: [0] for an ordinary file.

    Nothing for an Ogg file of several streams side by side, as films are.
    """
    start = file.read(16)
    file.seek(0)
    pattern = next((known for known in FILE_STARTS if re.match(known, start, re.DOTALL)), None)
    if not pattern:
        return [0]
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        starts = [found.start() for found in re.finditer(pattern, content, re.DOTALL)]
        if pattern == OGG_STREAM:
            # Behind a page that does not begin a stream, one that does begins a new link of the chain.
            links = [at for at in starts if at == 0 or not content[content.rfind(b"OggS\0", 0, at) + 5] & 2]
            return links if len(links) == len(starts) or len(links) > 1 else []
    return starts


def wav_tells_length(file: BinaryIO) -> bool:
    """Whether the length that a WAV file's header tells can be true: other chunks follow the sound, or nothing.

    A recorder that was killed may have left a length of zero, or one that is too small.
    """
    size = file.seek(0, io.SEEK_END)
    if size > UNKNOWN_BYTES:
        return True
    start, num_bytes = find_wav_data(file)
    if num_bytes == 0:
        return False
    if num_bytes >= UNKNOWN_BYTES:
        return True
    # The byte that makes a length even may have been forgotten.
    ends = (start + num_bytes + num_bytes % 2, start + num_bytes)
    is_true = any(chunks_follow(file, end, size) for end in ends)
    file.seek(0)
    return is_true


def find_wav_data(file: BinaryIO) -> tuple[int, int]:
    """Where the sound of a WAV file begins, and its length in bytes by the header; zeros if there is none."""
    at = 12
    while chunk := read_chunk(file, at):
        if chunk[0] == b"data":
            file.seek(0)
            return at + 8, chunk[1]
        at += 8 + chunk[1] + chunk[1] % 2
    file.seek(0)
    return 0, 0


def read_chunk(file: BinaryIO, at: int) -> tuple[bytes, int] | None:
    """The name and the length of a RIFF file's chunk; None beyond the end."""
    file.seek(at)
    header = file.read(8)
    return (header[:4], int.from_bytes(header[4:], "little")) if len(header) == 8 else None


def chunks_follow(file: BinaryIO, at: int, size: int) -> bool:
    """Whether nothing but whole chunks stands in a file from here to its end."""
    while chunk := read_chunk(file, at):
        is_name = all(32 <= letter < 127 for letter in chunk[0])
        if not is_name or at + 8 + chunk[1] > size + 1:
            return False
        at += 8 + chunk[1] + chunk[1] % 2
    return True


def read_xing_header(file: BinaryIO) -> XingHeader | None:
    """The Xing (or Info) header in the first frame of an MP3 file; None if it has none, or one without lengths."""
    file.seek(0)
    head = file.read(10)
    start = 0
    if head[:3] == b"ID3":  # Seven bits in each byte.
        start = 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    file.seek(start)
    found = re.search(rb"(?:Xing|Info)\0\0\0(.)(.{4})(.{4})", file.read(2048), re.DOTALL)
    file.seek(0)
    if not found or found[1][0] & 3 != 3:
        return None
    return XingHeader(int.from_bytes(found[2], "big"), int.from_bytes(found[3], "big"), start)


def mp3_tells_length(file: BinaryIO) -> bool:
    """Whether an MP3 file has a Xing header with the length of its stream as it is, with tags behind it at most."""
    xing = read_xing_header(file)
    if not xing:
        return False
    rest = file.seek(0, io.SEEK_END) - xing.start - xing.num_bytes
    file.seek(max(0, xing.start + xing.num_bytes))
    tail = file.read(MP3_FRAME_BYTES + 16)
    file.seek(0)
    if (at := tail.find(b"APETAGEX")) >= 0:  # It tells its length, but for its first 32 bytes.
        rest -= 32 + int.from_bytes(tail[at + 12 : at + 16], "little")
    return 0 <= rest <= MP3_FRAME_BYTES + ID3V1_BYTES
