"""Tests of `encoder/forward.py` against PyTorch."""

import subprocess
import sys
import unittest

import numpy as np
import torch

from encoder import forward, networks, saved_models
from foundation import settings
from unit_tests.shared import PROJECT_DIR, ProjectTest

PRETRAINED = sorted((PROJECT_DIR / "saved_model" / "pretrained").glob("*.pt"))


class ForwardTest(ProjectTest):
    def assert_equal_to_pytorch(self, encoder: torch.nn.Module) -> None:
        """Recordings of other and of equal lengths, each embedded by PyTorch alone."""
        weights = {name: tensor.numpy() for name, tensor in encoder.state_dict().items()}
        self.assertEqual(forward.shapes(encoder.settings), {name: array.shape for name, array in weights.items()})
        self.assertEqual(forward.count_dimensions(encoder.settings), encoder.dimensions)
        rng = np.random.default_rng(0)
        batch = [
            rng.normal(0, 20, (num_frames, len(weights["feature_mean"]))).astype(np.float32)
            for num_frames in (50, 50, 7, 2, 1, 1)
        ]
        with torch.no_grad():
            expected = np.concatenate([encoder(torch.from_numpy(features)[None]).numpy() for features in batch])
        for features, of_features in zip((batch, batch[2:3]), (expected, expected[2:3]), strict=True):
            found = forward.embed(forward.nest(weights), encoder.settings, features)
            self.assertEqual((found.shape, found.dtype), (of_features.shape, np.float32))
            np.testing.assert_allclose(found, of_features, atol=1e-5, rtol=1e-5)

    def test_every_shape_is_what_pytorch_gives(self) -> None:
        plain = {"LSTM_HIDDEN_SIZE": 6, "LSTM_NUM_LAYERS": 2, "N_MFCC": 5}
        for shape in (
            {},
            {"LSTM_NUM_LAYERS": 1, "FRAME_AGGREGATION_MEAN": False},
            {"BI_LSTM": True},
            {"BI_LSTM": True, "FRAME_AGGREGATION_MEAN": False, "LSTM_LAYER_NORM": True},
            {"LSTM_LAYER_NORM": True, "DELTAS": True, "STACKED_FRAMES": 3, "LSTM_NUM_LAYERS": 3},
            {"ENSEMBLE_SIZE": 3, "DELTAS": True},
            {"TDNN_CHANNELS": 8, "STACKED_FRAMES": 2},
            {"TDNN_CHANNELS": 8, "BI_LSTM": True, "LSTM_LAYER_NORM": True, "DELTAS": True, "ENSEMBLE_SIZE": 2},
        ):
            with self.subTest(**shape), settings.override(**plain | shape):
                encoder = networks.new_encoder().eval()
                for parameter in encoder.parameters():  # Also those that begin as zeros and ones.
                    torch.nn.init.normal_(parameter, 0.1, 0.3)
                encoder.feature_mean.normal_()
                encoder.feature_std.uniform_(10, 20)
                self.assert_equal_to_pytorch(encoder)

    def test_pretrained_models(self) -> None:
        self.assertGreater(len(PRETRAINED), 1)
        for path in PRETRAINED:
            with self.subTest(path.name):
                self.assert_equal_to_pytorch(saved_models.load_encoder(str(path)))

    def test_it_needs_no_pytorch(self) -> None:
        line = "import sys, encoder.forward; print('torch' in sys.modules)"
        answer = subprocess.run([sys.executable, "-c", line], cwd=PROJECT_DIR, capture_output=True, text=True)
        self.assertEqual((answer.stdout.strip(), answer.stderr), ("False", ""))

    def test_a_convolution_with_a_stride(self) -> None:
        rng = np.random.default_rng(0)
        for steps, dilation, stride in ((9, 1, 2), (4, 1, 2), (2, 1, 2), (9, 3, 1), (1, 2, 1)):
            layer = torch.nn.Conv1d(4, 3, 3, stride=stride, padding=dilation, dilation=dilation)
            weights = {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}
            inputs = rng.normal(size=(2, steps, 4)).astype(np.float32)
            expected = layer(torch.from_numpy(inputs).transpose(1, 2)).transpose(1, 2).detach().numpy()
            np.testing.assert_allclose(forward.convolve(weights, inputs, dilation, stride), expected, atol=1e-6)


if __name__ == "__main__":
    unittest.main()
