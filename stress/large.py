"""Large inputs: a recording of three hours, 100,000 tiny files, and a corpus of 1,000 hours, in a laptop's memory."""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile

import dataset
import demo_data
import evaluation
import feature_store
import myconfig
import neural_net
from feature_extraction import feature_settings
from foundation import parallel, settings
from voices import timeline as speaker_timeline

HOURS = 1000
UTT_SECONDS = 12.5
UTTS_PER_SPEAKER = 100
FRAMES_PER_SECOND = 31.25
RECORDING_HOURS = 3
NUM_TINY_FILES = 100_000
MAX_GIGABYTES = 4

# Writes large inputs into a folder and processes them; returns what that took, as text.
Case = Callable[[Path], str]


def peak_gigabytes() -> float:
    """The peak memory of this process so far, including the pages of memory-mapped files that it read."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


def long_recording(folder: Path) -> str:
    """Find the turns of a recording of RECORDING_HOURS, then its features at all speeds; returns what it took."""
    rng = np.random.default_rng(0)
    voices = [demo_data.synthesise(demo_data.draw_voice(rng), 20, rng) for _ in range(3)]
    path = folder / "talk" / "long.flac"
    path.parent.mkdir()
    with soundfile.SoundFile(path, "w", demo_data.SAMPLE_RATE, 1) as file:
        for minute in range(60 * RECORDING_HOURS):
            file.write(np.concatenate([voices[minute % 3], voices[0], voices[1]]).astype(np.float32) / 4)
    encoder = neural_net.get_speaker_encoder().eval()
    start = time.perf_counter()
    turns = speaker_timeline.find_timeline(encoder, str(path)).turns
    assert turns[-1].end > 3600 * RECORDING_HOURS - 60
    answer = f"turns in {time.perf_counter() - start:.0f} s and {peak_gigabytes():.2f} GB"
    start = time.perf_counter()
    feature_store.open_store({"talk": [str(path)]}, myconfig.SPEEDS)
    return f"{RECORDING_HOURS} hours in one recording: {answer}, features in {time.perf_counter() - start:.0f} s"


def tiny_files(folder: Path) -> str:
    """Evaluate on NUM_TINY_FILES files, each just long enough to be used; returns what it took."""
    rng = np.random.default_rng(0)
    soundfile.write(folder / "tiny.wav", np.zeros(myconfig.N_FFT), demo_data.SAMPLE_RATE, subtype="PCM_U8")
    header = (folder / "tiny.wav").read_bytes()[: -myconfig.N_FFT]
    for number in range(NUM_TINY_FILES):
        path = folder / "tiny" / str(number // UTTS_PER_SPEAKER) / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(header + rng.bytes(myconfig.N_FFT))
    start = time.perf_counter()
    spk_to_utts = dataset.get_librispeech_spk_to_utts(str(folder / "tiny"))
    encoder = neural_net.get_speaker_encoder().eval()
    _, scores = evaluation.compute_scores(encoder, spk_to_utts, myconfig.NUM_EVAL_TRIPLETS)
    assert len(scores) == 2 * myconfig.NUM_EVAL_TRIPLETS
    return f"{NUM_TINY_FILES:,} tiny files: evaluated in {time.perf_counter() - start:.0f} s"


def write_sparse_store(hours: float) -> dataset.SpkToUtts:
    """Write a feature store of `hours` at each speed, of zeros that take no disk space; returns its data set."""
    num_utts = int(hours * 3600 / UTT_SECONDS)
    files = [f"/corpus/{utt // UTTS_PER_SPEAKER}/{utt}.flac" for utt in range(num_utts)]
    for speeds in (myconfig.SPEEDS, (1.0,)):
        features = feature_store.FeatureFormat(feature_settings(), speeds)
        folder = feature_store.store_folder(files, features, myconfig.FEATURE_STORE_DIR)
        folder.mkdir(parents=True)
        frames = int(UTT_SECONDS * FRAMES_PER_SECOND)
        with (folder / "features.f16").open("wb") as file:
            file.truncate(len(speeds) * num_utts * frames * myconfig.N_MFCC * feature_store.DTYPE.itemsize)
        with (folder / "index.jsonl").open("w") as file:
            for number, utt in enumerate(files):
                starts = [(number * len(speeds) + speed) * frames for speed in range(len(speeds))]
                # Size and time of change are those of a missing file.
                places = [[start, frames] for start in starts]
                file.write(feature_store.index_line(utt, feature_store.Entry(0, 0, places=places, digest=str(number))))
    spk_to_utts: dataset.SpkToUtts = {}
    for utt in files:
        spk_to_utts.setdefault(Path(utt).parent.name, []).append(utt)
    return spk_to_utts


def large_corpus(_: Path) -> str:
    """Train and evaluate on HOURS of features; returns what it took."""
    spk_to_utts = write_sparse_store(HOURS)
    neural_net.train_network(spk_to_utts, 20)
    answer = f"{HOURS:,} hours: trained at {len(myconfig.SPEEDS)} speeds with {peak_gigabytes():.2f} GB"
    evaluation.compute_scores(neural_net.get_speaker_encoder().eval(), spk_to_utts, myconfig.NUM_EVAL_TRIPLETS)
    return f"{answer}, evaluated"


def measure(case: Case, folder: Path) -> str:
    """Run a case; returns what it took, and the peak of this process's memory."""
    parallel.prepare_process()
    with settings.override(FEATURE_STORE_DIR=str(folder / "features")):
        answer = case(folder)
    assert peak_gigabytes() < MAX_GIGABYTES, f"{answer}, {peak_gigabytes():.2f} GB"
    return f"{answer}, {peak_gigabytes():.2f} GB."


def withstand_large_inputs() -> None:
    """Run each case in its own process and print what it took. Raises AssertionError for more than MAX_GIGABYTES."""
    for case in (long_recording, tiny_files, large_corpus):
        with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as pool:
            print(pool.submit(measure, case, Path(folder)).result(), flush=True)
