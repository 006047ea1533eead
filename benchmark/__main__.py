"""Compare the speed of this project with a straightforward implementation, in a Markdown table.

`python3 -m benchmark` times both in turns on the training and test data of the settings, in a few minutes; `--quick` is
less precise. `--minutes 30` instead trains the straightforward way for 30 minutes and reports how soon the project's
own training is as good; extracting its features is included.
"""

import sys

from foundation import script, settings

if __name__ == "__main__":
    script.begin()
    parser = script.OptionParser(prog="python3 -m benchmark", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller data")
    parser.add_argument("--minutes", type=float, default=0, help="minutes of straightforward training to compare with")
    parser.add_argument("settings", nargs="*", metavar="NAME=value", help="settings, as for every script")
    options = parser.parse_intermixed_args()
    sys.argv[1:] = options.settings
    settings.read_command_line(__doc__)

import contextlib
import io
import itertools
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable

import librosa
import numpy as np
import torch
from torch import nn

import dataset
import evaluation
import feature_extraction
import feature_store
import myconfig
import neural_net
from benchmark.start_up import measure_start_up
from benchmark.straightforward import (
    straightforward_crops,
    straightforward_features,
    straightforward_step,
    straightforward_sweep,
    straightforward_training,
    straightforward_trials,
)
from encoder_networks import LstmEncoder, SpeakerEncoder
from foundation import parallel
from trials import all_pair_trials

ENCODERS = {"2 x 64": (True, 64), "128": (False, 128), "2 x 128": (True, 128), "256": (False, 256)}
NUM_TRIPLETS, NUM_TRIALS = 10**4, 10**6

# ------------------------------------- Time to an EER -----------------------------------


def all_pairs_eer(encoder: SpeakerEncoder, spk_to_utts: dataset.SpkToUtts) -> float:
    """EER over all pairs of the test utterances."""
    store = feature_store.open_store(spk_to_utts)
    labels, enrol, test = all_pair_trials(store)
    return evaluation.compute_eer(labels, evaluation.score_trials(encoder.eval(), store, enrol, test))[0]


def catch_up(minutes: float) -> None:
    """Print the EER that the straightforward way reaches in `minutes`, and how soon the project reaches it."""
    train_data, test_data = dataset.get_spk_to_utts("TRAIN"), dataset.get_spk_to_utts("TEST")
    encoder = neural_net.get_speaker_encoder()
    num_steps = straightforward_training(encoder, train_data, 60 * minutes)
    goal = all_pairs_eer(encoder, test_data)
    print(f"Straightforward: EER {goal:.1%} after {minutes:g} minutes, {num_steps} steps.", flush=True)
    parallel.prepare_process()
    for num_steps in (125 * 2**doublings for doublings in itertools.count()):
        with tempfile.TemporaryDirectory() as folder, settings.override(TRAINING_STEPS=num_steps):
            start = time.perf_counter()
            with settings.override(FEATURE_STORE_DIR=folder):
                neural_net.train_network(train_data, num_steps, f"{folder}/model.pt")
            encoder = neural_net.load_encoder(f"{folder}/model.pt")
            seconds = time.perf_counter() - start
        eer = all_pairs_eer(encoder, test_data)
        print(f"neural_net.py: EER {eer:.1%} after {seconds:.0f} s, {num_steps} steps, features extracted.", flush=True)
        if eer <= goal or seconds > 60 * minutes:
            return


# --------------------------------------- The table --------------------------------------

# The task, the time that the straightforward way and this project take, and the ratio.
Row = tuple[str, str, str, str]


def median_seconds(*functions: Callable[[], object]) -> list[float]:
    """Median time of each function, called in turns; the first call of each does not count."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(4 if options.quick else 12):
        for function, of_function in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            of_function.append(time.perf_counter() - start)
    return [statistics.median(of_function[1:]) for of_function in times]


def compare(what: str, straightforward: float, here: float) -> Row:
    """A row of two times in seconds."""
    return what, show_seconds(straightforward), show_seconds(here), f"{straightforward / here:.1f} x"


def show_seconds(seconds: float) -> str:
    """A time with three digits and a unit."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def in_torch_threads(function: Callable[[], object]) -> Callable[[], object]:
    """The function, with PyTorch's own threads on all cores."""

    def call() -> None:
        torch.set_num_threads(myconfig.NUM_PROCESSES)
        function()
        torch.set_num_threads(1)

    return call


def mfcc_rows(files: list[str]) -> list[Row]:
    """MFCC of files with as many processes or threads as cores, and of a clip in memory."""
    clip = np.random.default_rng(0).normal(0, 0.1, 4 * feature_extraction.SAMPLE_RATE).astype(np.float32)
    rate, threads = feature_extraction.SAMPLE_RATE, parallel.thread_pool(myconfig.NUM_PROCESSES)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # In the processes, which would slow each other down.
    pool = multiprocessing.get_context("spawn").Pool
    with pool(myconfig.NUM_PROCESSES, settings.apply_override, [f"N_MFCC={myconfig.N_MFCC}"]) as processes:
        of_files = median_seconds(
            lambda: processes.map(straightforward_features, files, chunksize=8),
            lambda: list(threads.map(feature_extraction.extract_features, files)),
        )
    in_memory = median_seconds(
        lambda: librosa.feature.mfcc(y=clip, sr=rate, n_mfcc=myconfig.N_MFCC),
        lambda: feature_extraction.compute_mfcc(clip),
    )
    return [
        compare(f"MFCC of {len(files)} files, decoded, on all cores", *of_files),
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
            in_torch_threads(straightforward),
            network_step(torch.randn(*shape, myconfig.SEQ_LEN, myconfig.N_MFCC)),
            lambda: neural_net.train_network(spk_to_utts, 1),
            lambda: neural_net.train_network(spk_to_utts, 1 + num_steps),
        )
    step = (whole - start_up) / num_steps
    return [
        compare(f"training step of {shape[0]} x {shape[1]} crops, against one that extracts features", slow, step),
        (
            "network in a training step, against the whole",
            show_seconds(step),
            show_seconds(network),
            f"{network / step:.0%}",
        ),
    ]


def network_step(crops: torch.Tensor) -> Callable[[], None]:
    """A function that does forward, backward and optimiser on a new encoder of the settings' shape."""
    encoder = neural_net.get_speaker_encoder()
    optimizer = torch.optim.Adam(encoder.parameters())
    crops = crops.to(encoder.feature_mean.device)
    mixed_precision = myconfig.MIXED_PRECISION

    def step() -> None:
        with settings.override(MIXED_PRECISION=mixed_precision):
            loss = neural_net.get_triplet_losses(neural_net.embed_batch(encoder, crops)).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(encoder.parameters(), neural_net.MAX_GRADIENT_NORM)
            optimizer.step()
        if crops.device.type == "cuda":
            torch.cuda.synchronize()

    return step


def network_rows() -> list[Row]:
    """Steps of LSTMs of several shapes against the machine's float32 matrix products, and in bfloat16."""
    crops = torch.randn(32, 4, myconfig.SEQ_LEN, myconfig.N_MFCC)
    matrix = torch.randn(2048, 2048)
    rows = []
    for name, (bidirectional, units) in ENCODERS.items():
        kind = {"USE_TRANSFORMER": False, "ENSEMBLE_SIZE": 1, "BI_LSTM": bidirectional}
        with settings.override(**kind, LSTM_HIDDEN_SIZE=units, DEVICE="cpu"):
            with settings.override(MIXED_PRECISION=False):
                float32_step = network_step(crops)
            float32, bfloat16, product = median_seconds(
                float32_step, network_step(crops), in_torch_threads(lambda: matrix @ matrix)
            )
            weights = LstmEncoder().named_parameters()
            num_weights = sum(values.numel() for weight, values in weights if ".weight" in weight)
        # A multiply-add for each weight and frame, once forward and twice backward.
        roofline = 3 * num_weights * crops[..., 0].numel() * product / len(matrix) ** 3
        what, share = f"step of an LSTM of 3 x {name} units", f"{roofline / float32:.0%}"
        rows.append((f"float32 {what}, against matrix products", show_seconds(roofline), show_seconds(float32), share))
        if parallel.use_bfloat16(torch.device("cpu")):
            rows.append(compare(f"bfloat16 {what}, against float32", float32, bfloat16))
    return rows


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
        lambda: straightforward_sweep(*as_lists, few_thresholds), lambda: evaluation.compute_eer(labels, scores)
    )
    what = f"{NUM_TRIPLETS:,} triplets over {sum(map(len, spk_to_utts.values()))} utterances, against file after file"
    return [
        compare(f"{what}, nothing extracted yet", one_by_one, cold_seconds),
        compare(f"{what}, features extracted", one_by_one, warm_seconds),
        compare(f"threshold sweep over {NUM_TRIALS:,} trials, 1,000 thresholds against all", sweep * 1000 / 3, ours),
    ]


def gpu_rows() -> list[Row]:
    """A training step's network on a GPU, if there is one."""
    if not torch.cuda.is_available():
        return []
    crops = torch.randn(32, 4, myconfig.SEQ_LEN, myconfig.N_MFCC)
    steps = []
    for device in ("cpu", "cuda"):
        with settings.override(DEVICE=device):
            steps.append(network_step(crops))
    return [compare("network step on the GPU, against the CPU", *median_seconds(*steps))]


def start_up_rows(files: list[str]) -> list[Row]:
    """The processor time of commands, against that of loading PyTorch."""
    measured = measure_start_up(files, 1 if options.quick else 5)
    return [
        (
            f"{name}, against `import torch`, processor time",
            show_seconds(torch_alone),
            show_seconds(here),
            f"{here / torch_alone:.0%}",
        )
        for name, (torch_alone, here) in measured.items()
    ]


def print_table() -> None:
    """Time everything and print a Markdown table."""
    parallel.prepare_process()
    train_data, test_data = dataset.get_spk_to_utts("TRAIN"), dataset.get_spk_to_utts("TEST")
    test_files = [file for utts in test_data.values() for file in utts]
    rows = start_up_rows(test_files) + mfcc_rows(test_files[: 32 if options.quick else 400])
    rows += training_rows(train_data) + network_rows() + evaluation_rows(test_data) + gpu_rows()
    capability = torch.backends.cpu.get_cpu_capability()
    machine = f"{platform.system()} {platform.machine()} with {capability}, {myconfig.NUM_PROCESSES} cores"
    print(f"{machine}, PyTorch {torch.__version__}\n")
    print("| what | compared with | here | ratio |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def main() -> None:
    """Print the table, or the time to an EER."""
    with settings.override(AS_NORM=False):  # These networks have no cohort for it.
        if options.minutes:
            catch_up(options.minutes)
        else:
            print_table()


if __name__ == "__main__":
    script.run(main)
