"""Tests of `generate_csv.py`."""

import os
import shutil
import sys

import dataset
import generate_csv
from foundation import settings
from unit_tests.shared import ProjectTest


class GenerateCsvTest(ProjectTest):
    def test_patterns(self) -> None:
        for file in ("wav/f/ann/1.wav", "wav/f/ann/deep/2.wav", "wav/m/bob/1.wav", "wav/other.wav"):
            self.write_audio(file)
        folder = str(self.dir / "wav")
        cases = {
            "*/{speaker}/**": (["ann", "ann", "bob"], 1),
            "{group}/{speaker}/*": (["ann", "bob"], 2),
            "**/{speaker}.wav": (["1", "1", "2"], 1),
        }
        for pattern, (speakers, num_others) in cases.items():
            with self.subTest(pattern):
                rows, others = generate_csv.list_recordings(folder, pattern)
                self.assertEqual(([row[0] for row in rows], others), (speakers, num_others))
        for pattern, message in (("*", "must have {speaker}"), ("{speaker}/{speaker}", "once"), ("x{speaker}", "none")):
            with self.assertRaisesRegex(ValueError, message):
                generate_csv.list_recordings(folder, pattern)

    def test_file_can_be_used(self) -> None:
        self.write_audio("wav/f/ann, 1/x.wav")
        self.write_audio("wav/m/bob/x.wav")
        result = self.run_script("generate_csv.py", "wav", "{group}/{speaker}/*", "lists/voices.csv")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        with settings.override(TEST_DATA_CSV=str(self.dir / "lists/voices.csv")):
            self.assertEqual(list(dataset.get_spk_to_utts("TEST")), ["ann, 1", "bob"])
            self.assertEqual(dataset.get_groups("TEST"), {"ann, 1": "f", "bob": "m"})
        if os.name != "nt":
            names = ["new\nline", 'quo"te'] + ([os.fsdecode(b"not utf-8 \xff")] if sys.platform == "linux" else [])
            for name in names:
                (self.dir / "strange" / name).mkdir(parents=True)
                shutil.copy(self.dir / "wav/m/bob/x.wav", self.dir / "strange" / name)
            self.assertEqual(self.run_script("generate_csv.py", "strange", "{speaker}/*", "x.csv").returncode, 0)
            self.assertEqual(sorted(dataset.get_csv_spk_to_utts(str(self.dir / "x.csv"))), sorted(names))
        result = self.run_script("generate_csv.py", "gone", "{speaker}/*", "x.csv")
        self.assertEqual((result.returncode, result.stderr.count("\n")), (2, 1))
