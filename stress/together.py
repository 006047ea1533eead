"""Many at once: two models of other settings in many threads, and in processes that are forked between their calls."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

import demo_data
import evaluation
from encoder.networks import new_encoder
from encoder.saved_models import load_encoder, save_encoder
from foundation import settings

NUM_THREADS = 16
SETTINGS = ({"N_MFCC": 13, "HOP_LENGTH": 256, "STACKED_FRAMES": 1}, {"N_FFT": 512, "DELTAS": False})


def embed_together(folder: Path, rounds: int) -> str:
    """Embed the same recordings again and again; returns what happened. Raises AssertionError for a wrong embedding."""
    rng = np.random.default_rng(0)
    files = [str(folder / f"{number}.wav") for number in range(4)]
    for file in files:
        soundfile.write(file, demo_data.synthesise(demo_data.draw_voice(rng), 2, rng), demo_data.SAMPLE_RATE)
    models = []
    for number, values in enumerate(SETTINGS):
        save_encoder(str(folder / f"{number}.pt"), new_encoder(vars(settings.present(LSTM_HIDDEN_SIZE=16, **values))))
        models.append(load_encoder(folder / f"{number}.pt"))
    alone = [evaluation.embed_utterances(model, files) for model in models]

    def embed(number: int) -> float:
        own = number % len(models)
        return float(np.abs(evaluation.embed_utterances(models[own], files) - alone[own]).max())

    def exit_by_difference() -> None:
        os._exit(0 if embed(0) < 1e-5 else 1)

    num_forks = 0
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for _ in range(rounds):
            assert max(pool.map(embed, range(2 * NUM_THREADS))) < 1e-5
            if hasattr(os, "fork"):
                child = multiprocessing.get_context("fork").Process(target=exit_by_difference)
                child.start()
                child.join(60)
                child.kill()
                assert child.exitcode == 0, f"a forked process ended with {child.exitcode}"
                num_forks += 1
    return f"{rounds * 2 * NUM_THREADS} calls in {NUM_THREADS} threads and {num_forks} forked processes, all right."
