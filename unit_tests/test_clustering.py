"""Tests of `voices/clustering.py`."""

import itertools
import unittest

import numpy as np
from scipy.cluster.hierarchy import cut_tree, linkage

from encoder.base import unit_length
from scoring.thresholds import NEAR_STRANGERS
from voices import clustering


def windows_of(rng: np.random.Generator, voices: np.ndarray, turns: list[int], noise: float) -> np.ndarray:
    """Windows (windows, dimensions) of voices (voices, dimensions), 20 in each turn."""
    windows = voices[np.repeat(turns, 20)]
    return unit_length(windows + rng.normal(0, noise, windows.shape))


def find_voices(embeddings: np.ndarray, number: int | None = None) -> np.ndarray:
    return clustering.find_voices(embeddings, 0.4 * np.arange(len(embeddings)), number, NEAR_STRANGERS)[0]


class ClusteringTest(unittest.TestCase):
    def test_a_tree_is_cut_into_as_many_groups_as_are_asked_for(self) -> None:
        rng = np.random.default_rng(0)
        for points in (rng.normal(size=(40, 3)), np.eye(6), np.zeros((5, 2))):  # Also with equal distances.
            tree = linkage(points, "ward")
            for number in range(1, len(points) + 1):
                groups, expected = clustering.cut(tree, number), cut_tree(tree, number)[:, 0]
                self.assertEqual(len(set(groups.tolist())), number)
                pairs = set(zip(groups.tolist(), expected.tolist(), strict=True))
                self.assertEqual(len(pairs), number, "the groups are others than SciPy's")

    def test_path_changes_only_where_it_pays(self) -> None:
        scores = np.zeros((9, 2))
        scores[:, 0] = [1, 1, 1, 0.5, 1, 0, 0, 0, 0]  # One weak window, then another speaker for good.
        scores[:, 1] = 1 - scores[:, 0]
        scores[3, 1] = 0.9
        np.testing.assert_array_equal(clustering.best_path(scores), [0, 0, 0, 0, 0, 1, 1, 1, 1])
        paths = np.array(list(itertools.product((0, 1), repeat=9)))
        rng = np.random.default_rng(0)
        for _ in range(20):
            scores = rng.normal(0, 0.5, (9, 2))
            changes = np.abs(np.diff(paths, axis=1)).sum(axis=1)
            totals = scores[np.arange(9), paths].sum(axis=1) - clustering.SWITCH_COST * changes
            np.testing.assert_array_equal(clustering.best_path(scores), paths[np.argmax(totals)])

    def test_what_voices_leave_unexplained(self) -> None:
        first, second, between = np.array([1.0, 0]), np.array([0, 1.0]), np.array([0.8, 0.6])
        centred = np.stack([second, second, [0, 0], second, first, first, between, first])
        voices = clustering.follow_voices(centred, np.stack([first, second, -first]))  # The third has no window.
        mean = np.array([3.8, 0.6]) / np.hypot(3.8, 0.6)
        self.assertEqual(voices.voice_of.tolist(), [0, 0, 0, 0, 1, 1, 1, 1])
        np.testing.assert_allclose(voices.means, [second, mean])
        explained = 3 + 3 * mean[0] + between @ mean
        self.assertAlmostEqual(voices.unexplained, 7 - explained + clustering.SWITCH_COST)

    def test_the_number_of_voices_is_found_or_given(self) -> None:
        rng = np.random.default_rng(0)
        for number in range(1, 7):
            people = np.eye(24)[:number] + 0.1
            turns = rng.permutation(np.arange(24) % number).tolist()
            embeddings = windows_of(rng, unit_length(people), turns, 0.05)
            self.assertEqual(len(find_voices(embeddings)), number)
        voices = find_voices(embeddings, 4)
        self.assertEqual(len(voices), 4)
        np.testing.assert_allclose(np.linalg.norm(voices, axis=1), 1)

    def test_a_voice_must_explain_more_than_its_price(self) -> None:
        rng = np.random.default_rng(0)
        for angle, number in ((0.5, 2), (0.9, 3)):  # The third is a piece of the second one's voice, or somebody else.
            people = np.zeros((3, 24))
            people[0, 0] = people[1, 1] = 1
            people[2, 1:3] = np.cos(angle), np.sin(angle)
            embeddings = windows_of(rng, people, [0, 1, 2] * 5, 0.15)
            self.assertEqual(len(find_voices(embeddings)), number)

    def test_four_voices_whose_halves_are_alike(self) -> None:
        rng = np.random.default_rng(0)
        for number in (1, 4):
            people = np.zeros((number, 24))
            people[:, 0], people[:, 1:][np.arange(number), np.arange(number)] = np.sqrt(0.8), np.sqrt(0.2)
            embeddings = windows_of(rng, people, [turn % number for turn in range(16)], 0.11)
            starts = 0.4 * np.arange(len(embeddings))
            halves = unit_length(np.stack([people[:2].mean(axis=0), people[-2:].mean(axis=0)]))
            self.assertLess(1 - halves[0] @ halves[1], clustering.ONE_VOICE * NEAR_STRANGERS)
            self.assertEqual(len(find_voices(embeddings)), number)
            self.assertEqual(clustering.seem_several(embeddings, starts), number > 1)
            self.assertFalse(clustering.seem_several(embeddings, starts, 2.0))  # A model with other distances.

    def test_few_windows(self) -> None:
        windows = np.eye(8)[:5]
        for given, number in ((None, 1), (3, 3), (5, 5), (8, 5)):
            self.assertEqual(len(find_voices(windows, given)), number)
        for given in (None, 1, 3):
            voices = find_voices(windows[:1], given)
            np.testing.assert_allclose(voices, windows[:1])

    def test_the_number_is_in_doubt_near_the_limits(self) -> None:
        rng = np.random.default_rng(0)
        is_first = np.repeat([True, False, True, False], 30)
        windows = np.eye(32)[np.where(is_first, 0, 1)] + rng.normal(0, 0.1, (120, 32))
        windows /= np.linalg.norm(windows, axis=1, keepdims=True)
        starts = 0.4 * np.arange(120)
        at_one = clustering.unlikeness(windows, starts, is_first, 1.0)
        for near_strangers, number, perhaps in ((at_one / 3, 2, None), (at_one / 1.1, 2, 1), (at_one / 0.9, 1, 2)):
            means, other = clustering.find_voices(windows, starts, None, near_strangers)
            self.assertEqual((len(means), other), (number, perhaps))
        self.assertIsNone(clustering.find_voices(windows, starts, None, 3 * at_one)[1])
        self.assertIsNone(clustering.find_voices(windows, starts, 2, at_one / 1.1)[1])
