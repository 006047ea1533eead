"""Tests of `training/checkpoint.py`."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
import unittest
import unittest.mock

import torch

import dataset
import neural_net
from encoder import saved_models
from foundation import safe_files, settings
from unit_tests.shared import PROJECT_DIR, TrainingTest, calibration, corpus


class CheckpointTest(TrainingTest):
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

    def test_whichever_file_is_cut_off_the_next_training_completes_all(self) -> None:
        self.train(2, "whole.pt")
        for name in self.cut_off_each_file(lambda number: self.train(2, f"{number}.pt")):
            with self.subTest(cut_off=name):
                trained = f"{name.split('.')[0]}.pt"
                self.assert_same_weights("whole.pt", trained)
                self.assertTrue((self.dir / trained).with_suffix(".png").exists())

    def test_a_finished_training_stays_as_it_is(self) -> None:
        self.train(4)
        before = (self.dir / "model.last.pt").read_bytes()
        with contextlib.redirect_stdout(io.StringIO()) as output:
            self.train(4)
        self.assertIn("Already trained for 4 steps", output.getvalue())
        model = saved_models.read_model(str(self.dir / "model.pt"))
        saved_models.write_model(str(self.dir / "model.pt"), model | {"calibration": calibration(0.5)})
        self.train(4)
        self.assertEqual(saved_models.read_model(str(self.dir / "model.pt"))["calibration"], calibration(0.5))
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

    def test_every_network_is_trained_in_pieces_as_in_one(self) -> None:
        transformer = {"USE_TRANSFORMER": True, "TRANSFORMER_DIM": 16}
        for shape in ({"LSTM_LAYER_NORM": True, "TDNN_CHANNELS": 32}, transformer):
            whole = self.train(8, "whole.pt", START_OVER=True, **shape)
            self.assertEqual(len(self.train(4, "again.pt", START_OVER=True, **shape)), 4)
            killed = unittest.mock.patch.object(neural_net, "add_cohort", side_effect=KeyboardInterrupt)
            with killed, self.assertRaises(KeyboardInterrupt):
                self.train(8, "killed.pt", START_OVER=True, **shape)
            self.assertEqual(self.train(8, "killed.pt", **shape), whole)
            self.assert_same_weights("whole.last.pt", "killed.last.pt")
        encoder = neural_net.load_encoder(str(self.dir / "whole.pt"))
        self.assertEqual((encoder.settings["USE_TRANSFORMER"], encoder.cohort.shape), (True, (20, 16)))
        both = f"{self.dir / 'whole.pt'},{self.dir / 'again.pt'}"
        with self.assertRaisesRegex(ValueError, "only LSTMs form an ensemble"):
            self.train(2, "joined.pt", INITIAL_MODELS=both)
        self.assertEqual(len(self.train(2, "adapted.pt", INITIAL_MODELS=str(self.dir / "whole.pt"))), 2)

    def test_a_checkpoint_from_before_there_was_a_setting_goes_on(self) -> None:
        self.train(4)
        path = str(self.dir / "model.last.pt")
        content = saved_models.read_model(path)
        del content["training_settings"]["DISTURBED_DATA_CSV"]
        saved_models.write_model(path, content)
        self.assertEqual(len(self.train(8)), 8)
        self.assertIn("Continuing after step 4", self.output.getvalue())

    def test_training_does_not_continue_with_other_noise(self) -> None:
        self.write_audio("noise/rain/a.wav", 2.0)
        self.train(4, NOISE_DIR=str(self.dir / "noise"))
        self.write_audio("noise/rain/a.wav", 3.0)
        with self.assertRaisesRegex(ValueError, "was trained on other data"):
            self.train(8, NOISE_DIR=str(self.dir / "noise"))

    def test_a_model_without_its_checkpoint_is_not_overwritten(self) -> None:
        (self.dir / "model.pt").write_text("precious")
        with self.assertRaisesRegex(ValueError, "model.pt exists.*START_OVER=true"):
            self.train(4)
        self.assertEqual((self.dir / "model.pt").read_text(), "precious")

    def test_a_checkpoint_of_other_data_or_damaged_is_refused(self) -> None:
        self.train(4)
        spk_to_utts = dataset.get_librispeech_spk_to_utts(str(corpus() / "train"))
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
                    answer = self.run_here(neural_net.run_training)
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
            answer = self.run_here(neural_net.run_training)
        self.assertEqual((answer.returncode, answer.stderr), (0, ""))
        self.assertIn(f"Continuing after step {steps}.", answer.stdout)
