"""Tests of `voices/timeline.py`."""

import contextlib
import unittest
import unittest.mock
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import soundfile
import torch

import evaluation
import feature_extraction
from encoder import saved_models, speaker_encoder
from foundation import script, settings
from stress.meetings import loud_is_speech
from unit_tests.shared import RATE, ProjectTest, calibration
from voices import clustering
from voices import timeline as speaker_timeline
from voices import windows as sliding
from voices.answers import Decision
from voices.channels import find_timeline_of_channels
from voices.database import People, nobody
from voices.formats import to_rttm
from voices.timeline import Timeline
from voices.timeline_picture import draw_timeline
from voices.turns import find_turns


class TimelineTest(ProjectTest):
    def setUp(self) -> None:
        super().setUp()
        hearing = contextlib.ExitStack()  # The voices of these tests are noise.
        hearing.enter_context(loud_is_speech())
        self.addCleanup(hearing.close)

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
            people = People(["low", "high"], embeddings, [1, 1], np.array([3.0, 3.0]))
            timeline = speaker_timeline.find_timeline(
                encoder, str(self.dir / "x.wav"), people, Decision(None, -1.0, {}), True, 2
            )
        self.assertEqual([turn.speaker for turn in timeline.turns], ["low", "high", "low"])
        times = np.array([turn[:2] for turn in timeline.turns])
        np.testing.assert_allclose(times, [[0, 10], [14, 24], [24, 34]], atol=0.5)
        self.assertTrue(np.isnan(timeline.margins[31]).all())
        rttm = to_rttm(timeline.turns, "my talk.wav").splitlines()
        self.assertRegex(rttm[0], r"^SPEAKER my%20talk 1 0.000 \d+\.\d{3} <NA> <NA> low <NA> <NA>$")
        draw_timeline(timeline)
        nobody = speaker_timeline.find_timeline(encoder, str(self.dir / "x.wav"), cluster=False)
        self.assertEqual({turn.speaker for turn in nobody.turns}, {"unknown"})
        with unittest.mock.patch.object(sliding, "BLOCK_STEPS", 7):
            in_blocks = self.windows(encoder)
        np.testing.assert_allclose(in_blocks, self.windows(encoder), atol=0.05)

    def windows_of(self, embeddings: np.ndarray, is_heard: np.ndarray) -> sliding.Windows:
        embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        starts = 0.4 * np.arange(len(embeddings))
        is_speech = np.ones(20 * len(embeddings) + 60, bool)
        features = [np.full((4, 1), number) for number in range(len(embeddings))]
        return sliding.Windows(embeddings, features, starts, 1.6, is_heard, is_speech, [])

    @contextlib.contextmanager
    def hearing(self, windows: sliding.Windows, of_middles: np.ndarray | None = None) -> Iterator[None]:
        """Whatever is heard has these windows, and in their middles these embeddings: by default, the same."""
        of_middles = windows.embeddings if of_middles is None else of_middles

        def embed(_: object, middles: Sequence[np.ndarray], __: object) -> np.ndarray:
            self.assertEqual({len(middle) for middle in middles} - {2}, set())
            self.heard_again = [int(middle[0, 0]) for middle in middles]
            return of_middles[self.heard_again]

        with (
            unittest.mock.patch.object(speaker_timeline, "listen", lambda *_: windows),
            unittest.mock.patch.object(speaker_timeline, "embed_features", embed),
        ):
            yield

    def test_voices_of_nobody_enrolled_are_told_apart(self) -> None:
        rng = np.random.default_rng(0)
        embeddings = rng.normal(size=(3, 16))[np.repeat([0, 1, 0, 2], 25)] + rng.normal(0, 0.3, (100, 16))
        is_heard = np.ones(100, bool)
        is_heard[45:50] = False
        windows = self.windows_of(embeddings, is_heard)
        voice_of, _ = speaker_timeline.cluster_windows(windows, None, 0.32)
        expected = np.repeat([0, 1, 0, 2], 25)
        np.testing.assert_array_equal(voice_of[is_heard], expected[is_heard])
        self.assertEqual(len(np.unique(speaker_timeline.cluster_windows(windows, 2, 0.32)[0])), 2)
        similarities = speaker_timeline.voice_similarities(windows, voice_of)
        np.testing.assert_array_equal(similarities.argmax(axis=1)[is_heard], expected[is_heard])
        self.assertTrue((similarities[~is_heard] == 0).all())
        for number in (25, 1):
            alone = self.windows_of(embeddings[:number], np.ones(number, bool))
            self.assertEqual(speaker_timeline.cluster_windows(alone, None, 0.32)[0].tolist(), [0] * number)
        silent = windows._replace(is_heard=is_heard & False)
        self.assertEqual(speaker_timeline.cluster_windows(silent, None, 0.32)[0].tolist(), [0] * 100)

    def find(self, windows: sliding.Windows, people: People, threshold: float, *more) -> Timeline:
        encoder = saved_models.get_speaker_encoder()
        decision = Decision(None, threshold, {})
        with self.hearing(windows):
            return speaker_timeline.find_timeline(encoder, "", people, decision, *more)

    def test_a_voice_gets_the_name_that_it_exceeds_most(self) -> None:
        rng = np.random.default_rng(0)
        voices = np.eye(32)[np.repeat([0, 1, 0, 2], 30)] + rng.normal(0, 0.1, (120, 32))
        windows = self.windows_of(voices, np.ones(120, bool))
        people = People(["Ann", "Bob", "Eve"], np.eye(32)[[0, 1, 5]], [1, 1, 1], np.ones(3))
        timeline = self.find(windows, people, 0.6)
        self.assertEqual([turn.speaker for turn in timeline.turns], ["Ann", "Bob", "Ann", "speaker 3"])
        self.assertEqual((timeline.candidates, timeline.num_enrolled), (["Ann", "Bob", "speaker 3"], 2))
        mean = windows.embeddings[windows.embeddings[:, 0] > 0.5].sum(axis=0)
        for turn in timeline.turns[::2][:1]:  # The score is that of the whole voice.
            self.assertAlmostEqual(turn.score, mean[0] / np.linalg.norm(mean), delta=0.01)
        self.assertIsNone(timeline.turns[-1].score)
        self.assertEqual(self.find(windows, people, 0.6, False).turns[-1].speaker, "unknown")
        self.assertEqual({turn.speaker for turn in self.find(windows, people, 0.999).turns} & {"Ann", "Bob"}, set())
        # Two people who are both like the first voice: one gets it, and the other no other voice.
        twins = People(["Ann", "Anna"], np.eye(32)[[0, 0]] + np.eye(32)[[3, 4]] * [[0.1], [0.3]], [1, 1], np.ones(2))
        found = [turn.speaker for turn in self.find(windows, twins, 0.6).turns]
        self.assertEqual(found, ["Ann", "speaker 2", "Ann", "speaker 3"])
        self.assertFalse(self.find(windows, twins, 0.6).turns[0].sure)
        taken = People(["Speaker 1"], np.eye(32)[5:6], [1], np.ones(1))
        speakers = [turn.speaker for turn in self.find(windows, taken, 0.6).turns]
        self.assertEqual(speakers, ["speaker 4", "speaker 2", "speaker 4", "speaker 3"])

    def test_windows_of_somebody_enrolled_are_a_voice_of_their_own(self) -> None:
        rng = np.random.default_rng(0)
        voices = np.eye(32)[np.repeat([1, 0, 1], [40, 8, 40])] + rng.normal(0, 0.05, (88, 32))
        windows = self.windows_of(voices, np.ones(88, bool))
        people = People(["Ann"], np.eye(32)[:1], [1], np.ones(1))
        with unittest.mock.patch.object(speaker_timeline, "cluster_windows", lambda *_: (np.zeros(88, np.int64), None)):
            timeline = self.find(windows, people, 0.8)
            self.assertEqual([turn.speaker for turn in timeline.turns], ["speaker 1", "Ann", "speaker 1"])
            told = self.find(windows, people, 0.8, True, 1)
        self.assertEqual([turn.speaker for turn in told.turns], ["speaker 1"])  # The number is kept.

    def test_doubt_about_the_number_is_told(self) -> None:
        rng = np.random.default_rng(0)
        windows = self.windows_of(np.eye(32)[np.zeros(60, int)] + rng.normal(0, 0.05, (60, 32)), np.ones(60, bool))
        encoder = saved_models.get_speaker_encoder()
        for perhaps, told in ((2, ["1 person seems to speak, perhaps 2"]), (None, [])):
            found = np.zeros(60, np.int64), perhaps
            with (
                self.hearing(windows),
                unittest.mock.patch.object(speaker_timeline, "cluster_windows", lambda *_, found=found: found),
            ):
                self.assertEqual(speaker_timeline.find_timeline(encoder, "").faults, told)
                self.assertEqual(speaker_timeline.find_timeline(encoder, "", cluster=False).faults, [])

    def test_windows_around_a_change_are_heard_in_their_middle(self) -> None:
        rng = np.random.default_rng(0)
        room = 6 * np.eye(16)[15]  # What all windows share.
        voices = np.eye(16)[np.repeat([0, 1], [30, 20])] + room + rng.normal(0, 0.05, (50, 16))
        mixed = voices.copy()
        mixed[28:30] += 1.5 * np.eye(16)[1]  # The next voice, louder, is in these windows, but not in their middle.
        windows = self.windows_of(mixed, np.ones(50, bool))
        of_middles = voices / np.linalg.norm(voices, axis=1, keepdims=True)
        paused = windows._replace(is_speech=windows.is_speech.copy())
        paused.is_speech[20 * 29 + 18 : 20 * 29 + 62] = False  # Nobody speaks in the middle of window 29.
        encoder = saved_models.get_speaker_encoder()
        for heard, middles, change, again in (
            (windows, of_middles, 30, [26, 27, 28, 29]),
            (windows, windows.embeddings, 28, [26, 27, 28, 29]),
            (paused, of_middles, 29, [26, 27, 28]),
        ):
            with self.hearing(heard, middles):
                found = speaker_timeline.find_timeline(encoder, "", None, None, True, 2)
            self.assertEqual([turn.speaker for turn in found.turns], ["speaker 1", "speaker 2"])
            self.assertEqual(found.margins.argmax(axis=1)[[0, -1]].tolist(), [0, 1])
            self.assertEqual(self.heard_again, again)
            if heard is windows:  # The turn begins between two middles.
                self.assertAlmostEqual(found.turns[1].start, 0.4 * change + 0.6, delta=0.021)

    def test_no_voice_is_lost_where_windows_are_heard_again(self) -> None:
        rng = np.random.default_rng(0)
        voices = np.eye(16)[np.repeat([0, 1, 0], [20, 3, 20])]
        windows = self.windows_of(voices + rng.normal(0, 0.05, voices.shape), np.ones(43, bool))
        encoder = saved_models.get_speaker_encoder()
        with self.hearing(windows, np.eye(16)[np.zeros(43, int)]):  # In their middles, there is one voice.
            found = speaker_timeline.find_timeline(encoder, "", None, None, True, 2)
        self.assertEqual([turn.speaker for turn in found.turns], ["speaker 1", "speaker 2", "speaker 1"])

    def test_others_keep_their_numbers_when_a_voice_gets_a_name(self) -> None:
        somebody = speaker_timeline.Owner(0, 0.5, True)
        for names, owners, expected in (
            (["Ann"], [False, False, False], ["speaker 1", "speaker 2", "speaker 3"]),
            (["Ann"], [True, False, False], ["Ann", "speaker 2", "speaker 3"]),
            (["Ann", "Speaker 2"], [True, False, False], ["Ann", "speaker 4", "speaker 3"]),
            (["speaker 1"], [True, False, False], ["speaker 1", "speaker 2", "speaker 3"]),
        ):
            people = People(names, np.zeros((len(names), 2)), [1] * len(names), np.ones(len(names)))
            of_voices = [somebody if known else speaker_timeline.NOBODY for known in owners]
            self.assertEqual(speaker_timeline.name_voices(of_voices, people, True)[0], expected)

    def test_a_little_speech_belongs_to_the_nearest_voice(self) -> None:
        heard = np.array([False, True, True, False, False, True, False])
        voices = speaker_timeline.number_in_order(np.array([9, 7, 7, 4, 4, 2, 7]), heard)
        self.assertEqual(voices.tolist(), [0, 0, 0, 0, 1, 1, 1])

    def test_doubt_is_part_of_a_turn(self) -> None:
        rng = np.random.default_rng(0)
        windows = self.windows_of(np.eye(32)[np.zeros(60, int)] + rng.normal(0, 0.05, (60, 32)), np.ones(60, bool))
        people = People(["Ann"], np.eye(32)[:1], [1], np.ones(1))
        encoder = saved_models.get_speaker_encoder()
        for thresholds, sure in (((1.4, 0.5, 0.4), False), ((0.95, 0.5, 0.4), True)):
            known = Decision(0.05, None, calibration(*thresholds, rates=(0.01, 0.05, 0.1)))
            with self.hearing(windows):
                [turn] = speaker_timeline.find_timeline(encoder, "", people, known).turns
            self.assertEqual((turn.speaker, turn.sure), ("Ann", sure))

    def test_two_people_on_two_channels_may_speak_at_once(self) -> None:
        rng = np.random.default_rng(0)
        low, high = (self.coloured(rng, 12 * RATE, sign) for sign in (1, -1))
        low[8 * RATE :] *= 0.001
        high[: 5 * RATE] *= 0.001
        soundfile.write(self.dir / "call.wav", np.stack([low, high], axis=1), RATE)
        soundfile.write(self.dir / "low.wav", low, RATE)
        encoder = saved_models.get_speaker_encoder()
        found = find_timeline_of_channels(encoder, str(self.dir / "call.wav"), nobody(encoder.dimensions), None)
        self.assertEqual([turn.speaker for turn in found.turns], ["channel 1", "channel 2"])
        np.testing.assert_allclose([turn[:2] for turn in found.turns], [[0, 8], [5, 12]], atol=0.3)
        self.assertEqual((found.candidates, found.margins.shape[1]), (["channel 1", "channel 2"], 2))
        draw_timeline(found)
        people = People(["Ann"], np.zeros((1, encoder.dimensions), np.float32), [1], np.ones(1))
        named = find_timeline_of_channels(encoder, str(self.dir / "call.wav"), people, Decision(None, -1.0, {}))
        self.assertEqual({turn.speaker for turn in named.turns}, {"Ann"})
        with self.assertRaisesRegex(ValueError, "has 1, not two channels"):
            find_timeline_of_channels(encoder, str(self.dir / "low.wav"), people, None)

    def test_turns_begin_and_end_with_speech_and_bridge_pauses(self) -> None:
        middles = np.arange(10) + 0.5  # Windows a second apart; stretches of speech are 0.02 s.
        is_speech = np.ones(500, bool)
        is_speech[:50] = is_speech[100:120] = is_speech[300:400] = False  # 0 to 1 s, 2 to 2.4 s, 6 to 8 s.
        is_speech[340:345] = True  # 0.1 s in a pause.
        state = np.array([0, 0, 0, 0, 1, 1, 0, 0, 0, 0])
        turns = find_turns(state, middles, is_speech, ["a", "unknown"], [(0, 0.5, True), (-1, None, None)])
        self.assertEqual([turn.speaker for turn in turns], ["a", "unknown", "a"])
        np.testing.assert_allclose([turn[:2] for turn in turns], [[1, 4], [4, 6], [8, 10]], atol=0.021)

    def test_a_sound_in_a_pause_divides_no_turn(self) -> None:
        is_speech = np.ones(250, bool)
        is_speech[100:125] = False  # 2 to 2.5 s, a pause, but for 0.1 s of another speaker.
        is_speech[110:115] = True
        turns = find_turns(
            np.array([0, 1, 0]), np.array([1.76, 2.25, 2.74]), is_speech, ["a", "b"], 2 * [(-1, None, None)]
        )
        self.assertEqual([turn.speaker for turn in turns], ["a"])
        np.testing.assert_allclose(turns[0][:2], [0, 5], atol=0.021)

    def windows(self, encoder: speaker_encoder.SpeakerEncoder) -> np.ndarray:
        blocks = sliding.embed_windows(encoder, str(self.dir / "x.wav"), [])
        return np.concatenate([embeddings for embeddings, *_ in blocks])

    def test_faults_of_a_recording(self) -> None:
        encoder = saved_models.get_speaker_encoder()
        loud = self.coloured(np.random.default_rng(0), 130 * RATE, 1)
        for samples, expected in (
            (loud, []),
            (np.append(loud[: 5 * RATE], np.zeros(120 * RATE)), ["mostly silent, with 5.2 s of speech in 125.0 s"]),
            (np.zeros(3 * RATE), ["there is no speech in it"]),
            (loud[:100], ["there is no speech in it"]),
            (np.clip(30 * loud, -1, 1), ["clipped"]),
            (
                np.tile(np.append(loud[: RATE // 10], np.zeros(17 * RATE // 10)), 9),
                ["3.6 s of speech are in pieces too short"],
            ),
        ):
            soundfile.write(self.dir / "x.wav", samples, RATE)
            timeline = speaker_timeline.find_timeline(encoder, str(self.dir / "x.wav"))
            self.assertEqual(len(timeline.faults), len(expected), timeline.faults)
            for found, words in zip(timeline.faults, expected, strict=True):
                self.assertIn(words, found)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.simplefilter("ignore", DeprecationWarning)  # Of an old matplotlib, with its own packages.
                draw_timeline(timeline)

    def coloured(self, rng: np.random.Generator, length: int, sign: int) -> np.ndarray:
        white = rng.normal(0, 0.05, length)
        return white + sign * np.append(0, white[:-1])

    def test_it_stops_where_the_page_asks_it_to(self) -> None:
        soundfile.write(self.dir / "x.wav", self.coloured(np.random.default_rng(0), 5 * RATE, 1), RATE)
        self.addCleanup(script.stop_request.clear)
        script.stop_request.set()
        with self.assertRaisesRegex(ValueError, "You stopped it"):
            speaker_timeline.find_timeline(saved_models.get_speaker_encoder(), str(self.dir / "x.wav"))

    def test_no_speech_is_lost_between_blocks(self) -> None:
        soundfile.write(self.dir / "x.wav", self.coloured(np.random.default_rng(0), 300 * RATE, 1), RATE)
        with settings.override(HOP_LENGTH=240):
            encoder = saved_models.get_speaker_encoder()
        blocks = list(sliding.embed_windows(encoder, str(self.dir / "x.wav"), []))
        self.assertGreater(len(blocks), 2)
        self.assertEqual(sum(len(heard) for _, heard, *_ in blocks), 300 * RATE // 320)

    def test_recordings_of_all_lengths(self) -> None:
        encoder = saved_models.get_speaker_encoder()
        for seconds in (0.05, 0.5, 1.6, 1.7, 123.3):
            path = self.write_audio("x.wav", seconds)
            [turn] = speaker_timeline.find_timeline(encoder, path).turns
            self.assertEqual(turn.start, 0)
            self.assertAlmostEqual(turn.end, seconds, delta=0.02)
