"""Tests of `speaker_encoder.py`."""

import concurrent.futures
import hashlib
import json
import math
import multiprocessing
import os
import re
import unittest
import unittest.mock
import warnings
import zipfile
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch

import evaluation
import neural_net
import speaker_encoder
from foundation import model_file, setting_tables, settings
from unit_tests.shared import RATE, ProjectTest
from voices import answers, timeline

# Settings with which the network reads each frame by itself.
NO_NEIGHBOURS = {"DELTAS": False, "STACKED_FRAMES": 1}


class SpeakerEncoderTest(ProjectTest):
    def test_embedding_aggregates_the_lstm_outputs_of_normalised_features(self) -> None:
        for bidirectional in (False, True):
            for mean in (False, True):
                with settings.override(**NO_NEIGHBOURS, BI_LSTM=bidirectional, FRAME_AGGREGATION_MEAN=mean):
                    encoder = speaker_encoder.new_encoder()
                    encoder.feature_mean += 3
                    encoder.feature_std *= 2
                    features = torch.randn(2, 30, 40)
                    outputs = encoder.lstms[0]((features - 3) / 2)[0]
                    expected = outputs.mean(dim=1) if mean else outputs[:, -1]
                    torch.testing.assert_close(encoder(features), expected)
                    self.assertEqual(encoder.dimensions, expected.shape[1])

    def test_an_lstm_also_reads_by_how_much_normalised_features_change_around_a_frame(self) -> None:
        with settings.override(STACKED_FRAMES=1):
            encoder = speaker_encoder.new_encoder()
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
            encoder = speaker_encoder.new_encoder()
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
            ensemble = speaker_encoder.new_encoder()
        self.assertEqual(ensemble.dimensions, 30)
        each = [lstm(features)[0].mean(dim=1) for lstm in ensemble.lstms]
        expected = torch.cat([own / own.norm(dim=1, keepdim=True) for own in each], dim=1)
        cosines = [torch.nn.functional.cosine_similarity(own[:1], own[1:]) for own in (expected, *each)]
        self.assertAlmostEqual(float(cosines[0]), float(sum(cosines[1:]) / 3), places=6)
        torch.testing.assert_close(ensemble(features), expected)
        torch.testing.assert_close(ensemble(features, num_frames)[0], expected[0])
        torch.testing.assert_close(ensemble(features, num_frames)[1], ensemble(features[1:, :20])[0])
        self.assertGreater(float((expected[:, :10] - expected[:, 10:20]).detach().abs().max()), 0.01)
        speaker_encoder.save_encoder(str(self.dir / "ensemble.pt"), ensemble)
        torch.testing.assert_close(neural_net.load_encoder(str(self.dir / "ensemble.pt"))(features), expected)

    def test_layer_normalisation_is_of_each_output_and_later_layers_add_what_they_read(self) -> None:
        def normalised(outputs: np.ndarray, norm: torch.nn.LayerNorm) -> np.ndarray:
            centred = outputs - outputs.mean(axis=2, keepdims=True)
            scaled = centred / np.sqrt((centred**2).mean(axis=2, keepdims=True) + 1e-5)
            return scaled * norm.weight.detach().numpy() + norm.bias.detach().numpy()

        for bidirectional in (False, True):
            with settings.override(**NO_NEIGHBOURS, LSTM_LAYER_NORM=True, BI_LSTM=bidirectional, LSTM_NUM_LAYERS=2):
                encoder = speaker_encoder.new_encoder()
            first, second = encoder.lstms[0].layers
            for norm in encoder.lstms[0].norms:
                torch.nn.init.normal_(norm.weight)
                torch.nn.init.normal_(norm.bias)
            features = torch.randn(2, 30, 40)
            read = normalised(first(features)[0].detach().numpy(), encoder.lstms[0].norms[0])
            outputs = second(torch.from_numpy(read))[0].detach().numpy()
            expected = (normalised(outputs, encoder.lstms[0].norms[1]) + read).mean(axis=1)
            np.testing.assert_allclose(encoder(features).detach(), expected, atol=1e-5)
            speaker_encoder.save_encoder(str(self.dir / "normalised.pt"), encoder)
            loaded = neural_net.load_encoder(str(self.dir / "normalised.pt"))
            np.testing.assert_allclose(loaded(features).detach(), expected, atol=1e-5)

    def test_a_tdnn_stands_beside_the_lstm_in_the_embedding(self) -> None:
        features = torch.randn(2, 30, 40)
        with settings.override(TDNN_CHANNELS=32, **NO_NEIGHBOURS):
            encoder = speaker_encoder.new_encoder()
        each = [encoder.lstms[0](features)[0].mean(dim=1), encoder.tdnns[0](features)]
        expected = torch.cat([own / own.norm(dim=1, keepdim=True) for own in each], dim=1)
        torch.testing.assert_close(encoder(features), expected)
        speaker_encoder.save_encoder(str(self.dir / "both.pt"), encoder)
        torch.testing.assert_close(neural_net.load_encoder(str(self.dir / "both.pt"))(features), expected)
        with self.assertRaisesRegex(ValueError, "a TDNN is among them"):
            speaker_encoder.join_encoders([encoder, encoder])
        torch.testing.assert_close(speaker_encoder.join_encoders([encoder])(features), expected)
        too_few = {"LSTM_LAYER_NORM": True, "LSTM_HIDDEN_SIZE": 3}
        with_transformer = {"TDNN_CHANNELS": 32, "USE_TRANSFORMER": True}
        for values in ({"TDNN_CHANNELS": 34}, {"TDNN_CHANNELS": 28}, with_transformer, too_few):
            with self.assertRaisesRegex(ValueError, "TDNN_CHANNELS=|LSTM_LAYER_NORM needs"):
                settings.check(settings.all_settings() | values)

    def test_joined_encoders_are_an_ensemble_of_their_lstms(self) -> None:
        features = 3 * torch.randn(3, 20, 40)
        kinds = ({"DELTAS": False}, {"STACKED_FRAMES": 1}, {"STACKED_FRAMES": 3}, {"LSTM_LAYER_NORM": True})
        for values in (*kinds, {"BI_LSTM": True}):
            encoders = []
            for seed in (0, 1):
                with settings.override(SEED=seed, LSTM_HIDDEN_SIZE=6, ENSEMBLE_SIZE=seed + 1, **values):
                    encoders.append(neural_net.get_speaker_encoder())
                encoders[-1].feature_mean += torch.rand(40)
                encoders[-1].feature_std *= 1 + torch.rand(40)
                encoders[-1].train_speakers = [f"s{seed}", "both"]
                encoders[-1].calibration = {"of": "each"}
            expected = [torch.nn.functional.normalize(encoders[0](features).detach()), encoders[1](features).detach()]
            expected = torch.cat(expected, dim=1)
            joined = speaker_encoder.join_encoders(encoders)
            torch.testing.assert_close(joined(features), expected)
            self.assertEqual((joined.dimensions, joined.settings["ENSEMBLE_SIZE"]), (expected.shape[1], 3))
            self.assertEqual((joined.train_speakers, joined.calibration), (["both", "s0", "s1"], {}))
        with settings.override(N_MELS=64), self.assertRaisesRegex(ValueError, "differ in N_MELS, LSTM_HIDDEN_SIZE, BI"):
            speaker_encoder.join_encoders([joined, speaker_encoder.new_encoder()])

    def test_embedding_does_not_depend_on_the_rest_of_the_batch(self) -> None:
        rng = np.random.default_rng(0)
        features = [rng.normal(size=(length, 40)).astype(np.float32) for length in (90, 7, 300, 41, 90)]
        for full in (True, False):
            kinds = [
                {"BI_LSTM": both, "FRAME_AGGREGATION_MEAN": mean} for both in (True, False) for mean in (True, False)
            ]
            kinds += [{"BI_LSTM": both, "LSTM_LAYER_NORM": True} for both in (True, False)]
            for kind in (*kinds, {"TDNN_CHANNELS": 32}, {"USE_TRANSFORMER": True}):
                values = {**kind, "USE_FULL_SEQUENCE_INFERENCE": full}
                with self.subTest(**values), settings.override(**values):
                    encoder = speaker_encoder.new_encoder().eval()
                    together = speaker_encoder.embed_features(encoder, features)
                    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
                    for row, utt in zip(together, features, strict=True):
                        alone = evaluation.run_inference(utt, encoder)
                        np.testing.assert_allclose(row, alone / np.linalg.norm(alone), atol=1e-5)

    def test_sliding_window_inference_is_the_mean_over_windows(self) -> None:
        features = np.random.default_rng(0).normal(size=(95, 40)).astype(np.float32)
        encoder = speaker_encoder.new_encoder().eval()
        with settings.override(USE_FULL_SEQUENCE_INFERENCE=False, SEQ_LEN=40, SLIDING_WINDOW_STEP=25), torch.no_grad():
            windows = [encoder(torch.from_numpy(features[start : start + 40])[None])[0] for start in (0, 25, 50)]
            expected = torch.stack(windows).mean(dim=0)
            np.testing.assert_allclose(evaluation.run_inference(features, encoder), expected, atol=1e-6)

    def two_models(self) -> tuple[list[speaker_encoder.SpeakerEncoder], list[str]]:
        """Two models of different settings, and recordings."""
        models = []
        for number, values in enumerate(({"N_MFCC": 13, "HOP_LENGTH": 256}, {"N_FFT": 512, "DELTAS": False})):
            path = str(self.dir / f"{number}.pt")
            with settings.override(**values):
                speaker_encoder.save_encoder(path, speaker_encoder.new_encoder().eval())
            models.append(neural_net.load_encoder(path))
        return models, [self.write_audio(f"{seed}.wav", 1 + seed / 10, seed=seed) for seed in range(5)]

    def test_two_models_in_many_threads_do_not_disturb_each_other(self) -> None:
        models, files = self.two_models()
        before = settings.all_settings()
        expected = [evaluation.embed_utterances(model, files) for model in models]
        decision = answers.Decision(None, 0.5, {})

        def work(number: int) -> list:
            model = models[number % 2]
            reloaded = neural_net.load_encoder(str(self.dir / f"{number % 2}.pt"))
            return [
                evaluation.embed_utterances(model, files),
                evaluation.embed_utterances(reloaded, files),
                answers.verify(model, files[0], Path(files[1]), decision)["score"],
                [len(blocks[0]) for blocks in timeline.embed_windows(model, files[4], [])],
            ]

        alone = [work(number) for number in (0, 1)]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            together = list(pool.map(work, range(24)))
        for number, result in enumerate(together):
            np.testing.assert_allclose(result[0], expected[number % 2], atol=1e-6)
            np.testing.assert_allclose(result[1], expected[number % 2], atol=1e-6)
            self.assertAlmostEqual(result[2], alone[number % 2][2], places=5)
            self.assertEqual(result[3], alone[number % 2][3])
        self.assertEqual(settings.all_settings(), before)

    @unittest.skipUnless(hasattr(os, "fork"), "there is no fork on this system")
    def test_a_forked_process_can_embed_after_its_parent_did(self) -> None:
        [model, _], files = self.two_models()
        expected = evaluation.embed_utterances(model, files)
        process = multiprocessing.get_context("fork").Process(
            target=lambda: np.save(self.dir / "child.npy", evaluation.embed_utterances(model, files))
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of forking with threads, which is what is tested.
            process.start()
        process.join(60)
        self.assertEqual(process.exitcode, 0)
        np.testing.assert_allclose(np.load(self.dir / "child.npy"), expected, atol=1e-6)

    def test_pretrained_models_are_found_from_anywhere(self) -> None:
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(self.dir)
        self.assertTrue(neural_net.load_encoder("saved_model/pretrained/lstm104.pt").train_speakers)
        self.assertTrue(neural_net.load_encoder(Path("saved_model") / "pretrained" / "lstm104.pt").train_speakers)
        for missing in ("lstm104.pt", "/nowhere/saved_model/pretrained/lstm104.pt"):
            with self.assertRaisesRegex(ValueError, f"no model {missing}"):
                neural_net.load_encoder(missing)
        with settings.override(INITIAL_MODELS="saved_model/pretrained/lstm104.pt"):
            settings.check_training(settings.all_settings())

    def test_saved_encoder_is_rebuilt_from_its_own_settings(self) -> None:
        path = str(self.dir / "folder" / "model.pt")
        with settings.override(BI_LSTM=True, LSTM_HIDDEN_SIZE=12, N_MFCC=13, HOP_LENGTH=256):
            encoder = speaker_encoder.new_encoder().eval()
            encoder.feature_mean += 5
            speaker_encoder.save_encoder(path, encoder)
        files = [self.write_audio("x.wav", 2), self.write_audio("y.wav", 1, seed=1)]
        loaded = neural_net.load_encoder(path)
        self.assertEqual(loaded.settings, encoder.settings)
        before = settings.all_settings()
        embeddings = evaluation.embed_utterances(loaded, files)
        self.assertEqual((embeddings.shape, embeddings.dtype), ((2, 24), np.float32))
        self.assertEqual(settings.all_settings(), before)
        for row, file in zip(embeddings, files, strict=True):
            y, _ = soundfile.read(file, dtype="float32")
            mfcc = librosa.feature.mfcc(y=y - y.mean(), sr=RATE, n_mfcc=13, hop_length=256).T
            expected = evaluation.run_inference(np.ascontiguousarray(mfcc), encoder)
            np.testing.assert_allclose(row, expected / np.linalg.norm(expected), atol=1e-4)
        self.assertEqual([entry.name for entry in Path(path).parent.iterdir()], ["model.pt"])

    def test_a_typed_setting_that_contradicts_the_model_is_an_error(self) -> None:
        path = str(self.dir / "model.pt")
        speaker_encoder.save_encoder(path, speaker_encoder.new_encoder())
        self.addCleanup(settings.typed_names.clear)
        settings.apply_override("LSTM_HIDDEN_SIZE=8")
        neural_net.load_encoder(path)
        settings.apply_override("LSTM_HIDDEN_SIZE=16")
        with self.assertRaisesRegex(ValueError, "LSTM_HIDDEN_SIZE=16 contradicts .* 8"):
            neural_net.load_encoder(path)

    def test_a_classic_model_loads_by_the_shape_of_its_weights(self) -> None:
        class Classic(torch.nn.Module):
            def __init__(self, bidirectional: bool) -> None:
                super().__init__()
                self.lstm = torch.nn.LSTM(40, 64, 3, batch_first=True, bidirectional=bidirectional)

        features = torch.randn(2, 50, 40)
        for bidirectional in (False, True):
            classic = Classic(bidirectional)
            model = {"encoder_state_dict": classic.state_dict(), "losses": [0.1], "training_time": 1.0}
            torch.save(model, self.dir / "classic.pt")
            with settings.override(N_MFCC=13, HOP_LENGTH=100, BI_LSTM=not bidirectional):
                encoder = neural_net.get_speaker_encoder(load_from=str(self.dir / "classic.pt"))
            torch.testing.assert_close(encoder(features), classic.lstm(features)[0].mean(dim=1))
            self.assertEqual(encoder.settings["HOP_LENGTH"], 512)

    def test_a_model_of_the_time_before_deltas_stays_what_it_is(self) -> None:
        with settings.override(**NO_NEIGHBOURS):
            encoder = speaker_encoder.new_encoder()
        before = encoder.settings
        later = ("DELTAS", "STACKED_FRAMES", "USE_TRANSFORMER", "LSTM_LAYER_NORM", "TDNN_CHANNELS")
        for name in (*later, *setting_tables.TRANSFORMER_SETTINGS):
            del before[name]
        speaker_encoder.save_encoder(str(self.dir / "before.pt"), encoder)
        loaded = neural_net.load_encoder(str(self.dir / "before.pt"))
        self.assertIs(loaded.settings["DELTAS"], False)
        self.assertEqual(loaded.lstms[0].input_size, 40)
        # Databases know it by a hash from when there were no ensembles either.
        del before["ENSEMBLE_SIZE"]
        digest = hashlib.sha256(json.dumps(before, sort_keys=True).encode())
        weights = {"feature_mean": loaded.feature_mean, "feature_std": loaded.feature_std}
        weights |= {f"lstm.{name}": weight.detach() for name, weight in loaded.lstms[0].named_parameters()}
        for name in sorted(weights):
            digest.update(name.encode() + weights[name].numpy().tobytes())
        self.assertEqual(speaker_encoder.model_fingerprint(loaded), digest.hexdigest()[:16])

    def test_unusable_models_are_refused_in_a_sentence(self) -> None:
        encoder = speaker_encoder.new_encoder()
        speaker_encoder.save_encoder(str(self.dir / "good.pt"), encoder)
        good = torch.load(self.dir / "good.pt", weights_only=True)
        content = (self.dir / "good.pt").read_bytes()
        (self.dir / "truncated.pt").write_bytes(content[: len(content) // 2])
        (self.dir / "text.pt").write_text("a text")
        (self.dir / "empty.pt").touch()

        class Code:
            def __reduce__(self) -> tuple:
                return (Path.touch, (self.folder / "code_was_run",))

        Code.folder = self.dir
        wrong = {
            "code": {**good, "more": Code()},
            "tensor": torch.zeros(3),
            "other_kind": {"state_dict": good["encoder_state_dict"]},
            "no_weights": {**good, "encoder_state_dict": {}},
            "shapes": {**good, "settings": {**good["settings"], "LSTM_HIDDEN_SIZE": 9}},
            "huge": {**good, "settings": {**good["settings"], "LSTM_HIDDEN_SIZE": 10**9}},
            "unknown_setting": {**good, "settings": {**good["settings"], "NEW": 1}},
            "settings_kind": {**good, "settings": [1, 2]},
            "cohort_kind": {**good, "cohort": 5},
            "cohort_of_one": {**good, "cohort": torch.eye(encoder.dimensions)[:1]},
            "cohort_nan": {**good, "cohort": torch.full((3, encoder.dimensions), math.nan)},
            "cohort_shape": {**good, "cohort": torch.ones(3, encoder.dimensions + 1)},
            "classic_other_network": {"encoder_state_dict": {"linear.weight": torch.zeros(3, 3)}},
        }
        for name, model in wrong.items():
            torch.save(model, self.dir / f"{name}.pt")
        good["encoder_state_dict"]["lstms.0.bias_hh_l1"][3] = math.nan
        torch.save(good, self.dir / "nan.pt")
        for name in ("missing", "truncated", "text", "empty", "nan", *wrong):
            path = str(self.dir / f"{name}.pt")
            with self.subTest(name), self.assertRaisesRegex(ValueError, rf"^[^\n]*{re.escape(path)}[^\n]*$"):
                neural_net.load_encoder(path)
        self.assertFalse((self.dir / "code_was_run").exists())

    def test_models_that_would_fill_the_memory_are_refused_before_they_do(self) -> None:
        """They claim or unpack to 26 GB; nothing of that is taken."""
        with settings.override(LSTM_HIDDEN_SIZE=4096, LSTM_NUM_LAYERS=16, BI_LSTM=True), torch.device("meta"):
            huge = speaker_encoder.new_encoder()
        one = torch.zeros(1)
        expanded = {name: one.expand(tensor.shape) for name, tensor in huge.state_dict().items()}
        small = speaker_encoder.new_encoder().state_dict()
        for name, weights in (("expanded", expanded), ("claimed", small)):
            torch.save({"encoder_state_dict": weights, "settings": huge.settings}, self.dir / f"{name}.pt")
        speaker_encoder.save_encoder(str(self.dir / "good.pt"), speaker_encoder.new_encoder())
        with (
            zipfile.ZipFile(self.dir / "good.pt") as good,
            zipfile.ZipFile(self.dir / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
        ):
            for member in good.namelist():
                bomb.writestr(member, bytes(10**7) if member.endswith("data/0") else good.read(member))
        torch.save({"encoder_state_dict": small, "more": bytearray(10)}, self.dir / "bytes.pt")
        torch.save({"encoder_state_dict": small}, self.dir / "old.pt", _use_new_zipfile_serialization=False)
        with (self.dir / "old.pt").open("ab") as old:  # An archive from its end, not from its start.
            old.write((self.dir / "good.pt").read_bytes())
        names = {"expanded": "more than the file holds", "claimed": "shape", "bomb": "damaged", "bytes": "more than"}
        names["old"] = "1.6 or newer"
        shape = speaker_encoder.new_encoder().settings
        many = {"encoder_state_dict": small, "settings": shape, "more": [None] * 10**5}
        torch.save(many, self.dir / "many.pt")
        self.assertEqual(neural_net.load_encoder(str(self.dir / "many.pt")).dimensions, 8)
        names["many"] = "more than weights"
        few = unittest.mock.patch.object(model_file, "MAX_PICKLE_BYTES", 10**5)
        with few, unittest.mock.patch.object(torch.nn.LSTM, "reset_parameters", self.refuse_memory):
            for name, message in names.items():
                with self.subTest(name), self.assertRaisesRegex(ValueError, message):
                    neural_net.load_encoder(str(self.dir / f"{name}.pt"))

    @staticmethod
    def refuse_memory(network: torch.nn.LSTM) -> None:
        assert all(weight.is_meta for weight in network.parameters()), "The network was built."
