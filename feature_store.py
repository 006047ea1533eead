"""Every audio file decoded once: the features of a data set on disk, memory-mapped.

A store is a folder with two files that only grow at their end. `features.f16` holds frame after frame, N_MFCC
float16 values each (1,000 hours are 9 GB at each speed). `index.jsonl` has one line per audio file, written after its
frames: a JSON object with the fields of `Entry` and the path, `file`. An interrupted build can leave frames
without a line, or half a line; these are ignored, and the file is decoded again. `store.json` says which features these
are.
"""

import contextlib
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import filelock
import numpy as np
from tqdm import tqdm

import augmentation
import dataset
import feature_extraction
from dataset import SpkToUtts
from feature_extraction import FeatureSettings, feature_settings
from foundation import processes, safe_files, script, settings, threads
from foundation.settings import Config

# To be raised when the same recordings get other features than before, which a test tells, or the index another form.
FEATURES_VERSION = 2

CHUNK_FILES = 64
DTYPE = np.dtype("<f2")


class Entry(NamedTuple):
    """What the index says of a file."""

    bytes: int  # Its size.
    changed_ns: int  # When it was changed, in nanoseconds.
    content: str = ""  # A hash of its bytes.
    places: Sequence[Sequence[int]] = ()  # [first frame, number of frames] at each speed.
    skipped: str = ""  # In words, why it cannot be used.
    digest: str = ""  # A hash of its features.
    warnings: Sequence[str] = ()


# A file, its entry, and float16 features (frames, N_MFCC) at each speed that are to be appended, or none.
Extracted = tuple[str, Entry, list[np.ndarray]]


class FeatureFormat(NamedTuple):
    """What the features in a store are: their settings and speeds, and how they were computed (FEATURES_VERSION)."""

    settings: FeatureSettings
    speeds: tuple[float, ...]
    version: int = FEATURES_VERSION

    @property
    def frame_bytes(self) -> int:
        """The size of a frame on disk."""
        return self.settings.n_mfcc * DTYPE.itemsize

    def describe(self) -> str:
        """The same as JSON."""
        return json.dumps({**self._asdict(), "settings": self.settings._asdict()})


class FeatureStore:
    """Features of a data set at one or several speeds, opened for reading. Each speed has its own speakers.

    Utterances are numbered through all speeds: `files[number]`, `speaker_of[number]` (a number in `speakers`) and
    `utt_seconds[number]`. Its features are `num_frames[number]` rows of `frames`, beginning at `start[number]`. Of each
    speaker, `utts_of_speaker` has the utterances' numbers, `speech_seconds` their total length, and `corpus_of_speaker`
    one of `corpora`.
    """

    def __init__(
        self, folder: Path, index: dict[str, Entry], spk_to_utts: SpkToUtts, wanted: FeatureFormat, corpora: str
    ):
        self.speakers: list[str] = []
        self.files: list[str] = []
        self.utts_of_speaker: list[np.ndarray] = []
        starts, lengths = [], []
        for number, speed in enumerate(wanted.speeds):
            for speaker, utts in spk_to_utts.items():
                used = [utt for utt in utts if not index[utt].skipped]
                if not used:
                    continue
                self.speakers.append(speaker if speed == 1.0 else f"{speaker} at speed {speed}")
                self.utts_of_speaker.append(np.arange(len(self.files), len(self.files) + len(used)))
                self.files += used
                starts += [index[utt].places[number][0] for utt in used]
                lengths += [index[utt].places[number][1] for utt in used]
        self.start = np.array(starts, dtype=np.int64)
        self.num_frames = np.array(lengths, dtype=np.int64)
        self.utt_seconds = self.num_frames * (wanted.settings.hop_length / feature_extraction.SAMPLE_RATE)
        self.speech_seconds = np.array([self.utt_seconds[utts].sum() for utts in self.utts_of_speaker])
        self.corpus_of_speaker = np.array([dataset.get_corpus(speaker, corpora) for speaker in self.speakers])
        self.speaker_of = np.repeat(np.arange(len(self.speakers)), [len(utts) for utts in self.utts_of_speaker])
        num_rows = int((self.start + self.num_frames).max())
        self.path = folder / "features.f16"
        self.frames = np.memmap(self.path, dtype=DTYPE, mode="r", shape=(num_rows, wanted.settings.n_mfcc))

    def read(self, utt: int, max_frames: int | None = None) -> np.ndarray:
        """The features of an utterance, or its first `max_frames`, float32 (frames, N_MFCC).

        They are read from the file and not from its memory map, which would keep everything that was read in memory.
        """
        num_frames = min(self.num_frames[utt], max_frames or self.num_frames[utt])
        width = self.frames.shape[1]
        values = np.fromfile(self.path, DTYPE, num_frames * width, offset=self.start[utt] * width * DTYPE.itemsize)
        return values.reshape(num_frames, width).astype(np.float32)

    def fingerprint(self) -> str:
        """A hash that tells whether training data are the same: speakers, and the length of their utterances."""
        content = json.dumps(self.speakers).encode() + self.speaker_of.tobytes() + self.num_frames.tobytes()
        return hashlib.sha256(content).hexdigest()


def open_store(spk_to_utts: SpkToUtts, speeds: Sequence[float] = (1.0,), config: Config | None = None) -> FeatureStore:
    """Open the store of a data set; files that are not in it yet, or have changed, are decoded first.

    The features are those that the settings ask for: the present ones, unless `config` is given. Files that cannot be
    used are listed with the reason in the store's `skipped.csv`; their number is printed. Raises ValueError if no file
    can be used, OSError if the disk is full or read-only.
    """
    config = config or settings.present()
    wanted = FeatureFormat(feature_settings(vars(config)), tuple(speeds))
    if not (files := [utt for utts in spk_to_utts.values() for utt in utts]):
        raise ValueError("the data set has no files.")
    folder = store_folder(files, wanted, config.FEATURE_STORE_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    index = build(folder, processes.own_share(files), wanted, f"share-{processes.rank()}", config.NUM_PROCESSES)
    if processes.world_size() > 1:
        processes.wait_for_all()  # What follows builds nothing, unless machines have separate disks.
        index = build(folder, files, wanted, "rest", config.NUM_PROCESSES)
    report_skipped(folder, files, index)
    report_duplicates(spk_to_utts, index)
    return FeatureStore(folder, index, spk_to_utts, wanted, config.CORPORA)


def store_folder(files: list[str], wanted: FeatureFormat, stores_dir: str) -> Path:
    """The folder of a store, named after the data set's own folder and a hash of it and of what the features are."""
    absolute = [str(Path(file).absolute().parent) for file in files]
    # Windows has no common folder for files on two drives.
    common = os.path.commonpath(absolute) if len({Path(file).anchor for file in absolute}) == 1 else "several drives"
    key = json.dumps([common, wanted.describe()])
    return Path(stores_dir) / f"{Path(common).name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def file_state(file: str) -> tuple[int, int]:
    """Size in bytes and time of change in nanoseconds, to detect a changed file; zeros if it is missing."""
    try:
        state = Path(file).stat()
    except OSError:
        return 0, 0
    return state.st_size, state.st_mtime_ns


def missing_files(files: Sequence[str], index: dict[str, Entry]) -> list[str]:
    """The files that are not in the index, or have changed since."""
    state_of = {file: (entry.bytes, entry.changed_ns) for file, entry in index.items()}
    return [file for file in files if state_of.get(file) != file_state(file)]


def read_index(folder: Path, frame_bytes: int) -> dict[str, Entry]:
    """File -> its entry, but for lines that were cut off, or whose frames were lost: these files are decoded again."""
    if not (folder / "index.jsonl").exists():
        return {}
    lines = (folder / "index.jsonl").read_bytes().splitlines()
    num_frames = (folder / "features.f16").stat().st_size // frame_bytes
    index = {}
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, LookupError, AttributeError):
            fields = json.loads(line)
            file, entry = fields.pop("file"), Entry(**fields)
            if entry.skipped or sum(entry.places[-1]) <= num_frames:  # Its first frame, and their number.
                index[file] = entry
    return index


def index_line(file: str, entry: Entry) -> str:
    """The line of the index that `read_index` reads."""
    return json.dumps({"file": file, **entry._asdict()}) + "\n"


def build(folder: Path, files: Sequence[str], wanted: FeatureFormat, share: str, num_threads: int) -> dict[str, Entry]:
    """Decode the files that are missing, in parallel, and append them to the store; returns the whole index.

    One process at a time builds a share; those that build different shares take turns at appending.
    """
    index = read_index(folder, wanted.frame_bytes)
    if not missing_files(files, index) and (folder / "doubtful.csv").exists():
        return index
    appending = filelock.FileLock(folder / "append.lock")
    with filelock.FileLock(folder / f"{share}.lock"):
        index = read_index(folder, wanted.frame_bytes)  # Another process may have built them meanwhile.
        with appending:  # Those that build other shares write it, too.
            (folder / "doubtful.csv").unlink(missing_ok=True)  # It is the last to be written: see above.
            if not (folder / "store.json").exists():
                safe_files.write_text(folder / "store.json", wanted.describe() + "\n")
        for extracted in extract_all(missing_files(files, index), wanted, index, num_threads):
            with appending:
                append(folder, extracted, wanted.frame_bytes)
        with appending:
            index = read_index(folder, wanted.frame_bytes)
            skipped = [[path, entry.skipped] for path, entry in index.items() if entry.skipped]
            doubtful = [[path, "; ".join(entry.warnings)] for path, entry in index.items() if entry.warnings]
            safe_files.write_rows(folder / "skipped.csv", [["file", "reason"], *skipped])
            safe_files.write_rows(folder / "doubtful.csv", [["file", "reason"], *doubtful])
    return index


def append(folder: Path, extracted: list[Extracted], frame_bytes: int) -> None:
    """Append features, and once they are safely on the disk, the index lines that say where they are."""
    lines = []
    with (folder / "features.f16").open("ab") as features_file:
        end = features_file.seek(0, os.SEEK_END)
        start = math.ceil(end / frame_bytes)  # A process that was killed may have left part of a frame.
        features_file.write(bytes(start * frame_bytes - end))
        for file, entry, features in extracted:
            for at_speed in features:
                features_file.write(at_speed.tobytes())
                entry = entry._replace(places=[*entry.places, [start, len(at_speed)]])
                start += len(at_speed)
            lines.append(index_line(file, entry))
        features_file.flush()
        os.fsync(features_file.fileno())
    with (folder / "index.jsonl").open("ab") as index_file:
        index_file.write(("\n" + "".join(lines)).encode())  # The line before may have been cut off.


def extract_all(
    files: list[str], wanted: FeatureFormat, index: dict[str, Entry], num_threads: int
) -> Iterator[list[Extracted]]:
    """Groups of files, extracted. A file whose time of change alone is another than in the index is not decoded."""

    def extract(file: str) -> Extracted:
        entry = Entry(*file_state(file), safe_files.digest_of(file)[:16])
        before = index.get(file)
        if before and entry.content and before.content == entry.content and not before.skipped:
            return (file, before._replace(bytes=entry.bytes, changed_ns=entry.changed_ns), [])
        warnings: list[str] = []
        try:
            at_speeds = augmentation.features_at_speeds(file, wanted.settings, wanted.speeds, warnings)
            result = [features.astype(DTYPE) for features in at_speeds]
        except ValueError as error:
            return (file, entry._replace(skipped=str(error)), [])
        except OSError as error:  # It may pass: a size that no file has makes it be tried again.
            return (file, Entry(-1, -1, skipped=f"{file} cannot be read: {script.in_words(error)}."), [])
        digest = hashlib.sha256(result[0].tobytes()).hexdigest()[:16]
        return (file, entry._replace(digest=digest, warnings=warnings), result)

    if not files:
        return
    if not sys.stderr.isatty():
        print(f"Extracting features of {len(files)} files.", flush=True)
    pool = threads.thread_pool(num_threads)
    is_silent = True if processes.rank() else None  # None shows the bar on a terminal only.
    with tqdm(total=len(files), desc="Extracting features", unit="file", disable=is_silent) as progress:
        for start in range(0, len(files), CHUNK_FILES):
            chunk = []
            with threads.one_thread_each:
                for extracted in pool.map(extract, files[start : start + CHUNK_FILES]):
                    chunk.append(extracted)
                    progress.update()
                    script.raise_if_interrupted()
            yield chunk


def report_skipped(folder: Path, files: list[str], index: dict[str, Entry]) -> None:
    """Print how many files were skipped, if any. Raises ValueError if all were skipped."""
    reasons = [index[file].skipped for file in files if index[file].skipped]
    if len(reasons) == len(files):
        raise ValueError(f"none of the {len(files)} files can be used: {reasons[0]}")
    if reasons:
        print(f"Skipped {len(reasons)} of {len(files)} files; the reasons are in {folder / 'skipped.csv'}.")
    if doubtful := [file for file in files if index[file].warnings]:
        print(
            f"Warning: {len(doubtful)} of {len(files)} files are doubtful, such as {doubtful[0]}: "
            f"{index[doubtful[0]].warnings[0]}. {folder / 'doubtful.csv'} has all reasons."
        )


def report_duplicates(spk_to_utts: SpkToUtts, index: dict[str, Entry]) -> None:
    """Print a warning that names the files if the same audio is listed under two speakers."""
    first: dict[str, tuple[str, str]] = {}
    pairs = []
    for speaker, utts in spk_to_utts.items():
        for utt in utts:
            other_speaker, other_utt = first.setdefault(index[utt].digest or utt, (speaker, utt))
            if other_speaker != speaker:
                pairs.append(f"{other_utt} and {utt}")
    if pairs:
        more = f" (and {len(pairs) - 1} more such pairs)" if len(pairs) > 1 else ""
        print(f"Warning: the same audio stands under two speakers: {pairs[0]}{more}.")
