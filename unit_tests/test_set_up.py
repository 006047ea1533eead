"""The set-up: packages, and the data folders that the settings name."""

import importlib.metadata
import re
import unittest
from pathlib import Path

import dataset
import demo_data
import feature_extraction
import myconfig
from unit_tests.shared import PROJECT_DIR


class SetUpTest(unittest.TestCase):
    """The packages and data folders that the settings need are there."""

    def test_requirements_are_installed(self) -> None:
        lines = [(PROJECT_DIR / name).read_text() for name in ("requirements-use.txt", "requirements.txt")]
        for line in "".join(lines).splitlines():
            if line and not line.startswith(("#", "-r")):
                name, lowest, untried = re.split(">=|,<", line)
                installed, *bounds = (
                    [int(number) for number in re.findall(r"\d+", version)]
                    for version in (importlib.metadata.version(name), lowest, untried)
                )
                self.assertTrue(bounds[0] <= installed < bounds[1], f"{line}, not {installed}")

    def test_configured_data_can_be_read(self) -> None:
        for part, demo_dir in (("TRAIN", demo_data.TRAIN_DIR), ("TEST", demo_data.TEST_DIR)):
            with self.subTest(part=part):
                if not getattr(myconfig, f"{part}_DATA_CSV"):
                    data_dir = Path(getattr(myconfig, f"{part}_DATA_DIR"))
                    if data_dir == demo_dir:
                        self.skipTest(f"{part}_DATA_DIR is the demonstration's, which is built when needed")
                spk_to_utts = dataset.get_spk_to_utts(part)
                self.assertGreaterEqual(len(spk_to_utts), 2, "at least two speakers are needed")
                feature_extraction.extract_features(next(iter(spk_to_utts.values()))[0])
