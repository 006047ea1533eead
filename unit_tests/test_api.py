"""The examples of `docs/api.md`, run one after the other."""

import os
import re
import unittest
from pathlib import Path

import numpy as np
import soundfile

import demo_data
from unit_tests.shared import PROJECT_DIR, ProjectTest

PAGE = PROJECT_DIR / "docs" / "api.md"


@unittest.skipUnless(PAGE.is_file(), "the page is not here")
class ApiTest(ProjectTest):
    def test_the_examples_run(self) -> None:
        rng = np.random.default_rng(0)
        voice = demo_data.draw_voice(rng)
        for name, seconds in (("monday", 4), ("tuesday", 3), ("meeting", 12)):
            samples = demo_data.synthesise(voice, seconds, rng)
            soundfile.write(self.dir / f"{name}.wav", samples, demo_data.SAMPLE_RATE)
        names: dict = {}
        folder = Path.cwd()
        self.addCleanup(os.chdir, folder)
        os.chdir(self.dir)
        examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        self.assertEqual(len(examples), 6)
        for example in examples:
            exec(example, names)  # noqa: S102 - it is our own page.
        self.assertEqual(names["answer"]["speaker"], "Ann")
        self.assertIn(names["answer"]["verdict"], ("known", "probable"))
        self.assertEqual(names["monday"].recording.embedding.shape, (names["encoder"].dimensions,))
        self.assertEqual({turn.speaker for turn in names["found"].turns}, {"Ann"})
        self.assertEqual([name for name in names["group"].files if name.endswith(".wav")], names["group"].files)
