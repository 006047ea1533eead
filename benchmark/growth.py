"""How the time of each task grows with the data: 1, 4 and 16 times as many speakers with as many recordings each."""

import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

import dataset
import evaluation
import feature_extraction
import feature_store
import neural_net
from audio import mono
from benchmark.timing import show_seconds
from encoder.inference import embed_store
from foundation import pictures, settings
from scoring.trials import all_pair_trials

TIMES = (1, 4, 16)
NUM_STEPS = 100
MOST_RECORDINGS = 10**4


def multiply(spk_to_utts: dataset.SpkToUtts, times: int, folder: Path) -> dataset.SpkToUtts:
    """Copies of a data set below a folder. Each copy begins 1 ms later, as the same audio is extracted only once."""
    copies: dataset.SpkToUtts = {}
    for copy in range(times):
        for utts in spk_to_utts.values():
            own = folder / f"{copy}-{len(copies)}"
            own.mkdir()
            copies[own.name] = [str(own / f"{number}.wav") for number in range(len(utts))]
            for utt, path in zip(utts, copies[own.name], strict=True):
                samples = mono.read_audio(utt)[16 * copy :]
                soundfile.write(path, samples, feature_extraction.SAMPLE_RATE)
    return copies


def seconds(function: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(spk_to_utts: dataset.SpkToUtts) -> dict[str, float]:
    """The seconds of each task with data whose features are not extracted yet."""
    extraction = seconds(lambda: feature_store.open_store(spk_to_utts))
    store = feature_store.open_store(spk_to_utts)
    neural_net.train_network(spk_to_utts, 2)  # Once before, as the first steps are slower.
    start_up = seconds(lambda: neural_net.train_network(spk_to_utts, 1))
    whole = seconds(lambda: neural_net.train_network(spk_to_utts, 1 + NUM_STEPS))
    encoder = neural_net.get_speaker_encoder().eval()
    embed_store(encoder, store, store.utts_of_speaker[0])  # Once before, as the first call is slower.
    embedding = seconds(lambda: embed_store(encoder, store))

    def evaluate() -> None:
        labels, enrol, test = all_pair_trials(store)
        evaluation.compute_eer(labels, evaluation.score_trials(encoder, store, enrol, test))

    return {
        "extracting features": extraction,
        "embedding": embedding,
        "embedding, scores and EER of all pairs": seconds(evaluate),
        "a training step": (whole - start_up) / NUM_STEPS,
    }


def draw_growth(spk_to_utts: dataset.SpkToUtts, path: str) -> None:
    """Print and draw the times of each task, with recordings of so many speakers that all pairs fit into memory."""
    total = np.cumsum([len(utts) for utts in spk_to_utts.values()])
    spk_to_utts = dict(list(spk_to_utts.items())[: np.count_nonzero(total * TIMES[-1] <= MOST_RECORDINGS)])
    columns = []
    for times in TIMES:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            (Path(folder) / "audio").mkdir()
            copies = multiply(spk_to_utts, times, Path(folder) / "audio")
            with settings.override(FEATURE_STORE_DIR=f"{folder}/features", SPEEDS=(1.0,), NUM_VALIDATION_SPEAKERS=0):
                columns.append(measure(copies))
    num_utts = [times * sum(map(len, spk_to_utts.values())) for times in TIMES]
    print(f"| what | {' | '.join(f'{number:,} recordings' for number in num_utts)} |\n|---{'|---' * len(TIMES)}|")
    for task in columns[0]:
        print(f"| {task} | {' | '.join(show_seconds(column[task]) for column in columns)} |")
    with pictures.style():
        figure = pictures.new_figure(figsize=(6.4, 4.2))
        axes = figure.subplots()
        for task, marker in zip(columns[0], "osD^", strict=True):
            axes.loglog(num_utts, [column[task] for column in columns], marker=marker, label=task)
        linear = [columns[0]["embedding"] * times for times in TIMES]
        axes.loglog(num_utts, linear, ":", color="0.5", label="in proportion to the recordings")
        axes.set_xticks(num_utts, [f"{number:,}" for number in num_utts])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set(title="Time by the amount of data", xlabel="recordings", ylabel="seconds")
        axes.legend()
        pictures.save(path, figure)
