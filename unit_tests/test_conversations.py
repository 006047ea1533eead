"""Tests of `experiments/conversations.py`."""

import importlib.util
import unittest
import unittest.mock
from pathlib import Path

import numpy as np

import dataset
from experiments import conversations
from experiments.conversations import diarization_errors
from foundation import settings
from unit_tests.shared import RATE, ProjectTest, corpus
from voices.turns import Turn


@unittest.skipUnless(
    importlib.util.find_spec("pyannote") and importlib.util.find_spec("pyannote.metrics"),
    "pyannote.metrics is not installed.",
)
class DiarizationErrorTest(unittest.TestCase):
    def test_errors_by_hand(self) -> None:
        reference = [Turn(0, 4, "a"), Turn(4, 10, "b")]
        found = [Turn(0, 5, "x"), Turn(5, 9, "y"), Turn(11, 12, "y")]
        both = [Turn(0, 2, "a"), Turn(0, 2, "b")]
        with unittest.mock.patch.object(conversations, "COLLAR_SECONDS", 0):
            self.assertEqual(diarization_errors(reference, found), (10, 1, 1, 1))
            self.assertEqual(diarization_errors(both, [Turn(0, 2, "x")]), (4, 2, 0, 0))
            self.assertEqual(diarization_errors(both, []), (4, 4, 0, 0))
        # 0.25 s at each start and end do not count: 1 s of 10; 4.25 to 5 is confused, 9 to 9.75 missed.
        self.assertEqual(diarization_errors(reference, found), (9, 0.75, 1, 0.75))


class ConversationsTest(ProjectTest):
    def test_a_conversation_is_what_its_turns_say(self) -> None:
        spk_to_utts = dataset.get_spk_to_utts("TEST")
        samples, spans = conversations.build_conversation(spk_to_utts, np.random.default_rng(0))
        self.assertTrue(2 <= len({span.speaker for span in spans}) <= 4)
        self.assertTrue(all(one.speaker != other.speaker for one, other in zip(spans[:-1], spans[1:], strict=True)))
        pauses = np.array([other.start - one.end for one, other in zip(spans[:-1], spans[1:], strict=True)])
        self.assertTrue((pauses > -0.31).all() and (pauses < 1.01).all() and (pauses < 0).any())
        self.assertTrue(all(1 < span.end - span.start < 10.01 for span in spans))
        quiet = np.concatenate(
            [
                samples[round(one.end * RATE) : round(other.start * RATE)]
                for one, other in zip(spans[:-1], spans[1:], strict=True)
            ]
        )
        self.assertGreater(10 * np.log10(np.mean(samples**2) / np.mean(quiet**2)), 15)

    def test_a_person_has_the_recordings_of_one_session(self) -> None:
        self.assertEqual(conversations.largest_folder(["a/1/x", "a/2/y", "a/2/z", "a/3/x"]), ["a/2/y", "a/2/z"])
        self.assertEqual(conversations.largest_folder(["a/1/x", "a/2/y"]), ["a/1/x", "a/2/y"])
        people = {name: [f"{name}/1/x", f"{name}/2/y", f"{name}/2/z"] for name in "ab"}
        sound = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32)
        with unittest.mock.patch.object(conversations.mono, "read_audio", return_value=sound) as read:
            conversations.build_conversation(people, np.random.default_rng(0))
        self.assertEqual({call.args[0] for call in read.call_args_list}, {"a/2/y", "a/2/z", "b/2/y", "b/2/z"})

    def test_on_one_line_all_share_a_room_or_a_telephone(self) -> None:
        spk_to_utts = dataset.get_spk_to_utts("TEST")
        numbers = []
        for seed in range(12):
            rng = np.random.default_rng(seed)
            with unittest.mock.patch.object(conversations, "telephone", lambda samples, _: samples):
                samples, spans = conversations.build_conversation(spk_to_utts, rng, conversations.ON_ONE_LINE)
            self.assertGreater(len(samples) / RATE, max(span.end for span in spans))
            numbers.append(len({span.speaker for span in spans}))
        self.assertIn(1, numbers)
        self.assertTrue(max(numbers) > 2)
        click = np.zeros(RATE, np.float32)
        click[100] = 1
        echoes = conversations.add_room(click, np.random.default_rng(0))
        self.assertLess(np.abs(echoes[:100]).max(), 1e-6)
        energy = [float(np.sum(echoes[start : start + 800] ** 2)) for start in (101, 1701, 3301)]
        self.assertTrue(energy[0] > 10 * energy[1] > 0, energy)  # It decays by 60 dB in half a second or less.

    def test_conversations_are_written_with_their_turns(self) -> None:
        with settings.override(CONDITIONS_DIR=str(self.dir)):
            built = conversations.build_conversations(dataset.get_spk_to_utts("TEST"), 1, settings.present())
        self.assertEqual([Path(path).name for path in built], ["0.flac", "0 on one line.flac"])
        read = conversations.read_conversations(str(self.dir / "conversations"))
        self.assertEqual(set(read), set(built))
        for path, spans in built.items():
            np.testing.assert_allclose([span[:2] for span in read[path]], [span[:2] for span in spans], atol=0.001)
            self.assertEqual([span.speaker for span in read[path]], [span.speaker for span in spans])
        for text, message in (
            ("SPEAKER a 1 0.2", "line 1: a turn has a start"),
            ("\nSPEAKER a 1 x 2 <NA> <NA> Ann <NA> <NA>", "line 2"),
            ("SPEAKER a 1 1 0 <NA> <NA> Ann <NA> <NA>", "line 1"),
            ("SPEAKER a 1 -1 2 <NA> <NA> Ann <NA> <NA>", "line 1"),
            ("", "has no turns"),
        ):
            (self.dir / "wrong.rttm").write_text(text)
            with self.assertRaisesRegex(ValueError, message):
                conversations.read_rttm(self.dir / "wrong.rttm")
        with self.assertRaisesRegex(ValueError, "has no recordings with an RTTM file"):
            conversations.read_conversations(str(corpus() / "test"))
        one = {"a": ["x.wav"]}
        with self.assertRaisesRegex(ValueError, "two speakers or more"):
            conversations.build_conversations(one, 1, settings.present())
