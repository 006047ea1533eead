"""Broken recordings: a folder of audio files that are damaged in many ways, with good ones between them.

No file may stop a run over the folder. Each file must be used or be reported with a reason, and the good ones must give
the same features as without the others.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

import dataset
import demo_data
import feature_store

# Names of files and folders, with unusual characters that file systems allow.
NAMES = [
    "plain",
    "two words",
    "quote'",
    'quote"',
    "comma,",
    "new\nline",
    "é ü ß",
    "声",
    "🎤",
    "-dash",
    "%41",
    "a;b",
    "~",
]
FORMATS = ("flac", "wav", "ogg", "mp3")

Change = Callable[[bytes, np.random.Generator], bytes]


def truncate(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut off the end."""
    return content[: rng.integers(len(content))]


def flip_bits(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip one to a hundred bits anywhere."""
    values = np.frombuffer(content, np.uint8).copy()
    places = rng.integers(len(values), size=rng.integers(1, 100))
    values[places] ^= 1 << rng.integers(8, size=len(places), dtype=np.uint8)
    return values.tobytes()


def hurt_header(content: bytes, rng: np.random.Generator) -> bytes:
    """Overwrite some of the first 64 bytes, where the format is declared, with random ones."""
    values = np.frombuffer(content, np.uint8).copy()
    places = rng.integers(min(64, len(values)), size=rng.integers(1, 16))
    values[places] = rng.integers(256, size=len(places))
    return values.tobytes()


def shuffle(content: bytes, rng: np.random.Generator) -> bytes:
    """Put the file's pieces in another order."""
    pieces = [content[start : start + 512] for start in range(0, len(content), 512)]
    return b"".join(pieces[number] for number in rng.permutation(len(pieces)))


def claim_hours(content: bytes, _: np.random.Generator) -> bytes:
    """A WAV file whose header says that ten hours follow."""
    num_bytes = (10 * 3600 * demo_data.SAMPLE_RATE * 2).to_bytes(4, "little")
    return b"RIFF" + num_bytes + b"WAVEfmt " + content[16:40] + num_bytes + content[44:4044]


CHANGES: tuple[Change, ...] = (truncate, flip_bits, hurt_header, shuffle)


def write_special_files(folder: Path, samples: np.ndarray) -> None:
    """Write files that are unusual rather than damaged."""
    rate = demo_data.SAMPLE_RATE
    folder.mkdir(parents=True)
    soundfile.write(folder / "24-bit.wav", samples, rate, subtype="PCM_24")
    soundfile.write(folder / "64-bit.wav", samples, rate, subtype="DOUBLE")
    soundfile.write(folder / "8 channels.wav", np.tile(samples[:, None], 8), rate)
    soundfile.write(folder / "8 bits.wav", samples, rate, subtype="PCM_U8")
    for name, value in (("nan", np.nan), ("inf", np.inf), ("huge", 1e30), ("silent", 0)):
        values = samples * (value == 0) if value == 0 else np.where(np.arange(len(samples)) % 100, samples, value)
        soundfile.write(folder / f"{name}.wav", 0 * values if value == 0 else values, rate, subtype="FLOAT")
    for strange_rate in (1, 400000):
        soundfile.write(folder / f"{strange_rate} Hz.wav", samples, strange_rate)
    soundfile.write(folder / "one sample.wav", samples[:1], rate)
    soundfile.write(folder / "mp3 named.wav", samples, rate, format="MP3")
    wave = (folder / "24-bit.wav").read_bytes()
    (folder / "ten hours.wav").write_bytes(claim_hours(wave, np.random.default_rng(0)))
    (folder / "empty.flac").touch()
    (folder / "text.ogg").write_text("This is a text.")
    (folder / "folder.wav").mkdir()
    if os.name != "nt":
        (folder / "dangling.wav").symlink_to("nowhere")
        (folder / "circle.wav").symlink_to("circle.wav")
        os.mkfifo(folder / "pipe.wav")


def write_broken_corpus(folder: Path, num_files: int, seed: int) -> list[str]:
    """Write `num_files` broken files, special ones, and a good one per speaker; returns the good ones."""
    rng = np.random.default_rng(seed)
    samples = 0.1 * rng.normal(size=2 * demo_data.SAMPLE_RATE).cumsum() % 1 - 0.5
    names = [name for name in NAMES if os.name != "nt" or not set(name) & set('"\n;')]
    if os.name != "nt" and sys.platform != "darwin":
        names.append(os.fsdecode(b"not utf-8 \xff\xfe"))
    good = []
    for number in range(num_files):
        speaker = folder / names[number % len(names)]
        if not speaker.exists():
            speaker.mkdir(parents=True)
            good.append(str(speaker / "good.flac"))
            soundfile.write(os.fsencode(good[-1]) if os.name != "nt" else good[-1], samples, demo_data.SAMPLE_RATE)
        suffix = FORMATS[number % len(FORMATS)]
        whole = folder.parent / f"whole.{suffix}"
        if not whole.exists():
            soundfile.write(whole, samples, demo_data.SAMPLE_RATE)
        change = CHANGES[int(rng.integers(len(CHANGES)))]
        (speaker / f"{number} {change.__name__}.{suffix}").write_bytes(change(whole.read_bytes(), rng))
    write_special_files(folder / "special", samples)
    return good


def hear_broken_corpus(folder: Path, num_files: int, seed: int = 0) -> str:
    """Extract the features of such a corpus; returns what happened. Raises AssertionError for a failure."""
    good = write_broken_corpus(folder / "audio", num_files, seed)
    spk_to_utts = dataset.get_librispeech_spk_to_utts(str(folder / "audio"))
    store = feature_store.open_store(spk_to_utts)
    listed = {utt for utts in spk_to_utts.values() for utt in utts}
    reasons = feature_store.read_index(store.path.parent, 2 * store.frames.shape[1])
    skipped = {utt for utt in listed if reasons[utt].skipped}
    assert skipped | set(store.files) == listed and not skipped & set(store.files)
    assert all(reasons[utt].skipped.startswith(utt) and "\n" not in reasons[utt].skipped[len(utt) :] for utt in skipped)
    alone = feature_store.open_store({"good": good})
    number_of = {utt: number for number, utt in enumerate(store.files)}
    for number, utt in enumerate(alone.files):
        assert np.array_equal(alone.read(number), store.read(number_of[utt])), utt
    assert set(good) <= set(store.files)
    assert np.isfinite(store.frames).all()
    return f"{len(listed)} files, {len(skipped)} of them refused with a reason, {len(good)} good ones unharmed."
