"""What the project withstands: `python3 stress.py`, in half an hour, on Linux or macOS.

Broken recordings, lists, models and databases, being killed at any moment, and a corpus of 1,000 hours in the memory of
a laptop. `--quick` does less of all but the last, and not that.
"""

import argparse
import sys

import settings

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer files and kills")
    options = parser.parse_args()

import json
import resource
import tempfile
from pathlib import Path

import dataset
import evaluation
import feature_store
import myconfig
import neural_net
import parallel
import stress_audio
import stress_kill
import stress_parsing

NUM_BROKEN_FILES, NUM_BROKEN_FILES_QUICK = 1000, 150
NUM_BROKEN_LISTS, NUM_BROKEN_LISTS_QUICK = 1000, 40
NUM_KILLS, NUM_KILLS_QUICK = 100, 6
HOURS = 1000
UTT_SECONDS = 12.5
UTTS_PER_SPEAKER = 100
FRAMES_PER_SECOND = 31.25
MAX_GIGABYTES = 4


def peak_gigabytes() -> float:
    """The most memory that this process has had so far, with the disk's pages that it read through a map."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


def write_sparse_store(hours: float) -> dataset.SpkToUtts:
    """A feature store of so many hours at each speed, of zeros that take no room on the disk; returns its data set."""
    num_utts = int(hours * 3600 / UTT_SECONDS)
    files = [f"/corpus/{utt // UTTS_PER_SPEAKER}/{utt}.flac" for utt in range(num_utts)]
    for speeds in (myconfig.SPEEDS, (1.0,)):
        folder = feature_store.store_folder(files, speeds)
        folder.mkdir(parents=True)
        frames = int(UTT_SECONDS * FRAMES_PER_SECOND)
        with (folder / "features.f16").open("wb") as file:
            file.truncate(len(speeds) * num_utts * frames * myconfig.N_MFCC * feature_store.DTYPE.itemsize)
        with (folder / "index.jsonl").open("w") as file:
            for number, utt in enumerate(files):
                starts = [(number * len(speeds) + speed) * frames for speed in range(len(speeds))]
                # Size and time of change are those of a file that is not there.
                file.write(json.dumps([utt, [0, 0, [[start, frames] for start in starts], str(number)]]) + "\n")
    spk_to_utts: dataset.SpkToUtts = {}
    for utt in files:
        spk_to_utts.setdefault(Path(utt).parent.name, []).append(utt)
    return spk_to_utts


def large_corpus() -> None:
    """Train and evaluate on HOURS of features. Raises ValueError if that takes more than MAX_GIGABYTES."""
    with tempfile.TemporaryDirectory() as folder, settings.override(FEATURE_STORE_DIR=folder):
        spk_to_utts = write_sparse_store(HOURS)
        neural_net.train_network(spk_to_utts, 20)
        print(f"Trained on {HOURS} hours at {len(myconfig.SPEEDS)} speeds: {peak_gigabytes():.2f} GB.", flush=True)
        evaluation.compute_scores(neural_net.get_speaker_encoder().eval(), spk_to_utts, myconfig.NUM_EVAL_TRIPLETS)
        print(f"Evaluated on {HOURS} hours: {peak_gigabytes():.2f} GB.", flush=True)
    if peak_gigabytes() > MAX_GIGABYTES:
        raise ValueError(f"{HOURS} hours took more than {MAX_GIGABYTES} GB of memory.")


def main() -> None:
    """Withstand it all."""
    parallel.prepare_process()
    with tempfile.TemporaryDirectory() as folder, settings.override(FEATURE_STORE_DIR=f"{folder}/features"):
        num_files = NUM_BROKEN_FILES_QUICK if options.quick else NUM_BROKEN_FILES
        print(f"Broken recordings: {stress_audio.hear_broken_corpus(Path(folder) / 'audio', num_files)}", flush=True)
    small = {"LSTM_HIDDEN_SIZE": 8, "BATCH_SIZE": 2, "SPEEDS": (1.0,), "UTTERANCES_PER_SPEAKER": 2}
    with (
        tempfile.TemporaryDirectory() as folder,
        settings.override(FEATURE_STORE_DIR=f"{folder}/features", **small),
    ):
        num_files = NUM_BROKEN_LISTS_QUICK if options.quick else NUM_BROKEN_LISTS
        print(f"Broken lists: {stress_parsing.parse_broken_files(Path(folder), num_files)}.", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        num_kills = NUM_KILLS_QUICK if options.quick else NUM_KILLS
        print(f"Killed: {stress_kill.soak(Path(folder), num_kills)}", flush=True)
    if not options.quick:
        large_corpus()


if __name__ == "__main__":
    settings.run(main)
