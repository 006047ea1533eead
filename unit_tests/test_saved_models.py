"""Tests of `encoder/saved_models.py`."""

import hashlib
import json
import math
import os
import re
import unittest
import unittest.mock
import zipfile
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch

import evaluation
import neural_net
from encoder import networks, saved_models
from foundation import safe_files, setting_checks, setting_table, settings
from unit_tests.shared import NO_NEIGHBOURS, RATE, ProjectTest


class SavedEncoderTest(ProjectTest):
    def test_pretrained_models_are_found_from_anywhere(self) -> None:
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(self.dir)
        self.assertTrue(neural_net.load_encoder("saved_model/pretrained/lstm64-tdnn56.pt").train_speakers)
        self.assertTrue(neural_net.load_encoder(Path("saved_model") / "pretrained" / "lstm64-tdnn56.pt").train_speakers)
        for missing in ("lstm64-tdnn56.pt", "/nowhere/saved_model/pretrained/lstm64-tdnn56.pt"):
            with self.assertRaisesRegex(ValueError, f"no model {missing}"):
                neural_net.load_encoder(missing)
        with settings.override(INITIAL_MODELS="saved_model/pretrained/lstm64-tdnn56.pt"):
            setting_checks.check_training(settings.all_settings())

    def test_saved_encoder_is_rebuilt_from_its_own_settings(self) -> None:
        path = str(self.dir / "folder" / "model.pt")
        with settings.override(BI_LSTM=True, LSTM_HIDDEN_SIZE=12, N_MFCC=13, HOP_LENGTH=256):
            encoder = networks.new_encoder().eval()
            encoder.feature_mean += 5
            saved_models.save_encoder(path, encoder)
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
        saved_models.save_encoder(path, networks.new_encoder())
        neural_net.load_encoder(path, {"LSTM_HIDDEN_SIZE"})
        with settings.override(LSTM_HIDDEN_SIZE=16):
            neural_net.load_encoder(path)
            with self.assertRaisesRegex(ValueError, "LSTM_HIDDEN_SIZE=16 contradicts .* 8"):
                neural_net.load_encoder(path, {"SEED", "LSTM_HIDDEN_SIZE"})
            answer = self.run_script("evaluation.py", *self.typed, "LSTM_HIDDEN_SIZE=16", f"SAVED_MODEL_PATH={path}")
            self.assertEqual((answer.returncode, answer.stderr.count("\n")), (2, 1))
            self.assertIn("LSTM_HIDDEN_SIZE=16 contradicts", answer.stderr)

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
            encoder = networks.new_encoder()
        before = encoder.settings
        later = ("DELTAS", "STACKED_FRAMES", "USE_TRANSFORMER", "LSTM_LAYER_NORM", "TDNN_CHANNELS")
        for name in (*later, *setting_table.settings_that_shape("transformer")):
            del before[name]
        saved_models.save_encoder(str(self.dir / "before.pt"), encoder)
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
        self.assertEqual(saved_models.model_fingerprint(loaded), digest.hexdigest()[:16])

    def test_unusable_models_are_refused_in_a_sentence(self) -> None:
        encoder = networks.new_encoder()
        saved_models.save_encoder(str(self.dir / "good.pt"), encoder)
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
            "deviation": {
                **good,
                "encoder_state_dict": {**good["encoder_state_dict"], "feature_std": torch.arange(40.0)},
            },
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
            huge = networks.new_encoder()
        one = torch.zeros(1)
        expanded = {name: one.expand(tensor.shape) for name, tensor in huge.state_dict().items()}
        small = networks.new_encoder().state_dict()
        for name, weights in (("expanded", expanded), ("claimed", small)):
            torch.save({"encoder_state_dict": weights, "settings": huge.settings}, self.dir / f"{name}.pt")
        saved_models.save_encoder(str(self.dir / "good.pt"), networks.new_encoder())
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
        shape = networks.new_encoder().settings
        many = {"encoder_state_dict": small, "settings": shape, "more": [None] * 10**5}
        torch.save(many, self.dir / "many.pt")
        self.assertEqual(neural_net.load_encoder(str(self.dir / "many.pt")).dimensions, 8)
        names["many"] = "more than weights"
        few = unittest.mock.patch.object(saved_models, "MAX_PICKLE_BYTES", 10**5)
        with few, unittest.mock.patch.object(torch.nn.LSTM, "reset_parameters", self.refuse_memory):
            for name, message in names.items():
                with self.subTest(name), self.assertRaisesRegex(ValueError, message):
                    neural_net.load_encoder(str(self.dir / f"{name}.pt"))

    @staticmethod
    def refuse_memory(network: torch.nn.LSTM) -> None:
        assert all(weight.is_meta for weight in network.parameters()), "The network was built."

    def test_only_the_file_that_was_read_is_changed_and_under_its_lock(self) -> None:
        path = str(self.dir / "model.pt")
        saved_models.save_encoder(path, networks.new_encoder())
        digest = safe_files.digest_of(path)
        with safe_files.only_one_process(path), self.assertRaisesRegex(ValueError, "is writing"):
            saved_models.update_model(path, digest, train_speakers=["x"])
        newer = saved_models.update_model(path, digest, train_speakers=["x"])
        self.assertEqual(neural_net.load_encoder(path).train_speakers, ["x"])
        with self.assertRaisesRegex(ValueError, "has changed since"):
            saved_models.update_model(path, digest, train_speakers=["y"])
        self.assertEqual(safe_files.digest_of(path), newer)
