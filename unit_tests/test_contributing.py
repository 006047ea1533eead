"""A setting, a network, a loss and a file format, each added to a copy of the project as CONTRIBUTING.md says."""

import os
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import torch

from audio import decoder
from unit_tests.shared import PROJECT_DIR, RATE, ProjectTest

# File -> a text that is in it once, and what it becomes: all that is to be changed.
CHANGES = {
    "myconfig.py": ("\nSEED =", "\n# Units of the network of means; 0 for the others.\nMEAN_UNITS = 0\n\nSEED ="),
    "foundation/setting_table.py": (
        '    "SEED": Setting(',
        '    "MEAN_UNITS": Setting("encoder", "whole", (0, 999), before=0),\n    "SEED": Setting(',
    ),
    "encoder/networks.py": (
        "    return (TransformerEncoder if",
        "    if values['MEAN_UNITS']:\n        from encoder.means import MeanEncoder\n\n"
        "        return MeanEncoder(values)\n    return (TransformerEncoder if",
    ),
    "neural_net.py": (
        "\nLOSSES = {\n",
        "\ndef get_first_losses(embeddings, config):\n"
        "    first, second, other = embeddings[:, 0], embeddings[:, 1], embeddings[:, 0].roll(1, 0)\n"
        "    return get_triplet_loss(first, second, other, config)\n\n\n"
        'LOSSES = {\n    "first": get_first_losses,\n',
    ),
    "audio/ffmpeg.py": ('wv,xwma"', 'wv,xwma,sox"'),
}
LOSS = ("foundation/setting_table.py", '("smooth_batch_hard",', '("first", "smooth_batch_hard",')

NETWORK = """
import torch
from torch import nn

from encoder.speaker_encoder import SpeakerEncoder


class MeanEncoder(SpeakerEncoder):
    def build(self, num_inputs, values):
        self.layer, self.dimensions = nn.Linear(num_inputs, values["MEAN_UNITS"]), values["MEAN_UNITS"]

    def embed(self, inputs, lengths):
        lengths = torch.full((len(inputs),), inputs.shape[1]) if lengths is None else lengths
        is_counted = torch.arange(inputs.shape[1]) < lengths[:, None]
        return self.layer((inputs * is_counted[:, :, None]).sum(dim=1) / lengths[:, None])
"""


class ContributingTest(ProjectTest):
    def copy_project(self) -> Path:
        """A copy of the project's modules, without the tests."""
        copy = self.dir / "copy"
        copy.mkdir()
        for module in PROJECT_DIR.glob("*.py"):
            shutil.copy(module, copy)
        for room in {path.parent for path in PROJECT_DIR.glob("*/__init__.py")} - {PROJECT_DIR / "unit_tests"}:
            shutil.copytree(room, copy / room.name, ignore=shutil.ignore_patterns("__pycache__"))
        return copy

    def change(self, path: Path, before: str, after: str) -> None:
        text = path.read_text(encoding="utf-8")
        self.assertEqual(text.count(before), 1, (path, before))
        path.write_text(text.replace(before, after), encoding="utf-8")

    def test_each_way_of_adding_something_leads_to_a_model(self) -> None:
        rng = np.random.default_rng(0)
        for speaker in range(3):
            (self.dir / f"data/s{speaker}").mkdir(parents=True)
            for utt in range(2):
                # SoX's own format: size of the header, samples, rate, channels, size of a comment.
                header = b".SoX" + struct.pack("<IQdII", 28, RATE, RATE, 1, 0)
                samples = rng.normal(0, 2**28, RATE).astype("<i4")
                (self.dir / f"data/s{speaker}/{utt}.sox").write_bytes(header + samples.tobytes())
        with self.assertRaisesRegex(ValueError, "decoded"):
            list(decoder.decode(str(self.dir / "data/s0/0.sox"), []))
        copy = self.copy_project()
        for name, (before, after) in CHANGES.items():
            self.change(copy / name, before, after)
        self.change(copy / LOSS[0], *LOSS[1:])
        (copy / "encoder/means.py").write_text(NETWORK)
        settings = [*self.typed, "MEAN_UNITS=6", "TRIPLET_MINING=first", "TRAIN_DATA_DIR=data", "TEST_DATA_DIR=data"]
        settings += ["FEATURE_STORE_DIR=features", "BATCH_SIZE=2", "UTTERANCES_PER_SPEAKER=2", "TRAINING_STEPS=3"]
        env = {"env": os.environ | {"PYTHONPATH": str(copy)}}
        trained = self.run_script(str(copy / "neural_net.py"), *settings, "NUM_VALIDATION_SPEAKERS=0", **env)
        self.assertEqual(trained.returncode, 0, trained.stderr)
        content = torch.load(self.dir / "model.pt", weights_only=True)
        self.assertEqual(content["settings"]["MEAN_UNITS"], 6)
        self.assertEqual(content["encoder_state_dict"]["layer.weight"].shape[0], 6)
        evaluated = self.run_script(str(copy / "evaluation.py"), *settings, **env)
        self.assertEqual(evaluated.returncode, 0, evaluated.stderr)
        self.assertIn("EER", evaluated.stdout)
        refused = self.run_script("neural_net.py", *settings)
        self.assertEqual(refused.returncode, 2)
        self.assertIn("there is no setting 'MEAN_UNITS'", refused.stderr)

    def test_the_page_names_the_places(self) -> None:
        text = (PROJECT_DIR / "CONTRIBUTING.md").read_text(encoding="utf-8")
        how_to_add = text[text.index("## How to add") :]
        for name in (*CHANGES, "SpeakerEncoder", "new_encoder", "LOSSES", "TRIPLET_MINING", "FFMPEG_READERS"):
            self.assertTrue(re.search(rf"\b{re.escape(name)}\b", how_to_add), name)
