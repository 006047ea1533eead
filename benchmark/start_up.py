"""The processor time of whole commands, which users wait for, against that of loading PyTorch."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from foundation.paths import PROJECT_DIR


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
    with tempfile.TemporaryDirectory() as folder:
        database = ["--db", str(Path(folder) / "speakers.db")]
        commands = {
            "torch": ["-c", "import torch"],
            "speaker_id.py verify, two recordings": [script, "verify", first, second],
            "speaker_id.py identify, one recording": [script, "identify", second, *database],
            "speaker_id.py list": [script, "list", *database],
            "a mistake in the files of speaker_id.py": [script, "verify", "gone.wav", second],
            "evaluation.py --help": [str(PROJECT_DIR / "evaluation.py"), "--help"],
        }
        processor_seconds([script, "enrol", "Ann", first, *database])
        rows = [[processor_seconds(arguments) for arguments in commands.values()] for _ in range(rounds)]
    torch_alone, *others = map(statistics.median, zip(*rows, strict=True))
    return {name: (torch_alone, own) for name, own in zip(list(commands)[1:], others, strict=True)}
