"""Tests of `experiments/pretrained.py`, against what the shipped models say of themselves."""

import unittest.mock
from pathlib import Path

import dataset
from encoder import model_files, saved_models
from experiments import pretrained
from foundation import settings
from unit_tests.shared import PROJECT_DIR, ProjectTest, corpus


class PretrainedTest(ProjectTest):
    def test_stages_are_those_of_the_shipped_models(self) -> None:
        for model, stages in pretrained.STAGES.items():
            content = model_files.read_model(PROJECT_DIR / "saved_model" / "pretrained" / f"{model}.pt")
            expected = pretrained.ALWAYS | stages[0] | stages[-1]
            recorded = content["training_settings"]
            self.assertGreater(len(expected.keys() & recorded.keys()), 8)
            for name in expected.keys() & recorded.keys():
                self.assertEqual(recorded[name], expected[name], f"{name} of {model}")

    def test_each_stage_begins_with_the_one_before(self) -> None:
        small = {"LSTM_HIDDEN_SIZE": 8, "TRAINING_STEPS": 200}
        stages = [small, {"TRAINING_STEPS": 400}, {"TRAINING_STEPS": 100, "SPEEDS": (1.0,), "LEARNING_RATE": 1e-8}]
        data = dataset.get_librispeech_spk_to_utts(str(corpus() / "train"))
        last = self.dir / "new" / "model.pt"
        with (
            unittest.mock.patch.dict(pretrained.STAGES, {"small": stages}),
            unittest.mock.patch.dict(pretrained.ALWAYS, {"CORPORA": "", "NO_COHORT_CORPORA": ""}),
            settings.override(CONDITIONS_DIR=str(self.dir)),
        ):
            pretrained.train("small", 0.01, data, last)
            content = [saved_models.read_model(str(path)) for path in self.stage_files(last)]
            self.assertEqual([len(one["losses"]) for one in content], [2, 4, 1])
            with_copies = [bool(one["training_settings"]["DISTURBED_DATA_CSV"]) for one in content]
            self.assertEqual(with_copies, [False, False, True])
            first, second, third = (one["encoder_state_dict"]["lstms.0.weight_hh_l1"] for one in content)
            self.assertGreater(float((second - first).abs().max()), 1e-5)
            self.assertLess(float((third - second).abs().max()), 1e-7)  # Its steps are tiny.
            before = last.read_bytes()
            pretrained.train("small", 0.01, data, last)
            self.assertEqual(last.read_bytes(), before)
        for share in (0, -1, 1.5, float("nan")):
            with self.assertRaisesRegex(ValueError, "not above 0 and at most 1"):
                pretrained.train("lstm64-tdnn56", share, data, last)

    def stage_files(self, last: Path) -> list[Path]:
        return [last.with_name("model-stage1.pt"), last.with_name("model-stage2.pt"), last]


if __name__ == "__main__":
    unittest.main()
