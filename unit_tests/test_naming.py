"""Tests of `voices/naming.py`."""

import unittest.mock

import numpy as np
import soundfile

from audio import mono
from encoder import saved_models
from unit_tests.shared import RATE, ProjectTest
from voices import database, enrolment, naming, recordings, timeline
from voices.answers import model_of
from voices.turns import Turn


class NamingTest(ProjectTest):
    def setUp(self) -> None:
        super().setUp()
        self.encoder = saved_models.get_speaker_encoder()
        self.meeting = self.write_audio("meeting.wav", 130.0)
        turns = [Turn(1.0, 4.0, "speaker 1"), Turn(5.0, 5.5, "speaker 2"), Turn(59.0, 62.5, "speaker 1")]
        found = timeline.Timeline(turns, np.zeros(1), np.zeros((1, 0)), [], 0, [])
        patch = unittest.mock.patch.object(timeline, "find_timeline", lambda *_: found)
        patch.start()
        self.addCleanup(patch.stop)
        self.turns, self.db = turns, str(self.dir / "people.db")

    def enrol(self, name: str, voice: str, **more) -> tuple[float, list[tuple[str, str]]]:
        return naming.enrol_voice(self.encoder, self.db, name, self.meeting, voice, **more)

    def test_a_voice_is_cut_out_also_across_blocks(self) -> None:
        samples = naming.cut_out(self.meeting, self.turns[::2])
        whole = mono.read_audio(self.meeting)
        expected = np.concatenate(
            [whole[round(1.1 * RATE) : round(3.9 * RATE)], whole[round(59.1 * RATE) : round(62.4 * RATE)]]
        )
        self.assertEqual(len(samples), len(expected))
        np.testing.assert_allclose(samples, expected, atol=1e-3)
        soundfile.write(self.dir / "cut.wav", samples, RATE, subtype="FLOAT")
        [heard] = recordings.hear(self.encoder, [str(self.dir / "cut.wav")])
        alone = recordings.hear_samples(self.encoder, samples, "cut")
        np.testing.assert_allclose(alone.recording.embedding, heard.recording.embedding, atol=1e-3)
        self.assertAlmostEqual(alone.recording.speech_seconds, heard.recording.speech_seconds, places=3)

    def test_a_voice_gets_a_name(self) -> None:
        self.assertAlmostEqual(self.enrol("Ann", "speaker 1")[0], 6.1, delta=0.1)
        people = database.read_people(self.db, model_of(self.encoder))
        self.assertEqual((people.names, people.counts), (["Ann"], [1]))
        with self.assertRaisesRegex(ValueError, "enrolled already: .* use --more"):
            self.enrol("Ann", "speaker 1")
        with self.assertRaisesRegex(ValueError, "the same recording"):
            self.enrol("Ann", "speaker 1", more=True)

    def test_a_name_is_checked_before_anything_is_heard(self) -> None:
        self.enrol("Ann", "speaker 1")
        refuse = unittest.mock.Mock(side_effect=AssertionError("It was heard."))
        patches = [
            unittest.mock.patch.object(*what, refuse) for what in ((enrolment, "hear"), (timeline, "find_timeline"))
        ]
        with patches[0], patches[1]:
            for name, more in (("Ann", False), ("Bob", True), ("unknown", False)):
                with self.subTest(name), self.assertRaises(ValueError):
                    self.enrol(name, "speaker 1", more=more)
                with self.subTest(name), self.assertRaises(ValueError):
                    enrolment.enrol(self.encoder, self.db, name, [self.meeting], more)

    def test_voices_that_are_not_there(self) -> None:
        with self.assertRaisesRegex(ValueError, "no voice 'speaker 3' in .*: there is speaker 1, speaker 2"):
            self.enrol("Ann", "speaker 3")
        with self.assertRaisesRegex(ValueError, "speaker 2 never speaks for 1 s"):
            self.enrol("Ann", "speaker 2")
        self.assertFalse(database.is_there(self.db))
