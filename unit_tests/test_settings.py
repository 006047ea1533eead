"""Tests of `foundation/settings.py`."""

import concurrent.futures
import contextlib
import math
import os
import threading

import myconfig
import speaker_id
from audio import recording_lists
from foundation import setting_checks, setting_table, settings
from unit_tests.shared import ProjectTest


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
            with self.subTest(argument), settings.override(**settings.all_settings()):
                settings.apply_override(argument)
                value = getattr(myconfig, argument.split("=")[0])
                self.assertEqual((value, type(value)), (expected, type(expected)))
        with settings.override(GAIN_AUGMENTATION_DB=0):  # As it may be written in myconfig.py.
            settings.apply_override("GAIN_AUGMENTATION_DB=2.5")
            self.assertEqual(myconfig.GAIN_AUGMENTATION_DB, 2.5)

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
            setting_checks.check(settings.all_settings() | {"TRAINING_STEP": 20})
        values = settings.all_settings()
        del values["SEED"]
        with self.assertRaisesRegex(ValueError, "SEED is missing in myconfig.py"):
            setting_checks.check(values)

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
        setting_checks.check(settings.all_settings())
        setting_checks.check_training(settings.all_settings())
        for values in cases:
            with self.subTest(**values), settings.override(**values), self.assertRaises(ValueError):
                setting_checks.check(settings.all_settings())
                setting_checks.check_training(settings.all_settings())

    def test_every_setting_is_checked_and_explained(self) -> None:
        lines = settings.help_text("A script.").splitlines()
        for name, value in settings.all_settings().items():
            self.assertIn(f"  {name}={setting_table.display(value)}", lines)
            if not isinstance(value, str):
                self.assertTrue(setting_table.SETTINGS[name].allowed, name)
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

    def test_overrides_of_two_threads_leave_nothing_behind(self) -> None:
        before = settings.all_settings()
        both_inside, first_left = threading.Barrier(2), threading.Event()

        def work(number: int) -> None:
            with settings.override(N_MFCC=number, N_MELS=128 + number):
                both_inside.wait(10)
                if number == 2:
                    first_left.wait(10)
            first_left.set()

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(work, (1, 2)))
        self.assertEqual(settings.all_settings(), before)

    def test_override_puts_settings_back(self) -> None:
        before = settings.all_settings()
        with contextlib.suppress(KeyError), settings.override(N_MFCC=3):
            self.assertEqual(myconfig.N_MFCC, 3)
            raise KeyError
        self.assertEqual(settings.all_settings(), before)
        with self.assertRaises(ValueError), settings.override(NO_SUCH_SETTING=3):
            pass

    def test_override_keeps_what_was_changed_inside(self) -> None:
        with settings.override(**settings.all_settings()), settings.override(N_MFCC=13):
            myconfig.SEQ_LEN = 77
        with settings.override(SEQ_LEN=40):
            with settings.override(N_MFCC=13):
                myconfig.SEQ_LEN = 78
            self.assertEqual((myconfig.SEQ_LEN, myconfig.N_MFCC), (78, 40))

    def test_home_is_found_in_every_path(self) -> None:
        home = os.path.expanduser("~")  # noqa: PTH111
        paths = {"SAVED_MODEL_PATH": "~/x/t.pt", "INITIAL_MODELS": "~/a.pt,b.pt", "RESULTS_DIR": "~", "SEED": 3}
        with settings.override(**paths):
            config = settings.present()
        self.assertEqual(config.SAVED_MODEL_PATH, f"{home}/x/t.pt")
        self.assertEqual((config.INITIAL_MODELS, config.RESULTS_DIR), (f"{home}/a.pt,b.pt", home))
        self.assertEqual(recording_lists.as_paths(["~/a.wav", "b~/c.wav"]), [f"{home}/a.wav", "b~/c.wav"])
        options = speaker_id.build_parser().parse_args(["enrol", "Ann", "x.wav", "--db=~/v.db"])
        self.assertEqual(options.db, f"{home}/v.db")
        (self.dir / "list.csv").write_text("ann,~/a.wav\n")
        self.assertEqual(recording_lists.read_csv(str(self.dir / "list.csv")), [("ann", f"{home}/a.wav", "")])
        with self.assertRaisesRegex(ValueError, "there is no setting 'os'"):
            settings.present(os=3)
        with self.assertRaisesRegex(ValueError, "there is no setting 'N_MFC'"):
            settings.present(N_MFC=3)
