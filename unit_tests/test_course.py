"""The exercises of the classic course code run here as they stand: names, shapes and types of the lecture."""

import multiprocessing.pool
import subprocess
import sys
import time
import unittest

import librosa
import numpy as np
import soundfile
import torch

import augmentation
import dataset
import evaluation
import feature_extraction
import feature_store
import metrics
import myconfig
import neural_net
import specaug
from encoder import inference, saved_models
from experiments import conditions
from foundation import setting_checks, settings
from scoring import score_normalization, trials
from training import batches as training_batches
from training import data as training_data
from unit_tests.shared import PROJECT_DIR, ProjectTest, corpus

CLASSIC = PROJECT_DIR.parent / "shared" / "classic"
SPEECH = PROJECT_DIR.parent / "shared" / "speech"


class CourseTest(ProjectTest):
    def setUp(self) -> None:
        super().setUp()
        self.spk_to_utts = dataset.get_librispeech_spk_to_utts(str(corpus() / "train"))

    def test_a_list_is_read_where_its_files_are_not(self) -> None:
        (self.dir / "list.csv").write_text("\nann,/far/away/1\nann, /far/away/2\nbob ,/far/away/3\n      ")
        listed = dataset.get_csv_spk_to_utts(str(self.dir / "list.csv"))
        self.assertEqual({speaker: len(utts) for speaker, utts in listed.items()}, {"ann": 2, "bob": 1})

    def test_specaug_of_one_utterance(self) -> None:
        features = np.random.default_rng(0).random((60, 40))
        before = features.copy()
        with settings.override(SPECAUG_FREQ_MASK_PROB=1.0, SPECAUG_TIME_MASK_PROB=1.0):
            masked = specaug.apply_specaug(features)
        self.assertEqual((masked.shape, masked.dtype), (features.shape, features.dtype))
        np.testing.assert_array_equal(features, before)
        is_masked = masked != features
        np.testing.assert_allclose(masked[is_masked], features.mean())
        columns, rows = is_masked.all(axis=0), is_masked.all(axis=1)
        np.testing.assert_array_equal(is_masked, columns[None, :] | rows[:, None])
        self.assertTrue(1 <= columns.sum() <= myconfig.SPECAUG_FREQ_MASK_MAX_WIDTH)
        self.assertTrue(1 <= rows.sum() <= myconfig.SPECAUG_TIME_MASK_MAX_WIDTH)
        with settings.override(SPECAUG_FREQ_MASK_PROB=0.0, SPECAUG_TIME_MASK_PROB=0.0):
            np.testing.assert_array_equal(specaug.apply_specaug(features), features)

    def test_trimmed_triplets(self) -> None:
        with multiprocessing.pool.ThreadPool(2) as pool:
            fetched = [
                feature_extraction.get_trimmed_triple_features(None, self.spk_to_utts),
                feature_extraction.TrimmedTripletFeaturesFetcher(self.spk_to_utts)(0),
                *pool.map(feature_extraction.TrimmedTripletFeaturesFetcher(self.spk_to_utts), range(2)),
            ]
            batch = feature_extraction.get_batched_triplet_input(self.spk_to_utts, 4, pool)
        self.assertEqual({triplet.shape for triplet in fetched}, {(3, myconfig.SEQ_LEN, myconfig.N_MFCC)})
        for apply_specaug in (True, False, None):
            self.assertEqual(feature_extraction.trim_features(np.ones((90, 40)), apply_specaug).shape, (40, 40))
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            drawn = pool.map(dataset.get_triplet, [self.spk_to_utts] * 20, chunksize=1)
        self.assertGreater(len(set(drawn)), 18)  # Each process draws triplets of its own.
        self.assertEqual(batch.shape, torch.Size([12, myconfig.SEQ_LEN, myconfig.N_MFCC]))

    def test_networks_train_with_settings_of_exercises_and_a_pool(self) -> None:
        for values in (
            {"USE_TRANSFORMER": False, "BI_LSTM": False, "FRAME_AGGREGATION_MEAN": False},
            {"USE_TRANSFORMER": False, "BI_LSTM": True, "FRAME_AGGREGATION_MEAN": True},
            {"USE_TRANSFORMER": True},
        ):
            with settings.override(**settings.all_settings()):
                for name, value in values.items():
                    setattr(myconfig, name, value)
                with multiprocessing.pool.ThreadPool(2) as pool:
                    self.assertEqual(len(neural_net.train_network(self.spk_to_utts, num_steps=2, pool=pool)), 2)
        self.assertEqual(self.output.getvalue().count("A pool of processes is not needed"), 3)

    def test_encoders_go_to_the_configured_device(self) -> None:
        features = np.random.default_rng(0).normal(size=(60, 40)).astype(np.float32)
        for device in ("cpu", torch.device("cpu")):
            with settings.override(DEVICE=device, BI_LSTM=False):
                setting_checks.check(settings.all_settings())
                encoder = neural_net.LstmSpeakerEncoder().to(myconfig.DEVICE)
                self.assertEqual(evaluation.run_inference(features, encoder).shape, (myconfig.LSTM_HIDDEN_SIZE,))
        with settings.override(BI_LSTM=True):
            encoder = neural_net.LstmSpeakerEncoder().to("cpu")
            self.assertEqual(evaluation.run_inference(features, encoder).shape, (2 * myconfig.LSTM_HIDDEN_SIZE,))
        encoder = neural_net.TransformerSpeakerEncoder().to(myconfig.DEVICE)
        self.assertEqual(evaluation.run_inference(features, encoder).shape, (myconfig.TRANSFORMER_DIM,))
        with settings.override(DEVICE=torch.device("cpu"), EVAL_TRIALS="all_pairs"):
            self.assertEqual(evaluation.evaluate(encoder, self.spk_to_utts)["settings"]["DEVICE"], "cpu")
        for device in ("cpu:x", "cuda:99"):
            with settings.override(DEVICE=device), self.assertRaisesRegex(ValueError, "not available"):
                neural_net.LstmSpeakerEncoder()
        answer = self.run_script("evaluation.py", "--help")
        self.assertIn("DEVICE=auto", answer.stdout)
        line = (
            "import neural_net, myconfig; neural_net.LstmSpeakerEncoder().to(myconfig.DEVICE); print(myconfig.DEVICE)"
        )
        answer = subprocess.run([sys.executable, "-c", line], cwd=PROJECT_DIR, capture_output=True, text=True)
        self.assertEqual((answer.returncode, answer.stdout), (0, "auto\n"), answer.stderr)

    def test_scores_are_lists_and_the_threshold_is_the_lowest(self) -> None:
        encoder = neural_net.LstmSpeakerEncoder()
        labels, scores = evaluation.compute_scores(encoder, self.spk_to_utts, 3)
        self.assertEqual(labels, [1, 0, 1, 0, 1, 0])
        self.assertEqual({type(score) for score in scores}, {float})
        labels = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
        scores = [0.2, 0.3, 0.4, 0.59, 0.6, 0.588, 0.602, 0.7, 0.8, 0.9]
        for step in (0.0, 0.001):
            with settings.override(EVAL_THRESHOLD_STEP=step):
                eer, threshold = evaluation.compute_eer(labels, scores)
            self.assertAlmostEqual(eer, 0.2)
            self.assertAlmostEqual(threshold, 0.59, delta=0.0011)
        self.assertAlmostEqual(evaluation.compute_eer(labels, scores)[1], 0.59, places=7)

    def test_a_network_of_a_students_own(self) -> None:
        class MeanEncoder(neural_net.BaseSpeakerEncoder):
            def __init__(self, saved_model: str = "") -> None:
                super().__init__()
                self.layer = torch.nn.Linear(myconfig.N_MFCC, 5)
                if saved_model:
                    self._load_from(saved_model)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.layer(x.mean(dim=1))

        encoder = MeanEncoder()
        fetch = evaluation.TripletScoreFetcher(self.spk_to_utts, encoder, 4)
        with multiprocessing.pool.ThreadPool(2) as pool:
            pairs = pool.map(fetch, range(4))
        self.assertEqual([labels for labels, _ in pairs], 4 * [[1, 0]])
        self.assertTrue(all(-1 <= score <= 1 for _, scores in pairs for score in scores))
        self.assertEqual(len({score for _, scores in pairs for score in scores}), 8)
        neural_net.save_model(str(self.dir / "new" / "mine"), encoder, [0.3, 0.2], time.time() - 5)
        content = torch.load(self.dir / "new" / "mine.pt", weights_only=True)
        self.assertEqual(content["losses"], [0.3, 0.2])
        self.assertAlmostEqual(content["training_time"], 5, delta=2)
        again = MeanEncoder(str(self.dir / "new" / "mine.pt"))
        features = np.random.default_rng(0).normal(size=(60, myconfig.N_MFCC))
        np.testing.assert_array_equal(
            evaluation.run_inference(features, again), evaluation.run_inference(features, encoder)
        )
        lstm = neural_net.LstmSpeakerEncoder()
        neural_net.save_model(str(self.dir / "lstm.pt"), lstm, [0.3], time.time())
        loaded = neural_net.LstmSpeakerEncoder(str(self.dir / "lstm.pt"))
        np.testing.assert_array_equal(
            evaluation.run_inference(features, loaded), evaluation.run_inference(features, lstm)
        )

    def test_the_lectures_names_run_whole_scripts(self) -> None:
        with settings.override(TRAINING_STEPS=2, NUM_EVAL_TRIPLETS=50):
            neural_net.run_training()
            evaluation.run_eval()
        self.assertRegex(self.output.getvalue(), r"eer_threshold = -?\d\.\d+ eer = \d\.\d+\n$")
        encoder = neural_net.LstmSpeakerEncoder(myconfig.SAVED_MODEL_PATH)
        self.assertEqual(encoder.settings["LSTM_HIDDEN_SIZE"], myconfig.LSTM_HIDDEN_SIZE)

    def test_every_chapter_reads_settings_when_it_is_called(self) -> None:
        """As in a notebook: a setting is changed between two cells."""
        with settings.override(**settings.all_settings()):
            myconfig.N_MFCC, myconfig.SEQ_LEN, myconfig.HOP_LENGTH, myconfig.LSTM_HIDDEN_SIZE = 20, 30, 256, 6
            rng = np.random.default_rng(0)
            file = next(iter(self.spk_to_utts.values()))[0]
            features = feature_extraction.extract_features(file)
            samples, _ = soundfile.read(file, dtype="float32")
            expected = librosa.feature.mfcc(y=samples - samples.mean(), sr=16000, n_mfcc=20, hop_length=256).T
            np.testing.assert_allclose(features, expected, atol=1e-2)
            self.assertEqual(feature_extraction.extract_sliding_windows(features)[0].shape, (30, 20))
            store = feature_store.open_store(self.spk_to_utts)
            self.assertEqual(store.read(0).shape[1], 20)
            crops = training_batches.draw_crops(store, np.arange(4), 30, rng)
            self.assertEqual(augmentation.disturb(crops, None, rng, settings.present()).shape, (4, 30, 20))
            self.assertEqual(
                specaug.mask_crops(crops, crops.mean(dim=(0, 1)), rng, settings.present()).shape, (4, 30, 20)
            )
            encoder = saved_models.get_speaker_encoder()
            self.assertEqual(
                training_batches.draw_batch(encoder, training_data.Stores(store), 0, settings.present()).shape[-1], 20
            )
            embeddings = inference.embed_store(encoder, store)
            self.assertEqual(embeddings.shape, (len(store.files), 6))
            self.assertEqual(len(trials.get_trials(store)[0]), 2 * myconfig.NUM_EVAL_TRIPLETS)
            encoder.train_speakers = store.speakers
            self.assertEqual(
                score_normalization.embed_cohort(encoder, store, settings.present()).shape, (len(store.speakers), 6)
            )
            scored = conditions.score_conditions(encoder, {"clean": self.spk_to_utts})["clean"]
            self.assertLess(metrics.equal_error_rate(*metrics.error_rates(*scored[:2]))[0], 0.6)
            myconfig.TRIPLET_ALPHA = 0.7
            same = torch.tensor([0.6, 0.8])
            self.assertAlmostEqual(float(neural_net.get_triplet_loss(same, same, same)), 0.7, places=6)

    def test_classic_transformers_load_as_they_are(self) -> None:
        """A small checkpoint of the classic layout, built here from PyTorch's own layers."""
        torch.manual_seed(0)
        dimensions, heads = 16, myconfig.TRANSFORMER_HEADS
        linear = torch.nn.Linear(13, dimensions)
        layer = torch.nn.TransformerEncoderLayer(d_model=dimensions, nhead=heads, batch_first=True)
        encoder = torch.nn.TransformerEncoder(layer, num_layers=3).eval()
        asking = torch.nn.TransformerDecoderLayer(d_model=dimensions, nhead=heads, batch_first=True)
        decoder = torch.nn.TransformerDecoder(asking, num_layers=1).eval()
        parts = {"linear_layer": linear, "encoder": encoder, "decoder": decoder}
        weights = {f"{part}.{name}": w for part, layers in parts.items() for name, w in layers.state_dict().items()}
        torch.save({"encoder_state_dict": weights, "losses": [0.1], "training_time": 1.0}, self.dir / "classic.pt")
        loaded = neural_net.load_encoder(str(self.dir / "classic.pt"))
        names = ("N_MFCC", "TRANSFORMER_DIM", "TRANSFORMER_ENCODER_LAYERS")
        self.assertEqual([loaded.settings[name] for name in names], [13, dimensions, 3])
        features = torch.randn(2, 50, 13)
        with torch.no_grad():
            expected = decoder(torch.zeros(2, 1, dimensions), encoder(torch.sigmoid(linear(features))))[:, 0]
            torch.testing.assert_close(loaded(features), expected, atol=1e-5, rtol=0)
            padded = torch.nn.functional.pad(features, (0, 0, 0, 70))
            torch.testing.assert_close(loaded(padded, torch.tensor([50, 50])), expected, atol=1e-5, rtol=0)

    @unittest.skipUnless(CLASSIC.is_dir() and SPEECH.is_dir(), "there are no checkpoints of the classic code here")
    def test_classic_checkpoints_give_their_embeddings(self) -> None:
        known = np.load(CLASSIC / "embeddings.npz")
        num_compared = 0
        for path in sorted(CLASSIC.glob("*.pt")):
            encoder = neural_net.load_encoder(path)
            for number, file in enumerate(known["files"]):
                samples, rate = soundfile.read(SPEECH / str(file), dtype="float32")
                if rate != 16000:
                    continue
                mfcc = np.ascontiguousarray(librosa.feature.mfcc(y=samples, sr=rate, n_mfcc=40).T)
                for in_one_piece, way in ((True, "full"), (False, "windows")):
                    with settings.override(USE_FULL_SEQUENCE_INFERENCE=in_one_piece, SEQ_LEN=100):
                        expected = known[f"{path.stem}_{way}"][number]
                        if np.isfinite(expected).all():
                            embedding = evaluation.run_inference(mfcc, encoder)
                            np.testing.assert_allclose(embedding, expected, atol=1e-5, err_msg=f"{path} {file} {way}")
                            num_compared += 1
        self.assertGreaterEqual(num_compared, 6)
