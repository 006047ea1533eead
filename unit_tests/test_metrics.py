"""Tests of `metrics.py`."""

import math
import unittest
import unittest.mock

import numpy as np
import sklearn.metrics

import evaluation
import metrics
from foundation import settings


class MetricsTest(unittest.TestCase):
    def test_toy_table(self) -> None:
        # By hand: at the threshold 0.4, one of four non-targets is accepted and one of four targets rejected.
        labels = [1, 1, 1, 1, 0, 0, 0, 0]
        scores = [0.9, 0.8, 0.5, 0.2, 0.4, 0.1, -0.3, -0.5]
        thresholds, false_accept, false_reject = metrics.error_rates(labels, scores)
        np.testing.assert_allclose(thresholds, [-0.5, *sorted(scores)])  # To within rounding.
        np.testing.assert_allclose(false_accept, [1, 0.75, 0.5, 0.25, 0.25, 0, 0, 0, 0])
        np.testing.assert_allclose(false_reject, [0, 0, 0, 0, 0.25, 0.25, 0.5, 0.75, 1])
        eer, threshold = evaluation.compute_eer(labels, scores)
        self.assertEqual(eer, 0.25)
        self.assertAlmostEqual(threshold, 0.2)  # Of those above 0.2, up to 0.4, which are equally good.
        self.assertGreater(threshold, 0.2)
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
                    place = np.searchsorted(thresholds, threshold, side="right") - 1
                    self.assertAlmostEqual(false_accept[place], rate)
                    self.assertAlmostEqual(false_reject[place], miss)
            eer, threshold = metrics.equal_error_rate(thresholds, false_accept, false_reject)
            nearest = np.argmin(np.abs(fpr - fnr))
            self.assertLessEqual(abs(eer - (fpr[nearest] + fnr[nearest]) / 2), np.abs(fpr - fnr)[nearest] / 2 + 1e-9)
            accepted = scores >= threshold
            rates = accepted[labels == 0].mean(), (~accepted)[labels == 1].mean()
            self.assertTrue(min(rates) - 1e-9 <= eer <= max(rates) + 1e-9)

    def test_extreme_scores(self) -> None:
        eer, threshold = evaluation.compute_eer([1, 1, 0, 0], [0.9, 0.8, 0.2, 0.1])
        self.assertEqual(eer, 0.0)
        self.assertAlmostEqual(threshold, 0.2)
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

    def test_of_equally_good_thresholds_the_lowest_is_returned(self) -> None:
        for step, expected in ((0.0, 0.2), (0.01, 0.21)):  # All above 0.2, up to 0.4, are.
            with settings.override(EVAL_THRESHOLD_STEP=step):
                threshold = evaluation.compute_eer([0, 0, 0, 1], [0.1, 0.2, 0.5, 0.4])[1]
            self.assertAlmostEqual(threshold, expected)

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
