"""Verify the set-up and every script: `python3 tests.py`. Needs no network and no data, and leaves nothing behind."""

import ast
import concurrent.futures
import contextlib
import csv
import hashlib
import http.server
import importlib.metadata
import importlib.util
import io
import itertools
import json
import math
import os
import re
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import unittest
import unittest.mock
import urllib.error
import urllib.parse
import urllib.request
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import sklearn.metrics
import soundfile
import soxr
import torch

import augmentation
import conditions
import dataset
import demo_data
import download_data
import evaluation
import feature_extraction
import feature_store
import generate_csv
import ladder
import metrics
import model_file
import myconfig
import neural_net
import parallel
import recordings
import safe_files
import score_normalization
import script
import settings
import speaker_database
import speaker_encoder
import speaker_id
import speaker_timeline
import voice_map
from training_progress import TrainingProgress

PROJECT_DIR = Path(__file__).resolve().parent
RATE = feature_extraction.SAMPLE_RATE


def setUpModule() -> None:
    """Synthesise the speakers that many tests share, in a folder that goes away with them."""
    global corpus
    parallel.prepare_process()  # As scripts do, whose results are compared with those of this process.
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    unittest.addModuleCleanup(folder.cleanup)
    corpus = Path(folder.name)
    for number in range(36):
        part = "train" if number < 24 else "test"
        demo_data.write_speaker(corpus / part / f"s{number:02}", np.random.default_rng([7, number]))


class ProjectTest(unittest.TestCase):
    """Each test has a folder of its own, settings that are put back, and output that is kept from the screen.

    `typed` are those settings for a script's command line. Features are kept where the shared speakers are.
    """

    def setUp(self) -> None:
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.dir = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        self.output = stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        values = {
            "FEATURE_STORE_DIR": str(corpus / "features"),
            "RESULTS_DIR": str(self.dir / "results"),
            "SAVED_MODEL_PATH": str(self.dir / "model.pt"),
            "TRAIN_DATA_DIR": str(corpus / "train"),
            "TEST_DATA_DIR": str(corpus / "test"),
            "TRAIN_DATA_CSV": "",
            "TEST_DATA_CSV": "",
            "INITIAL_MODELS": "",
            "START_OVER": False,
            "DEVICE": "cpu",
            "LSTM_HIDDEN_SIZE": 8,
            "ENSEMBLE_SIZE": 1,
            "BATCH_SIZE": 4,
            "SPEEDS": (1.0,),
            "SEQ_LEN": 40,
        }
        stack.enter_context(settings.override(**values))
        self.typed = [f"{name}={settings.display(value)}" for name, value in values.items()]

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
        return subprocess.run(
            [sys.executable, str(PROJECT_DIR / name), *arguments],
            cwd=self.dir,
            capture_output=True,
            text=True,
            timeout=120,
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


class SetUpTest(unittest.TestCase):
    """The packages and data folders that the settings need are there."""

    def test_requirements_are_installed(self) -> None:
        for line in (PROJECT_DIR / "requirements.txt").read_text().splitlines():
            if line and not line.startswith("#"):
                name, lowest = line.split(">=")
                installed = [int(number) for number in re.findall(r"\d+", importlib.metadata.version(name))]
                self.assertGreaterEqual(installed, [int(number) for number in lowest.split(".")], line)

    def test_configured_data_can_be_read(self) -> None:
        for part, demo_dir in (("TRAIN", demo_data.TRAIN_DIR), ("TEST", demo_data.TEST_DIR)):
            with self.subTest(part=part):
                if not getattr(myconfig, f"{part}_DATA_CSV"):
                    data_dir = Path(getattr(myconfig, f"{part}_DATA_DIR"))
                    if data_dir == demo_dir:
                        self.skipTest(f"{part}_DATA_DIR is the demonstration's, which is built when needed")
                spk_to_utts = dataset.get_spk_to_utts(part)
                self.assertGreaterEqual(len(spk_to_utts), 2, "at least two speakers are needed")
                feature_extraction.extract_features(next(iter(spk_to_utts.values()))[0])

    def test_scripts_import_each_other_without_cycles(self) -> None:
        names = {path.stem for path in PROJECT_DIR.glob("*.py")}
        imports = {}
        for name in names:
            tree = ast.parse((PROJECT_DIR / f"{name}.py").read_text(encoding="utf-8"))
            found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
            found |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            imports[name] = found & names
        while imports:
            free = [name for name, found in imports.items() if not found & imports.keys()]
            self.assertTrue(free, f"a cycle of imports among {sorted(imports)}")
            for name in free:
                del imports[name]


class SafeFilesTest(ProjectTest):
    def test_a_file_is_replaced_whole_or_not_at_all(self) -> None:
        path = self.dir / "folder" / "file"
        with safe_files.replace_when_whole(path) as file:
            file.write(b"first")
        with contextlib.suppress(KeyError), safe_files.replace_when_whole(path) as file:
            file.write(b"sec")
            raise KeyError
        self.assertEqual(path.read_bytes(), b"first")
        self.assertEqual(list(path.parent.iterdir()), [path])

    def test_a_folder_that_cannot_be_written_is_an_error(self) -> None:
        (self.dir / "file").touch()
        with self.assertRaises(OSError), safe_files.replace_when_whole(self.dir / "file" / "model.pt"):
            pass


class SettingsTest(ProjectTest):
    def test_values_get_the_type_of_the_default(self) -> None:
        cases = {
            "TRAINING_STEPS=7": 7,
            "LEARNING_RATE=1e-3": 0.001,
            "BI_LSTM=true": True,
            "BI_LSTM=0": False,
            "SPEEDS=1.0,1.2": (1.0, 1.2),
            "RESULTS_DIR=a=b c": "a=b c",
        }
        for argument, expected in cases.items():
            with self.subTest(argument), settings.override():
                settings.apply_override(argument)
                value = getattr(myconfig, argument.split("=")[0])
                self.assertEqual((value, type(value)), (expected, type(expected)))
        with settings.override(GAIN_AUGMENTATION_DB=0):  # As it may be written in myconfig.py.
            settings.apply_override("GAIN_AUGMENTATION_DB=2.5")
            self.assertEqual(myconfig.GAIN_AUGMENTATION_DB, 2.5)
        settings.typed_names.clear()

    def test_mistakes_are_named(self) -> None:
        cases = {
            "BATCHSIZE=8": "Did you mean BATCH_SIZE",
            "n_mfcc=8": "Did you mean N_MFCC",
            "N_MFCC": "N_MFCC=40",
            "N_MFCC=many": "a whole number from 1 to 512",
            "N_MFCC=4.5": "a whole number",
            "BI_LSTM=maybe": "one of False, True",
            "SPEEDS=fast": "a list of numbers",
        }
        for argument, message in cases.items():
            with self.subTest(argument), self.assertRaisesRegex(ValueError, message):
                settings.apply_override(argument)

    def test_mistakes_in_myconfig_are_named(self) -> None:
        with self.assertRaisesRegex(ValueError, "'TRAINING_STEP'. Did you mean TRAINING_STEPS"):
            settings.check(settings.all_settings() | {"TRAINING_STEP": 20})
        values = settings.all_settings()
        del values["SEED"]
        with self.assertRaisesRegex(ValueError, "SEED is missing in myconfig.py"):
            settings.check(values)

    def test_impossible_values_are_refused(self) -> None:
        cases = [
            {"N_MFCC": 0},
            {"N_MFCC": "40"},
            {"N_MFCC": True},
            {"N_MFCC": 200},
            {"LEARNING_RATE": math.nan},
            {"BI_LSTM": "False"},
            {"BI_LSTM": 1},
            {"DEVICE": "tpu"},
            {"SAVED_MODEL_PATH": "model.pth"},
            {"SAVED_MODEL_PATH": "model.last.pt"},
            {"HOP_LENGTH": 4096},
            {"BATCH_SIZE": 1},
            {"SPEEDS": (0.9, 1.1)},
            {"SPEEDS": (1.0, 1.0)},
            {"SPEEDS": ()},
            {"SPEEDS": 1.0},
            {"N_MFCC": (40,)},
            {"TRAIN_DATA_DIR": ""},
            {"EVAL_THRESHOLD_STEP": 1e-12},
            {"EVAL_TRIALS": "all-pairs"},
            {"SPECAUG_TRAINING": True, "SPECAUG_TIME_MASK_MAX_WIDTH": 30, "SEQ_LEN_JITTER": 0.5},
        ]
        settings.check(settings.all_settings())
        settings.check_training(settings.all_settings())
        for values in cases:
            with self.subTest(**values), settings.override(**values), self.assertRaises(ValueError):
                settings.check(settings.all_settings())
                settings.check_training(settings.all_settings())

    def test_every_setting_is_checked_and_explained(self) -> None:
        lines = settings.help_text("A script.").splitlines()
        for name, value in settings.all_settings().items():
            self.assertIn(f"  {name}={settings.display(value)}", lines)
            if not isinstance(value, str):
                self.assertTrue(name in settings.LIMITS or name in settings.CHOICES, name)
        self.assertIn("      Number of optimiser steps.", lines)

    def test_help_and_mistakes_answer_before_torch_is_loaded(self) -> None:
        (self.dir / "torch.py").write_text("raise SystemExit('torch was loaded')")
        environment = {**os.environ, "PYTHONPATH": str(self.dir)}
        for name in ("neural_net.py", "evaluation.py"):
            answer = self.run_script(name, "--help", env=environment)
            self.assertEqual((answer.returncode, answer.stderr), (0, ""))
            self.assertIn("TRAINING_STEPS=", answer.stdout)
            answer = self.run_script(name, "TRAINING_STEP=3", env=environment)
            self.assertEqual(answer.returncode, 2)
            self.assertEqual(answer.stderr.count("\n"), 1)
            self.assertIn("TRAINING_STEPS", answer.stderr)

    def test_override_puts_settings_back(self) -> None:
        before = settings.all_settings()
        with contextlib.suppress(KeyError), settings.override(N_MFCC=3):
            self.assertEqual(myconfig.N_MFCC, 3)
            raise KeyError
        self.assertEqual(settings.all_settings(), before)
        with self.assertRaises(ValueError), settings.override(NO_SUCH_SETTING=3):
            pass


class DatasetTest(ProjectTest):
    def test_folders_give_speakers_and_sorted_files(self) -> None:
        names = ["b/2/y.FLAC", "b/1/z.wav", "a b/é ü/x 'q.ogg", "b/notes.txt", "b/.hidden.wav", "loose.wav"]
        names.append(".trash/a.wav")
        for name in names:
            path = self.dir / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        spk_to_utts = dataset.get_librispeech_spk_to_utts(str(self.dir / "data"))
        expected = {"a b": [names[2]], "b": [names[1], names[0]]}
        self.assertEqual(spk_to_utts, {s: [str(self.dir / "data" / n) for n in ns] for s, ns in expected.items()})

    def test_missing_or_empty_folder_is_an_error(self) -> None:
        (self.dir / "empty").mkdir()
        with settings.override(TRAIN_DATA_DIR=str(self.dir / "missing")), self.assertRaisesRegex(ValueError, "missing"):
            dataset.get_spk_to_utts("TRAIN")
        with settings.override(TRAIN_DATA_DIR=str(self.dir / "empty")), self.assertRaisesRegex(ValueError, "empty"):
            dataset.get_spk_to_utts("TRAIN")

    def test_a_typed_folder_is_not_silently_overruled_by_a_list(self) -> None:
        self.addCleanup(settings.typed_names.clear)
        with settings.override(TEST_DATA_CSV="list.csv"):
            settings.apply_override(f"TEST_DATA_DIR={self.dir}")
            with self.assertRaisesRegex(ValueError, "TEST_DATA_CSV=list.csv is used instead"):
                dataset.get_spk_to_utts("TEST")
            settings.apply_override("TEST_DATA_CSV=typed.csv")
            with self.assertRaisesRegex(ValueError, "no .*typed.csv|typed.csv .*not"):
                dataset.get_spk_to_utts("TEST")

    def read_csv(self, content: bytes) -> dict[str, list[str]]:
        (self.dir / "list.csv").write_bytes(content)
        return dataset.get_csv_spk_to_utts(str(self.dir / "list.csv"))

    def test_csv_forms(self) -> None:
        for name in ("x.wav", "y, z.wav", "é.wav"):
            (self.dir / name).touch()
        expected = {"1": [str(self.dir / "x.wav")], "b": [str(self.dir / "y, z.wav"), str(self.dir / "é.wav")]}
        rows = ["1,x.wav", 'b,"y, z.wav"', f"b, {self.dir / 'é.wav'}"]
        for head, end in ((b"", "\n"), (b"\xef\xbb\xbf", "\r\n"), (b"Speaker,Path\n", "\n"), (b"\n", "\n\n")):
            with self.subTest(head=head, end=end):
                self.assertEqual(self.read_csv(head + end.join(rows).encode()), expected)
        self.assertEqual(self.read_csv(b"1,x.wav\n1,x.wav\n"), {"1": [str(self.dir / "x.wav")]})

    def test_csv_faults_name_the_line(self) -> None:
        (self.dir / "x.wav").touch()
        (self.dir / "y.wav").touch()
        cases = {
            b"1,x.wav\n2\n": "line 2",
            b"1,x.wav,3,4\n": "line 1",
            b"1,x.wav,f\n1,y.wav,m\n": "line 2.*two groups",
            b"1;x.wav\n": "line 1",
            b"1,x.wav\n,x.wav\n": "line 2",
            b"1,x.wav\n1,gone.wav\n": "line 2.*gone.wav",
            b"1,x.wav\n2,x.wav\n": "line 2.*speaker '1'",
            b"": "lists no files",
            b"speaker,path\n": "lists no files",
            b"1,\xff\xfe.wav\n": "UTF-8",
        }
        for content, message in cases.items():
            with self.subTest(content), self.assertRaisesRegex(ValueError, message):
                self.read_csv(content)
        with self.assertRaisesRegex(ValueError, "no CSV file"):
            dataset.get_csv_spk_to_utts(str(self.dir / "gone.csv"))

    def test_triplets_are_two_of_one_speaker_and_one_of_another(self) -> None:
        spk_to_utts = {"a": ["a1", "a2"], "b": ["b1", "b2", "b3"], "c": ["c1"]}
        rng = np.random.default_rng(0)
        triplets = [dataset.get_triplet(spk_to_utts, rng) for _ in range(300)]
        for anchor, pos, neg in triplets:
            self.assertEqual(anchor[0], pos[0])
            self.assertNotEqual(anchor[0], neg[0])
            self.assertTrue(anchor != pos or anchor == "c1")
        self.assertEqual({utt for triplet in triplets for utt in triplet}, {"a1", "a2", "b1", "b2", "b3", "c1"})
        self.assertEqual(len(dataset.get_triplet(spk_to_utts)), 3)
        with self.assertRaisesRegex(ValueError, "two speakers"):
            dataset.get_triplet({"a": ["a1", "a2"]})

    def test_a_batch_is_of_one_corpus_and_filled_up_where_that_is_too_small(self) -> None:
        corpus_of_speaker = np.array([*"aaaaaabbbbbbcc"])
        seconds = np.where(corpus_of_speaker == "a", 20.0, 10.0)
        drawn = []
        with settings.override(ONE_CORPUS_BATCHES=1.0, MAX_SPEECH_SECONDS=32.0):
            for seed in range(300):
                rng = np.random.default_rng(seed)
                weights = dataset.draw_speaker_weights(seconds, corpus_of_speaker, rng)
                batch = dataset.draw_speaker_batch(np.arange(14)[:, None], 4, 2, rng, weights)[:, 0]
                drawn.append("".join(sorted(corpus_of_speaker[batch])))
        self.assertTrue({"aaaa", "bbbb"} <= set(drawn) <= {"aaaa", "bbbb", "aacc", "abcc", "bbcc"})
        # By what they say: 120 s, 60 s and 20 s.
        self.assertAlmostEqual(drawn.count("aaaa") / 300, 0.6, delta=0.1)
        self.assertAlmostEqual(drawn.count("bbbb") / 300, 0.3, delta=0.1)

    def test_speaker_batch_has_distinct_speakers_and_repeats_only_what_it_must(self) -> None:
        utts_of_speaker = [np.arange(0, 5), np.arange(5, 7), np.arange(7, 8)]
        batch = dataset.draw_speaker_batch(utts_of_speaker, 8, 4, np.random.default_rng(0))
        self.assertEqual(batch.shape, (3, 4))
        counts = sorted(tuple(sorted(np.unique(row, return_counts=True)[1])) for row in batch)
        self.assertEqual(counts, [(1, 1, 1, 1), (2, 2), (4,)])
        self.assertEqual(len({utt // 5 + utt // 7 for utt in batch[:, 0]}), 3)


class FeatureExtractionTest(ProjectTest):
    def test_mfcc_is_librosas(self) -> None:
        samples = np.random.default_rng(0).normal(size=3 * RATE).astype(np.float32) * np.hanning(3 * RATE)
        samples = samples.astype(np.float32)
        for values in ({}, {"N_MFCC": 20, "N_FFT": 512, "HOP_LENGTH": 160, "N_MELS": 64}):
            with self.subTest(**values), settings.override(**values):
                expected = librosa.feature.mfcc(
                    y=samples,
                    sr=RATE,
                    n_mfcc=myconfig.N_MFCC,
                    n_fft=myconfig.N_FFT,
                    hop_length=myconfig.HOP_LENGTH,
                    n_mels=myconfig.N_MELS,
                )
                mfcc = feature_extraction.compute_mfcc(samples)
                self.assertEqual(mfcc.dtype, np.float32)
                np.testing.assert_allclose(mfcc, expected.T, atol=1e-3)
                with settings.override(CEPSTRAL_MEAN_NORMALIZATION=True):
                    mfcc = feature_extraction.compute_mfcc(samples)
                np.testing.assert_allclose(mfcc, (expected - expected.mean(axis=1, keepdims=True)).T, atol=2e-3)

    def test_long_audio_in_blocks_is_librosas(self) -> None:
        seconds = 2.5 * feature_extraction.BLOCK_FRAMES * myconfig.HOP_LENGTH / RATE
        samples = feature_extraction.read_audio(self.write_audio("long.wav", seconds))
        expected = librosa.feature.mfcc(y=samples, sr=RATE, n_mfcc=myconfig.N_MFCC)
        np.testing.assert_allclose(feature_extraction.compute_mfcc(samples), expected.T, atol=1e-3)

    def test_every_format_rate_and_channel_count_is_read(self) -> None:
        reference = feature_extraction.read_audio(self.write_audio("reference.wav", subtype="FLOAT"))
        self.assertEqual((reference.dtype, len(reference)), (np.float32, RATE))
        for name, options in {
            "8bit.wav": {"subtype": "PCM_U8"},
            "24bit.flac": {"subtype": "PCM_24"},
            "64bit.wav": {"subtype": "DOUBLE"},
            "music.mp3": {},
            "vorbis.ogg": {},
            "opus.ogg": {"subtype": "OPUS"},
            "apple.aiff": {},
            "no_ending": {"format": "WAV"},
        }.items():
            with self.subTest(name):
                samples = feature_extraction.read_audio(self.write_audio(name, **options))
                self.assertLess(abs(len(samples) - RATE), 0.1 * RATE)
                spectra = [np.abs(np.fft.rfft(signal, RATE)) for signal in (samples, reference)]
                self.assertEqual(np.argmax(spectra[0]), np.argmax(spectra[1]))
        for rate in (4000, 8000, 44100, 192000):
            with self.subTest(rate=rate):
                samples = feature_extraction.read_audio(self.write_audio("rate.wav", rate=rate))
                self.assertLessEqual(abs(len(samples) - RATE), 1)
                self.assertEqual(np.argmax(np.abs(np.fft.rfft(samples, RATE))), 200)
        channels = np.random.default_rng(0).uniform(-0.5, 0.5, (RATE, 8)).astype(np.float32)
        soundfile.write(self.dir / "channels.wav", channels, RATE, subtype="FLOAT")
        samples = feature_extraction.read_audio(str(self.dir / "channels.wav"))
        np.testing.assert_allclose(samples, channels.mean(axis=1), atol=1e-6)

    def write_bad_audio(self) -> dict[str, str]:
        """Files that cannot be used -> a word of the reason."""
        whole = Path(self.write_audio("whole.flac")).read_bytes()
        contents = {
            "text.wav": (b"this is no audio", "decoded"),
            "nothing.wav": (b"", "decoded"),
            "truncated.flac": (whole[: len(whole) // 2], "decoded"),
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

    def test_unusable_files_say_why(self) -> None:
        for path, word in self.write_bad_audio().items():
            with self.subTest(path), self.assertRaisesRegex(ValueError, f"{re.escape(Path(path).name)}.*({word})"):
                feature_extraction.extract_features(path)

    def test_clipped_audio_is_used(self) -> None:
        soundfile.write(self.dir / "clipped.wav", 9 * np.sin(np.arange(RATE) / 9.0), RATE, subtype="PCM_16")
        self.assertTrue(np.isfinite(feature_extraction.extract_features(str(self.dir / "clipped.wav"))).all())

    def test_sliding_windows(self) -> None:
        features = np.arange(100 * 40, dtype=np.float32).reshape(100, 40)
        with settings.override(SEQ_LEN=40, SLIDING_WINDOW_STEP=30):
            windows = feature_extraction.extract_sliding_windows(features)
            self.assertEqual([window[0, 0] / 40 for window in windows], [0, 30, 60])
            self.assertEqual({window.shape for window in windows}, {(40, 40)})
            self.assertEqual(feature_extraction.extract_sliding_windows(features[:39]), [])

    def test_batched_triplet_input_has_crops_in_rows_anchor_positive_negative(self) -> None:
        spk_to_utts = self.write_speakers(2, 2)
        batch = feature_extraction.get_batched_triplet_input(spk_to_utts, 3)
        self.assertEqual((batch.shape, batch.dtype), ((9, 40, 40), torch.float32))
        whole = {s: [feature_extraction.extract_features(utt) for utt in utts] for s, utts in spk_to_utts.items()}

        def speaker_of(crop: np.ndarray) -> str:
            for speaker, utts in whole.items():
                for features in utts:
                    for start in range(len(features) - 39):
                        if np.array_equal(features[start : start + 40], crop):
                            return speaker
            return self.fail("the crop is from no utterance")

        speakers = [speaker_of(crop) for crop in batch.numpy()]
        for anchor, pos, neg in zip(speakers[::3], speakers[1::3], speakers[2::3], strict=True):
            self.assertEqual(anchor, pos)
            self.assertNotEqual(anchor, neg)

    def test_a_speakers_only_utterance_gives_two_different_parts(self) -> None:
        spk_to_utts = self.write_speakers(2, 1)
        anchor, pos, _ = feature_extraction.get_triplet_features(spk_to_utts)
        self.assertFalse({row.tobytes() for row in anchor} & {row.tobytes() for row in pos})


class AugmentationTest(ProjectTest):
    def test_speed_scales_length_and_frequency(self) -> None:
        tone = np.sin(2 * np.pi * 400 * np.arange(RATE) / RATE).astype(np.float32)
        for speed in (0.8, 1.0, 1.25):
            changed = augmentation.change_speed(tone, speed)
            self.assertEqual(len(changed), RATE / speed)
            self.assertEqual(np.argmax(np.abs(np.fft.rfft(changed, RATE))), 400 * speed)

    def test_a_random_channel_shifts_all_frames_of_a_crop_alike(self) -> None:
        crops, deviation = torch.randn(500, 20, 40), torch.linspace(1, 50, 40)
        with settings.override(CHANNEL_AUGMENTATION=0.3, GAIN_AUGMENTATION_DB=0.0):
            shift = augmentation.random_channel(crops, deviation, np.random.default_rng(0)) - crops
        torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), atol=1e-4, rtol=1e-3)
        relative = shift[:, 0].std(dim=0) / deviation
        np.testing.assert_allclose(relative, 0.3, rtol=0.15)
        self.assertLess(shift[:, 0].mean(dim=0).abs().max(), 0.1 * 50)

    def test_a_random_gain_is_that_of_louder_samples(self) -> None:
        voice = feature_extraction.read_audio(str(next((corpus / "train/s00").rglob("*.flac"))))
        quiet, loud = (feature_extraction.compute_mfcc(voice * np.float32(gain)) for gain in (1, 10 ** (6 / 20)))
        six_db = torch.from_numpy((loud - quiet).mean(axis=0))
        with settings.override(CHANNEL_AUGMENTATION=0.0, GAIN_AUGMENTATION_DB=4.0):
            shift = augmentation.random_channel(torch.zeros(2000, 5, 40), torch.ones(40), np.random.default_rng(0))
        in_decibels = 6 * shift[:, :, :1] / six_db[0]
        torch.testing.assert_close(shift, in_decibels / 6 * six_db, atol=0.05, rtol=0)
        self.assertTrue((in_decibels == in_decibels[:, :1]).all())
        self.assertAlmostEqual(float(in_decibels.std()), 4.0, delta=0.2)
        self.assertAlmostEqual(float(in_decibels.mean()), 0.0, delta=0.3)

    def test_noise_in_mel_bands_is_noise_in_the_samples(self) -> None:
        voice = feature_extraction.read_audio(str(next((corpus / "train/s00").rglob("*.flac"))))
        noise = np.random.default_rng(1).normal(size=len(voice)).astype(np.float32)
        noise *= np.sqrt(np.mean(voice**2) / np.mean(noise**2) / 10)  # 10 dB below the voice.
        clean, recording, expected = (
            torch.from_numpy(feature_extraction.compute_mfcc(samples)) for samples in (voice, noise, voice + noise)
        )
        cosines = feature_extraction.mfcc_matrices(myconfig.N_FFT, myconfig.N_MELS, myconfig.N_MFCC)[2]
        power, recordings = (10 ** ((crop @ cosines.T) / 10)[None].repeat(50, 1, 1) for crop in (clean, recording))
        with settings.override(NOISE_SNR_DB=(10.0, 10.0)):
            noisy = augmentation.add_noise(power, power, recordings, np.random.default_rng(0))
        errors = (10 * torch.log10(noisy) @ cosines - expected).abs().mean(dim=(1, 2))
        change = (clean - expected).abs().mean()
        self.assertLess(errors.min(), change / 3, "one of the crops has the recording")

    def test_echoes_die_away_exponentially(self) -> None:
        power = torch.zeros(200, 30, 4)
        power[:, 5] = 1.0
        heard = augmentation.add_echoes(power, np.random.default_rng(0))
        self.assertEqual(heard[:, :5].abs().max(), 0)
        decibels = 10 * torch.log10(heard[:, 6:])
        slopes = decibels.diff(dim=1)
        torch.testing.assert_close(slopes, slopes[:, :1].expand_as(slopes), rtol=1e-3, atol=1e-3)
        reverberation_seconds = -60 / slopes[:, 0] * myconfig.HOP_LENGTH / RATE
        self.assertTrue(0.19 < reverberation_seconds.min() < 0.25 and 0.95 < reverberation_seconds.max() < 1.01)
        loudness = 10 * torch.log10(heard[:, 6:].sum(dim=1))
        self.assertTrue(-16 < loudness.min() < -10 and 0 < loudness.max() < 3.01)

    def test_narrow_bands_end_where_telephones_and_codecs_do(self) -> None:
        power = augmentation.narrow_band(torch.ones(400, 5, 128), np.random.default_rng(0))
        frequencies = torch.from_numpy(librosa.mel_frequencies(130, fmin=0, fmax=8000)[1:-1])
        kept = 10 * torch.log10(power[:, 0] + 1e-20)
        self.assertGreater(kept[:, (frequencies > 400) & (frequencies < 3000)].min(), -0.1)
        is_telephone = kept[:, 0] < -3
        self.assertAlmostEqual(is_telephone.float().mean().item(), 0.5, delta=0.1)
        self.assertLess(kept[is_telephone][:, frequencies > 4700].max(), -30)
        reaches = (kept[~is_telephone] > -3).float() @ torch.diff(frequencies, prepend=torch.zeros(1)).float()
        self.assertTrue(reaches.min() < 3500 and reaches.max() > 7500)

    def test_crops_are_disturbed_as_often_as_the_settings_say(self) -> None:
        crops = 20 * torch.randn(500, 6, myconfig.N_MFCC)
        silence = {"ROOM_PROB": 0.0, "NOISE_PROB": 0.0, "NARROW_BAND_PROB": 0.0}
        for name in silence:
            with settings.override(**{**silence, name: 0.3}):
                disturbed = augmentation.disturb(crops, None, np.random.default_rng(0))
            is_changed = (disturbed != crops).flatten(1).any(dim=1)
            self.assertAlmostEqual(is_changed.float().mean().item(), 0.3, delta=0.07)

    def test_masks_have_the_probability_and_width_of_the_settings(self) -> None:
        masks = augmentation.draw_masks(4000, 40, 0.3, 8, np.random.default_rng(0)).numpy()
        widths = masks.sum(axis=1)
        self.assertAlmostEqual((widths > 0).mean(), 0.3, delta=0.03)
        self.assertEqual(set(widths[widths > 0]), set(range(1, 9)))
        edges = np.abs(np.diff(np.pad(masks, ((0, 0), (1, 1))).astype(int), axis=1)).sum(axis=1)
        self.assertEqual(set(edges), {0, 2})
        self.assertTrue(masks[:, 0].any() and masks[:, -1].any())

    def test_masked_values_are_filled(self) -> None:
        crops, fill = torch.randn(64, 50, 40), torch.full((40,), 9.0)
        with settings.override(SPECAUG_FREQ_MASK_PROB=1.0, SPECAUG_TIME_MASK_PROB=0.0):
            masked = augmentation.spec_augment(crops, fill, np.random.default_rng(0))
        changed = masked != crops
        self.assertTrue((masked[changed] == 9).all())
        self.assertTrue((changed.all(dim=1) | ~changed.any(dim=1)).all(), "a mask covers all frames of a coefficient")


class FeatureStoreTest(ProjectTest):
    def setUp(self) -> None:
        super().setUp()
        myconfig.FEATURE_STORE_DIR = str(self.dir / "features")  # Put back with all the others.

    def test_store_gives_the_features_of_every_speed(self) -> None:
        spk_to_utts = self.write_speakers()
        store = feature_store.open_store(spk_to_utts, (1.0, 1.1))
        self.assertEqual(len(store.speakers), 6)
        for utt, file in enumerate(store.files):
            samples = feature_extraction.read_audio(file)
            if "1.1" in store.speakers[store.speaker_of[utt]]:
                samples = soxr.resample(samples, 1.1 * RATE, RATE)
            expected = librosa.feature.mfcc(y=samples, sr=RATE, n_mfcc=40).T
            np.testing.assert_allclose(store.read(utt), expected, rtol=1e-3, atol=1e-2)
            self.assertIn(Path(file).parent.name, store.speakers[store.speaker_of[utt]])

    def test_files_are_decoded_once_and_again_when_they_change(self) -> None:
        spk_to_utts = self.write_speakers(2, 2)
        decoded = []
        extract, feature_store.features_at_speeds = (
            feature_store.features_at_speeds,
            lambda file, speeds: decoded.append(file) or extract(file, speeds),
        )
        self.addCleanup(setattr, feature_store, "features_at_speeds", extract)
        feature_store.open_store(spk_to_utts)
        self.assertEqual(sorted(decoded), sorted(sum(spk_to_utts.values(), [])))
        decoded.clear()
        feature_store.open_store(spk_to_utts)
        self.assertEqual(decoded, [])
        changed = self.write_audio("data/s0/u1.wav", 3, seed=99)
        store = feature_store.open_store(spk_to_utts)
        self.assertEqual(decoded, [changed])
        expected = feature_extraction.extract_features(changed)
        np.testing.assert_allclose(store.read(store.files.index(changed)), expected, rtol=1e-3, atol=1e-2)
        decoded.clear()
        with settings.override(N_MFCC=13):
            self.assertEqual(feature_store.open_store(spk_to_utts).read(0).shape[1], 13)
        self.assertEqual(len(decoded), 4)

    def test_unusable_files_are_skipped_once_with_a_reason(self) -> None:
        spk_to_utts = self.write_speakers(2, 2)
        bad = FeatureExtractionTest.write_bad_audio(self)
        spk_to_utts["bad"] = [path for path in bad if Path(path).name != "gone.wav"]
        store = feature_store.open_store(spk_to_utts)
        self.assertEqual(store.speakers, ["s0", "s1"])
        self.assertIn(f"Skipped {len(bad) - 1} of {len(bad) + 3} files", self.output.getvalue())
        listing = next((self.dir / "features").glob("*/skipped.csv")).read_text(encoding="utf-8")
        for path, word in bad.items():
            if Path(path).name != "gone.wav":
                self.assertRegex(listing, f"{re.escape(Path(path).name)}.*({word})")
        with self.assertRaisesRegex(ValueError, "none of the"):
            feature_store.open_store({"bad": spk_to_utts["bad"]})

    def test_same_audio_under_two_speakers_is_named(self) -> None:
        spk_to_utts = self.write_speakers(2, 2)
        feature_store.open_store(spk_to_utts, (1.0, 1.1))
        self.assertNotIn("same audio", self.output.getvalue())
        content = Path(spk_to_utts["s0"][1]).read_bytes()
        (self.dir / "data/s1/copy.wav").write_bytes(content)
        feature_store.open_store(dataset.get_librispeech_spk_to_utts(str(self.dir / "data")))
        self.assertRegex(self.output.getvalue(), "same audio stands under two speakers: .*s0.u1.wav and .*copy.wav")

    def test_an_interrupted_build_continues(self) -> None:
        spk_to_utts = self.write_speakers()
        whole = feature_store.open_store(spk_to_utts)
        folder = next((self.dir / "features").iterdir())
        expected = [whole.read(utt) for utt in range(9)]
        del whole
        lines = (folder / "index.jsonl").read_bytes().splitlines(keepends=True)
        for kept, cut in ((4, b""), (4, lines[4][:20]), (9, b""), (9, b"damaged\n"), (0, b"")):
            with self.subTest(kept=kept, cut=cut):
                (folder / "index.jsonl").write_bytes(b"".join(lines[:kept]) + cut)
                with (folder / "features.f16").open("ab") as file:
                    file.write(b"half written")
                if not kept:
                    os.truncate(folder / "features.f16", 1000)
                store = feature_store.open_store(spk_to_utts)
                for utt in range(9):
                    np.testing.assert_array_equal(store.read(utt), expected[utt])
                del store

    def test_two_builds_at_once_do_not_disturb_each_other(self) -> None:
        spk_to_utts = self.write_speakers(4, 4)
        code = (
            "import sys, json, myconfig, feature_store\n"
            "myconfig.FEATURE_STORE_DIR = sys.argv[1]\n"
            "store = feature_store.open_store(json.loads(sys.argv[2]))\n"
            "assert len(store.files) == 16, store.files"
        )
        command = [sys.executable, "-c", code, str(self.dir / "features"), json.dumps(spk_to_utts)]
        both = [subprocess.Popen(command, cwd=PROJECT_DIR, stdout=subprocess.DEVNULL) for _ in range(2)]
        self.assertEqual([process.wait(60) for process in both], [0, 0])
        store = feature_store.open_store(spk_to_utts)
        for utt, file in enumerate(store.files):
            expected = feature_extraction.extract_features(file)
            np.testing.assert_allclose(store.read(utt), expected, rtol=1e-3, atol=1e-2)
        self.assertEqual(len(store.frames), store.num_frames.sum(), "nothing stands in the store twice")

    def test_crops_are_from_their_utterance_and_short_ones_are_joined(self) -> None:
        spk_to_utts = self.write_speakers(2, 3, seconds=1.0)
        store = feature_store.open_store(spk_to_utts)
        rng = np.random.default_rng(0)
        frames_of = [{frame.tobytes() for frame in store.read(utt)} for utt in range(6)]
        for crop, utt in zip(store.draw_crops(np.array([0, 4]), 20, rng).numpy(), (0, 4), strict=True):
            self.assertTrue({frame.tobytes() for frame in crop} <= frames_of[utt])
        joined = {frame.tobytes() for frame in store.draw_crops(np.array([1]), 90, rng).numpy()[0]}
        self.assertTrue(joined <= frames_of[0] | frames_of[1] | frames_of[2])
        self.assertTrue(all(joined & frames_of[utt] for utt in (0, 1, 2)))
        first, second = store.draw_crops(np.array([0, 1]), 60, rng).numpy()
        self.assertFalse({frame.tobytes() for frame in first} & {frame.tobytes() for frame in second})
        self.assertEqual(store.draw_crops(np.array([1]), 300, rng).shape, (1, 300, 40), "all of a speaker is repeated")

    def test_one_utterance_drawn_twice_gives_different_parts(self) -> None:
        store = feature_store.open_store(self.write_speakers(2, 1, seconds=3.0))
        rng = np.random.default_rng(0)
        for _ in range(20):
            for crop_frames in (40, 60, 200):
                first, _, second = store.draw_crops(np.array([0, 1, 0]), crop_frames, rng).numpy()
                self.assertFalse({frame.tobytes() for frame in first} & {frame.tobytes() for frame in second})


class TripletLossTest(ProjectTest):
    def test_triplet_loss_is_the_courses(self) -> None:
        anchor, pos, neg = torch.randn(3, 5, 7, dtype=torch.float64)

        def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
            return float(sum(a * b) / math.sqrt(sum(a * a) * sum(b * b)))

        with settings.override(TRIPLET_ALPHA=0.4):
            rows = zip(anchor, pos, neg, strict=True)
            expected = [max(0.0, cosine(a, n) - cosine(a, p) + 0.4) for a, p, n in rows]
            np.testing.assert_allclose(neural_net.get_triplet_loss(anchor, pos, neg), expected)
            batch_output = torch.stack([anchor, pos, neg], dim=1).flatten(0, 1)
            loss = neural_net.get_triplet_loss_from_batch_output(batch_output, 5)
            self.assertAlmostEqual(float(loss), np.mean(expected))
            losses = neural_net.get_random_triplet_losses(batch_output.unflatten(0, (5, 3)))
            np.testing.assert_allclose(losses, expected)

    def test_batch_losses_agree_with_a_loop(self) -> None:
        embeddings = torch.randn(5, 3, 7, dtype=torch.float64)
        unit = embeddings.numpy() / np.linalg.norm(embeddings.numpy(), axis=-1, keepdims=True)
        hard, smooth = [], []
        sharpness, alpha = myconfig.MINING_SHARPNESS, 0.2
        for speaker in range(5):
            for utt in range(3):
                anchor = unit[speaker, utt]
                pos = [anchor @ unit[speaker, other] for other in range(3) if other != utt]
                neg = [anchor @ other for s in range(5) if s != speaker for other in unit[s]]
                hard.append(max(0.0, max(neg) - min(pos) + alpha))
                sums = [sum(math.exp(sharpness * x) for x in xs) for xs in (neg, [-x for x in pos])]
                smooth.append(math.log1p(sums[0] * sums[1] * math.exp(sharpness * alpha)) / sharpness)
        with settings.override(TRIPLET_ALPHA=alpha):
            np.testing.assert_allclose(neural_net.get_batch_hard_losses(embeddings), hard)
            np.testing.assert_allclose(neural_net.get_smooth_batch_hard_losses(embeddings), smooth)

    def test_each_lstm_of_an_ensemble_has_a_loss_of_its_own(self) -> None:
        embeddings = torch.randn(5, 3, 12)
        for mining in settings.CHOICES["TRIPLET_MINING"]:
            with settings.override(TRIPLET_MINING=mining):
                each = [neural_net.get_triplet_losses(embeddings[..., at : at + 4]) for at in (0, 4, 8)]
                with settings.override(ENSEMBLE_SIZE=3):
                    together = neural_net.get_triplet_losses(embeddings)
            torch.testing.assert_close(together, torch.cat(each))


class SpeakerEncoderTest(ProjectTest):
    def test_embedding_aggregates_the_lstm_outputs_of_normalised_features(self) -> None:
        for bidirectional in (False, True):
            for mean in (False, True):
                with settings.override(DELTAS=False, BI_LSTM=bidirectional, FRAME_AGGREGATION_MEAN=mean):
                    encoder = speaker_encoder.SpeakerEncoder()
                    encoder.feature_mean += 3
                    encoder.feature_std *= 2
                    features = torch.randn(2, 30, 40)
                    outputs = encoder.lstms[0]((features - 3) / 2)[0]
                    expected = outputs.mean(dim=1) if mean else outputs[:, -1]
                    torch.testing.assert_close(encoder(features), expected)
                    self.assertEqual(encoder.dimensions, expected.shape[1])

    def test_an_lstm_also_reads_by_how_much_normalised_features_change_around_a_frame(self) -> None:
        encoder, lengths = speaker_encoder.SpeakerEncoder(), [6, 1, 4, 2, 3]
        encoder.feature_mean += 3
        encoder.feature_std *= 2
        features = torch.randn(len(lengths), max(lengths), 40)
        padded = encoder(features, torch.tensor(lengths)).detach()
        for row, embedding, length in zip(features, padded, lengths, strict=True):
            normalised = (row[:length].numpy() - 3) / 2
            deltas = np.zeros((length, 40), np.float32)
            for frame in range(1, length - 1):
                deltas[frame] = normalised[frame + 1] - normalised[frame - 1]
            outputs = encoder.lstms[0](torch.from_numpy(np.hstack([normalised, deltas])))[0].detach()
            torch.testing.assert_close(embedding, outputs.mean(dim=0))
            torch.testing.assert_close(encoder(row[None, :length])[0].detach(), outputs.mean(dim=0))

    def test_an_ensemble_puts_the_embeddings_of_different_lstms_together(self) -> None:
        features, num_frames = torch.randn(2, 30, 40), torch.tensor([30, 20])
        with settings.override(ENSEMBLE_SIZE=3, DELTAS=False, BI_LSTM=True, LSTM_HIDDEN_SIZE=5):
            ensemble = speaker_encoder.SpeakerEncoder()
        self.assertEqual(ensemble.dimensions, 30)
        each = [lstm(features)[0].mean(dim=1) for lstm in ensemble.lstms]
        expected = torch.cat([own / own.norm(dim=1, keepdim=True) for own in each], dim=1)
        cosines = [torch.nn.functional.cosine_similarity(own[:1], own[1:]) for own in (expected, *each)]
        self.assertAlmostEqual(float(cosines[0]), float(sum(cosines[1:]) / 3), places=6)
        torch.testing.assert_close(ensemble(features), expected)
        torch.testing.assert_close(ensemble(features, num_frames)[0], expected[0])
        torch.testing.assert_close(ensemble(features, num_frames)[1], ensemble(features[1:, :20])[0])
        self.assertGreater(float((expected[:, :10] - expected[:, 10:20]).detach().abs().max()), 0.01)
        speaker_encoder.save_encoder(str(self.dir / "ensemble.pt"), ensemble)
        torch.testing.assert_close(neural_net.load_encoder(str(self.dir / "ensemble.pt"))(features), expected)

    def test_joined_encoders_are_an_ensemble_of_their_lstms(self) -> None:
        features = 3 * torch.randn(3, 20, 40)
        for values in ({"DELTAS": False}, {"BI_LSTM": True}):
            encoders = []
            for seed in (0, 1):
                with settings.override(SEED=seed, LSTM_HIDDEN_SIZE=6, ENSEMBLE_SIZE=seed + 1, **values):
                    encoders.append(neural_net.get_speaker_encoder())
                encoders[-1].feature_mean += torch.rand(40)
                encoders[-1].feature_std *= 1 + torch.rand(40)
                encoders[-1].train_speakers = [f"s{seed}", "both"]
                encoders[-1].calibration = {"of": "each"}
            expected = [torch.nn.functional.normalize(encoders[0](features).detach()), encoders[1](features).detach()]
            expected = torch.cat(expected, dim=1)
            joined = speaker_encoder.join_encoders(encoders)
            torch.testing.assert_close(joined(features), expected)
            self.assertEqual((joined.dimensions, joined.settings["ENSEMBLE_SIZE"]), (expected.shape[1], 3))
            self.assertEqual((joined.train_speakers, joined.calibration), (["both", "s0", "s1"], {}))
        with settings.override(N_MELS=64), self.assertRaisesRegex(ValueError, "differ in N_MELS, LSTM_HIDDEN_SIZE, BI"):
            speaker_encoder.join_encoders([joined, speaker_encoder.SpeakerEncoder()])

    def test_embedding_does_not_depend_on_the_rest_of_the_batch(self) -> None:
        rng = np.random.default_rng(0)
        features = [rng.normal(size=(length, 40)).astype(np.float32) for length in (90, 7, 300, 41, 90)]
        for full in (True, False):
            for bidirectional, mean in ((False, True), (True, True), (True, False), (False, False)):
                values = {"BI_LSTM": bidirectional, "FRAME_AGGREGATION_MEAN": mean, "USE_FULL_SEQUENCE_INFERENCE": full}
                with self.subTest(**values), settings.override(**values):
                    encoder = speaker_encoder.SpeakerEncoder().eval()
                    together = speaker_encoder.embed_features(encoder, features)
                    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
                    for row, utt in zip(together, features, strict=True):
                        alone = evaluation.run_inference(utt, encoder)
                        np.testing.assert_allclose(row, alone / np.linalg.norm(alone), atol=1e-5)

    def test_sliding_window_inference_is_the_mean_over_windows(self) -> None:
        features = np.random.default_rng(0).normal(size=(95, 40)).astype(np.float32)
        encoder = speaker_encoder.SpeakerEncoder().eval()
        with settings.override(USE_FULL_SEQUENCE_INFERENCE=False, SEQ_LEN=40, SLIDING_WINDOW_STEP=25), torch.no_grad():
            windows = [encoder(torch.from_numpy(features[start : start + 40])[None])[0] for start in (0, 25, 50)]
            expected = torch.stack(windows).mean(dim=0)
            np.testing.assert_allclose(evaluation.run_inference(features, encoder), expected, atol=1e-6)

    def test_saved_encoder_is_rebuilt_from_its_own_settings(self) -> None:
        path = str(self.dir / "folder" / "model.pt")
        with settings.override(BI_LSTM=True, LSTM_HIDDEN_SIZE=12, N_MFCC=13, HOP_LENGTH=256):
            encoder = speaker_encoder.SpeakerEncoder().eval()
            encoder.feature_mean += 5
            speaker_encoder.save_encoder(path, encoder)
        files = [self.write_audio("x.wav", 2), self.write_audio("y.wav", 1, seed=1)]
        loaded = neural_net.load_encoder(path)
        self.assertEqual(loaded.settings, encoder.settings)
        before = settings.all_settings()
        embeddings = evaluation.embed_utterances(loaded, files)
        self.assertEqual((embeddings.shape, embeddings.dtype), ((2, 24), np.float32))
        self.assertEqual(settings.all_settings(), before)
        for row, file in zip(embeddings, files, strict=True):
            y, _ = soundfile.read(file, dtype="float32")
            mfcc = librosa.feature.mfcc(y=y, sr=RATE, n_mfcc=13, hop_length=256).T
            expected = evaluation.run_inference(np.ascontiguousarray(mfcc), encoder)
            np.testing.assert_allclose(row, expected / np.linalg.norm(expected), atol=1e-4)
        self.assertEqual([entry.name for entry in Path(path).parent.iterdir()], ["model.pt"])

    def test_a_typed_setting_that_contradicts_the_model_is_an_error(self) -> None:
        path = str(self.dir / "model.pt")
        speaker_encoder.save_encoder(path, speaker_encoder.SpeakerEncoder())
        self.addCleanup(settings.typed_names.clear)
        settings.apply_override("LSTM_HIDDEN_SIZE=8")
        neural_net.load_encoder(path)
        settings.apply_override("LSTM_HIDDEN_SIZE=16")
        with self.assertRaisesRegex(ValueError, "LSTM_HIDDEN_SIZE=16 contradicts .* 8"):
            neural_net.load_encoder(path)

    def test_a_classic_model_loads_by_the_shape_of_its_weights(self) -> None:
        class Classic(torch.nn.Module):
            def __init__(self, bidirectional: bool) -> None:
                super().__init__()
                self.lstm = torch.nn.LSTM(40, 64, 3, batch_first=True, bidirectional=bidirectional)

        features = torch.randn(2, 50, 40)
        for bidirectional in (False, True):
            classic = Classic(bidirectional)
            model = {"encoder_state_dict": classic.state_dict(), "losses": [0.1], "training_time": 1.0}
            torch.save(model, self.dir / "classic.pt")
            with settings.override(N_MFCC=13, HOP_LENGTH=100, BI_LSTM=not bidirectional):
                encoder = neural_net.get_speaker_encoder(load_from=str(self.dir / "classic.pt"))
            torch.testing.assert_close(encoder(features), classic.lstm(features)[0].mean(dim=1))
            self.assertEqual(encoder.settings["HOP_LENGTH"], 512)

    def test_a_model_of_the_time_before_deltas_stays_what_it_is(self) -> None:
        with settings.override(DELTAS=False):
            encoder = speaker_encoder.SpeakerEncoder()
        before = encoder.settings
        del before["DELTAS"]
        speaker_encoder.save_encoder(str(self.dir / "before.pt"), encoder)
        loaded = neural_net.load_encoder(str(self.dir / "before.pt"))
        self.assertIs(loaded.settings["DELTAS"], False)
        self.assertEqual(loaded.lstms[0].input_size, 40)
        # Databases know it by a hash from when there were no ensembles either.
        del before["ENSEMBLE_SIZE"]
        digest = hashlib.sha256(json.dumps(before, sort_keys=True).encode())
        weights = {"feature_mean": loaded.feature_mean, "feature_std": loaded.feature_std}
        weights |= {f"lstm.{name}": weight.detach() for name, weight in loaded.lstms[0].named_parameters()}
        for name in sorted(weights):
            digest.update(name.encode() + weights[name].numpy().tobytes())
        self.assertEqual(speaker_encoder.model_fingerprint(loaded), digest.hexdigest()[:16])

    def test_unusable_models_are_refused_in_a_sentence(self) -> None:
        encoder = speaker_encoder.SpeakerEncoder()
        speaker_encoder.save_encoder(str(self.dir / "good.pt"), encoder)
        good = torch.load(self.dir / "good.pt", weights_only=True)
        content = (self.dir / "good.pt").read_bytes()
        (self.dir / "truncated.pt").write_bytes(content[: len(content) // 2])
        (self.dir / "text.pt").write_text("a text")
        (self.dir / "empty.pt").touch()

        class Code:
            def __reduce__(self) -> tuple:
                return (Path.touch, (self.folder / "code_was_run",))

        Code.folder = self.dir
        wrong = {
            "code": {**good, "more": Code()},
            "tensor": torch.zeros(3),
            "other_kind": {"state_dict": good["encoder_state_dict"]},
            "no_weights": {**good, "encoder_state_dict": {}},
            "shapes": {**good, "settings": {**good["settings"], "LSTM_HIDDEN_SIZE": 9}},
            "huge": {**good, "settings": {**good["settings"], "LSTM_HIDDEN_SIZE": 10**9}},
            "unknown_setting": {**good, "settings": {**good["settings"], "NEW": 1}},
            "settings_kind": {**good, "settings": [1, 2]},
            "cohort_kind": {**good, "cohort": 5},
            "cohort_of_one": {**good, "cohort": torch.eye(encoder.dimensions)[:1]},
            "cohort_nan": {**good, "cohort": torch.full((3, encoder.dimensions), math.nan)},
            "cohort_shape": {**good, "cohort": torch.ones(3, encoder.dimensions + 1)},
            "classic_other_network": {"encoder_state_dict": {"linear.weight": torch.zeros(3, 3)}},
        }
        for name, model in wrong.items():
            torch.save(model, self.dir / f"{name}.pt")
        good["encoder_state_dict"]["lstms.0.bias_hh_l1"][3] = math.nan
        torch.save(good, self.dir / "nan.pt")
        for name in ("missing", "truncated", "text", "empty", "nan", *wrong):
            path = str(self.dir / f"{name}.pt")
            with self.subTest(name), self.assertRaisesRegex(ValueError, rf"^[^\n]*{re.escape(path)}[^\n]*$"):
                neural_net.load_encoder(path)
        self.assertFalse((self.dir / "code_was_run").exists())

    def test_models_that_would_fill_the_memory_are_refused_before_they_do(self) -> None:
        """They claim or unpack to 26 GB; nothing of that is taken."""
        with settings.override(LSTM_HIDDEN_SIZE=4096, LSTM_NUM_LAYERS=16, BI_LSTM=True), torch.device("meta"):
            huge = speaker_encoder.SpeakerEncoder()
        one = torch.zeros(1)
        expanded = {name: one.expand(tensor.shape) for name, tensor in huge.state_dict().items()}
        small = speaker_encoder.SpeakerEncoder().state_dict()
        for name, weights in (("expanded", expanded), ("claimed", small)):
            torch.save({"encoder_state_dict": weights, "settings": huge.settings}, self.dir / f"{name}.pt")
        speaker_encoder.save_encoder(str(self.dir / "good.pt"), speaker_encoder.SpeakerEncoder())
        with (
            zipfile.ZipFile(self.dir / "good.pt") as good,
            zipfile.ZipFile(self.dir / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
        ):
            for member in good.namelist():
                bomb.writestr(member, bytes(10**7) if member.endswith("data/0") else good.read(member))
        torch.save({"encoder_state_dict": small, "more": bytearray(10)}, self.dir / "bytes.pt")
        torch.save({"encoder_state_dict": small}, self.dir / "old.pt", _use_new_zipfile_serialization=False)
        with (self.dir / "old.pt").open("ab") as old:  # An archive from its end, not from its start.
            old.write((self.dir / "good.pt").read_bytes())
        names = {"expanded": "more than the file holds", "claimed": "shape", "bomb": "damaged", "bytes": "more than"}
        names["old"] = "1.6 or newer"
        shape = speaker_encoder.SpeakerEncoder().settings
        many = {"encoder_state_dict": small, "settings": shape, "more": [None] * 10**5}
        torch.save(many, self.dir / "many.pt")
        self.assertEqual(neural_net.load_encoder(str(self.dir / "many.pt")).dimensions, 8)
        names["many"] = "more than weights"
        few = unittest.mock.patch.object(model_file, "MAX_PICKLE_BYTES", 10**5)
        with few, unittest.mock.patch.object(torch.nn.LSTM, "reset_parameters", self.refuse_memory):
            for name, message in names.items():
                with self.subTest(name), self.assertRaisesRegex(ValueError, message):
                    neural_net.load_encoder(str(self.dir / f"{name}.pt"))

    @staticmethod
    def refuse_memory(network: torch.nn.LSTM) -> None:
        assert all(weight.is_meta for weight in network.parameters()), "The network was built."


class TrainingTest(ProjectTest):
    def train(self, num_steps: int, name: str = "model.pt", **values) -> list[float]:
        values = {"SAVE_MODEL_FREQUENCY": 4, "SAVED_MODEL_PATH": str(self.dir / name), **values}
        with settings.override(**values):
            spk_to_utts = dataset.get_librispeech_spk_to_utts(str(corpus / "train"))
            return neural_net.train_network(spk_to_utts, num_steps, str(self.dir / name))

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return torch.load(self.dir / name, weights_only=True)["encoder_state_dict"]

    def assert_same_weights(self, first: str, second: str) -> None:
        for a, b in zip(self.weights(first).values(), self.weights(second).values(), strict=True):
            self.assertTrue(torch.equal(a, b))

    def test_same_seed_same_weights_and_another_seed_others(self) -> None:
        losses = self.train(6, "a.pt")
        self.assertEqual(self.train(6, "b.pt"), losses)
        self.assert_same_weights("a.last.pt", "b.last.pt")
        self.assertNotEqual(self.train(6, "c.pt", SEED=1), losses)

    def test_training_ends_with_the_cohort_of_its_speakers_in_the_best_model(self) -> None:
        path = str(self.dir / "model.pt")
        values = {"NUM_VALIDATION_SPEAKERS": 4, "SAVE_MODEL_FREQUENCY": 2, "SPEEDS": (0.9, 1.0)}
        spk_to_utts = dataset.get_librispeech_spk_to_utts(str(corpus / "train"))
        for num_utts in (12, 1):  # There are 12.
            validations = unittest.mock.patch.object(neural_net, "validation_eer", side_effect=[0.1, 0.2])
            with validations, unittest.mock.patch.object(score_normalization, "COHORT_UTTS", num_utts):
                self.train(4, START_OVER=True, **values)
            model, encoder = model_file.read_model(path), neural_net.load_encoder(path)
            self.assertEqual(len(model["losses"]), 2)
            self.assertEqual(len(encoder.train_speakers), len(spk_to_utts) - 4)
            for speaker, row in zip(encoder.train_speakers, encoder.cohort, strict=True):
                embeddings = evaluation.embed_utterances(encoder, spk_to_utts[speaker])
                mean = embeddings.mean(axis=0)
                expected = mean / np.linalg.norm(mean) if num_utts == 12 else embeddings[np.argmax(embeddings @ row)]
                np.testing.assert_allclose(row, expected, atol=2e-3)  # The store has 16 bits.
        # Killed before it had one, a model gets its cohort from the same command, and then keeps it.
        without = {name: value for name, value in model.items() if name != "cohort"}
        for before, drawn in ((without, 1), (model, 12)):
            model_file.write_model(path, before)
            with unittest.mock.patch.object(score_normalization, "COHORT_UTTS", drawn):
                self.train(4, **values)
            self.assertTrue(torch.equal(model_file.read_model(path)["cohort"], model["cohort"]))
        model_file.write_model(path, model | {"cohort": model["cohort"] * 2})
        with self.assertRaisesRegex(ValueError, "length is not 1"):
            self.train(4, **values)
        Path(path).unlink()
        with self.assertRaisesRegex(ValueError, "model.pt is gone, and .*last.pt is not the best model"):
            self.train(4, **values)

    def test_every_mining_and_specaugment_train(self) -> None:
        for mining in settings.CHOICES["TRIPLET_MINING"]:
            values = {"SPECAUG_TRAINING": True, "LEARNING_RATE_SCHEDULE": "constant", "TRIPLET_MINING": mining}
            losses = self.train(10, f"{mining}.pt", SEQ_LEN_JITTER=0.0, **values)
            self.assertEqual(len(losses), 10)
            self.assertTrue(np.isfinite(losses).all())
        self.assertEqual(len(set(map(str, self.dir.glob("*.png")))), 3)

    def test_training_starts_from_initial_models_and_in_their_shape(self) -> None:
        for seed in (0, 1):
            self.train(4, f"{seed}.pt", LSTM_HIDDEN_SIZE=6, N_MFCC=13, SEED=seed, NUM_VALIDATION_SPEAKERS=2)
        paths = [str(self.dir / "0.pt"), str(self.dir / "1.pt")]
        values = {"INITIAL_MODELS": ", ".join(paths), "LEARNING_RATE": 1e-8}
        losses = self.train(4, "joined.pt", **values)
        self.assertIn("NUM_VALIDATION_SPEAKERS=24: 0 of 24 speakers can serve", self.output.getvalue())
        features = 30 * torch.randn(2, 20, 13)
        each = [neural_net.load_encoder(path)(features) for path in paths]
        expected = torch.cat([own / own.norm(dim=1, keepdim=True) for own in each], dim=1)
        joined = neural_net.load_encoder(str(self.dir / "joined.pt"))
        torch.testing.assert_close(joined(features), expected, atol=1e-5, rtol=0)
        self.assertEqual(self.train(6, "joined.pt", **values)[:4], losses)
        for others in (",".join(paths[::-1]), ""):  # Without any, the shape is another one, too.
            with self.assertRaisesRegex(ValueError, "INITIAL_MODELS=.* and now INITIAL_MODELS="):
                self.train(6, "joined.pt", **values | {"INITIAL_MODELS": others})
        self.train(4, "0.pt", LSTM_HIDDEN_SIZE=6, N_MFCC=13, SEED=2, NUM_VALIDATION_SPEAKERS=2, START_OVER=True)
        with self.assertRaisesRegex(ValueError, "from other initial models"):
            self.train(6, "joined.pt", **values)

    def test_initial_models_that_cannot_be_trained_on_are_refused(self) -> None:
        self.train(4, "a.pt")
        path = str(self.dir / "a.pt")
        for saved in ("a.pt", "../" + self.dir.name + "/a.pt"):
            with self.assertRaisesRegex(ValueError, "among INITIAL_MODELS"):
                self.train(4, saved, INITIAL_MODELS=path)
        with self.assertRaisesRegex(ValueError, "one model twice"):
            self.train(4, "b.pt", INITIAL_MODELS=f"{path},{path}")
        for paths, missing in ((", ", ", "), ("a b.pt", "a b.pt"), (f"{path}, b.pt, a.pt", "b.pt")):
            with self.assertRaisesRegex(ValueError, f"there is no file '{missing}'"):
                settings.check_training(settings.all_settings() | {"INITIAL_MODELS": paths})
        for number in (1, 16):
            with settings.override(ENSEMBLE_SIZE=number, LSTM_HIDDEN_SIZE=1):
                speaker_encoder.save_encoder(str(self.dir / f"{number}.pt"), speaker_encoder.SpeakerEncoder())
        with self.assertRaisesRegex(ValueError, "ENSEMBLE_SIZE=17"):
            self.train(4, "b.pt", INITIAL_MODELS=f"{self.dir / '1.pt'},{self.dir / '16.pt'}")
        with settings.override(CEPSTRAL_MEAN_NORMALIZATION=True):
            speaker_encoder.save_encoder(path, speaker_encoder.SpeakerEncoder())
        with self.assertRaisesRegex(ValueError, "CEPSTRAL_MEAN_NORMALIZATION takes away"):
            self.train(4, "b.pt", INITIAL_MODELS=path)
        settings.typed_names.add("ENSEMBLE_SIZE")
        self.addCleanup(settings.typed_names.clear)
        with self.assertRaisesRegex(ValueError, "bring an ENSEMBLE_SIZE"):
            settings.check_training(settings.all_settings() | {"INITIAL_MODELS": path})
        settings.check(settings.all_settings() | {"INITIAL_MODELS": path, "SAVED_MODEL_PATH": path})

    def test_all_processes_draw_from_the_same_corpus(self) -> None:
        for number in range(12):
            self.write_audio(f"data/{'ab'[number % 2]}-{number}/0.wav", 2, seed=number)
        spk_to_utts = dataset.get_librispeech_spk_to_utts(str(self.dir / "data"))
        store = feature_store.open_store(spk_to_utts, (1.0, 1.1))
        names = np.array(store.speakers)[store.speaker_of]
        drawn = []
        draw_crops = store.draw_crops
        store.draw_crops = lambda utts, *more: drawn.append({names[utt][0] for utt in utts}) or draw_crops(utts, *more)
        for share, expected in ((1.0, [{"a"}, {"b"}]), (0.0, [{"a", "b"}])):
            drawn.clear()
            with settings.override(ONE_CORPUS_BATCHES=share, BATCH_SIZE=8, UTTERANCES_PER_SPEAKER=2):
                for step in range(10):
                    for rank in (0, 1):
                        with (
                            unittest.mock.patch.object(parallel, "rank", lambda rank=rank: rank),
                            unittest.mock.patch.object(parallel, "world_size", lambda: 2),
                        ):
                            neural_net.draw_batch(speaker_encoder.SpeakerEncoder(), store, None, step)
            self.assertTrue(all(corpora in drawn for corpora in expected))
            self.assertTrue(all(corpora in expected for corpora in drawn))
            self.assertEqual(drawn[::2], drawn[1::2])

    def test_training_that_was_killed_ends_as_if_it_was_not(self) -> None:
        self.train(20, "undisturbed.pt")
        arguments = [*self.typed, "TRAINING_STEPS=20", "SAVE_MODEL_FREQUENCY=4", "SAVED_MODEL_PATH=killed.pt"]
        command = [sys.executable, str(PROJECT_DIR / "neural_net.py"), *arguments]
        process = subprocess.Popen(command, cwd=self.dir, stdout=subprocess.DEVNULL)
        while not (self.dir / "killed.last.pt").exists() and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        process.wait()
        last = torch.load(self.dir / "killed.last.pt", weights_only=True)
        self.assertLess(len(last["losses"]), 20, "it was killed before its end")
        again = self.run_script("neural_net.py", *arguments)
        self.assertEqual((again.returncode, again.stderr), (0, ""))
        self.assertIn("Continuing after step", again.stdout)
        for ending in ("pt", "last.pt"):
            self.assert_same_weights(f"undisturbed.{ending}", f"killed.{ending}")
        self.assertEqual(list(self.dir.glob("*.tmp*")), [])

    def test_a_finished_training_stays_as_it_is(self) -> None:
        self.train(4)
        before = (self.dir / "model.last.pt").read_bytes()
        with contextlib.redirect_stdout(io.StringIO()) as output:
            self.train(4)
        self.assertIn("Already trained for 4 steps", output.getvalue())
        model = model_file.read_model(str(self.dir / "model.pt"))
        calibration = {"false_accept_rates": [0.01], "thresholds": [0.5], "source": "a test"}
        model_file.write_model(str(self.dir / "model.pt"), model | {"calibration": calibration})
        self.train(4)
        self.assertEqual(model_file.read_model(str(self.dir / "model.pt"))["calibration"], calibration)
        with self.assertRaisesRegex(ValueError, "LEARNING_RATE=0.002, and now LEARNING_RATE=0.01. Add START_OVER=true"):
            self.train(8, LEARNING_RATE=0.01)
        self.assertEqual((self.dir / "model.last.pt").read_bytes(), before)

    def test_start_over_and_more_steps(self) -> None:
        losses = self.train(4)
        more = self.train(8)
        self.assertEqual(more[:4], losses)
        self.assertEqual(len(more), 8)
        self.assertEqual(len(self.train(4, START_OVER=True)), 4)
        killed = unittest.mock.patch.object(neural_net, "save_models", side_effect=KeyboardInterrupt)
        with killed, self.assertRaises(KeyboardInterrupt):
            self.train(8, START_OVER=True)
        self.assertEqual(list(self.dir.glob("*.pt")), [])

    def test_training_does_not_continue_with_other_noise(self) -> None:
        self.write_audio("noise/rain/a.wav", 2.0)
        self.train(4, NOISE_DIR=str(self.dir / "noise"))
        self.write_audio("noise/rain/a.wav", 3.0)
        with self.assertRaisesRegex(ValueError, "was trained on other data"):
            self.train(8, NOISE_DIR=str(self.dir / "noise"))

    def test_best_model_has_the_lowest_validation_eer(self) -> None:
        self.train(20, LEARNING_RATE=0.01)
        best = torch.load(self.dir / "model.pt", weights_only=True)
        last = torch.load(self.dir / "model.last.pt", weights_only=True)
        self.assertEqual([step for step, _ in last["validation_eers"]], [4, 8, 12, 16, 20])
        self.assertEqual(best["validation_eers"][-1][1], min(eer for _, eer in last["validation_eers"]))
        self.assertEqual(len(best["train_speakers"]), 20, "a fifth of 24 speakers is set aside")

    def test_validation_is_disturbed_as_training_is(self) -> None:
        store = feature_store.open_store(dataset.get_librispeech_spk_to_utts(str(corpus / "test")))
        heard = []
        encoder = speaker_encoder.SpeakerEncoder()
        encoder.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
        for share in (0.0, 0.5, 0.5, 1.0):
            disturbances = {"NOISE_PROB": 1.0, "NOISE_SNR_DB": (0.0, 0.0), "ROOM_PROB": 0.0, "NARROW_BAND_PROB": 0.0}
            with settings.override(DISTURBED_BATCHES=share, **disturbances):
                eer = neural_net.validation_eer(encoder, store, None)
        clean, half, again, disturbed = heard
        for crops, share in ((half, 0.5), (disturbed, 1.0)):
            self.assertEqual(((clean - crops).abs().amax(dim=(1, 2)) > 1).float().mean(), share)
        self.assertTrue(torch.equal(clean[0::2], half[0::2]) and torch.equal(half, again))
        pairs = list(itertools.combinations(range(len(disturbed)), 2))
        labels = [store.speaker_of[first] == store.speaker_of[second] for first, second in pairs]
        with torch.no_grad():
            embeddings = torch.nn.functional.normalize(encoder(disturbed)).numpy()
        scores = [embeddings[first] @ embeddings[second] for first, second in pairs]
        false_accepts, true_accepts, _ = sklearn.metrics.roc_curve(labels, scores)
        nearest = np.argmin(np.abs(1 - true_accepts - false_accepts))
        self.assertAlmostEqual(eer, (1 - true_accepts + false_accepts)[nearest] / 2, delta=0.02)

    def test_learning_rate_rises_then_falls_to_zero(self) -> None:
        rates = [neural_net.learning_rate(step, 200) for step in range(200)]
        self.assertEqual(rates.index(max(rates)), 9)
        self.assertEqual(max(rates), myconfig.LEARNING_RATE)
        self.assertAlmostEqual(rates[10 + 95], myconfig.LEARNING_RATE / 2)
        self.assertLess(rates[-1], 1e-3 * myconfig.LEARNING_RATE)

    def test_collapse_and_nan_are_put_in_words(self) -> None:
        progress = TrainingProgress(300)
        for step, _ in zip(progress.steps(), range(100), strict=False):
            embeddings = torch.ones(8, 5) + 1e-3 * torch.randn(8, 5)
            progress.update(0.5 / (step + 1), 1.0, embeddings)
        self.assertIn("all embeddings are nearly equal", self.output.getvalue())
        progress = TrainingProgress(300)
        with settings.override(TRIPLET_MINING="batch_hard"):
            for _ in zip(progress.steps(), range(100), strict=False):
                progress.update(myconfig.TRIPLET_ALPHA, 1.0, torch.randn(8, 5))
        self.assertIn("stood at the margin", self.output.getvalue())
        with self.assertRaisesRegex(ValueError, "loss is nan.*LEARNING_RATE"):
            progress.update(math.nan, 1.0, embeddings)

    def test_one_usable_speaker_is_not_enough(self) -> None:
        spk_to_utts = self.write_speakers(1)
        (self.dir / "bad.wav").write_text("this is no audio")
        for data in (spk_to_utts, {**spk_to_utts, "bad": [str(self.dir / "bad.wav")]}):
            with self.assertRaisesRegex(ValueError, "two speakers or more"):
                neural_net.train_network(data, 3)

    def test_a_model_without_its_checkpoint_is_not_overwritten(self) -> None:
        (self.dir / "model.pt").write_text("precious")
        with self.assertRaisesRegex(ValueError, "model.pt exists.*START_OVER=true"):
            self.train(4)
        self.assertEqual((self.dir / "model.pt").read_text(), "precious")

    def test_a_checkpoint_of_other_data_or_damaged_is_refused(self) -> None:
        self.train(4)
        spk_to_utts = dataset.get_librispeech_spk_to_utts(str(corpus / "train"))
        for change, reason in (
            (lambda: [utts.pop() for utts in spk_to_utts.values()], "other data"),
            (lambda: spk_to_utts.pop("s05"), "other speakers"),
        ):
            change()
            with self.assertRaisesRegex(ValueError, f"{reason}.*START_OVER=true"):
                neural_net.train_network(spk_to_utts, 8, str(self.dir / "model.pt"))
        (self.dir / "model.last.pt").write_bytes((self.dir / "model.pt").read_bytes())
        with self.assertRaisesRegex(ValueError, "not a checkpoint"):
            self.train(8)

    def test_a_second_training_of_one_model_is_refused(self) -> None:
        with safe_files.only_one_process(self.dir / "model.pt"):
            answer = self.run_script("neural_net.py", *self.typed)
        self.assertEqual(answer.returncode, 2)
        self.assertRegex(
            answer.stderr, f"^Error: another process, with the id {os.getpid()}, is writing .*model.pt.*\n$"
        )

    @unittest.skipIf(os.name == "nt", "Windows has no limit for the size of files.")
    def test_a_full_disk_is_one_line_and_the_same_command_goes_on(self) -> None:
        """The disk is full for whatever is larger than a limit, first for features, then for the model."""
        import resource

        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        own = {"FEATURE_STORE_DIR": str(self.dir / "features"), "TRAINING_STEPS": 2, "LSTM_HIDDEN_SIZE": 256}
        for kilobytes in (500, 5000, None):
            limit = (1024 * kilobytes, before[1]) if kilobytes else before
            with settings.override(**own):
                resource.setrlimit(resource.RLIMIT_FSIZE, limit)
                try:
                    answer = self.run_here(neural_net.main)
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, before)
            left = sorted(path.name for path in self.dir.rglob("*") if path.is_file())
            self.assertFalse([name for name in left if name.endswith((".tmp", ".owner"))])
            if kilobytes:
                self.assertEqual(answer.returncode, 2)
                self.assertRegex(answer.stderr, r"^Error: there is no room .* the same command goes on.\n$")
                self.assertNotIn("model.pt", left)
        self.assertEqual((answer.returncode, answer.stderr), (0, ""))
        self.assertEqual(neural_net.load_encoder(str(self.dir / "model.pt")).settings["LSTM_HIDDEN_SIZE"], 256)

    @unittest.skipIf(os.name == "nt", "Windows has no signals.")
    def test_stopped_twice_by_the_keyboard(self) -> None:
        arguments = [*self.typed, "TRAINING_STEPS=100000", "SAVE_MODEL_FREQUENCY=1"]
        command = [sys.executable, str(PROJECT_DIR / "neural_net.py"), *arguments]
        with (self.dir / "errors.txt").open("w") as errors:
            run = subprocess.Popen(command, cwd=self.dir, stdout=subprocess.DEVNULL, stderr=errors)
        self.addCleanup(run.kill)
        while not (self.dir / "model.pt").exists():
            self.assertIsNone(run.poll())
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        latest = time.monotonic() + 10
        while not (self.dir / "errors.txt").read_text().endswith(".\n") and time.monotonic() < latest:
            time.sleep(0.01)
        run.send_signal(signal.SIGINT)
        self.assertIn(run.wait(10), (130, -signal.SIGINT))  # The former if it was quicker than the second signal.
        said = (self.dir / "errors.txt").read_text()
        # Python ignores an interrupt, and says so, where it cannot raise it, as while it collects garbage.
        if not said.startswith("Exception ignored"):
            self.assertEqual(said, "\nStopped. The same command continues from what is saved, if anything is.\n")
        steps = len(torch.load(self.dir / "model.last.pt", weights_only=True)["losses"])
        with settings.override(TRAINING_STEPS=steps + 1):
            answer = self.run_here(neural_net.main)
        self.assertEqual((answer.returncode, answer.stderr), (0, ""))
        self.assertIn(f"Continuing after step {steps}.", answer.stdout)

    @unittest.skipIf(torch.cuda.is_available(), "there is a GPU")
    def test_a_device_that_is_not_there_is_an_error(self) -> None:
        with self.assertRaisesRegex(ValueError, "DEVICE=cuda is not available"):
            self.train(1, DEVICE="cuda")


class MetricsTest(ProjectTest):
    def test_toy_table(self) -> None:
        # By hand: at the threshold 0.4, one of four non-targets is accepted and one of four targets rejected.
        labels = [1, 1, 1, 1, 0, 0, 0, 0]
        scores = [0.9, 0.8, 0.5, 0.2, 0.4, 0.1, -0.3, -0.5]
        thresholds, false_accept, false_reject = metrics.error_rates(labels, scores)
        np.testing.assert_allclose(thresholds[:-1], sorted(scores))
        np.testing.assert_allclose(false_accept, [1, 0.75, 0.5, 0.25, 0.25, 0, 0, 0, 0])
        np.testing.assert_allclose(false_reject, [0, 0, 0, 0, 0.25, 0.25, 0.5, 0.75, 1])
        self.assertEqual(evaluation.compute_eer(labels, scores), (0.25, 0.4))
        self.assertEqual(metrics.min_dcf(false_accept, false_reject, 0.5), 0.25)
        self.assertAlmostEqual(metrics.min_dcf(false_accept, false_reject, 0.01), 0.25)

    def test_sweep_is_scikit_learns(self) -> None:
        rng = np.random.default_rng(0)
        for decimals, num_targets, num_nontargets in ((9, 500, 500), (1, 500, 400), (9, 3, 2000), (0, 50, 50)):
            labels = np.repeat([1, 0], [num_targets, num_nontargets])
            scores = np.round(rng.normal(labels - 0.7, 1), decimals)
            thresholds, false_accept, false_reject = metrics.error_rates(labels, scores)
            fpr, fnr, det_thresholds = sklearn.metrics.det_curve(labels, scores)
            for rate, miss, threshold in zip(fpr, fnr, det_thresholds, strict=True):
                if np.isfinite(threshold):
                    place = np.searchsorted(thresholds, threshold)
                    self.assertAlmostEqual(false_accept[place], rate)
                    self.assertAlmostEqual(false_reject[place], miss)
            eer, threshold = metrics.equal_error_rate(thresholds, false_accept, false_reject)
            nearest = np.argmin(np.abs(fpr - fnr))
            self.assertLessEqual(abs(eer - (fpr[nearest] + fnr[nearest]) / 2), np.abs(fpr - fnr)[nearest] / 2 + 1e-9)
            accepted = scores >= threshold
            rates = accepted[labels == 0].mean(), (~accepted)[labels == 1].mean()
            self.assertTrue(min(rates) - 1e-9 <= eer <= max(rates) + 1e-9)

    def test_extreme_scores(self) -> None:
        self.assertEqual(evaluation.compute_eer([1, 1, 0, 0], [0.9, 0.8, 0.2, 0.1]), (0.0, 0.8))
        self.assertEqual(evaluation.compute_eer([1, 0, 0], [0.3, 0.3, 0.3])[0], 0.5)
        self.assertEqual(evaluation.compute_eer([1, 1, 0, 0], [-0.9, -0.8, -0.2, -0.1])[0], 1.0)
        self.assertEqual(evaluation.compute_eer([1, 0, 0], [0.5, 0.4, 0.6])[0], 0.5)
        for labels, scores in (
            ([1, 1], [0.1, 0.2]),
            ([0, 0], [0.1, 0.2]),
            ([], []),
            ([1, 0], [0.1, math.nan]),
            ([1, 0], [0.1, math.inf]),
            ([1, 2], [0.1, 0.2]),
            ([1, 0, 1], [0.1, 0.2]),
        ):
            with self.subTest(labels=labels, scores=scores), self.assertRaises(ValueError):
                evaluation.compute_eer(labels, scores)

    def test_coarse_sweep_of_the_course(self) -> None:
        rng = np.random.default_rng(0)
        labels = np.tile([1, 0], 500)
        scores = rng.normal(0.4 * labels - 0.1, 0.2)
        with settings.override(EVAL_THRESHOLD_STEP=0.01):
            eer, threshold = evaluation.compute_eer(labels, scores)
        self.assertAlmostEqual(threshold * 100, round(threshold * 100))
        accepted = scores >= threshold
        self.assertAlmostEqual(eer, (accepted[labels == 0].mean() + (~accepted)[labels == 1].mean()) / 2, delta=0.01)

    def test_interval_agrees_with_a_plain_bootstrap(self) -> None:
        rng = np.random.default_rng(0)
        speaker_of = np.repeat(np.arange(12), 5)
        embeddings = rng.normal(size=(12, 4))[speaker_of] + 0.8 * rng.normal(size=(60, 4))
        enrol, test = np.triu_indices(60, k=1)
        scores = (embeddings @ embeddings.T)[enrol, test]
        labels = (speaker_of[enrol] == speaker_of[test]).astype(int)
        low, high = metrics.eer_interval(labels, scores, speaker_of[enrol], speaker_of[test], rng)
        eers = []
        for _ in range(400):
            drawn = np.bincount(rng.integers(12, size=12), minlength=12)
            times = np.where(labels == 1, drawn[speaker_of[enrol]], drawn[speaker_of[enrol]] * drawn[speaker_of[test]])
            eers.append(evaluation.compute_eer(np.repeat(labels, times), np.repeat(scores, times))[0])
        self.assertTrue(low < evaluation.compute_eer(labels, scores)[0] < high)
        np.testing.assert_allclose([low, high], np.percentile(eers, [2.5, 97.5]), atol=0.015)

    def test_replicates_of_two_systems_are_paired(self) -> None:
        rng = np.random.default_rng(0)
        labels, enrol, test = rng.integers(2, size=400), rng.integers(8, size=400), rng.integers(8, size=400)
        scores = rng.normal(labels, 1)
        # The same scores in other units: each replicate of the one has to be that of the other.
        first, second = (
            metrics.bootstrap_eers(labels, values, enrol, test, np.random.default_rng(1))
            for values in (scores, 3 * scores - 1)
        )
        np.testing.assert_allclose(first, second)
        self.assertGreater(first.std(), 0.005)

    def test_95_percent_of_intervals_hold_the_truth(self) -> None:
        rng = np.random.default_rng(0)

        def draw_trials(num_speakers: int) -> tuple[np.ndarray, ...]:
            speaker_of = np.repeat(np.arange(num_speakers), 4)
            embeddings = rng.normal(size=(num_speakers, 8))[speaker_of] + 0.9 * rng.normal(size=(len(speaker_of), 8))
            embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
            enrol, test = np.triu_indices(len(speaker_of), k=1)
            scores = (embeddings @ embeddings.T)[enrol, test]
            return (speaker_of[enrol] == speaker_of[test]).astype(int), scores, speaker_of[enrol], speaker_of[test]

        truth = np.mean([evaluation.compute_eer(*draw_trials(300)[:2])[0] for _ in range(10)])
        with unittest.mock.patch.object(metrics, "NUM_BOOTSTRAPS", 200):
            intervals = np.array([metrics.eer_interval(*draw_trials(25), rng) for _ in range(400)])
        share = np.mean((intervals[:, 0] <= truth) & (truth <= intervals[:, 1]))
        self.assertTrue(0.93 <= share <= 0.97, share)

    def test_interval_needs_three_speakers(self) -> None:
        with self.assertRaisesRegex(ValueError, "needs 3 or more"):
            metrics.eer_interval([1, 0], [0.5, 0.4], [0, 0], [0, 1], np.random.default_rng(0))


class ParallelTest(ProjectTest):
    def gradients_of_one_process(self, encoder: neural_net.SpeakerEncoder, crops: torch.Tensor) -> list[torch.Tensor]:
        """Of the loss of a batch (speakers, utterances, frames, N_MFCC), without any threads of ours."""
        losses = neural_net.get_triplet_losses(encoder(crops.flatten(0, 1)).unflatten(0, crops.shape[:2]))
        return list(torch.autograd.grad(losses.mean(), list(encoder.parameters())))

    def test_threads_give_the_gradient_of_the_whole_batch(self) -> None:
        encoder = speaker_encoder.SpeakerEncoder()
        crops = torch.randn(11, 5, 7, myconfig.N_MFCC)
        for num_threads in (1, 2, 5):
            with settings.override(NUM_PROCESSES=num_threads, MIXED_PRECISION=False):
                encoder.zero_grad()
                neural_net.get_triplet_losses(neural_net.embed_batch(encoder, crops)).mean().backward()
            expected = self.gradients_of_one_process(encoder, crops)
            for parameter, gradient in zip(encoder.parameters(), expected, strict=True):
                torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)

    def run_two_processes(self, *command: str) -> str:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", *command, *self.typed]
        launcher += [f"FEATURE_STORE_DIR={self.dir / 'features'}"]
        answer = subprocess.run(launcher, cwd=self.dir, capture_output=True, text=True, timeout=120)
        self.assertEqual(answer.returncode, 0, answer.stderr)
        return answer.stdout

    @unittest.skipIf(os.name == "nt", "PyTorch for Windows may come without what torchrun needs")
    def test_two_processes_train_one_model_by_the_gradient_of_the_joint_batch(self) -> None:
        (self.dir / "rank.py").write_text(
            f"""
import sys; sys.path.insert(0, {str(PROJECT_DIR)!r})
import torch, dataset, feature_store, myconfig, neural_net, parallel, settings, speaker_encoder
settings.read_command_line("A test.")
with parallel.process_group():
    data = dataset.get_spk_to_utts("TRAIN")
    store = feature_store.open_store(data)
    encoder = neural_net.get_speaker_encoder()
    with torch.no_grad():
        encoder.lstms[0].bias_ih_l0 += parallel.rank()  # Rank 0's weights must come to hold.
    network = parallel.replicate(encoder)
    crops = neural_net.draw_batch(encoder, store, None, 3)
    with settings.override(MIXED_PRECISION=False):
        losses = neural_net.get_triplet_losses(parallel.gather(neural_net.embed_batch(network, crops)))
    (losses.mean() * parallel.world_size()).backward()
    gradients = [parameter.grad for parameter in encoder.parameters()]
    embeddings = torch.from_numpy(speaker_encoder.embed_store(encoder, store))
    losses_of_training = neural_net.train_network(data, 2, myconfig.SAVED_MODEL_PATH)
    torch.save([crops, gradients, embeddings, losses, losses_of_training], f"{{parallel.rank()}}.pt")
""",
            encoding="utf-8",
        )
        self.run_two_processes("rank.py")
        ranks = [torch.load(self.dir / f"{rank}.pt") for rank in (0, 1)]
        output = self.run_two_processes(str(PROJECT_DIR / "neural_net.py"), "TRAINING_STEPS=4")
        for line in ("Continuing after step 2.", "Step 4: loss", f"The best model is {myconfig.SAVED_MODEL_PATH}."):
            self.assertEqual(output.count(line), 1)
        with settings.override(MIXED_PRECISION=False, FEATURE_STORE_DIR=str(self.dir / "features")):
            encoder = neural_net.get_speaker_encoder()
            store = feature_store.open_store(dataset.get_librispeech_spk_to_utts(str(corpus / "train")))
            expected = self.gradients_of_one_process(encoder, torch.cat([crops for crops, *_ in ranks]))
            expected_embeddings = speaker_encoder.embed_store(encoder, store)
        crops_of_rank = [crops.flatten(0, 1).flatten(1) for crops, *_ in ranks]
        self.assertTrue((torch.cdist(*crops_of_rank) > 0).all(), "the processes draw different crops")
        self.assertEqual(ranks[0][4], ranks[1][4])
        losses_of_all_steps = torch.load(self.dir / "model.last.pt", weights_only=True)["losses"]
        self.assertEqual(len(losses_of_all_steps), 4)
        self.assertEqual(losses_of_all_steps[:2], ranks[0][4])
        for utt in range(0, len(store.files), 7):
            expected_features = feature_extraction.extract_features(store.files[utt])
            np.testing.assert_allclose(store.read(utt), expected_features, rtol=1e-3, atol=1e-3)
        for _, gradients, embeddings, losses, _ in ranks:
            for gradient, reference in zip(gradients, expected, strict=True):
                torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(embeddings, torch.from_numpy(expected_embeddings))
            self.assertEqual(len(losses), myconfig.BATCH_SIZE * myconfig.UTTERANCES_PER_SPEAKER)


class EvaluationTest(ProjectTest):
    def setUp(self) -> None:
        super().setUp()
        self.encoder = speaker_encoder.SpeakerEncoder().eval()
        self.spk_to_utts = dataset.get_librispeech_spk_to_utts(str(corpus / "test"))

    def evaluate(self, **values) -> dict:
        with settings.override(**values):
            return evaluation.evaluate(self.encoder, self.spk_to_utts)

    def test_scores_of_triplets_are_cosines_of_the_utterances(self) -> None:
        labels, scores = evaluation.compute_scores(self.encoder, self.spk_to_utts, 50)
        self.assertEqual(labels.tolist(), [1, 0] * 50)
        results = self.evaluate(NUM_EVAL_TRIPLETS=50)
        lines = [line.split(" ") for line in (self.dir / "results/scores.txt").read_text().splitlines()]
        self.assertEqual(len(lines), 100)
        for (label, score, enrol, test), expected in zip(lines, scores, strict=True):
            self.assertEqual(int(label), Path(enrol).parts[-3] == Path(test).parts[-3])
            self.assertAlmostEqual(float(score), expected, places=5)
        self.assertAlmostEqual(results["eer"], evaluation.compute_eer(labels, scores)[0])
        _, score, enrol, test = lines[7]
        pair = [
            evaluation.run_inference(feature_extraction.extract_features(file), self.encoder) for file in (enrol, test)
        ]
        self.assertAlmostEqual(evaluation.cosine_similarity(*pair), float(score), places=3)

    def test_normalised_scores_are_those_above_the_nearest_of_a_cohort(self) -> None:
        with self.assertRaisesRegex(ValueError, "holds no cohort for AS_NORM"):
            self.evaluate(AS_NORM=True)
        cohort = np.random.default_rng(0).normal(size=(250, self.encoder.dimensions)).astype(np.float32)
        self.encoder.cohort = cohort / np.linalg.norm(cohort, axis=1, keepdims=True)
        with unittest.mock.patch.object(score_normalization, "BLOCK_UTTS", 7):
            results = self.evaluate(AS_NORM=True, EVAL_TRIALS="all_pairs")
        lines = [line.split(" ") for line in (self.dir / "results/scores.txt").read_text().splitlines()]
        files = sorted({file for _, _, *pair in lines for file in pair})
        embedding_of = dict(zip(files, evaluation.embed_utterances(self.encoder, files), strict=True))
        for _, score, enrol, test in lines[::50]:
            above = []
            for file in (enrol, test):
                nearest = sorted((embedding_of[file] @ row for row in self.encoder.cohort), reverse=True)[:100]
                cosine = embedding_of[enrol] @ embedding_of[test]
                above.append((cosine - statistics.fmean(nearest)) / statistics.pstdev(nearest))
            self.assertAlmostEqual(float(score), sum(above) / 2, delta=0.02 * abs(sum(above)))
        labels, scores = np.array([line[:2] for line in lines], float).T
        self.assertAlmostEqual(results["eer"], evaluation.compute_eer(labels, scores)[0], places=4)
        self.encoder.cohort = np.tile(self.encoder.cohort[:1], (3, 1))
        with self.assertRaisesRegex(ValueError, "all alike"):
            self.evaluate(AS_NORM=True)
        evaluation.print_report(results)
        self.assertIn("normalised with a cohort of training speakers", self.output.getvalue())

    def test_groups_are_reported_apart(self) -> None:
        speakers = list(self.spk_to_utts)
        groups = {name: "f" if number < 4 else "m" for number, name in enumerate(speakers[:9])}  # Three have none.
        with settings.override(EVAL_TRIALS="all_pairs"):
            results = evaluation.evaluate(self.encoder, self.spk_to_utts, groups)
            self.assertEqual(list(results["eer_within_groups"]), ["f", "m", "any one group"])
            self.spk_to_utts = {name: self.spk_to_utts[name] for name in speakers[:4]}
            self.assertAlmostEqual(results["eer_within_groups"]["f"], self.evaluate()["eer"])
        labels, scores = np.array([1, 0, 0, 1, 0]), np.array([0.9, 0.1, 0.8, 0.3, 0.7])
        within = evaluation.eer_by_group(labels, scores, np.array(list("ffmmm")), np.array(list("fffmm")))
        # The third trial is between the groups; of "m" there remain one target and one non-target, the wrong way round.
        self.assertEqual(within, {"f": 0.0, "m": 1.0, "any one group": 0.5})

    def test_all_pairs(self) -> None:
        results = self.evaluate(EVAL_TRIALS="all_pairs")
        self.assertEqual(results["num_target_trials"], 12 * 12 * 11 // 2)
        self.assertEqual(results["num_nontarget_trials"], 144 * 143 // 2 - 12 * 12 * 11 // 2)
        self.assertEqual((results["num_speakers"], results["num_utterances"]), (12, 144))
        saved = json.loads((self.dir / "results/results.json").read_text())
        self.assertEqual(saved["eer"], results["eer"])
        self.assertEqual((saved["settings"]["N_MFCC"], saved["settings"]["SEED"]), (40, 0))
        self.assertNotIn("BATCH_SIZE", saved["settings"])
        self.assertTrue(saved["eer_ci95"][0] < saved["eer"] < saved["eer_ci95"][1])
        self.assertEqual((self.dir / "results/results.png").read_bytes()[:4], b"\x89PNG")
        self.assertEqual(self.evaluate(EVAL_TRIALS="all_pairs")["eer"], results["eer"])

    def test_trial_list(self) -> None:
        first, second = list(self.spk_to_utts)[:2]
        spaced = self.write_audio("with space/x y.wav")
        self.spk_to_utts[first].append(spaced)
        utts = [os.path.relpath(utt, corpus / "test") for utt in self.spk_to_utts[first][:2]]
        lines = [
            f"1 {utts[0]} {utts[1]}",
            f"0 {utts[0]}   {self.spk_to_utts[second][0]}",
            '1 "with space/x y.wav" ' + utts[0],
        ]
        (self.dir / "trials.txt").write_text("\r\n".join(lines) + "\r\n\r\n", newline="")
        values = {"EVAL_TRIALS": str(self.dir / "trials.txt"), "TEST_DATA_DIR": str(corpus / "test")}
        results = self.evaluate(**values)
        self.assertEqual((results["num_target_trials"], results["num_nontarget_trials"]), (2, 1))
        self.assertIn(f'"{spaced}"', (self.dir / "results/scores.txt").read_text())
        for line, message in (
            ("1 a.wav", "line 1: expected"),
            ("2 a.wav b.wav", "line 1: expected"),
            (f"1 {utts[0]} gone.wav", "line 1: gone.wav is not among"),
            ("", "lists no trials"),
            ('1 "' + "x" * 200_000, "not a trial list"),
        ):
            (self.dir / "trials.txt").write_text(line)
            with self.subTest(line), self.assertRaisesRegex(ValueError, message):
                self.evaluate(**values)

    def test_training_speakers_in_the_test_data_are_named(self) -> None:
        self.encoder.train_speakers = ["s00", "s30"]
        self.evaluate(NUM_EVAL_TRIPLETS=50)
        self.assertIn("trained on 1 of the test speakers (s30): the EER is too low", self.output.getvalue())

    def test_speakers_with_one_utterance_each_cannot_be_evaluated(self) -> None:
        with self.assertRaisesRegex(ValueError, "two utterances or more"):
            evaluation.compute_scores(self.encoder, self.write_speakers(3, 1), 10)

    def test_training_makes_the_eer_fall_well_below_that_of_an_untrained_network(self) -> None:
        train_data = dataset.get_librispeech_spk_to_utts(str(corpus / "train"))
        values = {"LSTM_HIDDEN_SIZE": 64, "BATCH_SIZE": 24, "NUM_VALIDATION_SPEAKERS": 0}
        with settings.override(**values, EVAL_TRIALS="all_pairs"):
            neural_net.train_network(train_data, 1, str(self.dir / "untrained.pt"))
            neural_net.train_network(train_data, 100, str(self.dir / "trained.pt"))
            eers = {
                name: evaluation.evaluate(neural_net.load_encoder(str(self.dir / f"{name}.pt")), self.spk_to_utts)[
                    "eer"
                ]
                for name in ("untrained", "trained")
            }
        self.assertGreater(eers["untrained"], 0.25)
        self.assertLess(eers["trained"], 0.75 * eers["untrained"])
        self.assertGreater(eers["trained"], 0)

    def test_pretrained_models_beat_a_network_without_training(self) -> None:
        neural_net.set_normalisation(self.encoder, feature_store.open_store(self.spk_to_utts))
        untrained = self.evaluate(EVAL_TRIALS="all_pairs")["eer"]
        models = sorted((PROJECT_DIR / "saved_model/pretrained").glob("*.pt"))
        self.assertGreater(len(models), 0)
        for path in models:
            self.encoder = neural_net.load_encoder(str(path))
            self.assertLess(self.evaluate(EVAL_TRIALS="all_pairs")["eer"], untrained, path.name)

    def test_pretrained_models_give_the_embeddings_that_lie_beside_them(self) -> None:
        for number in range(40, 43):
            folder = self.dir / f"data/demo/test/{1001 + number}"
            demo_data.write_speaker(folder, np.random.default_rng([demo_data.SEED, number]))
        models = sorted((PROJECT_DIR / "saved_model/pretrained").glob("*.pt"))
        self.assertGreater(len(models), 0)
        for path in models:
            with path.with_suffix(".csv").open(encoding="utf-8", newline="") as file:
                rows = list(csv.reader(file))
            self.assertEqual(len(rows), 3)
            encoder = neural_net.load_encoder(str(path))
            embeddings = evaluation.embed_utterances(encoder, [str(self.dir / row[0]) for row in rows])
            expected = np.array([row[1:] for row in rows], float)
            np.testing.assert_allclose(embeddings, expected, atol=1e-4, err_msg=path.name)

    def test_the_last_line_is_the_courses(self) -> None:
        speaker_encoder.save_encoder(str(self.dir / "model.pt"), self.encoder)
        answer = self.run_script("evaluation.py", *self.typed, "NUM_EVAL_TRIPLETS=100")
        self.assertEqual((answer.returncode, answer.stderr), (0, ""))
        results = self.evaluate(NUM_EVAL_TRIPLETS=100)
        expected = f"eer_threshold = {results['eer_threshold']:.6f} eer = {results['eer']:.6f}"
        self.assertEqual(answer.stdout.splitlines()[-1], expected)

    def test_mistakes_end_in_one_sentence(self) -> None:
        with settings.override(TRAIN_DATA_CSV="gone.csv"):
            trained = self.run_here(neural_net.main)
        evaluated = self.run_script("evaluation.py", "SAVED_MODEL_PATH=gone.pt")
        for answer, word in ((trained, "gone.csv"), (evaluated, "gone.pt")):
            self.assertEqual(answer.returncode, 2)
            self.assertRegex(answer.stderr, f"^Error: .*{word}.*\n$")


class ConditionsTest(ProjectTest):
    def setUp(self) -> None:
        super().setUp()
        self.noise = self.write_audio("noise/hum/hum.wav", 3)
        folders = {"CONDITIONS_DIR": str(self.dir / "conditions"), "TEST_NOISE_DIR": str(self.dir / "noise")}
        override = settings.override(**folders)
        override.__enter__()
        self.addCleanup(override.__exit__, None, None, None)

    def test_noise_has_the_ratio_that_was_drawn(self) -> None:
        voice = np.random.default_rng(0).normal(0, 0.1, 5 * RATE).astype(np.float32)
        ratios = []
        for seed in range(20):
            noise = conditions.mix_with_noise([self.noise], voice, np.random.default_rng(seed)) - voice
            ratios.append(10 * np.log10(np.mean(voice**2) / np.mean(noise**2)))
        self.assertTrue(4.9 < min(ratios) < 7 and 13 < max(ratios) < 15.1, ratios)

    def test_short_is_a_piece_of_the_utterance(self) -> None:
        samples = np.arange(5 * RATE, dtype=np.float32)
        pieces = [conditions.cut_short(samples, np.random.default_rng(seed)) for seed in range(20)]
        for piece in pieces:
            np.testing.assert_array_equal(piece, piece[0] + np.arange(1.6 * RATE))
        self.assertGreater(np.ptp([piece[0] for piece in pieces]), RATE)
        np.testing.assert_array_equal(conditions.cut_short(samples[:RATE], np.random.default_rng(0)), samples[:RATE])

    def test_telephone_band(self) -> None:
        noise = np.random.default_rng(0).normal(0, 0.1, 5 * RATE).astype(np.float32)
        changed = conditions.telephone(noise, np.random.default_rng(0))
        self.assertEqual(len(changed), len(noise))
        hz = np.fft.rfftfreq(len(noise), 1 / RATE)
        gain_db = 10 * np.log10(np.abs(np.fft.rfft(changed)) ** 2 / np.abs(np.fft.rfft(noise)) ** 2)
        for low, high, least, most in ((500, 3000, -1, 1), (50, 150, -60, -20), (4200, 8000, -200, -40)):
            level = np.median(gain_db[(hz > low) & (hz < high)])
            self.assertTrue(least < level < most, f"{level:.1f} dB between {low} and {high} Hz")

    def test_mu_law_has_eight_bits_and_fine_steps_for_soft_sounds(self) -> None:
        samples = np.linspace(-1, 1, 100001)
        coded = conditions.mu_law(samples)
        self.assertEqual(len(np.unique(coded)), 255)
        loud = np.abs(samples) > 0.02
        self.assertLess(np.max(np.abs(coded / samples - 1)[loud]), 0.04)
        self.assertLess(np.max(np.abs(coded - samples)[~loud]), 0.0005)

    def test_each_corpus_is_a_condition_and_built_once(self) -> None:
        spk_to_utts = {
            name: [self.write_audio(f"{name}/{utt}.wav", seconds, seed=utt) for utt in range(2)]
            for name, seconds in (("a-1", 4), ("a-2", 4), ("b-1", 1), ("b-2", 1))
        }
        built = conditions.build_conditions(spk_to_utts)
        names = ["a-clean", "a-1.6s", "a-noise", "a-telephone", "b-clean", "b-noise", "b-telephone"]
        self.assertEqual(list(built), names)
        self.assertEqual(built["a-clean"], {name: spk_to_utts[name] for name in ("a-1", "a-2")})
        listed = dataset.get_csv_spk_to_utts(str(self.dir / "conditions/b-noise.csv"))
        self.assertEqual(listed.keys(), {"b-1", "b-2"})
        self.assertEqual(soundfile.info(built["a-1.6s"]["a-1"][0]).duration, 1.6)
        changed_file = Path(built["a-noise"]["a-2"][1])
        before = changed_file.stat().st_mtime_ns
        self.assertEqual(conditions.build_conditions(spk_to_utts), built)
        self.assertEqual(changed_file.stat().st_mtime_ns, before)
        shutil.rmtree(self.dir / "conditions")
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for again in pool.map(conditions.build_conditions, [spk_to_utts] * 4):
                self.assertEqual(again, built)
        self.write_audio("a-2/1.wav", 4, seed=9)
        (self.dir / "a-1/0.wav").write_text("broken")
        changed = conditions.build_conditions(spk_to_utts)
        self.assertNotEqual(changed["a-noise"]["a-2"][1], str(changed_file))
        self.assertEqual(len(changed["a-noise"]["a-1"]), 1)
        self.write_audio("noise/hum/hum.wav", 4)
        self.assertNotEqual(conditions.build_conditions(spk_to_utts)["b-noise"], changed["b-noise"])
        self.assertEqual(conditions.build_conditions(spk_to_utts)["b-telephone"], changed["b-telephone"])

    def test_ladder_has_rows_for_what_differs_from_the_course(self) -> None:
        with settings.override(LSTM_HIDDEN_SIZE=64, SPEEDS=(1.0,), BI_LSTM=True, ENSEMBLE_SIZE=2):
            rows = ladder.list_rows()
        self.assertEqual(rows["the course's recipe"], ladder.COURSE)
        self.assertNotIn("wider layers", rows)
        self.assertNotIn("other speeds as new speakers", rows)
        self.assertNotIn("BI_LSTM", rows["both directions"])
        self.assertIn("ROOM_PROB", rows["both directions"])
        self.assertEqual(list(rows.values())[-1].keys(), {"SPECAUG_TRAINING"})

    def test_thresholds_are_those_of_the_rates(self) -> None:
        scores = np.append(np.arange(1000) / 1000, 0.9 + np.arange(100) / 1000)
        labels = np.repeat([0, 1], [1000, 100])
        at_1, at_01 = conditions.thresholds_at((labels, scores, labels, labels), (0.01, 0.001))
        self.assertAlmostEqual((scores[labels == 0] >= at_1).mean(), 0.01)
        self.assertAlmostEqual((scores[labels == 0] >= at_01).mean(), 0.001)

    def test_few_trials_give_few_thresholds(self) -> None:
        path = str(self.dir / "model.pt")
        speaker_encoder.save_encoder(path, speaker_encoder.SpeakerEncoder())
        for num_nontargets, expected in ((3000, [0.01, 0.02, 0.05, 0.1, 0.2]), (200, [0.2])):
            labels = np.repeat([0, 1], [num_nontargets, 20])
            encoder = speaker_encoder.load_encoder(path)
            trials = labels, np.random.default_rng(0).normal(labels, 1), labels, labels
            self.assertEqual(conditions.calibrate(encoder, trials, "x"), expected)
            self.assertEqual(speaker_encoder.load_encoder(path).calibration["false_accept_rates"], expected)
        with self.assertRaisesRegex(ValueError, "100 non-target trials are too few"):
            conditions.calibrate(encoder, (labels[100:], np.linspace(0, 1, 120), labels, labels), "x")
        with settings.override(SEED=1):
            speaker_encoder.save_encoder(path, speaker_encoder.get_speaker_encoder())
        with self.assertRaisesRegex(ValueError, "has changed while it was measured"):
            conditions.calibrate(encoder, (labels, np.linspace(0, 1, 220), labels, labels), "x")

    def test_settings_may_stand_before_and_after_options(self) -> None:
        cases = {
            ("conditions.py", "NUM_PROCESSES=1", "--calibrate", "1", "DEVICE=none"): "DEVICE=none is not one of",
            ("ladder.py", "NUM_PROCESSES=1", "--minutes", "1", "DEVICE=none"): "DEVICE=none is not one of",
            ("conditions.py", "--calibrate", "DEVICE=cpu"): "that is a setting",
            ("conditions.py", "--calibrate", "mine", "AS_NORM=true"): "takes thresholds of cosine similarities",
        }
        for arguments, message in cases.items():
            result = self.run_script(*arguments)
            self.assertEqual(result.returncode, 2)
            self.assertIn(message, result.stderr)

    def test_ladder_continues_and_ends_with_the_settings(self) -> None:
        rows = {"the course's recipe": (), "all of ours": tuple(ladder.COURSE)}
        self.assertEqual({name for names in ladder.ROWS.values() for name in names}, set(ladder.COURSE))
        for speaker in sorted((corpus / "test").iterdir())[:4]:
            shutil.copytree(speaker, self.dir / "test" / speaker.name)
        few = unittest.mock.patch.multiple(ladder, ROWS=rows, PROBES=1, PROBE_SECONDS=0)
        values = {"TEST_DATA_DIR": str(self.dir / "test"), "UTTERANCES_PER_SPEAKER": 2, "AS_NORM": True}
        with few, settings.override(**values):
            table = ladder.climb(0.001, 1, "clean")
            model = self.dir / "results/ladder/all-of-ours-0.pt"
            self.assertEqual(speaker_encoder.load_encoder(str(model)).settings["LSTM_HIDDEN_SIZE"], 8)
            course = speaker_encoder.load_encoder(str(model.with_name("the-course-s-recipe-0.pt")))
            self.assertEqual(course.settings["LSTM_HIDDEN_SIZE"], 64)
            self.assertFalse(course.settings["FRAME_AGGREGATION_MEAN"])
            self.assertEqual(ladder.climb(0.001, 1, "clean"), table)
            tested = conditions.build_conditions(dataset.get_spk_to_utts("TEST"))
            scored = conditions.score_conditions(speaker_encoder.load_encoder(str(model)), tested)
            with self.assertRaisesRegex(ValueError, "a row of other minutes"):
                ladder.climb(0.002, 1, "clean")
            with self.assertRaisesRegex(ValueError, "there are clean, 1.6s, noise, telephone"):
                ladder.climb(0.001, 1, "loud")
            with self.assertRaisesRegex(ValueError, "--minutes -1"):
                ladder.climb(-1, 1, "clean")
        eers = {}
        for name, trials in (scored | {"pooled": conditions.pool(scored)}).items():
            false_accepts, true_accepts, _ = sklearn.metrics.roc_curve(*trials[:2], drop_intermediate=False)
            nearest = np.argmin(np.abs(1 - true_accepts - false_accepts))
            eers[name] = 50 * (1 - true_accepts + false_accepts)[nearest]
        expected = eers["clean"], eers.pop("pooled"), np.mean(list(eers.values()))
        shown = [float(cell.split()[0]) for cell in table[3].split("|")[3:6]]
        np.testing.assert_allclose(shown, expected, atol=0.2)
        self.assertEqual(len(table), 4)
        self.assertRegex(table[3], r"^\| 2. all of ours \| \d+ \| [\d.]+ \([\d.]+ to [\d.]+\) .*(yes|no) \|$")


class GenerateCsvTest(ProjectTest):
    def test_patterns(self) -> None:
        for file in ("wav/f/ann/1.wav", "wav/f/ann/deep/2.wav", "wav/m/bob/1.wav", "wav/other.wav"):
            self.write_audio(file)
        folder = str(self.dir / "wav")
        cases = {
            "*/{speaker}/**": (["ann", "ann", "bob"], 1),
            "{group}/{speaker}/*": (["ann", "bob"], 2),
            "**/{speaker}.wav": (["1", "1", "2"], 1),
        }
        for pattern, (speakers, num_others) in cases.items():
            with self.subTest(pattern):
                rows, others = generate_csv.list_recordings(folder, pattern)
                self.assertEqual(([row[0] for row in rows], others), (speakers, num_others))
        for pattern, message in (("*", "must have {speaker}"), ("{speaker}/{speaker}", "once"), ("x{speaker}", "none")):
            with self.assertRaisesRegex(ValueError, message):
                generate_csv.list_recordings(folder, pattern)

    def test_file_can_be_used(self) -> None:
        self.write_audio("wav/f/ann, 1/x.wav")
        self.write_audio("wav/m/bob/x.wav")
        result = self.run_script("generate_csv.py", "wav", "{group}/{speaker}/*", "lists/voices.csv")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        with settings.override(TEST_DATA_CSV=str(self.dir / "lists/voices.csv")):
            self.assertEqual(list(dataset.get_spk_to_utts("TEST")), ["ann, 1", "bob"])
            self.assertEqual(dataset.get_groups("TEST"), {"ann, 1": "f", "bob": "m"})
        if os.name != "nt":
            names = ["new\nline", 'quo"te'] + ([os.fsdecode(b"not utf-8 \xff")] if sys.platform == "linux" else [])
            for name in names:
                (self.dir / "strange" / name).mkdir(parents=True)
                shutil.copy(self.dir / "wav/m/bob/x.wav", self.dir / "strange" / name)
            self.assertEqual(self.run_script("generate_csv.py", "strange", "{speaker}/*", "x.csv").returncode, 0)
            self.assertEqual(sorted(dataset.get_csv_spk_to_utts(str(self.dir / "x.csv"))), sorted(names))
        result = self.run_script("generate_csv.py", "gone", "{speaker}/*", "x.csv")
        self.assertEqual((result.returncode, result.stderr.count("\n")), (2, 1))


class RecordingsTest(ProjectTest):
    def test_files_folders_and_patterns(self) -> None:
        a, b = self.write_audio("x/a.wav"), self.write_audio("x/y/b.wav")
        (self.dir / "x/notes.txt").touch()
        for names in ([str(self.dir / "x")], [str(self.dir / "x/**/*.wav")], [str(self.dir / "x/*")], [a, b, a]):
            self.assertEqual(recordings.expand_files(names), [a, b])
        (self.dir / "empty").mkdir()
        cases = {"empty": "no audio files", "x/*.txt": "no audio files", "gone.wav": "not exist", "*.ogg": "not exist"}
        for name, message in cases.items():
            with self.assertRaisesRegex(ValueError, message):
                recordings.expand_files([str(self.dir / name)])

    def test_speech_is_found_by_its_energy(self) -> None:
        rng = np.random.default_rng(0)
        loud, soft = (rng.normal(0, deviation, RATE) for deviation in (0.1, 0.0005))
        samples = np.concatenate([soft, loud, soft[: RATE // 10], loud, soft, soft]).astype(np.float32)
        speech = feature_extraction.find_speech(feature_extraction.levels_db(samples))
        frame = feature_extraction.SPEECH_FRAME_SAMPLES
        found = np.flatnonzero(speech) * frame / RATE
        self.assertAlmostEqual(found[0], 1, delta=0.03)
        self.assertAlmostEqual(found[-1] + frame / RATE, 3.1, delta=0.03)
        self.assertEqual(len(found), found[-1] * RATE / frame - found[0] * RATE / frame + 1)  # The pause belongs to it.
        self.assertFalse(feature_extraction.find_speech(feature_extraction.levels_db(soft)).any())

    def test_faults_are_told(self) -> None:
        voice = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32)
        quiet = np.zeros(20 * RATE, np.float32)
        cases = {
            "only 0.3 s of speech": np.concatenate([voice[: int(0.3 * RATE)], quiet[:RATE]]),
            "mostly silent": np.concatenate([voice, quiet]),
            "clipped": np.clip(10 * voice, -1, 1),
            "clipped: it": soxr.resample(np.clip(10 * voice, -1, 1), RATE, 48000),  # As recorded at another rate.
        }
        for message, samples in cases.items():
            path = self.dir / "x.wav"
            soundfile.write(path, samples, 48000 if message == "clipped: it" else RATE)
            *_, faults = recordings.listen(str(path))
            self.assertEqual(len(faults), 1)
            self.assertIn(message, faults[0])
        soundfile.write(path, voice, RATE)
        features, seconds, digest, faults = recordings.listen(str(path))
        self.assertEqual((faults, digest), ([], hashlib.sha256(path.read_bytes()).hexdigest()))
        self.assertAlmostEqual(seconds, 3, delta=0.05)
        np.testing.assert_array_equal(features, feature_extraction.extract_features(str(path)))

    def test_blocks_are_the_whole_recording(self) -> None:
        for rate in (RATE, 44100):
            path = self.write_audio("x.wav", 3.3, rate)
            blocks = list(feature_extraction.read_blocks(path, RATE))
            self.assertEqual({len(block) for block in blocks[:-1]}, {RATE})
            whole = feature_extraction.read_audio(path)
            joined = np.concatenate(blocks)
            self.assertLessEqual(abs(len(joined) - len(whole)), 1)
            np.testing.assert_allclose(joined[: len(whole)], whole[: len(joined)], atol=1e-3)


class SpeakerDatabaseTest(ProjectTest):
    MODEL = speaker_database.Model("abc", 4, "model.pt")

    def setUp(self) -> None:
        super().setUp()
        self.path = str(self.dir / "speakers.db")

    def recording(self, seed: int) -> speaker_database.Recording:
        embedding = np.random.default_rng(seed).normal(size=4).astype(np.float32)
        return speaker_database.Recording(f"{seed}.wav", f"hash{seed}", 2.0, embedding / np.linalg.norm(embedding))

    def enrol(self, name: str, *seeds: int, **options) -> None:
        with speaker_database.open_database(self.path, "create") as connection:
            found = [self.recording(seed) for seed in seeds]
            speaker_database.enrol(connection, name, found, **{"model": self.MODEL, **options})

    def read(self) -> tuple[list[str], np.ndarray]:
        with speaker_database.open_database(self.path) as connection:
            return speaker_database.read_speakers(connection, self.MODEL)

    def test_a_damaged_database_is_refused(self) -> None:
        for column, value in (("speaker", b"ann"), ("speech_seconds", "long"), ("embedding", "text")):
            self.path = str(self.dir / f"{column}.db")
            self.enrol("ann", 1)
            with contextlib.closing(sqlite3.connect(self.path)) as connection:
                connection.execute(f"UPDATE recordings SET {column} = ?", (value,))  # noqa: S608
                connection.commit()
            with self.subTest(column), self.assertRaisesRegex(ValueError, "damaged"):
                self.read()

    def test_no_word_is_a_database_in_memory(self) -> None:
        folder = Path.cwd()
        self.addCleanup(os.chdir, folder)
        os.chdir(self.dir)
        self.path = ":memory:"
        if os.name == "nt":
            self.skipTest("Windows has no files of this name.")
        self.enrol(" ann ", 1)
        self.assertEqual(self.read()[0], ["ann"])

    def test_speakers_are_means_of_their_recordings(self) -> None:
        self.enrol("b", 1, 2)
        self.enrol("a", 3)
        self.enrol("b", 4, more=True)
        names, embeddings = self.read()
        self.assertEqual(names, ["a", "b"])
        total = sum(self.recording(seed).embedding for seed in (1, 2, 4))
        np.testing.assert_allclose(embeddings[1], total / np.linalg.norm(total), rtol=1e-6)
        np.testing.assert_allclose(embeddings[0], self.recording(3).embedding, rtol=1e-6)
        with speaker_database.open_database(self.path) as connection:
            rows = speaker_database.list_speakers(connection)
        self.assertEqual([row[:3] for row in rows], [("a", 1, 2.0), ("b", 3, 6.0)])

    def test_mistakes_change_nothing(self) -> None:
        self.enrol("ann", 1)
        other_model = speaker_database.Model("xyz", 4, "other.pt")
        for name, seeds, options, message in (
            ("ann", (2,), {}, "enrolled already: use --more"),
            ("bob", (2,), {"more": True}, "no 'bob' to add to"),
            ("bob", (2, 1), {}, "same recording as 1.wav of 'ann'"),
            ("bob", (2,), {"model": other_model}, r"which was model.pt \(fingerprint abc\): name that one"),
            (" ", (2,), {}, "is not a name"),
            ("Unknown", (2,), {}, "is what strangers are called"),
            ("b\nb", (2,), {}, "is not a name"),
        ):
            with self.subTest(message), self.assertRaisesRegex(ValueError, message):
                self.enrol(name, *seeds, **options)
        self.assertEqual(self.read()[0], ["ann"])
        with speaker_database.open_database(self.path, "write") as connection:
            for old, new, message in (("bob", "ann", "no 'bob'"), ("ann", "ann", "already"), ("ann", "", "not a name")):
                with self.subTest(message), self.assertRaisesRegex(ValueError, message):
                    speaker_database.rename(connection, old, new)
            with self.assertRaisesRegex(ValueError, "no 'bob'"):
                speaker_database.remove(connection, "bob")
            with self.assertRaisesRegex(ValueError, "another model"):
                speaker_database.read_speakers(connection, other_model)

    def test_removed_is_gone_from_the_file(self) -> None:
        self.enrol("ann", 1)
        self.enrol("secretname", 2)
        blob = self.recording(2).embedding.tobytes()
        self.assertIn(blob, Path(self.path).read_bytes())
        with speaker_database.open_database(self.path, "write") as connection:
            speaker_database.remove(connection, "secretname")
        content = Path(self.path).read_bytes()
        self.assertNotIn(blob, content)
        self.assertNotIn(b"secretname", content)
        with speaker_database.open_database(self.path, "write") as connection:
            speaker_database.rename(connection, "ann", "eve")
            speaker_database.remove(connection, "eve")
        self.enrol("bob", 5, model=speaker_database.Model("xyz", 4, "other.pt"))  # Empty, it takes any model.

    def test_files_that_are_no_database(self) -> None:
        with self.assertRaisesRegex(ValueError, "enrol somebody first"):
            self.read()
        Path(self.path).write_bytes(b"this is text, and long enough to be read as a header" * 10)
        with self.assertRaisesRegex(ValueError, "not a database"):
            self.read()
        Path(self.path).unlink()
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            connection.execute("CREATE TABLE other (x)")
        with self.assertRaisesRegex(ValueError, "another program"):
            self.enrol("ann", 1)
        Path(self.path).unlink()
        self.enrol("ann", 1)
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            connection.execute("UPDATE recordings SET embedding = x'00'")
            connection.commit()
        with self.assertRaisesRegex(ValueError, "damaged"):
            self.read()

    @unittest.skipIf(os.name == "nt", "Windows has no such permissions.")
    def test_only_the_owner_may_read(self) -> None:
        self.enrol("ann", 1)
        self.assertEqual(Path(self.path).stat().st_mode & 0o777, 0o600)

    def test_many_write_at_once(self) -> None:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda seed: self.enrol(f"s{seed:02}", seed), range(32)))
        self.assertEqual(len(self.read()[0]), 32)


class SpeakerIdTest(ProjectTest):
    def setUp(self) -> None:
        super().setUp()
        with settings.override(LSTM_HIDDEN_SIZE=8):
            encoder = speaker_encoder.get_speaker_encoder()
        encoder.calibration = {
            "false_accept_rates": [0.01, 0.1, 0.2],
            "thresholds": [0.9999, 0.9, 0.5],
            "source": "a test",
        }
        self.model = str(self.dir / "model.pt")
        speaker_encoder.save_encoder(self.model, encoder)
        self.encoder = speaker_encoder.load_encoder(self.model)
        voices = sorted((corpus / "test").rglob("*.flac"))
        self.ann, self.bob = str(voices[0]), str(voices[-1])
        self.database = str(self.dir / "speakers.db")

    def run_command(self, *arguments: str) -> subprocess.CompletedProcess:
        arguments = [argument.replace("DIR", str(self.dir)) for argument in arguments]
        if arguments[0] not in ("list", "remove", "rename"):
            arguments += ["--model", self.model] if "--model" not in arguments else []
        if arguments[0] in ("list", "remove", "rename", "enrol", "identify") and "--db" not in arguments:
            arguments += ["--db", self.database]

        def parse_and_run() -> None:
            speaker_id.options = speaker_id.build_parser().parse_args(arguments)
            speaker_id.main()

        return self.run_here(parse_and_run)

    def test_thresholds_of_the_model(self) -> None:
        self.assertEqual(speaker_id.decision_for(self.encoder), (0.9999, 0.01, "a test"))
        self.assertEqual(speaker_id.decision_for(self.encoder, 0.1).threshold, 0.9)
        between = speaker_id.decision_for(self.encoder, 0.05).threshold
        self.assertTrue(0.9 < between < 0.9999)
        self.assertEqual(speaker_id.decision_for(self.encoder, threshold=0.3)[:2], (0.3, None))
        with self.assertRaisesRegex(ValueError, "from 0.01 to 0.2; lower rates take more test data"):
            speaker_id.decision_for(self.encoder, 0.5)
        self.encoder.calibration = {}
        with self.assertRaisesRegex(ValueError, "--calibrate"):
            speaker_id.decision_for(self.encoder)

    def test_score_is_the_cosine_of_the_mean_embeddings(self) -> None:
        files = [self.ann, self.bob]
        decision = speaker_id.decision_for(self.encoder, threshold=0.5)
        answer = speaker_id.verify(self.encoder, files, [self.bob], decision)
        both = evaluation.embed_utterances(self.encoder, files)
        self.assertAlmostEqual(answer["score"], evaluation.cosine_similarity(both.sum(axis=0), both[1]), places=5)
        self.assertEqual(answer["same"], answer["score"] >= 0.5)

    def test_verify_answers_by_its_exit_code(self) -> None:
        result = self.run_script("speaker_id.py", "verify", self.ann, self.ann, "--far", "0.01", "--model", self.model)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stdout, r"^the same speaker: score 1.000, threshold 1.000 \(1 % of .* on a test\).\n$")
        result = self.run_command("verify", self.ann, self.bob, "--threshold", "1", "--json")
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertFalse(json.loads(result.stdout)["same"])

    def test_enrol_and_identify(self) -> None:
        result = self.run_command("enrol", "Ann", self.ann)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertRegex(result.stdout, r"^Ann is enrolled: heard \d\.\d s of speech in 1 recordings.\n$")
        self.run_command("enrol", "Bob", self.bob)
        result = self.run_command("identify", self.ann, self.bob, "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        answers = json.loads(result.stdout)
        self.assertEqual([answer["speaker"] for answer in answers], ["Ann", "Bob"])
        self.assertEqual({name for name, _ in answers[0]["ranking"]}, {"Ann", "Bob"})
        stranger = str(sorted((corpus / "test").rglob("*.flac"))[40])
        result = self.run_command("identify", stranger, "--threshold", "1")
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertRegex(result.stdout, r": unknown \((Ann|Bob) 0\.\d{3}, (Ann|Bob) 0\.\d{3}\)\n")
        self.assertIn("Bob is now Robert", self.run_command("rename", "Bob", "Robert").stdout)
        self.assertIn("Ann is removed", self.run_command("remove", "Ann").stdout)
        self.assertRegex(self.run_command("list").stdout, r"^Robert: 1 recordings, \d\.\d s of speech, .* UTC\n$")

    def test_mistakes_are_one_line_and_exit_code_2(self) -> None:
        (self.dir / "text.wav").write_text("not audio")
        (self.dir / "text.db").write_text("not a database, but long enough to be looked at" * 20)
        (self.dir / "empty").mkdir()
        same_name = shutil.copy(self.ann, self.dir)
        speaker_id.enrol(self.encoder, self.database, "Ann", [self.ann])
        for arguments in (
            ("verify", self.ann, "DIR/gone.wav"),
            ("verify", self.ann, "DIR/text.wav"),
            ("verify", self.ann, "DIR/empty"),
            ("verify", self.ann, self.bob, "--far", "0.9"),
            ("enrol", "Ann", self.bob),
            ("enrol", "Eve", self.ann),
            ("identify", self.ann, "--db", "DIR/gone.db"),
            ("identify", self.ann, "--db", "DIR/text.db"),
            ("remove", "Eve"),
            ("rename", "Eve", "Ann"),
            ("timeline", "DIR/gone.wav", "--db", "DIR/speakers.db"),
            ("embed", "DIR/two\nlines \x1b[31m.wav"),
            ("embed", "-dash.wav"),
            ("enrol", " ", self.ann, "--db", "DIR/speakers.db"),
            ("enrol", "unknown ", self.ann, "--db", "DIR/speakers.db"),
            ("enrol", "Bob", self.bob, "--db", ""),
            ("verify", self.ann, self.bob, "--threshold", "nan"),
            ("verify", self.ann, self.bob, "--threshold", "abc"),
            ("map", self.ann, "--out", self.ann),
            ("timeline", self.ann, "--db", "DIR/speakers.db", "--out", "DIR/speakers.db"),
            ("timeline", self.ann, same_name, "--rttm", "--db", "DIR/speakers.db"),
            ("embed", self.ann, "--out", "x.txt"),
            ("verify", self.ann, self.bob, "--model", "DIR/text.wav"),
        ):
            result = self.run_command(*arguments)
            with self.subTest(arguments):
                self.assertEqual(
                    (result.returncode, result.stdout, result.stderr.count("\n")), (2, "", 1), result.stderr
                )
                self.assertTrue(result.stderr.startswith("Error: "))

    def test_a_fault_of_the_program_is_not_taken_for_an_answer(self) -> None:
        with unittest.mock.patch.object(speaker_id, "verify", side_effect=KeyError("a fault")):
            result = self.run_command("verify", self.ann, self.bob)
        self.assertEqual(result.returncode, 70)
        self.assertIn("KeyError: 'a fault'", result.stderr)

    def test_embeddings_for_others(self) -> None:
        expected = evaluation.embed_utterances(self.encoder, [self.ann, self.bob])
        heard = recordings.hear(self.encoder, [self.ann, self.bob])
        for name in ("x.npz", "x.csv"):
            recordings.write_embeddings(str(self.dir / name), heard)
        with np.load(self.dir / "x.npz") as archive:
            np.testing.assert_allclose(archive["embeddings"], expected, atol=1e-6)
            self.assertEqual(archive["files"].tolist(), [self.ann, self.bob])
        with (self.dir / "x.csv").open(newline="") as file:
            rows = list(csv.reader(file))
        self.assertEqual([row[0] for row in rows], [self.ann, self.bob])
        np.testing.assert_allclose(np.array([row[1:] for row in rows], float), expected, atol=1e-6)

    def test_pictures_of_a_map(self) -> None:
        self.assertEqual(voice_map.name_speakers(["x/ann/1.wav", "x/bob/1.wav"]), ["ann", "bob"])
        self.assertEqual(voice_map.name_speakers(["x/ann-1.wav", "x/bob_b_2.wav", "x/c.wav"]), ["ann", "bob_b", "c"])
        self.assertEqual(
            voice_map.name_speakers(["84/121123/84-121123-0000.flac", "84/7/84-7-0001.flac"]), ["84", "84"]
        )
        files = [str(path) for path in sorted((corpus / "test").rglob("*.flac"))[:24]]
        result = self.run_command("map", *files, "--out", "DIR/map.png")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual((self.dir / "map.png").read_bytes()[:4], b"\x89PNG")
        for number in (1, 2, 5):
            voice_map.draw_map(np.eye(8, dtype=np.float32)[:number], ["x"] * number)


class TimelineTest(ProjectTest):
    def test_path_changes_only_where_it_pays(self) -> None:
        scores = np.zeros((9, 2))
        scores[:, 0] = [1, 1, 1, 0.5, 1, 0, 0, 0, 0]  # One weak window, then another speaker for good.
        scores[:, 1] = 1 - scores[:, 0]
        scores[3, 1] = 0.9
        np.testing.assert_array_equal(speaker_timeline.best_path(scores), [0, 0, 0, 0, 0, 1, 1, 1, 1])
        paths = np.array(list(itertools.product((0, 1), repeat=9)))
        rng = np.random.default_rng(0)
        for _ in range(20):
            scores = rng.normal(0, 0.5, (9, 2))
            changes = np.abs(np.diff(paths, axis=1)).sum(axis=1)
            totals = scores[np.arange(9), paths].sum(axis=1) - speaker_timeline.SWITCH_COST * changes
            np.testing.assert_array_equal(speaker_timeline.best_path(scores), paths[np.argmax(totals)])

    def test_turns_of_a_recording(self) -> None:
        # A new encoder that normalises these sounds stands in for a trained one: loud noise against soft.
        encoder = speaker_encoder.get_speaker_encoder()
        rng = np.random.default_rng(0)
        low, high = (self.coloured(rng, 10 * RATE, sign) for sign in (1, -1))
        features = feature_extraction.compute_mfcc(np.append(low, high).astype(np.float32))
        encoder.feature_mean += torch.from_numpy(features.mean(axis=0))
        encoder.feature_std *= torch.from_numpy(features.std(axis=0))
        silence = np.zeros(4 * RATE)
        samples = np.concatenate([low, silence, high, low])
        soundfile.write(self.dir / "x.wav", samples, RATE)
        for name, part in (("low", low), ("high", high)):
            soundfile.write(self.dir / f"{name}.wav", part[: 3 * RATE], RATE)
        embeddings = evaluation.embed_utterances(encoder, [str(self.dir / f"{name}.wav") for name in ("low", "high")])
        with unittest.mock.patch.object(speaker_timeline, "SWITCH_COST", 0.01):
            timeline = speaker_timeline.find_timeline(encoder, str(self.dir / "x.wav"), ["low", "high"], embeddings, -1)
        self.assertEqual([turn.speaker for turn in timeline.turns], ["low", "high", "low"])
        times = np.array([turn[:2] for turn in timeline.turns])
        np.testing.assert_allclose(times, [[0, 10], [14, 24], [24, 34]], atol=0.7)
        self.assertTrue(np.isnan(timeline.similarities[31]).all())
        rttm = speaker_timeline.to_rttm(timeline.turns, "my talk.wav").splitlines()
        self.assertRegex(rttm[0], r"^SPEAKER my_talk 1 0.000 \d+\.\d{3} <NA> <NA> low <NA> <NA>$")
        speaker_timeline.draw_timeline(timeline, 0.5)
        nobody = speaker_timeline.find_timeline(encoder, str(self.dir / "x.wav"), [], embeddings[:0], 0.5)
        self.assertEqual({turn.speaker for turn in nobody.turns}, {"unknown"})
        with unittest.mock.patch.object(speaker_timeline, "BLOCK_STEPS", 7):
            in_blocks = self.windows(encoder)
        np.testing.assert_allclose(in_blocks, self.windows(encoder), atol=0.05)

    def windows(self, encoder: speaker_encoder.SpeakerEncoder) -> np.ndarray:
        blocks = speaker_timeline.embed_windows(encoder, str(self.dir / "x.wav"))
        return np.concatenate([embeddings for embeddings, _, _ in blocks])

    def test_faults_of_a_recording(self) -> None:
        encoder = speaker_encoder.get_speaker_encoder()
        loud = self.coloured(np.random.default_rng(0), 130 * RATE, 1)
        for samples, expected in (
            (loud, []),
            (np.append(loud[: 5 * RATE], np.zeros(120 * RATE)), ["mostly silent, with 5.0 s of speech in 125.0 s"]),
            (np.zeros(3 * RATE), ["only 0.0 s of speech"]),
            (loud[:100], ["only 0.0 s of speech"]),
            (np.clip(30 * loud, -1, 1), ["clipped"]),
        ):
            soundfile.write(self.dir / "x.wav", samples, RATE)
            nobody = np.zeros((0, encoder.dimensions), np.float32)
            faults = speaker_timeline.find_timeline(encoder, str(self.dir / "x.wav"), [], nobody, 0.5).faults
            self.assertEqual(len(faults), len(expected), faults)
            for found, words in zip(faults, expected, strict=True):
                self.assertIn(words, found)

    def coloured(self, rng: np.random.Generator, length: int, sign: int) -> np.ndarray:
        white = rng.normal(0, 0.05, length)
        return white + sign * np.append(0, white[:-1])

    def test_no_speech_is_lost_between_blocks(self) -> None:
        soundfile.write(self.dir / "x.wav", self.coloured(np.random.default_rng(0), 300 * RATE, 1), RATE)
        with settings.override(HOP_LENGTH=240):
            blocks = list(
                speaker_timeline.embed_windows(speaker_encoder.get_speaker_encoder(), str(self.dir / "x.wav"))
            )
        self.assertGreater(len(blocks), 2)
        self.assertEqual(sum(len(levels) for _, levels, _ in blocks), 300 * RATE // 320)

    def test_recordings_of_all_lengths(self) -> None:
        encoder = speaker_encoder.get_speaker_encoder()
        for seconds in (0.05, 0.5, 1.6, 1.7, 123.3):
            path = self.write_audio("x.wav", seconds)
            [turn] = speaker_timeline.find_timeline(encoder, path, [], np.zeros((0, 8), np.float32), 0.5).turns
            self.assertEqual(turn.start, 0)
            self.assertAlmostEqual(turn.end, seconds, delta=0.02)


class DownloadTest(ProjectTest):
    """Against a server on this machine, which can break off and go on."""

    def setUp(self) -> None:
        super().setUp()
        self.served = self.dir / "served"
        self.requests: list[str | None] = []
        self.break_after: list[int] = []
        test = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # noqa: N802 - the name that http.server asks for.
                test.requests.append(self.headers["Range"])
                path = test.served / Path(self.path).name
                if not path.exists():
                    self.send_error(404)
                    return
                content = path.read_bytes()
                start = int(self.headers["Range"][6:-1]) if self.headers["Range"] else 0
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                end = start + test.break_after.pop() if test.break_after else len(content)
                self.wfile.write(content[start:end])

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.mirror = f"http://127.0.0.1:{server.server_address[1]}"
        patch = unittest.mock.patch.object(download_data.time, "sleep")
        self.pause = patch.start()
        self.addCleanup(patch.stop)
        self.data = self.dir / "data"

    def serve(self, members: dict[str, bytes], extra: tarfile.TarInfo | None = None) -> None:
        """Serve an archive as dev-clean, and let its checksum be the published one."""
        self.served.mkdir(exist_ok=True)
        with tarfile.open(self.served / "dev-clean.tar.gz", "w:gz") as tar:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            if extra:
                tar.addfile(extra)
        digest = hashlib.md5((self.served / "dev-clean.tar.gz").read_bytes(), usedforsecurity=False).hexdigest()
        patch = unittest.mock.patch.dict(download_data.PARTS, {"dev-clean": digest})
        patch.start()
        self.addCleanup(patch.stop)

    def serve_voices(self) -> dict[str, bytes]:
        files = sorted((corpus / "test").rglob("*.flac"))[:6]
        members = {f"LibriSpeech/dev-clean/{path.parent.name}/1/{path.name}": path.read_bytes() for path in files}
        self.serve({"LibriSpeech/SPEAKERS.TXT": b";ID |SEX\ns24 | F | x\n", **members})
        return members

    def fetch(self) -> Path:
        return download_data.fetch_part("dev-clean", self.data, self.mirror)

    def test_part_is_fetched_once_and_whole(self) -> None:
        members = self.serve_voices()
        part = self.fetch()
        self.assertEqual(part, self.data / "LibriSpeech/dev-clean")
        for name, content in members.items():
            self.assertEqual((self.data / name).read_bytes(), content)
        self.fetch()
        self.assertEqual(self.requests, [None])
        self.assertEqual([path.name for path in self.data.iterdir() if path.suffix != ".lock"], ["LibriSpeech"])
        with settings.override(TEST_DATA_DIR=str(part)):
            self.assertEqual(dataset.get_groups("TEST"), {"s24": "F"})

    def test_broken_download_goes_on(self) -> None:
        self.serve_voices()
        self.break_after = [70000, 50000]
        self.fetch()
        self.assertEqual(self.requests, [None, "bytes=50000-", "bytes=120000-"])
        self.assertEqual(self.pause.call_count, 2)

    def test_two_processes_do_not_fetch_one_part(self) -> None:
        self.serve_voices()
        archive = self.data / "dev-clean.tar.gz"
        with safe_files.only_one_process(archive), self.assertRaisesRegex(ValueError, "is writing"):
            self.fetch()
        self.assertEqual(self.requests, [])

    def test_gives_up_and_keeps_what_it_has(self) -> None:
        self.serve_voices()
        self.break_after = [1000] * download_data.ATTEMPTS
        with self.assertRaisesRegex(ValueError, "same command goes on"):
            self.fetch()
        self.assertEqual((self.data / "dev-clean.tar.gz.part").stat().st_size, 1000 * download_data.ATTEMPTS)
        self.assertEqual(self.pause.call_count, download_data.ATTEMPTS - 1)
        self.fetch()

    def test_wrong_checksum(self) -> None:
        self.serve_voices()
        download_data.PARTS["dev-clean"] = "0" * 32  # Put back by what `serve` has prepared.
        with self.assertRaisesRegex(ValueError, "damaged on its way"):
            self.fetch()
        self.assertEqual([path.name for path in self.data.iterdir() if path.suffix != ".lock"], [])

    def test_hostile_archives(self) -> None:
        link = tarfile.TarInfo("LibriSpeech/dev-clean/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        hard_link = tarfile.TarInfo("LibriSpeech/dev-clean/hard")
        hard_link.type, hard_link.linkname = tarfile.LNKTYPE, "../../../x"
        device = tarfile.TarInfo("LibriSpeech/dev-clean/device")
        device.type = tarfile.CHRTYPE
        good = {"LibriSpeech/dev-clean/1/1/x.flac": b"x"}
        for members, extra, message in (
            ({"../evil": b"x"}, None, "evil"),
            ({"/evil": b"x"}, None, "evil"),
            ({"LibriSpeech/../../evil": b"x"}, None, "evil"),
            ({"LibriSpeech\\..\\evil": b"x"}, None, "evil"),
            ({"C:/evil": b"x"}, None, "evil"),
            (good, link, "link"),
            (good, hard_link, "hard"),
            (good, device, "device"),
            ({"LibriSpeech/dev-clean/1/1/x.flac": bytes(20_000_000)}, None, "too large"),
            ({"LibriSpeech/other/x": b"x"}, None, "does not hold"),
        ):
            self.serve(members, extra)
            with self.subTest(members.keys()), self.assertRaisesRegex(ValueError, message):
                self.fetch()
            files = [path.name for path in self.data.rglob("*") if path.is_file() and path.suffix != ".lock"]
            self.assertEqual(files, ["dev-clean.tar.gz"])
            self.assertFalse((self.dir / "evil").exists())
            (self.data / "dev-clean.tar.gz").unlink()

    def test_no_space_and_no_such_part(self) -> None:
        self.serve_voices()
        usage = unittest.mock.Mock(free=1000)
        patch = unittest.mock.patch.object(download_data.shutil, "disk_usage", return_value=usage)
        with patch, self.assertRaisesRegex(ValueError, "0.00 GB free"):
            self.fetch()
        (self.served / "dev-clean.tar.gz").unlink()
        with self.assertRaisesRegex(ValueError, "404"):
            self.fetch()

    def test_command_line(self) -> None:
        result = self.run_script("download_data.py", "everything")
        self.assertEqual(result.returncode, 2)
        result = self.run_script("download_data.py", "dev-clean", "--mirror", "moon")
        self.assertEqual((result.returncode, result.stderr.count("\n")), (2, 1))


def is_upload(response: "playwright.sync_api.Response") -> bool:  # noqa: F821
    """Whether an answer to the browser says that a recording has arrived, which the page does not show."""
    return urllib.parse.urlsplit(response.url).path.endswith("/upload")


@unittest.skipUnless(importlib.util.find_spec("gradio"), "gradio is not installed: see requirements-demo.txt.")
class DemoPageTest(ProjectTest):
    """The page in headless Chromium, whose microphone is a file."""

    def setUp(self) -> None:
        super().setUp()
        # Gradio leaves an event loop open; Python 3.11 cannot import anything in the moment when it warns of that.
        warnings.simplefilter("ignore", ResourceWarning)
        import demo_page

        self.voices = sorted((corpus / "test").rglob("*.flac"))
        encoder = speaker_encoder.get_speaker_encoder()
        encoder.calibration = {"false_accept_rates": [0.01], "thresholds": [0.9999], "source": "a test"}
        page = demo_page.build_page(encoder, str(self.dir / "speakers.db"))
        with settings.override(**encoder.settings):
            _, self.address, _ = demo_page.launch(page, "127.0.0.1", None, prevent_thread_lock=True, quiet=True)
        self.addCleanup(page.close)

    def open_browser(self) -> "playwright.sync_api.Page":  # noqa: F821
        try:
            import playwright.sync_api
        except ImportError:
            self.skipTest("playwright is not installed.")
        programs = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
        if not programs:
            self.skipTest("there is no Chromium.")
        samples = np.concatenate([feature_extraction.read_audio(str(self.voices[0]))] * 3)
        soundfile.write(self.dir / "microphone.wav", samples, RATE, subtype="PCM_16")
        microphone = f"--use-file-for-fake-audio-capture={self.dir / 'microphone.wav'}"
        flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--no-sandbox", microphone]
        running = playwright.sync_api.sync_playwright().start()
        self.addCleanup(running.stop)
        browser = running.chromium.launch(executable_path=programs[0], args=flags)
        self.addCleanup(browser.close)
        page = browser.new_page(viewport={"width": 1200, "height": 900}, permissions=["microphone"])
        self.asked: set[str] = set()
        # What is inside the page, blobs and data, has no host.
        page.on("request", lambda request: self.asked.add(urllib.parse.urlsplit(request.url).hostname or "127.0.0.1"))
        page.goto(self.address)
        return page

    def answer(self, page: "playwright.sync_api.Page", name: str, button: str) -> str:  # noqa: F821
        """Press a button and wait for its answer to change."""
        box = page.locator(f"#{name} textarea")
        before = box.input_value()
        page.get_by_role("button", name=button, exact=True).click()
        for _ in range(300):
            if box.input_value() != before:
                break
            page.wait_for_timeout(100)
        pictures = os.environ.get("PICTURES_DIR")
        if pictures:
            page.wait_for_timeout(1500)
            page.screenshot(path=f"{pictures}/{name}.png", full_page=True)
        return box.input_value()

    def upload(self, page: "playwright.sync_api.Page", number: int) -> None:  # noqa: F821
        """Give a file to one of the view's places for recordings."""
        page.get_by_role("button", name="Upload file").locator("visible=true").nth(number).click()
        with page.expect_response(is_upload):
            page.locator("input[type=file]").last.set_input_files(self.voices[0])
        page.get_by_label("Play").locator("visible=true").first.wait_for()

    def record(self, page: "playwright.sync_api.Page") -> None:  # noqa: F821
        """Record two seconds of what the microphone plays."""
        page.get_by_role("button", name="Record", exact=True).locator("visible=true").click()
        page.wait_for_timeout(2000)
        with page.expect_response(is_upload):
            page.get_by_role("button", name="Stop").locator("visible=true").first.click()
        page.get_by_label("Play").locator("visible=true").first.wait_for()

    def test_record_compare_enrol_and_identify(self) -> None:
        page = self.open_browser()
        for number in (1, 0):
            self.upload(page, number)
        self.assertTrue(self.answer(page, "compared", "Compare").startswith("The same speaker: threshold 1.000"))
        page.get_by_role("tab", name="Enrol").click()
        name = "<b>Ann</b>"
        page.get_by_label("Name").fill(name)
        self.record(page)
        self.assertTrue(self.answer(page, "enrolled", "Enrol").startswith(f"{name} is enrolled: heard "))
        self.assertIn("is enrolled already", self.answer(page, "enrolled", "Enrol"))
        page.get_by_role("tab", name="Who is speaking?").click()
        self.record(page)
        self.assertIn("This is ", self.answer(page, "identified", "Identify"))
        page.get_by_role("tab", name="Map").click()
        self.assertEqual(self.answer(page, "mapped", "Draw everyone enrolled"), "1 recordings of 1 people.")
        self.assertEqual(page.locator("b", has_text="Ann").count(), 0)
        self.assertEqual(self.asked, {"127.0.0.1"})

    def test_no_other_file_can_be_read(self) -> None:
        secret = self.dir / "secret.txt"
        secret.write_text("secret")
        for path in (secret, PROJECT_DIR / "myconfig.py", Path("/etc/passwd")):
            for form in ("gradio_api/file=", "file="):
                with self.assertRaises(urllib.error.HTTPError) as refused:
                    urllib.request.urlopen(f"{self.address}{form}{path}")  # noqa: S310 - this machine.
                self.assertIn(refused.exception.code, (403, 404))
                refused.exception.close()

    def post(self, place: str, content: bytes, kind: str) -> bytes:
        request = urllib.request.Request(f"{self.address}gradio_api/{place}", content, {"Content-Type": kind})  # noqa: S310
        with urllib.request.urlopen(request) as response:  # noqa: S310 - this machine.
            return response.read()

    def test_files_that_were_not_uploaded_are_not_heard(self) -> None:
        voice = {"path": str(self.voices[0]), "meta": {"_type": "gradio.FileData"}}
        content = json.dumps({"data": [voice, voice]}).encode()
        event = json.loads(self.post("call/answer", content, "application/json"))["event_id"]
        with urllib.request.urlopen(f"{self.address}gradio_api/call/answer/{event}") as response:  # noqa: S310
            answer = response.read().decode()
        self.assertIn("event: error", answer)
        self.assertNotIn("speaker", answer)

    def test_large_uploads_are_refused(self) -> None:
        head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="x.wav"\r\n\r\n'
        with self.assertRaises(urllib.error.HTTPError) as refused:
            self.post("upload", head + bytes(51 * 10**6 + 2**21) + b"\r\n--x--\r\n", "multipart/form-data; boundary=x")
        self.assertEqual(refused.exception.code, 413)
        refused.exception.close()


class DemoDataTest(ProjectTest):
    def test_voices_are_the_same_on_every_call(self) -> None:
        demo_data.write_speaker(self.dir / "s03", np.random.default_rng([7, 3]))
        for path in (self.dir / "s03").rglob("*.flac"):
            samples, rate = soundfile.read(path)
            expected, _ = soundfile.read(corpus / "train" / path.relative_to(self.dir))
            np.testing.assert_array_equal(samples, expected)
            self.assertEqual(rate, RATE)
            self.assertTrue(2.5 < len(samples) / rate < 7 and 0.001 < np.abs(samples).max() <= 1)

    def test_pitch_and_formants_are_those_of_the_voice(self) -> None:
        voice = demo_data.draw_voice(np.random.default_rng(0)) | {"pitch_hz": 125, "pitch_range": 0, "jitter": 0}
        sound = demo_data.vowel(voice, 0.5, 1.0, 1.0, np.random.default_rng(0))
        correlation = np.correlate(sound, sound, "full")[len(sound) - 1 :]
        self.assertAlmostEqual(RATE / (np.argmax(correlation[80:200]) + 80), 125, delta=2)
        noise = np.random.default_rng(0).normal(size=RATE)
        filtered = demo_data.resonate(noise, np.array([700.0]), np.array([80.0]))
        power = np.abs(np.fft.rfft(filtered)) ** 2
        self.assertAlmostEqual(np.sum(power * np.arange(len(power))) / power.sum(), 700, delta=60)


if __name__ == "__main__":
    unittest.main()
