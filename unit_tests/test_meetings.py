"""A few meetings of `stress/`, and recordings that were heard wrongly."""

import json
import re
import unittest

import speaker_id
from encoder import saved_models
from stress import meetings
from unit_tests.shared import PROJECT_DIR, ProjectTest
from voices import timeline as speaker_timeline
from voices.formats import to_rttm
from voices.turns import Turn

CASES = PROJECT_DIR.parent / "shared" / "cases"


class MeetingsTest(ProjectTest):
    def test_meetings_are_found_as_they_were(self) -> None:
        self.assertIn("all as they were", meetings.hold_meetings(self.dir, 8))

    def test_a_wrong_answer_is_noticed(self) -> None:
        said = [Turn(0, 2, "Ann"), Turn(3, 5, "x"), Turn(6, 8, "y")]
        right = [said[0], said[1]._replace(speaker="speaker 1"), said[2]._replace(speaker="speaker 2")]
        meetings.check_answer(right, said, {"Ann"}, "cluster")
        for found in (
            right[:2],
            [right[0], right[1], right[2]._replace(speaker="speaker 1")],
            [right[0], right[1], right[2]._replace(speaker="Ann")],
            [right[0]._replace(end=2.6), *right[1:]],
        ):
            with self.assertRaises(AssertionError):
                meetings.check_answer(found, said, {"Ann"}, "cluster")

    def test_names_stay_different_in_rttm(self) -> None:
        turns = [Turn(0, 1, name) for name in ("Ann Lee", "Ann_Lee", "speaker 1", "speaker_1", "Ann%20Lee")]
        rows = [line.split(" ") for line in to_rttm(turns, "a b.wav").splitlines()]
        self.assertEqual({len(row) for row in rows}, {10})
        self.assertEqual(len({row[7] for row in rows}), 5)
        self.assertNotEqual(rows[0][1], to_rttm(turns, "a_b.wav").split(" ")[1])

    def run_command(self, *arguments: str) -> str:
        answer = self.run_script("speaker_id.py", *arguments)
        self.assertEqual(answer.returncode, 0, answer.stderr)
        return answer.stdout

    @unittest.skipUnless(CASES.is_dir(), "there are no recordings beside the project that were heard wrongly")
    def test_two_strangers_beside_somebody_enrolled(self) -> None:
        self.run_command("enrol", "Vera", str(CASES / "13_vera.opus"), "--db", "x.db")
        for more, names in (((), ["unknown", "unknown"]), (("--unknown", "cluster"), ["speaker 1", "speaker 2"])):
            printed = self.run_command("timeline", str(CASES / "13_two_strangers.opus"), "--db", "x.db", *more)
            self.assertEqual(re.findall(r"^[0-9.:]+ [0-9.:]+ (.+) -$", printed, re.MULTILINE), names)

    @unittest.skipUnless(CASES.is_dir(), "there are no recordings beside the project that were heard wrongly")
    def test_ten_people_have_ten_names_and_a_pause_has_its_time(self) -> None:
        encoder = saved_models.load_encoder(speaker_id.DEFAULT_MODEL)
        for voice in (CASES / "14_ten").iterdir():
            speaker_id.enrol(encoder, str(self.dir / "ten.db"), voice.stem, voice)
        file = str(CASES / "14_meeting_of_the_ten.opus")
        found = json.loads(self.run_command("timeline", file, "--db", "ten.db", "--json"))[file]
        order = ["P2", "P3", "P4", "P5", "P6", "P7", "P9", "P10", "P11", "P12"]
        self.assertEqual([turn["speaker"] for turn in found], order)
        self.assertAlmostEqual(found[6]["start"], 52.9, delta=0.5)
        paused = str(CASES / "15_paused_30s.webm")
        nobody = speaker_timeline.find_timeline(encoder, paused)
        self.assertEqual(nobody.faults, [])
        self.assertAlmostEqual(nobody.turns[-1].start, 39.1, delta=0.3)
        self.assertAlmostEqual(nobody.turns[-1].end, 46.8, delta=0.3)
