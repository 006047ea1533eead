"""Tests of `voices/timeline.py`."""

import itertools
import unittest
import unittest.mock

import numpy as np
import soundfile
import torch

import evaluation
import feature_extraction
import speaker_encoder
from foundation import settings
from unit_tests.shared import RATE, ProjectTest
from voices import timeline as speaker_timeline


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
        rng = np.random.default_rng(1)
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
        blocks = speaker_timeline.embed_windows(encoder, str(self.dir / "x.wav"), [])
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
            encoder = speaker_encoder.get_speaker_encoder()
        blocks = list(speaker_timeline.embed_windows(encoder, str(self.dir / "x.wav"), []))
        self.assertGreater(len(blocks), 2)
        self.assertEqual(sum(len(levels) for _, levels, _ in blocks), 300 * RATE // 320)

    def test_recordings_of_all_lengths(self) -> None:
        encoder = speaker_encoder.get_speaker_encoder()
        for seconds in (0.05, 0.5, 1.6, 1.7, 123.3):
            path = self.write_audio("x.wav", seconds)
            [turn] = speaker_timeline.find_timeline(encoder, path, [], np.zeros((0, 8), np.float32), 0.5).turns
            self.assertEqual(turn.start, 0)
            self.assertAlmostEqual(turn.end, seconds, delta=0.02)
