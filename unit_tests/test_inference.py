"""Tests of `encoder/inference.py`, and of encoders joined in one."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import unittest
import unittest.mock
import warnings
from pathlib import Path

import numpy as np
import threadpoolctl
import torch

import evaluation
import neural_net
from encoder import inference, networks, saved_models, speaker_encoder
from foundation import settings, threads
from unit_tests.shared import ProjectTest
from voices import answers
from voices import windows as sliding


class SpeakerEncoderTest(ProjectTest):
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
            joined = networks.join_encoders(encoders)
            torch.testing.assert_close(joined(features), expected)
            self.assertEqual((joined.dimensions, joined.settings["ENSEMBLE_SIZE"]), (expected.shape[1], 3))
            self.assertEqual((joined.train_speakers, joined.calibration), (["both", "s0", "s1"], {}))
        with settings.override(N_MELS=64), self.assertRaisesRegex(ValueError, "differ in N_MELS, LSTM_HIDDEN_SIZE, BI"):
            networks.join_encoders([joined, networks.new_encoder()])

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
                    encoder = networks.new_encoder().eval()
                    together = inference.embed_features(encoder, features)
                    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
                    for row, utt in zip(together, features, strict=True):
                        alone = evaluation.run_inference(utt, encoder)
                        np.testing.assert_allclose(row, alone / np.linalg.norm(alone), atol=1e-4)

    def test_sliding_window_inference_is_the_mean_over_windows(self) -> None:
        features = np.random.default_rng(0).normal(size=(95, 40)).astype(np.float32)
        encoder = networks.new_encoder().eval()
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
                saved_models.save_encoder(path, networks.new_encoder().eval())
            models.append(neural_net.load_encoder(path))
        return models, [self.write_audio(f"{seed}.wav", 1 + seed / 10, seed=seed) for seed in range(5)]

    def test_a_long_utterance_is_the_mean_of_equal_parts(self) -> None:
        encoder = neural_net.get_speaker_encoder().eval()
        features = np.random.default_rng(0).normal(size=(130, 40)).astype(np.float32)
        with torch.no_grad():
            parts = [encoder(torch.from_numpy(features[start:end])[None])[0] for start, end in ((0, 65), (65, 130))]
        expected = torch.nn.functional.normalize(parts[0] + parts[1], dim=0)
        with unittest.mock.patch.object(inference, "MOST_FRAMES", 100):
            [embedding] = inference.embed_features(encoder, [features], settings.in_one_piece())
        np.testing.assert_allclose(embedding, expected, atol=1e-5)

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
                [len(blocks[0]) for blocks in sliding.embed_windows(model, files[4], [])],
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

    def test_numpy_works_in_one_thread_where_several_embed(self) -> None:
        """Threads within threads wait for one another on a busy machine."""

        def count() -> set[int]:
            return {lib["num_threads"] for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"}

        def embed_batch(features: list[np.ndarray]) -> np.ndarray:
            counted.append(count())
            return np.ones((len(features), encoder.dimensions), np.float32)

        counted: list[set[int]] = []
        encoder = networks.new_encoder().eval()
        before = count()
        if before <= {1}:
            self.skipTest("NumPy has one thread here anyway.")
        with unittest.mock.patch.object(encoder, "embed_batch", embed_batch):
            inference.embed_features(encoder, [np.zeros((50, 40), np.float32)] * 300)
        self.assertGreater(len(counted), 1)
        self.assertEqual({number for numbers in counted for number in numbers}, {1})
        self.assertEqual(count(), before)
        first = threads.one_thread_each
        with first, contextlib.ExitStack() as other:  # Blocks of two threads, of which the second ends last.
            other.enter_context(first)
            rest = other.pop_all()
        self.assertEqual(count(), {1})
        rest.close()
        self.assertEqual(count(), before)

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

    def test_encoders_that_are_joined_stay_as_they_are(self) -> None:
        encoders = [networks.new_encoder().eval() for _ in range(2)]
        encoders[1].feature_mean += 1
        features = torch.randn(2, 20, 40)
        before = [encoder(features).detach() for encoder in encoders]
        joined = networks.join_encoders(encoders)
        with torch.no_grad():
            for weights in joined.parameters():
                weights.zero_()
        for encoder, expected in zip(encoders, before, strict=True):
            torch.testing.assert_close(encoder(features), expected)
