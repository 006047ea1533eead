"""Tests of `experiments/conditions.py`."""

import concurrent.futures
import shutil
import unittest
import unittest.mock
from pathlib import Path

import numpy as np
import sklearn.metrics
import soundfile

import dataset
import myconfig
from encoder import saved_models
from experiments import conditions, ladder
from foundation import settings
from unit_tests.shared import PROJECT_DIR, RATE, ProjectTest, corpus


class ConditionsTest(ProjectTest):
    def setUp(self) -> None:
        super().setUp()
        self.noise = self.write_audio("noise/hum/hum.wav", 3)
        folders = {"CONDITIONS_DIR": str(self.dir / "conditions"), "TEST_NOISE_DIR": str(self.dir / "noise")}
        folders["CORPORA"] = ""
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
        self.assertEqual(list(conditions.build_conditions(spk_to_utts, settings.present()))[0], "clean")
        self.assertIn("set CORPORA=a-,b-", self.output.getvalue())
        myconfig.CORPORA = "a-,b-"  # Put back with the folders.
        built = conditions.build_conditions(spk_to_utts, settings.present())
        names = ["a-clean", "a-1.6s", "a-noise", "a-telephone", "b-clean", "b-noise", "b-telephone"]
        self.assertEqual(list(built), names)
        self.assertEqual(built["a-clean"], {name: spk_to_utts[name] for name in ("a-1", "a-2")})
        listed = dataset.get_csv_spk_to_utts(str(self.dir / "conditions/b-noise.csv"))
        self.assertEqual(listed.keys(), {"b-1", "b-2"})
        self.assertEqual(soundfile.info(built["a-1.6s"]["a-1"][0]).duration, 1.6)
        changed_file = Path(built["a-noise"]["a-2"][1])
        before = changed_file.stat().st_mtime_ns
        self.assertEqual(conditions.build_conditions(spk_to_utts, settings.present()), built)
        self.assertEqual(changed_file.stat().st_mtime_ns, before)
        shutil.rmtree(self.dir / "conditions")
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for again in pool.map(conditions.build_conditions, [spk_to_utts] * 4, [settings.present()] * 4):
                self.assertEqual(again, built)
        self.write_audio("a-2/1.wav", 4, seed=9)
        (self.dir / "a-1/0.wav").write_text("broken")
        changed = conditions.build_conditions(spk_to_utts, settings.present())
        self.assertNotEqual(changed["a-noise"]["a-2"][1], str(changed_file))
        self.assertEqual(len(changed["a-noise"]["a-1"]), 1)
        self.write_audio("noise/hum/hum.wav", 4)
        self.assertNotEqual(conditions.build_conditions(spk_to_utts, settings.present())["b-noise"], changed["b-noise"])
        self.assertEqual(
            conditions.build_conditions(spk_to_utts, settings.present())["b-telephone"], changed["b-telephone"]
        )

    def test_the_courses_command_line_is_the_ladders_first_row(self) -> None:
        page = (PROJECT_DIR / "COURSE.md").read_text(encoding="utf-8")
        line = page[page.index("python3 neural_net.py") :].split("\npython3 evaluation.py")[0]
        typed = dict(part.split("=") for part in line.replace("\\\n", "").split()[2:])
        for name in ("TRAINING_STEPS", "SAVED_MODEL_PATH", "NUM_VALIDATION_SPEAKERS", "SAVE_MODEL_FREQUENCY"):
            del typed[name]
        self.assertEqual({name: settings.parse_value(name, text) for name, text in typed.items()}, ladder.COURSE)

    def test_ladder_has_rows_for_what_differs_from_the_course(self) -> None:
        with settings.override(LSTM_HIDDEN_SIZE=64, SPEEDS=(1.0,), BI_LSTM=True, ENSEMBLE_SIZE=2):
            rows = ladder.list_rows(settings.present())
        self.assertEqual(rows["the course's recipe"], ladder.COURSE)
        self.assertNotIn("wider layers", rows)
        self.assertNotIn("other speeds as new speakers", rows)
        self.assertNotIn("BI_LSTM", rows["both directions"])
        self.assertIn("ROOM_PROB", rows["both directions"])
        self.assertEqual(list(rows.values())[-1].keys(), {"USE_TRANSFORMER", "TDNN_CHANNELS", "SPECAUG_TRAINING"})
        with settings.override(LSTM_LAYER_NORM=True, TDNN_CHANNELS=64):
            rows = ladder.list_rows(settings.present())
        self.assertIn("LSTM_LAYER_NORM", rows["the course's recipe"])
        self.assertNotIn("LSTM_LAYER_NORM", rows["layers normalised"])
        self.assertNotIn("TDNN_CHANNELS", rows["a TDNN beside the LSTMs"])

    def test_thresholds_are_those_of_the_rates_where_they_are_known(self) -> None:
        scores = np.append(np.arange(30000) / 30000, 0.9 + np.arange(100) / 1000)
        labels = np.repeat([0, 1], [30000, 100])
        for num_speakers, num_known in ((46, 2), (45, 1), (15, 1), (14, 0)):  # 1,035, 990, 105, 91 pairs of speakers.
            pairs = np.triu_indices(num_speakers, 1)
            speakers = [np.append(np.resize(side, 30000), np.zeros(100, int)) for side in pairs]
            at_eer, *at_rates = conditions.thresholds_in_words((labels, scores, *speakers)).split(", ")
            for threshold, rate in zip(at_rates[:num_known], (0.01, 0.001), strict=False):
                self.assertAlmostEqual((scores[labels == 0] >= float(threshold)).mean(), rate, delta=0.0005)
            self.assertEqual(at_rates[num_known:], ["-"] * (2 - num_known))
            self.assertLess(float(at_eer), 0.99)

    def test_few_speakers_are_told_beforehand(self) -> None:
        for names, is_enough in ((15 * ("a-",), True), (14 * ("a-",), False), (11 * ("a-", "b-"), True), ((), False)):
            spk_to_utts = {f"{corpus}{number}": [] for number, corpus in enumerate(names)}
            before = len(self.output.getvalue())
            conditions.warn_of_few_speakers(spk_to_utts, settings.present(CORPORA="a-,b-"))
            words = "" if is_enough else f"{len(names)} speakers are too few"
            self.assertTrue(self.output.getvalue()[before:].startswith(words))
            self.assertEqual(len(self.output.getvalue()) == before, is_enough)

    def test_settings_may_stand_before_and_after_options(self) -> None:
        cases = {
            (
                "experiments.conditions",
                "NUM_PROCESSES=1",
                "--calibrate",
                "1",
                "DEVICE=none",
            ): "DEVICE=none is not one of",
            ("experiments.ladder", "NUM_PROCESSES=1", "--minutes", "1", "DEVICE=none"): "DEVICE=none is not one of",
            ("experiments.conditions", "--calibrate", "DEVICE=cpu"): "that is a setting",
        }
        for arguments, message in cases.items():
            result = self.run_script(*arguments)
            self.assertEqual(result.returncode, 2)
            self.assertIn(message, result.stderr)

    def test_ladder_continues_and_ends_with_the_settings(self) -> None:
        rows = {"the course's recipe": (), "all of ours": tuple(ladder.COURSE)}
        self.assertEqual({name for names in ladder.ROWS.values() for name in names}, set(ladder.COURSE))
        for speaker in sorted((corpus() / "test").iterdir())[:4]:
            shutil.copytree(speaker, self.dir / "test" / speaker.name)
        few = unittest.mock.patch.multiple(ladder, ROWS=rows, PROBES=1, PROBE_SECONDS=0)
        values = {"TEST_DATA_DIR": str(self.dir / "test"), "UTTERANCES_PER_SPEAKER": 2, "AS_NORM": True}
        with few, settings.override(**values):
            table = ladder.climb(0.001, 1, "clean")
            model = self.dir / "results/ladder/all-of-ours-0.pt"
            self.assertEqual(saved_models.load_encoder(str(model)).settings["LSTM_HIDDEN_SIZE"], 8)
            course = saved_models.load_encoder(str(model.with_name("the-course-s-recipe-0.pt")))
            self.assertEqual(course.settings["LSTM_HIDDEN_SIZE"], 64)
            self.assertFalse(course.settings["FRAME_AGGREGATION_MEAN"])
            self.assertEqual(ladder.climb(0.001, 1, "clean"), table)
            tested = conditions.build_conditions(dataset.get_spk_to_utts("TEST"), settings.present())
            scored = conditions.score_conditions(saved_models.load_encoder(str(model)), tested)
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
