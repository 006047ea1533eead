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
from encoder import inference, lstm, model_files, networks, saved_models
from foundation import safe_files, setting_checks, setting_table, settings, tensor_archives
from unit_tests.shared import NO_NEIGHBOURS, PROJECT_DIR, RATE, ProjectTest

PRETRAINED_DIR = PROJECT_DIR / "saved_model" / "pretrained"


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
        content = {"encoder_state_dict": encoder.state_dict(), "settings": before}
        saved_models.write_model(str(self.dir / "before.pt"), content)
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
        self.assertEqual(model_files.model_fingerprint(loaded), digest.hexdigest()[:16])

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
            for load in (neural_net.load_encoder, model_files.load_model):
                with self.subTest(name), self.assertRaisesRegex(ValueError, rf"^[^\n]*{re.escape(path)}[^\n]*$"):
                    load(path)
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
        names = {
            "expanded": "more than the file holds",
            "claimed": "shape|lacks",
            "bomb": "damaged",
            "bytes": "more than",
        }
        names["old"] = "1.6 or newer"
        shape = networks.new_encoder().settings
        many = {"encoder_state_dict": small, "settings": shape, "more": [None] * 10**5}
        torch.save(many, self.dir / "many.pt")
        self.assertEqual(neural_net.load_encoder(str(self.dir / "many.pt")).dimensions, 8)
        names["many"] = "more than weights"
        few = unittest.mock.patch.object(tensor_archives, "MAX_PICKLE_BYTES", 10**5)
        with few, unittest.mock.patch.object(torch.nn.LSTM, "reset_parameters", self.refuse_memory):
            for name, message in names.items():
                for load in (neural_net.load_encoder, model_files.load_model):
                    with self.subTest(name), self.assertRaisesRegex(ValueError, message):
                        load(str(self.dir / f"{name}.pt"))

    @staticmethod
    def refuse_memory(network: torch.nn.LSTM) -> None:
        assert all(weight.is_meta for weight in network.parameters()), "The network was built."

    def test_what_needs_no_pytorch_reads_the_same_models(self) -> None:
        torch.manual_seed(3)
        lstm = torch.nn.LSTM(40, 6, 2, batch_first=True)
        torch.save(
            {"encoder_state_dict": {f"lstm.{k}": v for k, v in lstm.state_dict().items()}}, self.dir / "classic.pt"
        )
        for number, shape in enumerate(({"BI_LSTM": True, "DELTAS": True}, {"USE_TRANSFORMER": True})):
            with settings.override(**shape):
                saved_models.save_encoder(str(self.dir / f"{number}.pt"), networks.new_encoder())
        rng = np.random.default_rng(0)
        features = [rng.normal(0, 20, (frames, 40)).astype(np.float32) for frames in (30, 90, 3)]
        for path in [*sorted(self.dir.glob("*.pt")), *sorted(PRETRAINED_DIR.glob("*.pt"))]:
            with self.subTest(path.name):
                expected, found = neural_net.load_encoder(path), model_files.load_model(path)
                for name in ("settings", "train_speakers", "calibration", "path", "file_digest", "dimensions"):
                    self.assertEqual(getattr(found, name), getattr(expected, name), name)
                self.assertEqual(*map(model_files.model_fingerprint, (found, expected)))
                np.testing.assert_array_equal(found.cohort, expected.cohort)
                embeddings = [inference.embed_features(encoder, features) for encoder in (found, expected)]
                np.testing.assert_allclose(*embeddings, atol=1e-5)

    def test_a_network_that_was_changed_is_computed_by_pytorch(self) -> None:
        """A student who changes the LSTM in PyTorch alone gets no answers of another network."""
        features = [np.random.default_rng(0).normal(0, 20, (30, 40)).astype(np.float32)]

        def spread(_: object, outputs: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
            return outputs.std(dim=1)

        with unittest.mock.patch.object(lstm.LstmEncoder, "aggregate", spread):
            saved_models.save_encoder(str(self.dir / "changed.pt"), networks.new_encoder())
            expected = neural_net.load_encoder(str(self.dir / "changed.pt"))
            found = model_files.load_model(str(self.dir / "changed.pt"))
            self.assertIsInstance(found, lstm.LstmEncoder)
            embeddings = [inference.embed_features(encoder, features) for encoder in (found, expected)]
            np.testing.assert_array_equal(*embeddings)
        saved_models.save_encoder(str(self.dir / "same.pt"), networks.new_encoder())
        self.assertIsInstance(model_files.load_model(str(self.dir / "same.pt")), model_files.NumpyEncoder)

    def test_tensors_of_any_kind_are_read(self) -> None:
        whole = torch.arange(24.0).reshape(4, 6)
        tensors = [whole.to(kind) for kind in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool)]
        tensors += [
            whole.T,
            whole[1:, ::2],
            whole[:0],
            whole[2, 3],
            torch.tensor(7),
            torch.nn.Parameter(whole).detach(),
        ]
        torch.save({"encoder_state_dict": {}, "list": tensors, "tuple": (1, None, "x", 2.5, True)}, self.dir / "a.pt")
        content = model_files.read_model(self.dir / "a.pt")
        self.assertEqual(content["tuple"], (1, None, "x", 2.5, True))
        for tensor, array in zip(tensors, content["list"], strict=True):
            np.testing.assert_array_equal(array, tensor.float().numpy())
            self.assertEqual(array.shape, tuple(tensor.shape))

    def test_pickles_that_no_tensor_needs_are_refused(self) -> None:
        storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0000X\3\0\0\0cpuK\4tQ"
        make, ordered_dict = b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n)R"
        scalar = make + b"(" + storage + b"K\0))tR"
        pickles = {
            "good": b"}X\x12\0\0\0encoder_state_dict}X\1\0\0\0a" + scalar + b"ss",
            "a table of 500 MB": b"}r\xff\xff\xff\3",
            "sizes that are tensors": make + b"(" + storage + b"K\0" + scalar + b"\x85K\1\x85tR",
            "a storage that is none": make + b"(" + ordered_dict + b"K\0K\4\x85K\1\x85tR",
            "attributes of what makes tensors": make + b"}b",
            "attributes of a storage": storage + b"}b",
            "a function": b"cos\ngetcwd\n)R",
            "a function by another way": b"X\2\0\0\0osX\6\0\0\0getcwd\x93)R",
        }
        for name, pickled in pickles.items():
            with zipfile.ZipFile(self.dir / f"{name}.pt", "w") as archive:
                archive.writestr("a/data.pkl", b"\x80\4" + pickled + b".")
                archive.writestr("a/data/0", np.arange(4, dtype="<f4").tobytes())
            for read in (model_files.read_model, saved_models.read_model):
                if name == "good":
                    self.assertEqual(read(str(self.dir / "good.pt")), {"encoder_state_dict": {"a": 0}})
                else:
                    with self.subTest(name), self.assertRaisesRegex(ValueError, "is not a model"):
                        read(str(self.dir / f"{name}.pt"))

    def test_a_file_of_lists_in_lists_is_read_without_depth(self) -> None:
        deep = b"}X\x12\0\0\0encoder_state_dict}sX\1\0\0\0x" + 5000 * b"]" + 4999 * b"a" + b"s"
        with zipfile.ZipFile(self.dir / "deep.pt", "w") as archive:
            archive.writestr("a/data.pkl", b"\x80\4" + deep + b".")
        for read in (model_files.read_model, saved_models.read_model):
            self.assertEqual(read(str(self.dir / "deep.pt"))["encoder_state_dict"], {})

    def test_tensors_that_share_their_numbers_do_so_when_read(self) -> None:
        whole = torch.arange(10.0)
        torch.save({"encoder_state_dict": {"whole": whole, "part": whole[3:]}}, self.dir / "shared.pt")
        weights = model_files.read_model(self.dir / "shared.pt")["encoder_state_dict"]
        self.assertTrue(np.shares_memory(weights["whole"], weights["part"]))

    def test_weights_that_do_not_fit_their_settings_are_refused(self) -> None:
        with settings.override(LSTM_NUM_LAYERS=3):
            encoder = networks.new_encoder()
        weights, shape = encoder.state_dict(), encoder.settings
        one = {"lstms.0.bias_ih_l0": torch.zeros(1)}
        for changes in (
            {"settings": {**shape, "LSTM_NUM_LAYERS": 2}},
            {"encoder_state_dict": {**weights, **one}},
            {"encoder_state_dict": {**weights, "lstms.0.more": torch.zeros(2)}},
        ):
            saved_models.write_model(
                str(self.dir / "x.pt"), {"encoder_state_dict": weights, "settings": shape} | changes
            )
            for load in (neural_net.load_encoder, model_files.load_model):
                with self.subTest(changes.keys()), self.assertRaisesRegex(ValueError, "does not hold"):
                    load(str(self.dir / "x.pt"))

    def test_weights_of_half_precision_are_those_of_single_precision(self) -> None:
        encoder = networks.new_encoder()
        for kind in (torch.float16, torch.bfloat16, torch.float64):
            weights = {name: tensor.to(kind) for name, tensor in encoder.state_dict().items()}
            path = str(self.dir / "kind.pt")
            saved_models.write_model(path, {"encoder_state_dict": weights, "settings": encoder.settings})
            both = [load(path) for load in (neural_net.load_encoder, model_files.load_model)]
            self.assertEqual(*map(model_files.model_fingerprint, both))

    def test_no_tensor_reaches_beyond_its_storage(self) -> None:
        storage = tensor_archives.Storage("Float", np.arange(6, dtype=np.float32))
        self.assertEqual(tensor_archives.make_array(storage, 1, (2, 2), (2, 1)).tolist(), [[1, 2], [3, 4]])
        for offset, shape, strides in (
            (0, (7,), (1,)),
            (6, (1,), (1,)),
            (-1, (2,), (1,)),
            (3, (2,), (-1,)),
            (0, (2, 2), (5, 1)),
            (0, (-1,), (1,)),
        ):
            with self.assertRaisesRegex(ValueError, "outside of its storage"):
                tensor_archives.make_array(storage, offset, shape, strides)

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
