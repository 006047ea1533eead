"""Compare the speed of this project with a straightforward implementation, in a Markdown table.

`python3 -m benchmark` times both in turns on the training and test data of the settings, in a few minutes; `--quick` is
less precise.
"""

from foundation import script, settings

if __name__ == "__main__":
    script.begin()
    parser = script.OptionParser(prog="python3 -m benchmark", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller data")
    parser.add_argument("settings", nargs="*", metavar="NAME=value", help="settings, as for every script")
    options = parser.parse_args()
    settings.read_command_line(__doc__, arguments=options.settings)

import contextlib
import io
import multiprocessing
import os
import platform
import tempfile

import librosa
import numpy as np
import torch

import augmentation
import dataset
import evaluation
import feature_extraction
import myconfig
import neural_net
from benchmark.networks import gpu_rows, network_rows, network_step
from benchmark.peers import peer_rows
from benchmark.start_up import measure_start_up
from benchmark.straightforward import (
    straightforward_crops,
    straightforward_features,
    straightforward_speeds,
    straightforward_step,
    straightforward_sweep,
    straightforward_trials,
)
from benchmark.timing import Row, compare, in_torch_threads, median_seconds, share
from foundation import parallel, threads

NUM_TRIPLETS, NUM_TRIALS = 10**4, 10**6
ROUNDS = 3 if options.quick else 11


def mfcc_rows(files: list[str]) -> list[Row]:
    """MFCC of files with as many processes or threads as cores, and of a clip in memory."""
    clip = np.random.default_rng(0).normal(0, 0.1, 4 * feature_extraction.SAMPLE_RATE).astype(np.float32)
    rate, own_threads = feature_extraction.SAMPLE_RATE, threads.thread_pool(myconfig.NUM_PROCESSES)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # In the processes, which would slow each other down.
    pool = multiprocessing.get_context("spawn").Pool
    number = [f"N_MFCC={myconfig.N_MFCC}"]
    with threads.one_thread_each, pool(myconfig.NUM_PROCESSES, settings.apply_override, number) as processes:
        of_files = median_seconds(
            ROUNDS,
            lambda: processes.map(straightforward_features, files, chunksize=8),
            lambda: list(own_threads.map(feature_extraction.extract_features, files)),
        )
    in_memory = median_seconds(
        ROUNDS,
        lambda: librosa.feature.mfcc(y=clip, sr=rate, n_mfcc=myconfig.N_MFCC),
        lambda: feature_extraction.compute_mfcc_fast(clip, feature_extraction.feature_settings()),
    )
    few = files[:8]
    wanted = feature_extraction.feature_settings()
    at_speeds = median_seconds(
        ROUNDS,
        lambda: [straightforward_speeds(file) for file in few],
        lambda: [augmentation.features_at_speeds(file, wanted, myconfig.SPEEDS, []) for file in few],
    )
    return [
        compare(f"MFCC of {len(files)} files, decoded, on all cores", *of_files),
        compare(f"MFCC of {len(few)} files at {len(myconfig.SPEEDS)} speeds, decoded, on one core", *at_speeds),
        compare("MFCC of a clip of 4 s in memory, on one core", *in_memory),
    ]


def training_rows(spk_to_utts: dataset.SpkToUtts) -> list[Row]:
    """A training step from files to weights, and how much of it the network takes."""
    utts_of_speaker: list[dataset.Utts] = list(spk_to_utts.values())
    encoder = neural_net.get_speaker_encoder()
    optimizer = torch.optim.Adam(encoder.parameters())
    rng = np.random.default_rng(0)
    shape = (min(myconfig.BATCH_SIZE, len(spk_to_utts)), myconfig.UTTERANCES_PER_SPEAKER)

    def straightforward() -> None:
        files = dataset.draw_speaker_batch(utts_of_speaker, *shape, rng).ravel().tolist()
        crops = straightforward_crops(files, myconfig.SEQ_LEN, rng)
        straightforward_step(encoder, optimizer, crops.unflatten(0, shape))

    num_steps = 10 if options.quick else 40
    with settings.override(SEQ_LEN_JITTER=0.0, NUM_VALIDATION_SPEAKERS=0), contextlib.redirect_stdout(io.StringIO()):
        slow, network, start_up, whole = median_seconds(
            ROUNDS,
            in_torch_threads(straightforward),
            network_step(torch.randn(*shape, myconfig.SEQ_LEN, myconfig.N_MFCC)),
            lambda: neural_net.train_network(spk_to_utts, 1),
            lambda: neural_net.train_network(spk_to_utts, 1 + num_steps),
        )
    step = (whole - start_up) / num_steps
    return [
        compare(f"training step of {shape[0]} x {shape[1]} crops, against one that extracts features", slow, step),
        share("network in a training step, against the whole", step, network),
    ]


def evaluation_rows(spk_to_utts: dataset.SpkToUtts) -> list[Row]:
    """10,000 triplets, the straightforward way timed on some of them; and a sweep over a million trials."""
    encoder = neural_net.get_speaker_encoder().eval()
    rng = np.random.default_rng(0)
    triplets = [dataset.get_triplet(spk_to_utts, rng) for _ in range(20)]

    def cold() -> None:
        with tempfile.TemporaryDirectory() as folder, settings.override(FEATURE_STORE_DIR=folder):
            evaluation.compute_scores(encoder, spk_to_utts, NUM_TRIPLETS)

    with contextlib.redirect_stdout(io.StringIO()):
        sample, cold_seconds, warm_seconds = median_seconds(
            ROUNDS,
            in_torch_threads(lambda: straightforward_trials(encoder, triplets)),
            cold,
            lambda: evaluation.compute_scores(encoder, spk_to_utts, NUM_TRIPLETS),
        )
    one_by_one = sample / len(triplets) * NUM_TRIPLETS

    labels = np.tile([1, 0], NUM_TRIALS // 2)
    scores = np.clip(rng.normal(0.5 * labels, 0.3), -1, 1)
    as_lists = labels.tolist(), scores.tolist()
    few_thresholds = np.linspace(-1, 1, 3).tolist()
    sweep, ours = median_seconds(
        ROUNDS, lambda: straightforward_sweep(*as_lists, few_thresholds), lambda: evaluation.compute_eer(labels, scores)
    )
    what = f"{NUM_TRIPLETS:,} triplets over {sum(map(len, spk_to_utts.values()))} utterances, against file after file"
    return [
        compare(f"{what}, nothing extracted yet", one_by_one, cold_seconds),
        compare(f"{what}, features extracted", one_by_one, warm_seconds),
        compare(f"threshold sweep over {NUM_TRIALS:,} trials, 1,000 thresholds against all", sweep * 1000 / 3, ours),
    ]


def start_up_rows(files: list[str]) -> list[Row]:
    """The processor time of commands, against that of loading PyTorch."""
    measured = measure_start_up(files, 1 if options.quick else 5)
    return [
        share(f"processor time of {name}, against `import torch`", torch_alone, here)
        for name, (torch_alone, here) in measured.items()
    ]


@settings.override(AS_NORM=False)  # These networks have no cohort for it.
def main() -> None:
    """Time everything and print a Markdown table."""
    parallel.prepare_process()
    train_data, test_data = dataset.get_spk_to_utts("TRAIN"), dataset.get_spk_to_utts("TEST")
    test_files = [file for utts in test_data.values() for file in utts]
    rows = start_up_rows(test_files) + mfcc_rows(test_files[: 32 if options.quick else 400])
    rows += peer_rows(test_files[: 32 if options.quick else 1000], 1 if options.quick else 3)
    rows += training_rows(train_data) + network_rows(ROUNDS) + evaluation_rows(test_data) + gpu_rows(ROUNDS)
    capability = torch.backends.cpu.get_cpu_capability()
    machine = f"{platform.system()} {platform.machine()} with {capability}, {myconfig.NUM_PROCESSES} cores"
    print(f"{machine}, PyTorch {torch.__version__}\n")
    print("| what | compared with | here | ratio |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    script.run(main)
