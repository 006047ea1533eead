"""Every audio file decoded once: the features of a data set on disk, memory-mapped.

A store is a folder with two files that only ever grow at their end. `features.f16` holds frame after frame, N_MFCC
float16 values each (1,000 hours are 9 GB). `index.jsonl` has one line per audio file, written after its frames: path,
size and time of change, then where its frames start at each speed, or why it was skipped. What was cut off when a
build was interrupted stands beyond the last whole line, and is cut away when the build continues.
"""

import csv
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import numpy as np
import torch
from tqdm import tqdm

import augmentation
import feature_extraction
import myconfig
import settings
from dataset import SpkToUtts

CHUNK_FILES = 128
DTYPE = np.dtype("<f2")


class FeatureStore:
    """Features of a data set at one or several speeds, opened for reading. Each speed makes speakers of its own.

    Utterances are numbered through all speeds: `files[number]`, `speaker_of[number]` (a number in `speakers`), and
    `num_frames[number]`; `utts_of_speaker` lists the utterance numbers of each speaker.
    """

    def __init__(self, folder: Path, index: dict[str, list], spk_to_utts: SpkToUtts, speeds: Sequence[float]):
        self.speakers: list[str] = []
        self.files: list[str] = []
        self.utts_of_speaker: list[np.ndarray] = []
        starts, lengths = [], []
        for number, speed in enumerate(speeds):
            for speaker, utts in spk_to_utts.items():
                used = [utt for utt in utts if not isinstance(index[utt][2], str)]
                if not used:
                    continue
                self.speakers.append(speaker if speed == 1.0 else f"{speaker} at speed {speed}")
                self.utts_of_speaker.append(np.arange(len(self.files), len(self.files) + len(used)))
                self.files += used
                starts += [index[utt][2][number][0] for utt in used]
                lengths += [index[utt][2][number][1] for utt in used]
        self.start = np.array(starts, dtype=np.int64)
        self.num_frames = np.array(lengths, dtype=np.int64)
        self.speaker_of = np.repeat(np.arange(len(self.speakers)), [len(utts) for utts in self.utts_of_speaker])
        num_rows = int((self.start + self.num_frames).max())
        self.frames = np.memmap(folder / "features.f16", dtype=DTYPE, mode="r", shape=(num_rows, myconfig.N_MFCC))

    def read(self, utt: int) -> np.ndarray:
        """All features of an utterance, float32 (frames, N_MFCC)."""
        return self.frames[self.start[utt] : self.start[utt] + self.num_frames[utt]].astype(np.float32)

    def draw_crops(self, utts: np.ndarray, crop_frames: int, rng: np.random.Generator) -> torch.Tensor:
        """A random crop of each utterance (n,) -> float32 (n, crop_frames, N_MFCC).

        An utterance that comes n times is divided into n parts with a crop each. One that is too short is joined with
        other utterances of its speaker.
        """
        _, inverse, counts = np.unique(utts, return_inverse=True, return_counts=True)
        order = np.argsort(inverse, kind="stable")
        occurrence = np.empty(len(utts), dtype=np.int64)
        occurrence[order] = np.arange(len(utts)) - np.repeat(np.cumsum(counts) - counts, counts)
        length, part_length = self.num_frames[utts], self.num_frames[utts] / counts[inverse]
        offset = occurrence * part_length + rng.random(len(utts)) * np.maximum(part_length - crop_frames + 1, 0)
        offset = np.clip(offset.astype(np.int64), 0, np.maximum(length - crop_frames, 0))
        rows = (self.start[utts] + offset)[:, None] + np.arange(crop_frames)
        for place in np.flatnonzero(length < crop_frames):
            rows[place] = self.joined_rows(utts[place], crop_frames, rng)
        return torch.from_numpy(self.frames[rows].astype(np.float32))

    def joined_rows(self, utt: int, crop_frames: int, rng: np.random.Generator) -> np.ndarray:
        """The frames of a short utterance, then of others of its speaker, then again, until there are enough."""
        mates = self.utts_of_speaker[self.speaker_of[utt]]
        joined, total = [], 0
        for mate in [utt, *rng.permutation(mates[mates != utt])]:
            joined.append(np.arange(self.start[mate], self.start[mate] + self.num_frames[mate]))
            total += self.num_frames[mate]
            if total >= crop_frames:
                break
        return np.resize(np.concatenate(joined), crop_frames)


def open_store(spk_to_utts: SpkToUtts, speeds: Sequence[float] = (1.0,)) -> FeatureStore:
    """Open the store of a data set; files that are not in it yet, or have changed, are decoded first.

    Files that cannot be used are listed with the reason in the store's `skipped.csv`; their number is printed.
    Raises ValueError if no file can be used, OSError if the disk is full or read-only.
    """
    files = [utt for utts in spk_to_utts.values() for utt in utts]
    folder = store_folder(files, speeds)
    folder.mkdir(parents=True, exist_ok=True)
    index = read_index(folder)
    if missing_files(files, index):
        with filelock.FileLock(folder / "lock"):
            index = build(folder, files, speeds)
    report_skipped(folder, files, index)
    report_duplicates(spk_to_utts, index)
    return FeatureStore(folder, index, spk_to_utts, speeds)


def store_folder(files: list[str], speeds: Sequence[float]) -> Path:
    """The folder of a store, named after the data set's own folder, the feature settings and the speeds."""
    absolute = [str(Path(file).absolute().parent) for file in files]
    # Windows has no common folder for files on two drives.
    common = os.path.commonpath(absolute) if len({Path(file).anchor for file in absolute}) == 1 else "several drives"
    values = {name: getattr(myconfig, name) for name in settings.FEATURE_SETTINGS}
    key = json.dumps([common, values, list(speeds)], sort_keys=True)
    return Path(myconfig.FEATURE_STORE_DIR) / f"{Path(common).name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def file_state(file: str) -> list[int]:
    """Size in bytes and time of change in nanoseconds, by which a changed file is noticed; zeros if it is gone."""
    try:
        state = Path(file).stat()
    except OSError:
        return [0, 0]
    return [state.st_size, state.st_mtime_ns]


def missing_files(files: list[str], index: dict[str, list]) -> list[str]:
    """The files that the index does not have, or not as they are now."""
    return [file for file in files if file not in index or index[file][:2] != file_state(file)]


def read_index(folder: Path) -> dict[str, list]:
    """File -> [size, time of change, [[start, frames] at each speed] or the reason for skipping, digest]."""
    path = folder / "index.jsonl"
    if not path.exists():
        return {}
    whole_lines = path.read_bytes().rpartition(b"\n")[0]
    return dict(json.loads(line) for line in whole_lines.splitlines())


def build(folder: Path, files: list[str], speeds: Sequence[float]) -> dict[str, list]:
    """Decode the files that are missing, in parallel, and append them to the store; returns the whole index."""
    index = read_index(folder)  # Another process may have built since.
    missing = missing_files(files, index)
    frame_bytes = myconfig.N_MFCC * DTYPE.itemsize
    ends = [start + length for entry in index.values() if not isinstance(entry[2], str) for start, length in entry[2]]
    end = max(ends, default=0)
    with (folder / "features.f16").open("ab") as features_file, (folder / "index.jsonl").open("ab") as index_file:
        features_file.truncate(end * frame_bytes)
        index_file.truncate((folder / "index.jsonl").read_bytes().rfind(b"\n") + 1)
        for file, state, result in extract_all(missing, speeds):
            places: list | str = result if isinstance(result, str) else []
            for features in [] if isinstance(result, str) else result:
                places.append([end, len(features)])
                end += len(features)
                features_file.write(features.tobytes())
            digest = "" if isinstance(result, str) else hashlib.sha256(result[0].tobytes()).hexdigest()[:16]
            index[file] = [*state, places, digest]
            features_file.flush()
            index_file.write(json.dumps([file, index[file]]).encode() + b"\n")
    return index


def extract_all(files: list[str], speeds: Sequence[float]) -> Iterator[tuple[str, list[int], list[np.ndarray] | str]]:
    """Each file with its state and its features at each speed, or the reason why there are none, in order.

    Threads are enough: decoding and the Fourier transform run outside Python's interpreter lock.
    """

    def extract(file: str) -> tuple[str, list[int], list[np.ndarray] | str]:
        state = file_state(file)
        try:
            return file, state, [features.astype(DTYPE) for features in features_at_speeds(file, speeds)]
        except ValueError as error:
            return file, state, str(error)

    progress = tqdm(total=len(files), desc="Extracting features", unit="file", disable=None)
    if not sys.stderr.isatty():
        print(f"Extracting features of {len(files)} files.", flush=True)
    # One PyTorch thread in each worker: the files are what runs in parallel.
    with ThreadPoolExecutor(myconfig.NUM_PROCESSES, initializer=torch.set_num_threads, initargs=(1,)) as pool, progress:
        for start in range(0, len(files), CHUNK_FILES):
            for result in pool.map(extract, files[start : start + CHUNK_FILES]):
                progress.update()
                yield result


def features_at_speeds(file: str, speeds: Sequence[float]) -> list[np.ndarray]:
    """Features of a file at each speed, the file decoded once. Raises ValueError for one that cannot be used."""
    samples = feature_extraction.read_audio(file)
    return [feature_extraction.compute_mfcc(augmentation.change_speed(samples, speed)) for speed in speeds]


def report_skipped(folder: Path, files: list[str], index: dict[str, list]) -> None:
    """Print how many files were skipped and list them in `skipped.csv`. Raises ValueError if that is all of them."""
    skipped = [(file, index[file][2]) for file in files if isinstance(index[file][2], str)]
    if not skipped:
        return
    temporary = folder / f"skipped.csv.{os.getpid()}"
    with temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([("file", "reason"), *skipped])
    temporary.replace(folder / "skipped.csv")
    if len(skipped) == len(files):
        raise ValueError(f"none of the {len(files)} files can be used: {skipped[0][1]}")
    print(f"Skipped {len(skipped)} of {len(files)} files; the reasons are in {folder / 'skipped.csv'}.")


def report_duplicates(spk_to_utts: SpkToUtts, index: dict[str, list]) -> None:
    """Print a warning that names the files if the same audio stands under two speakers."""
    first: dict[str, tuple[str, str]] = {}
    pairs = []
    for speaker, utts in spk_to_utts.items():
        for utt in utts:
            other_speaker, other_utt = first.setdefault(index[utt][3] or utt, (speaker, utt))
            if other_speaker != speaker:
                pairs.append(f"{other_utt} and {utt}")
    if pairs:
        more = f" (and {len(pairs) - 1} more such pairs)" if len(pairs) > 1 else ""
        print(f"Warning: the same audio stands under two speakers: {pairs[0]}{more}.")
