"""Tests of `voices/timeline.py`."""

import unittest
import unittest.mock
import warnings

import numpy as np
import soundfile
import torch

import evaluation
import feature_extraction
from encoder import saved_models, speaker_encoder
from foundation import settings
from unit_tests.shared import RATE, ProjectTest
from voices import clustering
from voices import timeline as speaker_timeline
from voices.timeline_picture import draw_timeline
from voices.turns import find_turns, to_rttm


class TimelineTest(ProjectTest):
    def test_turns_of_a_recording(self) -> None:
        # A new encoder that normalises these sounds stands in for a trained one: loud noise against soft. With stacked
        # frames, it would hear no difference.
        with settings.override(STACKED_FRAMES=1):
            encoder = saved_models.get_speaker_encoder()
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
        with unittest.mock.patch.object(clustering, "SWITCH_COST", 0.01):
            timeline = speaker_timeline.find_timeline(
                encoder, str(self.dir / "x.wav"), ["low", "high"], embeddings, np.full((2, 2), -1.0)
            )
        self.assertEqual([turn.speaker for turn in timeline.turns], ["low", "high", "low"])
        times = np.array([turn[:2] for turn in timeline.turns])
        np.testing.assert_allclose(times, [[0, 10], [14, 24], [24, 34]], atol=0.5)
        self.assertTrue(np.isnan(timeline.margins[31]).all())
        rttm = to_rttm(timeline.turns, "my talk.wav").splitlines()
        self.assertRegex(rttm[0], r"^SPEAKER my%20talk 1 0.000 \d+\.\d{3} <NA> <NA> low <NA> <NA>$")
        draw_timeline(timeline)
        nobody = speaker_timeline.find_timeline(encoder, str(self.dir / "x.wav"), [], embeddings[:0], np.zeros((2, 0)))
        self.assertEqual({turn.speaker for turn in nobody.turns}, {"unknown"})
        with unittest.mock.patch.object(speaker_timeline, "BLOCK_STEPS", 7):
            in_blocks = self.windows(encoder)
        np.testing.assert_allclose(in_blocks, self.windows(encoder), atol=0.05)

    def test_voices_of_nobody_enrolled_are_told_apart(self) -> None:
        rng = np.random.default_rng(0)
        embeddings = rng.normal(size=(3, 16))[np.repeat([0, 1, 0, 2], 25)] + rng.normal(0, 0.3, (100, 16))
        embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        is_heard = np.ones(100, bool)
        is_heard[45:50] = False
        voice, similarities = speaker_timeline.cluster_windows(embeddings, is_heard, None, 0.32)
        expected = np.repeat([0, 1, 0, 2], 25)
        np.testing.assert_array_equal(voice[is_heard], expected[is_heard])
        self.assertEqual(similarities.shape, (100, 3))
        self.assertEqual(len(np.unique(speaker_timeline.cluster_windows(embeddings, is_heard, 2, 0.32)[0])), 2)
        for alone in (embeddings[:25], embeddings[:1]):
            self.assertEqual(
                speaker_timeline.cluster_windows(alone, np.ones(len(alone), bool), None, 0.32)[0].tolist(),
                [0] * len(alone),
            )
        self.assertEqual(speaker_timeline.cluster_windows(embeddings, is_heard & False, None, 0.32)[1].shape, (100, 0))

    def test_candidates_are_those_above_their_own_thresholds(self) -> None:
        embeddings = np.tile([0.55, 0.60], (9, 1))  # Similarities to two people.
        found = speaker_timeline.find_candidates(embeddings, np.eye(2), np.array([0.5, 0.65]))
        self.assertEqual(found.tolist(), [0])

    def test_a_voice_gets_a_name_by_its_mean_where_windows_are_too_noisy(self) -> None:
        encoder = saved_models.get_speaker_encoder()
        rng = np.random.default_rng(0)
        people = np.eye(32)[:2]  # The first is enrolled.
        embeddings = people[np.repeat([0, 1, 0], 30)] + rng.normal(0, 0.2, (90, 32))
        embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
        step = speaker_timeline.whole_frames(speaker_timeline.STEP_SECONDS, encoder)
        levels = np.full(91 * step // 320, -20.0)
        blocks = [(embeddings, levels, 0)]
        thresholds = np.array([[0.95], [0.9]])  # No window reaches it, the mean does.
        for cluster, stranger in ((False, "unknown"), (True, "speaker 1")):
            with unittest.mock.patch.object(speaker_timeline, "embed_windows", lambda *_: blocks):
                timeline = speaker_timeline.find_timeline(encoder, "", ["Ann"], people[:1], thresholds, cluster)
            self.assertEqual([turn.speaker for turn in timeline.turns], ["Ann", stranger, "Ann"])
            self.assertEqual(timeline.candidates, ["Ann", "speaker 1"][: 1 + cluster])
            voice = embeddings[timeline.margins[:, 0] > -0.5].mean(axis=0)
            for turn in timeline.turns[::2]:  # The score is the one that decided, not that of the windows.
                self.assertAlmostEqual(turn.score, voice[0] / np.linalg.norm(voice), delta=0.01)
                self.assertGreater(turn.score, 0.9)
        for number, speakers in (
            (2, ["Ann", "speaker 1", "Ann"]),
            (1, ["speaker 1"]),
        ):  # All people, with the enrolled.
            with unittest.mock.patch.object(speaker_timeline, "embed_windows", lambda *_: blocks):
                timeline = speaker_timeline.find_timeline(encoder, "", ["Ann"], people[:1], thresholds, True, number)
            self.assertEqual([turn.speaker for turn in timeline.turns], speakers)

    def test_turns_begin_and_end_with_speech_and_bridge_pauses(self) -> None:
        middles = np.arange(10) + 0.5  # Windows a second apart; stretches of speech are 0.02 s.
        is_speech = np.ones(500, bool)
        is_speech[:50] = is_speech[100:120] = is_speech[300:400] = False  # 0 to 1 s, 2 to 2.4 s, 6 to 8 s.
        is_speech[340:345] = True  # 0.1 s in a pause.
        state = np.array([0, 0, 0, 0, 1, 1, 0, 0, 0, 0])
        turns = find_turns(state, middles, is_speech, ["a"])
        self.assertEqual([turn.speaker for turn in turns], ["a", "unknown", "a"])
        np.testing.assert_allclose([turn[:2] for turn in turns], [[1, 4], [4, 6], [8, 10]], atol=0.021)

    def test_a_sound_in_a_pause_divides_no_turn(self) -> None:
        is_speech = np.ones(250, bool)
        is_speech[100:125] = False  # 2 to 2.5 s, a pause, but for 0.1 s of another speaker.
        is_speech[110:115] = True
        turns = find_turns(np.array([0, 1, 0]), np.array([1.76, 2.25, 2.74]), is_speech, ["a", "b"])
        self.assertEqual([turn.speaker for turn in turns], ["a"])
        np.testing.assert_allclose(turns[0][:2], [0, 5], atol=0.021)

    def windows(self, encoder: speaker_encoder.SpeakerEncoder) -> np.ndarray:
        blocks = speaker_timeline.embed_windows(encoder, str(self.dir / "x.wav"), [])
        return np.concatenate([embeddings for embeddings, _, _ in blocks])

    def test_faults_of_a_recording(self) -> None:
        encoder = saved_models.get_speaker_encoder()
        loud = self.coloured(np.random.default_rng(0), 130 * RATE, 1)
        for samples, expected in (
            (loud, []),
            (np.append(loud[: 5 * RATE], np.zeros(120 * RATE)), ["mostly silent, with 5.0 s of speech in 125.0 s"]),
            (np.zeros(3 * RATE), ["only 0.0 s of speech"]),
            (loud[:100], ["only 0.0 s of speech"]),
            (np.clip(30 * loud, -1, 1), ["clipped"]),
            (
                np.tile(np.append(loud[: 2 * RATE // 5], np.zeros(13 * RATE // 10)), 9),
                ["3.6 s of speech are in pieces too short"],
            ),
        ):
            soundfile.write(self.dir / "x.wav", samples, RATE)
            nobody = np.zeros((0, encoder.dimensions), np.float32)
            timeline = speaker_timeline.find_timeline(encoder, str(self.dir / "x.wav"), [], nobody, np.zeros((2, 0)))
            self.assertEqual(len(timeline.faults), len(expected), timeline.faults)
            for found, words in zip(timeline.faults, expected, strict=True):
                self.assertIn(words, found)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                draw_timeline(timeline)

    def coloured(self, rng: np.random.Generator, length: int, sign: int) -> np.ndarray:
        white = rng.normal(0, 0.05, length)
        return white + sign * np.append(0, white[:-1])

    def test_no_speech_is_lost_between_blocks(self) -> None:
        soundfile.write(self.dir / "x.wav", self.coloured(np.random.default_rng(0), 300 * RATE, 1), RATE)
        with settings.override(HOP_LENGTH=240):
            encoder = saved_models.get_speaker_encoder()
        blocks = list(speaker_timeline.embed_windows(encoder, str(self.dir / "x.wav"), []))
        self.assertGreater(len(blocks), 2)
        self.assertEqual(sum(len(levels) for _, levels, _ in blocks), 300 * RATE // 320)

    def test_recordings_of_all_lengths(self) -> None:
        encoder = saved_models.get_speaker_encoder()
        for seconds in (0.05, 0.5, 1.6, 1.7, 123.3):
            path = self.write_audio("x.wav", seconds)
            nobody = np.zeros((0, 8), np.float32)
            [turn] = speaker_timeline.find_timeline(encoder, path, [], nobody, np.zeros((2, 0))).turns
            self.assertEqual(turn.start, 0)
            self.assertAlmostEqual(turn.end, seconds, delta=0.02)
