"""Tests of `voices/formats.py`."""

import csv
import io
import json
import re
import urllib.parse

from unit_tests.shared import ProjectTest
from voices import commands, formats
from voices.turns import Turn

TURNS = [
    Turn(0.0, 5.25, "Ann Lee", 0.5124, True),
    Turn(5.25, 61.0, "speaker 1"),
    Turn(3599.96, 3725.5, 'Zoë, "Z"', 0.31, False),
]


class FormatsTest(ProjectTest):
    def test_times_for_people(self) -> None:
        times = {
            0: "0:00.0",
            5.26: "0:05.3",
            59.96: "1:00.0",
            754.5: "12:34.5",
            3723.4: "1:02:03.4",
            36000: "10:00:00.0",
        }
        for seconds, shown in times.items():
            self.assertEqual(formats.clock(seconds), shown)
        self.assertEqual(
            formats.to_text(TURNS),
            '0:00.0 0:05.2 Ann Lee 0.512\n0:05.2 1:01.0 speaker 1 -\n1:00:00.0 1:02:05.5 Zoë, "Z"? 0.310\n',
        )

    def test_each_format_is_read_back(self) -> None:
        found = {"a talk.wav": TURNS}
        expected = [(turn.start, turn.end, turn.speaker) for turn in TURNS]
        rows = list(csv.DictReader(io.StringIO(commands.formatted(found, "csv"))))
        self.assertEqual([(float(row["start"]), float(row["end"]), row["speaker"]) for row in rows], expected)
        self.assertEqual([row["score"] for row in rows], ["0.5124", "", "0.31"])
        self.assertEqual([row["sure"] for row in rows], ["True", "", "False"])
        self.assertEqual({row["file"] for row in rows}, {"a talk.wav"})
        turns = json.loads(commands.formatted(found, "json"))["a talk.wav"]
        self.assertEqual([(turn["start"], turn["end"], turn["speaker"]) for turn in turns], expected)
        self.assertEqual([turn["sure"] for turn in turns], [True, None, False])
        fields = [line.split(" ") for line in commands.formatted(found, "rttm").splitlines()]
        self.assertTrue(all(len(row) == 10 and row[1] == "a%20talk" for row in fields))
        read = [(float(row[3]), float(row[3]) + float(row[4]), urllib.parse.unquote(row[7])) for row in fields]
        for (start, end, who), (expected_start, expected_end, expected_who) in zip(read, expected, strict=True):
            self.assertAlmostEqual(start, expected_start, places=3)
            self.assertAlmostEqual(end, expected_end, places=3)
            self.assertEqual(who, expected_who)
        labels = [line.split("\t") for line in commands.formatted(found, "audacity").splitlines()]
        self.assertEqual([(float(start), float(end)) for start, end, _ in labels], [turn[:2] for turn in expected])
        self.assertEqual([name for _, _, name in labels], ["Ann Lee", "speaker 1", 'Zoë, "Z"?'])
        pattern = r"(\d+)\n(\d\d):(\d\d):(\d\d),(\d{3}) --> (\d\d):(\d\d):(\d\d),(\d{3})\n(.*)\n\n"
        subtitles = re.findall(pattern, commands.formatted(found, "srt"))
        self.assertEqual([int(number) for number, *_ in subtitles], [1, 2, 3])
        for (_, *parts), turn in zip(subtitles, TURNS, strict=True):
            *numbers, name = parts
            times = [
                int(h) * 3600 + int(m) * 60 + int(s) + int(ms) / 1000 for h, m, s, ms in (numbers[:4], numbers[4:])
            ]
            self.assertEqual(times, [turn.start, turn.end])
            self.assertEqual(name.removesuffix("?"), turn.speaker)

    def test_a_name_is_one_word_in_rttm(self) -> None:
        self.assertEqual(formats.one_word("Ann Lee%"), "Ann%20Lee%25")
