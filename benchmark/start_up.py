"""The processor time of whole commands, which users wait for, against that of loading PyTorch."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

import demo_data

PROJECT_DIR = Path(__file__).parents[1]


def processor_seconds(arguments: Sequence[str]) -> float:
    """The processor time of a Python process, or where the system does not tell it, its duration."""
    start, before = time.perf_counter(), os.times()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, check=False)
    after = os.times()
    used = after.children_user - before.children_user + after.children_system - before.children_system
    return used or time.perf_counter() - start


def measure_start_up(files: Sequence[str], rounds: int) -> dict[str, tuple[float, float]]:
    """Command -> the median seconds that `import torch` and the command take, one after the other in each round."""
    script = str(PROJECT_DIR / "speaker_id.py")
    first, second = (str(Path(file).absolute()) for file in files[:2])
    commands = {
        "speaker_id.py verify, two recordings": [script, "verify", first, second],
        "speaker_id.py list": [script, "list"],
        "a mistake in the files of speaker_id.py": [script, "verify", "gone.wav", second],
        "evaluation.py --help": [str(PROJECT_DIR / "evaluation.py"), "--help"],
    }
    times: dict[str, list[float]] = {name: [] for name in ("torch", *commands)}
    for _ in range(rounds):
        times["torch"].append(processor_seconds(["-c", "import torch"]))
        for name, arguments in commands.items():
            times[name].append(processor_seconds(arguments))
    medians = {name: statistics.median(of_name) for name, of_name in times.items()}
    return {name: (medians["torch"], medians[name]) for name in commands}


def enrol_gigabytes(hours: int) -> float:
    """The peak memory of enrolling one recording of so many hours; NaN where the system does not tell it."""
    if os.name == "nt":
        return float("nan")
    rng = np.random.default_rng(0)
    voice = demo_data.synthesise(demo_data.draw_voice(rng), 60, rng)
    with tempfile.TemporaryDirectory() as folder:
        with soundfile.SoundFile(f"{folder}/long.flac", "w", demo_data.SAMPLE_RATE, 1) as file:
            for _ in range(60 * hours):
                file.write(voice)
        command = [sys.executable, str(PROJECT_DIR / "speaker_id.py"), "enrol", "Ann", "long.flac"]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        # The one way to wait that tells the memory of this process alone.
        _, status, used = os.wait4(process.pid, 0)
        _, errors = process.communicate()
    if status:
        raise ChildProcessError(f"{' '.join(command)}: {errors.decode()}")
    return used.ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
