"""What the tests share: a corpus of synthetic speakers, and a test with a folder and settings of its own."""

import atexit
import contextlib
import functools
import io
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch

import dataset
import demo_data
import feature_extraction
import neural_net
from foundation import parallel, script, setting_table, settings
from foundation.paths import PROJECT_DIR
from voices import recordings

RATE = feature_extraction.SAMPLE_RATE

# Far more than a command takes, also on a busy machine.
TIMEOUT_SECONDS = 900

# Settings with which the network reads each frame by itself.
NO_NEIGHBOURS = {"DELTAS": False, "STACKED_FRAMES": 1}


@functools.cache
def corpus() -> Path:
    """A folder with 24 training and 12 test speakers, synthesised once; it goes away when the tests end.

    Processes that the tests fork end before, and from Python 3.13 on, they do what is registered for the end, too.
    """
    folder, owner = tempfile.mkdtemp(), os.getpid()
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(folder, ignore_errors=True))
    for number in range(36):
        part = "train" if number < 24 else "test"
        demo_data.write_speaker(Path(folder) / part / f"s{number:02}", np.random.default_rng([7, number]))
    return Path(folder)


def calibration(*thresholds: float, rates: Sequence[float] = (0.01,), counts: Sequence[int] = (0, 1)) -> dict:
    """Thresholds for these false-accept rates, the same for all numbers of recordings; targets are from -1 to 1."""
    curves = {
        f"{first} {second}": [list(thresholds), np.linspace(-1, 1, 16).tolist()]
        for first in counts
        for second in counts
    }
    return {"source": "a test", "false_accept_rates": list(rates), "counts": list(counts), "curves": curves}


def layer_normalised(norm: torch.nn.LayerNorm, values: np.ndarray) -> np.ndarray:
    """What layer normalisation makes of values (..., channels), computed with NumPy."""
    centred = values - values.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    return scaled * norm.weight.detach().numpy() + norm.bias.detach().numpy()


class ProjectTest(unittest.TestCase):
    """Each test has a folder of its own, settings that are put back, and output that is kept from the screen.

    `typed` are those settings for a script's command line. Features are kept where the shared speakers are.
    """

    @classmethod
    def setUpClass(cls) -> None:
        parallel.prepare_process()  # As scripts do, whose results are compared with those of this process.

    def setUp(self) -> None:
        torch.manual_seed(0)  # New networks get their weights from PyTorch's generator.
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.dir = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        self.output = stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        values = {
            "FEATURE_STORE_DIR": str(corpus() / "features"),
            "RESULTS_DIR": str(self.dir / "results"),
            "SAVED_MODEL_PATH": str(self.dir / "model.pt"),
            "TRAIN_DATA_DIR": str(corpus() / "train"),
            "TEST_DATA_DIR": str(corpus() / "test"),
            "TRAIN_DATA_CSV": "",
            "TEST_DATA_CSV": "",
            "INITIAL_MODELS": "",
            "START_OVER": False,
            "DEVICE": "cpu",
            "LSTM_HIDDEN_SIZE": 8,
            "LSTM_LAYER_NORM": False,
            "ENSEMBLE_SIZE": 1,
            "TDNN_CHANNELS": 0,
            "BATCH_SIZE": 4,
            "SPEEDS": (1.0,),
            "SEQ_LEN": 40,
        }
        stack.enter_context(settings.override(**settings.all_settings() | values))
        # The recordings of many tests are tones and noise.
        stack.enter_context(
            unittest.mock.patch.object(recordings, "speech_shares", lambda pieces: np.ones(len(pieces)))
        )
        self.typed = [f"{name}={setting_table.display(value)}" for name, value in values.items()]

    def write_audio(self, name: str, seconds: float = 1.0, rate: int = RATE, seed: int = 0, **options) -> str:
        """Write a noisy tone, whose samples differ with the seed."""
        path = self.dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        tone = np.sin(np.arange(int(seconds * rate)) * 2 * np.pi * (200 + 10 * seed) / rate)
        soundfile.write(path, 0.3 * tone + 0.02 * rng.normal(size=len(tone)), rate, **options)
        return str(path)

    def write_speakers(self, num_speakers: int = 3, num_utts: int = 3, seconds: float = 2.0) -> dict[str, list[str]]:
        for speaker in range(num_speakers):
            for utt in range(num_utts):
                self.write_audio(f"data/s{speaker}/u{utt}.wav", seconds, seed=10 * speaker + utt)
        return dataset.get_librispeech_spk_to_utts(str(self.dir / "data"))

    def run_script(self, name: str, *arguments: str, **options) -> subprocess.CompletedProcess:
        """Run a script, or a module of a room, in the test's folder."""
        command = [str(PROJECT_DIR / name)] if name.endswith(".py") else ["-m", name]
        options = {"env": os.environ | {"PYTHONPATH": str(PROJECT_DIR)}} | options
        return subprocess.run(
            [sys.executable, *command, *arguments],
            cwd=self.dir,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            **options,
        )

    def run_here(self, main: Callable[[], None]) -> subprocess.CompletedProcess:
        """Run a script's `main` in this process, which spares the seconds that the imports take."""
        output, errors, code = io.StringIO(), io.StringIO(), 0
        streams = contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors)
        with streams[0], streams[1], unittest.mock.patch.object(signal, "signal"):
            try:
                script.run(main)
            except SystemExit as ending:
                code = ending.code
        if code == 130:  # The tests are to be stopped.
            raise KeyboardInterrupt
        return subprocess.CompletedProcess(main, code, output.getvalue(), errors.getvalue())

    def cut_off_each_file(self, run: Callable[[int], object]) -> Iterator[str]:
        """Do a run again and again: the first time its first file is cut off as by a kill, then the second, and so on.

        `run` is given the number of the file that is cut off. After each, it is run to its end, which must leave no
        temporary file, and the name of the file is yielded.
        """
        real_replace = Path.replace
        for number in itertools.count(1):
            written: list[str] = []

            def rename_or_die(temporary: Path, path: str | Path, number: int = number, written: list = written) -> None:
                written.append(Path(path).name)
                if len(written) == number:
                    os.link(temporary, f"{temporary}.left")  # Nobody removes it after a kill.
                    raise KeyError("killed")
                real_replace(temporary, path)

            with unittest.mock.patch.object(Path, "replace", rename_or_die), contextlib.suppress(KeyError):
                run(number)
            if len(written) < number:
                return
            for left in self.dir.rglob("*.left"):
                left.replace(left.with_suffix(""))
            run(number)
            self.assertEqual(list(self.dir.rglob("*.tmp*")), [], f"when {written[-1]} was cut off")
            yield written[-1]

    def write_bad_audio(self) -> dict[str, str]:
        """Files that cannot be used -> a word of the reason."""
        whole = Path(self.write_audio("whole.flac")).read_bytes()
        contents = {
            "text.wav": (b"this is no audio", "decoded"),
            "nothing.wav": (b"", "empty"),
            "truncated.flac": (whole[: len(whole) // 9], "shorter than one frame|decoded|empty"),
            "header_only.flac": (whole[:60], "decoded|empty"),
        }
        signals = {
            "empty.wav": (np.zeros(0), RATE, "empty"),
            "silent.wav": (np.zeros(RATE), RATE, "silent"),
            "constant.wav": (np.full(RATE, 0.5), RATE, "silent"),
            "nan.wav": (np.where(np.arange(RATE) == 99, np.nan, 0.1), RATE, "not numbers"),
            "infinite.wav": (np.where(np.arange(RATE) == 99, np.inf, 0.1), RATE, "not numbers"),
            "huge.wav": (1e21 * np.sin(np.arange(RATE)), RATE, "too large"),
            "short.wav": (np.sin(np.arange(500.0)), RATE, "shorter than one frame"),
            "slow.wav": (np.sin(np.arange(9999.0)), 1000, "1000 Hz"),
        }
        for name, (content, _) in contents.items():
            (self.dir / name).write_bytes(content)
        for name, (samples, rate, _) in signals.items():
            soundfile.write(self.dir / name, samples, rate, subtype="FLOAT")
        reasons = {name: word for name, (*_, word) in [*contents.items(), *signals.items()]}
        return {str(self.dir / name): word for name, word in {**reasons, "gone.wav": "does not exist"}.items()}


class TrainingTest(ProjectTest):
    """A test that trains on the shared speakers."""

    def train(self, num_steps: int, name: str = "model.pt", **values) -> list[float]:
        values = {"SAVE_MODEL_FREQUENCY": 4, "SAVED_MODEL_PATH": str(self.dir / name), **values}
        with settings.override(**values):
            spk_to_utts = dataset.get_librispeech_spk_to_utts(str(corpus() / "train"))
            return neural_net.train_network(spk_to_utts, num_steps, str(self.dir / name))

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return torch.load(self.dir / name, weights_only=True)["encoder_state_dict"]

    def assert_same_weights(self, first: str, second: str) -> None:
        for a, b in zip(self.weights(first).values(), self.weights(second).values(), strict=True):
            self.assertTrue(torch.equal(a, b))
