"""Tests of `scoring/calibration.py`."""

import unittest

import numpy as np

import dataset
import evaluation
import feature_store
from encoder import saved_models
from foundation import settings
from scoring import calibration, thresholds
from scoring.score_normalization import score_offsets
from unit_tests.shared import ProjectTest, corpus

NO_COHORT = np.zeros((0, 32), np.float32)


def draw_voices(num_speakers: int, num_utts: int, seed: int = 0) -> calibration.Voices:
    """Embeddings of speakers: each utterance is the speaker's mean and a deviation."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(num_speakers, 32)) + 0.5
    speaker_of = np.repeat(np.arange(num_speakers), num_utts)
    whole, windows = (means[speaker_of] + rng.normal(0, noise, (len(speaker_of), 32)) for noise in (0.8, 1.2))
    unit = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (whole, windows)]
    return calibration.Voices(unit[0], unit[1], speaker_of, np.full(len(speaker_of), 3.0))


def measure(voices: list[calibration.Voices], cohort: np.ndarray = NO_COHORT) -> dict:
    return calibration.measure(voices, "a test", np.random.default_rng(0), cohort)


class CalibrationTest(ProjectTest):
    def test_rates_hold_for_each_number_of_recordings(self) -> None:
        measured = measure([draw_voices(60, 24)])
        self.assertEqual(measured["counts"], list(calibration.COUNTS))
        whole, windows, speaker_of, _ = draw_voices(60, 24, seed=1)  # Other speakers.
        rng = np.random.default_rng(1)
        for first, second in ((1, 1), (1, 5), (3, 3), (10, 10), (0, 4), (1, 7)):
            accepted = []
            threshold = thresholds.threshold_at(measured, 0.05, first, second)
            for _ in range(4000):
                one, other = rng.choice(60, 2, replace=False)
                sides = []
                for speaker, number in ((one, first), (other, second)):
                    utts = rng.choice(np.flatnonzero(speaker_of == speaker), max(1, number), replace=False)
                    sides.append((whole if number else windows)[utts].sum(axis=0))
                accepted.append(evaluation.cosine_similarity(*sides) >= threshold)
            self.assertAlmostEqual(float(np.mean(accepted)), 0.05, delta=0.025, msg=f"{first} against {second}")
            as_high, _ = thresholds.rates_at(measured, threshold, first, second)
            self.assertAlmostEqual(as_high, 0.05, delta=0.002)
        # The threshold for single recordings is wrong for means.
        self.assertGreater(
            thresholds.threshold_at(measured, 0.05, 10, 10), thresholds.threshold_at(measured, 0.05, 1, 1)
        )

    def test_pairs_of_single_recordings_are_all_pairs(self) -> None:
        voices = draw_voices(20, 6)
        measured = measure([voices])
        first, second = np.triu_indices(120, 1)
        labels = voices[2][first] == voices[2][second]
        scores = (voices[0] @ voices[0].T)[first, second]
        at = thresholds.threshold_at(measured, 0.02, 1, 1)
        self.assertAlmostEqual((scores[~labels] >= at).mean(), 0.02, delta=0.0003)
        self.assertAlmostEqual(thresholds.rates_at(measured, at, 1, 1)[1], (scores[labels] < at).mean(), delta=0.03)

    def test_log_likelihood_ratios_are_those_of_the_scores_distributions(self) -> None:
        rng = np.random.default_rng(0)
        curve = calibration.make_curve(rng.normal(0.6, 0.1, 30000), rng.normal(0.2, 0.1, 90000), [0.01])
        known = {"counts": [0, 1], "curves": {"1 1": curve}}
        for score in (0.2, 0.4, 0.5):  # Of two normal distributions of one width, the logarithm is a straight line.
            expected = ((score - 0.2) ** 2 - (score - 0.6) ** 2) / (2 * 0.1**2)
            found = thresholds.log_likelihood_ratio(known, score, 1, 1)
            self.assertAlmostEqual(float(found), expected, delta=0.3 + 0.03 * abs(expected))
        self.assertIsNone(thresholds.log_likelihood_ratio({}, 0.5, 1, 1))

    def test_scores_are_normalised_by_a_cohort(self) -> None:
        voices = draw_voices(20, 6)
        cohort = draw_voices(40, 1, seed=3).whole
        measured, plain = measure([voices], cohort), measure([voices])
        self.assertEqual((measured["normalised"], plain["normalised"]), (True, False))
        self.assertEqual(measured["near_strangers"], plain["near_strangers"])
        offsets = score_offsets(voices.whole, voices.seconds, cohort)
        first, second = np.triu_indices(120, 1)
        scores = (voices.whole @ voices.whole.T)[first, second] - offsets[first] - offsets[second]
        is_other = voices.speaker_of[first] != voices.speaker_of[second]
        at = thresholds.threshold_at(measured, 0.02, 1, 1)
        self.assertAlmostEqual((scores[is_other] >= at).mean(), 0.02, delta=0.0003)

    def test_speakers_of_several_conditions_count_once(self) -> None:
        one, other = draw_voices(8, 6), draw_voices(8, 6, seed=1)
        self.assertEqual(calibration.count_pairs([one, other]), 28)
        first = one[2] < 7  # One speaker is missing in one of the conditions.
        self.assertEqual(calibration.count_pairs([one, calibration.Voices(*(part[first] for part in other))]), 28)
        self.assertEqual(calibration.count_pairs([one, other._replace(speaker_of=other.speaker_of + 7)]), 56)
        self.assertEqual(calibration.count_pairs([one, other._replace(speaker_of=other.speaker_of + 8)]), 56)
        self.assertEqual(calibration.count_distinct([one], 1, 1), 28 * 36)
        self.assertEqual(calibration.count_distinct([one], 3, 3), 28 * 4)  # Two groups of three each.
        self.assertEqual(calibration.count_distinct([one], 2, 3), 8 * 7 * 3 * 2)

    def test_curves_between_measured_numbers_are_interpolated(self) -> None:
        counts = (0, 1, 3)
        curves = {
            f"{first} {second}": [
                [10 * first + second],
                [first - second + 0.1 * share for share in range(16)],
                [first, second],
            ]
            for second in counts
            for first in counts
            if first <= second
        }
        known = {"false_accept_rates": [0.1], "counts": list(counts), "curves": curves}
        between = np.log(2) / np.log(3)  # 2 is so far from 1 to 3, on a logarithmic scale.
        for first, second, threshold in (
            (1, 3, 13),
            (3, 1, 13),
            (0, 1, 1),
            (9, 9, 33),
            (1, 2, 11 * (1 - between) + 13 * between),
            (2, 2, 11 * (1 - between) ** 2 + 2 * 13 * between * (1 - between) + 33 * between**2),
            (0, 2, 1 * (1 - between) + 3 * between),
        ):
            self.assertAlmostEqual(float(thresholds.curve_for(known, first, second)[0][0]), threshold)
        self.assertAlmostEqual(thresholds.curve_for(known, 0, 3)[1][5], -2.5)

    def test_a_model_with_other_features_is_measured(self) -> None:
        data = dataset.get_spk_to_utts("TEST")
        for number in (13, 64):
            with settings.override(N_MFCC=number):
                encoder = saved_models.get_speaker_encoder()
                store = feature_store.open_store(data)
                expected = store.read(3)
            [voices] = calibration.embed_all(encoder, [store], np.random.default_rng(0), settings.present())
            self.assertEqual(expected.shape[1], number)
            self.assertEqual(len(voices[0]), len(store.files))
            np.testing.assert_array_equal(store.read(3), expected)

    def test_what_is_too_little_is_left_out(self) -> None:
        measured = measure([draw_voices(60, 5)])
        self.assertEqual(measured["counts"], [0, 1, 2])  # Of five recordings, two and two others, not three.
        self.assertEqual(measured["false_accept_rates"][0], 0.001)
        fewer = measure([draw_voices(8, 5)])
        self.assertEqual((fewer["counts"], fewer["false_accept_rates"][0]), ([0, 1], 0.05))
        self.assertAlmostEqual(
            thresholds.near_strangers(measured), 1 - thresholds.threshold_at(measured, 0.01, 1, 1), places=3
        )
        self.assertEqual(thresholds.near_strangers({}), thresholds.NEAR_STRANGERS)
        # Above the highest measured number, that one is taken.
        self.assertEqual(thresholds.threshold_at(measured, 0.1, 9, 9), thresholds.threshold_at(measured, 0.1, 2, 2))
        for voices in (draw_voices(1, 20), draw_voices(8, 1), draw_voices(2, 60)):
            with self.assertRaisesRegex(ValueError, "too few"):
                measure([voices])

    def test_large_data_are_sampled_by_speaker(self) -> None:
        encoder = saved_models.get_speaker_encoder().eval()
        files = sorted((corpus() / "test").rglob("*.flac"))
        store = feature_store.open_store({"a": list(map(str, files[:4])), "b": list(map(str, files[-4:]))})
        whole, windows, speaker_of, seconds = calibration.embed_voices(
            encoder, store, np.random.default_rng(0), settings.present()
        )
        np.testing.assert_allclose(np.sort(seconds), np.sort(store.utt_seconds))
        np.testing.assert_allclose(whole[speaker_of == 0], evaluation.embed_utterances(encoder, files[:4]), atol=2e-3)
        self.assertEqual(windows.shape, whole.shape)
        with unittest.mock.patch.object(calibration, "MAX_UTTS", 3):
            _, _, speaker_of, _ = calibration.embed_voices(encoder, store, np.random.default_rng(0), settings.present())
        self.assertEqual((len(speaker_of), len(set(speaker_of.tolist()))), (4, 1))

    def test_the_file_gets_what_belongs_to_its_model(self) -> None:
        path = str(self.dir / "model.pt")
        saved_models.save_encoder(path, saved_models.get_speaker_encoder())
        encoder = saved_models.load_encoder(path)
        measured = measure([draw_voices(20, 6)])
        calibration.save_calibration(encoder, measured)
        self.assertEqual(saved_models.load_encoder(path).calibration, measured)
        with settings.override(SEED=1):
            saved_models.save_encoder(path, saved_models.get_speaker_encoder())
        with self.assertRaisesRegex(ValueError, "has changed since it was read"):
            calibration.save_calibration(encoder, measured)

    def test_an_evaluated_model_has_thresholds_unless_it_knows_the_speakers(self) -> None:
        path = str(self.dir / "model.pt")
        saved_models.save_encoder(path, saved_models.get_speaker_encoder())
        test = evaluation.dataset.get_spk_to_utts("TEST")
        calibration.keep_thresholds(saved_models.load_encoder(path), test)
        measured = saved_models.load_encoder(path).calibration
        self.assertRegex(measured["source"], "^12 speakers of .*test$")
        self.assertEqual(measured["false_accept_rates"][0], 0.02)  # Of 66 pairs of speakers.
        other = saved_models.load_encoder(path)
        other.calibration = {**measured, "source": "a better one"}
        saved_models.save_encoder(path, other)
        calibration.keep_thresholds(saved_models.load_encoder(path), test)
        self.assertEqual(saved_models.load_encoder(path).calibration["source"], "a better one")
        few = dict(list(test.items())[:2])
        other.calibration = {}
        saved_models.save_encoder(path, other)
        calibration.keep_thresholds(saved_models.load_encoder(path), few)
        self.assertIn("no decision thresholds", self.output.getvalue())
        self.assertEqual(saved_models.load_encoder(path).calibration, {})
        other.calibration, other.train_speakers = {}, list(test)
        saved_models.save_encoder(path, other)
        calibration.keep_thresholds(saved_models.load_encoder(path), test)
        self.assertEqual(saved_models.load_encoder(path).calibration, {})
