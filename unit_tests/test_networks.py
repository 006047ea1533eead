"""Tests of `encoder/lstm.py`, `transformer.py` and what they read."""

import numpy as np
import torch

import neural_net
from encoder import networks, saved_models
from foundation import setting_checks, settings
from unit_tests.shared import NO_NEIGHBOURS, ProjectTest, layer_normalised


class EncoderNetworksTest(ProjectTest):
    def test_embedding_aggregates_the_lstm_outputs_of_normalised_features(self) -> None:
        for bidirectional in (False, True):
            for mean in (False, True):
                with settings.override(**NO_NEIGHBOURS, BI_LSTM=bidirectional, FRAME_AGGREGATION_MEAN=mean):
                    encoder = networks.new_encoder()
                    encoder.feature_mean += 3
                    encoder.feature_std *= 2
                    features = torch.randn(2, 30, 40)
                    outputs = encoder.lstms[0]((features - 3) / 2)[0]
                    expected = outputs.mean(dim=1) if mean else outputs[:, -1]
                    torch.testing.assert_close(encoder(features), expected)
                    self.assertEqual(encoder.dimensions, expected.shape[1])

    def test_an_lstm_also_reads_by_how_much_normalised_features_change_around_a_frame(self) -> None:
        with settings.override(STACKED_FRAMES=1):
            encoder = networks.new_encoder()
        lengths = [6, 1, 4, 2, 3]
        encoder.feature_mean += 3
        encoder.feature_std *= 2
        features = torch.randn(len(lengths), max(lengths), 40)
        padded = encoder(features, torch.tensor(lengths)).detach()
        for row, embedding, length in zip(features, padded, lengths, strict=True):
            normalised = (row[:length].numpy() - 3) / 2
            deltas = np.zeros((length, 40), np.float32)
            for frame in range(1, length - 1):
                deltas[frame] = normalised[frame + 1] - normalised[frame - 1]
            outputs = encoder.lstms[0](torch.from_numpy(np.hstack([normalised, deltas])))[0].detach()
            torch.testing.assert_close(embedding, outputs.mean(dim=0))
            torch.testing.assert_close(encoder(row[None, :length])[0].detach(), outputs.mean(dim=0))

    def test_an_lstm_reads_several_frames_in_a_step_and_repeats_the_last_to_fill_it(self) -> None:
        lengths = [7, 1, 3, 6]
        with settings.override(STACKED_FRAMES=3, DELTAS=False):
            encoder = networks.new_encoder()
        features = torch.randn(len(lengths), max(lengths), 40)
        padded = encoder(features, torch.tensor(lengths)).detach()
        for row, embedding, length in zip(features.numpy(), padded, lengths, strict=True):
            filled = np.vstack([row[:length], *[row[length - 1 : length]] * (-length % 3)])
            steps = np.stack([np.concatenate(filled[start : start + 3]) for start in range(0, len(filled), 3)])
            outputs = encoder.lstms[0](torch.from_numpy(steps))[0].detach()
            torch.testing.assert_close(embedding, outputs.mean(dim=0))
            torch.testing.assert_close(encoder(torch.from_numpy(row[None, :length]))[0].detach(), outputs.mean(dim=0))

    def test_an_ensemble_puts_the_embeddings_of_different_lstms_together(self) -> None:
        features, num_frames = torch.randn(2, 30, 40), torch.tensor([30, 20])
        with settings.override(ENSEMBLE_SIZE=3, **NO_NEIGHBOURS, BI_LSTM=True, LSTM_HIDDEN_SIZE=5):
            ensemble = networks.new_encoder()
        self.assertEqual(ensemble.dimensions, 30)
        each = [lstm(features)[0].mean(dim=1) for lstm in ensemble.lstms]
        expected = torch.cat([own / own.norm(dim=1, keepdim=True) for own in each], dim=1)
        cosines = [torch.nn.functional.cosine_similarity(own[:1], own[1:]) for own in (expected, *each)]
        self.assertAlmostEqual(float(cosines[0]), float(sum(cosines[1:]) / 3), places=6)
        torch.testing.assert_close(ensemble(features), expected)
        torch.testing.assert_close(ensemble(features, num_frames)[0], expected[0])
        torch.testing.assert_close(ensemble(features, num_frames)[1], ensemble(features[1:, :20])[0])
        self.assertGreater(float((expected[:, :10] - expected[:, 10:20]).detach().abs().max()), 0.01)
        saved_models.save_encoder(str(self.dir / "ensemble.pt"), ensemble)
        torch.testing.assert_close(neural_net.load_encoder(str(self.dir / "ensemble.pt"))(features), expected)

    def test_layer_normalisation_is_of_each_output_and_later_layers_add_what_they_read(self) -> None:
        for bidirectional in (False, True):
            with settings.override(**NO_NEIGHBOURS, LSTM_LAYER_NORM=True, BI_LSTM=bidirectional, LSTM_NUM_LAYERS=2):
                encoder = networks.new_encoder()
            first, second = encoder.lstms[0].layers
            for norm in encoder.lstms[0].norms:
                torch.nn.init.normal_(norm.weight)
                torch.nn.init.normal_(norm.bias)
            features = torch.randn(2, 30, 40)
            read = layer_normalised(encoder.lstms[0].norms[0], first(features)[0].detach().numpy())
            outputs = second(torch.from_numpy(read))[0].detach().numpy()
            expected = (layer_normalised(encoder.lstms[0].norms[1], outputs) + read).mean(axis=1)
            np.testing.assert_allclose(encoder(features).detach(), expected, atol=1e-5)
            saved_models.save_encoder(str(self.dir / "normalised.pt"), encoder)
            loaded = neural_net.load_encoder(str(self.dir / "normalised.pt"))
            np.testing.assert_allclose(loaded(features).detach(), expected, atol=1e-5)

    def test_a_tdnn_stands_beside_the_lstm_in_the_embedding(self) -> None:
        features = torch.randn(2, 30, 40)
        with settings.override(TDNN_CHANNELS=32, **NO_NEIGHBOURS):
            encoder = networks.new_encoder()
        each = [encoder.lstms[0](features)[0].mean(dim=1), encoder.tdnns[0](features)]
        expected = torch.cat([own / own.norm(dim=1, keepdim=True) for own in each], dim=1)
        torch.testing.assert_close(encoder(features), expected)
        saved_models.save_encoder(str(self.dir / "both.pt"), encoder)
        torch.testing.assert_close(neural_net.load_encoder(str(self.dir / "both.pt"))(features), expected)
        with self.assertRaisesRegex(ValueError, "a TDNN is among them"):
            networks.join_encoders([encoder, encoder])
        torch.testing.assert_close(networks.join_encoders([encoder])(features), expected)
        too_few = {"LSTM_LAYER_NORM": True, "LSTM_HIDDEN_SIZE": 3}
        with_transformer = {"TDNN_CHANNELS": 32, "USE_TRANSFORMER": True}
        for values in ({"TDNN_CHANNELS": 34}, {"TDNN_CHANNELS": 28}, with_transformer, too_few):
            with self.assertRaisesRegex(ValueError, "TDNN_CHANNELS=|LSTM_LAYER_NORM needs"):
                setting_checks.check(settings.all_settings() | values)
