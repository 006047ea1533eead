"""Kills at any moment: training, evaluation and enrolment get SIGKILL at random times, again and again.

The same command must continue to the same result, bit for bit, and leave no half-written and no temporary files.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

import demo_data
from encoder.saved_models import read_model
from foundation.paths import PROJECT_DIR
from voices import database as speaker_database

NUM_SPEAKERS = 12
TRAINING = (
    "TRAIN_DATA_DIR=voices",
    "SAVED_MODEL_PATH=model.pt",
    "TRAINING_STEPS=40",
    "SAVE_MODEL_FREQUENCY=4",
    "LSTM_HIDDEN_SIZE=8",
    "BATCH_SIZE=4",
    "SEQ_LEN=40",
    "NUM_VALIDATION_SPEAKERS=2",
)


def commands() -> dict[str, list[str]]:
    """The commands to kill; all run in a folder of their own."""

    def python(script: str, *arguments: str) -> list[str]:
        return [sys.executable, str(PROJECT_DIR / script), *arguments]

    evaluation = ("TEST_DATA_DIR=voices", "SAVED_MODEL_PATH=reference.pt", "EVAL_TRIALS=all_pairs")
    enrolment = ("enrol", "Ann", "voices/s00", "--model", "reference.pt")
    return {
        "training": python("neural_net.py", *TRAINING),
        "evaluation": python("evaluation.py", *evaluation),
        "enrolment": python("speaker_id.py", *enrolment),
    }


def run_and_kill(command: list[str], folder: Path, seconds: float) -> bool:
    """Run a command for at most `seconds`; returns whether it finished. Raises AssertionError if it failed."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return False
    # If enrolment was killed after its last change, it has nothing left to do.
    assert process.returncode == 0 or "is enrolled already" in errors, errors
    return True


def same_weights(first: Path, second: Path) -> bool:
    """Whether two models have the same weights, bit for bit."""
    weights = [read_model(str(path))["encoder_state_dict"] for path in (first, second)]
    return all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def check_what_is_there(folder: Path) -> None:
    """Check that all files are complete and temporary files do not accumulate. Raises AssertionError or ValueError."""
    for path in folder.glob("*.pt"):
        read_model(str(path))
    if (folder / "results/results.json").exists():
        json.loads((folder / "results/results.json").read_text())
    if (folder / "speakers.db").exists():
        try:
            with speaker_database.open_database(str(folder / "speakers.db")) as connection:
                recordings = [row[1] for row in speaker_database.list_speakers(connection)]
            assert recordings == [len(list((folder / "voices/s00").rglob("*.flac")))], recordings
        except ValueError as error:
            assert "nobody is enrolled" in str(error), error
    assert len(list(folder.rglob("*.tmp"))) <= 4, "temporary files pile up"


def read_eer(folder: Path) -> float:
    """The EER that evaluation has written."""
    return json.loads((folder / "results/results.json").read_text())["eer"]


def start_over(name: str, folder: Path) -> None:
    """Delete the output of a command, so that it must start from the beginning."""
    made = {"training": ("data", "model*"), "evaluation": ("data", "results"), "enrolment": ("speakers.db*",)}
    for pattern in made[name]:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def soak(folder: Path, num_kills: int, seed: int = 0) -> str:
    """Kill the commands `num_kills` times in total; returns what happened. Raises AssertionError."""
    rng = np.random.default_rng(seed)
    for number in range(NUM_SPEAKERS):
        demo_data.write_speaker(folder / "voices" / f"s{number:02}", np.random.default_rng([3, number]))
    seconds = {}
    for name, command in commands().items():
        start = time.perf_counter()
        assert run_and_kill(command, folder, 600)
        seconds[name] = time.perf_counter() - start
        if name == "training":
            (folder / "model.pt").replace(folder / "reference.pt")
            (folder / "model.last.pt").replace(folder / "reference.last.pt")
    eer = read_eer(folder)
    kills = dict.fromkeys(seconds, 0)
    rounds = 0
    for name, command in commands().items():
        while kills[name] < num_kills / len(kills):
            start_over(name, folder)
            # Most of a run is imports, and its end matters most, so it is not killed in its first quarter.
            latest = 0.9
            while not run_and_kill(command, folder, rng.uniform(0.25, latest) * seconds[name]):
                kills[name] += 1
                latest += 0.1  # So that it finishes eventually.
                check_what_is_there(folder)
            check_what_is_there(folder)
            rounds += 1
            if name == "training":
                for ending in ("pt", "last.pt"):
                    assert same_weights(folder / f"model.{ending}", folder / f"reference.{ending}"), ending
            if name == "evaluation":
                assert read_eer(folder) == eer
    assert not list(folder.rglob("*.tmp"))
    return f"{kills} kills in {rounds} completed runs, all with the same weights and EER."
