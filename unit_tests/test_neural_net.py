"""Tests of `neural_net.py`."""

import itertools
import math
import time
import unittest
import unittest.mock
from pathlib import Path

import numpy as np
import sklearn.metrics
import torch

import dataset
import evaluation
import feature_store
import myconfig
import neural_net
from encoder import inference, networks, saved_models
from foundation import processes, setting_checks, setting_table, settings
from scoring import score_normalization
from training import batches as training_batches
from training import checkpoint
from training import data as training_data
from training.progress import TrainingProgress
from unit_tests.shared import ProjectTest, TrainingTest, corpus


class TripletLossTest(ProjectTest):
    def test_triplet_loss_is_the_courses(self) -> None:
        anchor, pos, neg = torch.randn(3, 5, 7, dtype=torch.float64)

        def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
            return float(sum(a * b) / math.sqrt(sum(a * a) * sum(b * b)))

        with settings.override(TRIPLET_ALPHA=0.4):
            rows = zip(anchor, pos, neg, strict=True)
            expected = [max(0.0, cosine(a, n) - cosine(a, p) + 0.4) for a, p, n in rows]
            np.testing.assert_allclose(neural_net.get_triplet_loss(anchor, pos, neg), expected)
            batch_output = torch.stack([anchor, pos, neg], dim=1).flatten(0, 1)
            loss = neural_net.get_triplet_loss_from_batch_output(batch_output, 5)
            self.assertAlmostEqual(float(loss), np.mean(expected))
            losses = neural_net.get_random_triplet_losses(batch_output.unflatten(0, (5, 3)), settings.present())
            np.testing.assert_allclose(losses, expected)

    def test_batch_losses_agree_with_a_loop(self) -> None:
        embeddings = torch.randn(5, 3, 7, dtype=torch.float64)
        unit = embeddings.numpy() / np.linalg.norm(embeddings.numpy(), axis=-1, keepdims=True)
        hard, smooth = [], []
        sharpness, alpha = myconfig.MINING_SHARPNESS, 0.2
        for speaker in range(5):
            for utt in range(3):
                anchor = unit[speaker, utt]
                pos = [anchor @ unit[speaker, other] for other in range(3) if other != utt]
                neg = [anchor @ other for s in range(5) if s != speaker for other in unit[s]]
                hard.append(max(0.0, max(neg) - min(pos) + alpha))
                sums = [sum(math.exp(sharpness * x) for x in xs) for xs in (neg, [-x for x in pos])]
                smooth.append(math.log1p(sums[0] * sums[1] * math.exp(sharpness * alpha)) / sharpness)
        with settings.override(TRIPLET_ALPHA=alpha):
            np.testing.assert_allclose(neural_net.get_batch_hard_losses(embeddings, settings.present()), hard)
            np.testing.assert_allclose(neural_net.get_smooth_batch_hard_losses(embeddings, settings.present()), smooth)

    def test_each_network_of_an_ensemble_has_a_loss_of_its_own(self) -> None:
        embeddings = torch.randn(5, 3, 12)
        for mining in setting_table.SETTINGS["TRIPLET_MINING"].allowed:
            with settings.override(TRIPLET_MINING=mining):
                each = [
                    neural_net.get_triplet_losses(embeddings[..., at : at + 4], settings.present()) for at in (0, 4, 8)
                ]
                for networks in ({"ENSEMBLE_SIZE": 3}, {"ENSEMBLE_SIZE": 2, "TDNN_CHANNELS": 32}):
                    with settings.override(**networks):
                        together = neural_net.get_triplet_losses(embeddings, settings.present())
                    torch.testing.assert_close(together, torch.cat(each))


class NeuralNetTest(TrainingTest):
    def test_same_seed_same_weights_and_another_seed_others(self) -> None:
        losses = self.train(6, "a.pt")
        self.assertEqual(self.train(6, "b.pt"), losses)
        self.assert_same_weights("a.last.pt", "b.last.pt")
        self.assertNotEqual(self.train(6, "c.pt", SEED=1), losses)

    def test_training_ends_with_the_cohort_of_its_speakers_in_the_best_model(self) -> None:
        path = str(self.dir / "model.pt")
        values = {"NUM_VALIDATION_SPEAKERS": 4, "SAVE_MODEL_FREQUENCY": 2, "SPEEDS": (0.9, 1.0)}
        spk_to_utts = dataset.get_librispeech_spk_to_utts(str(corpus() / "train"))
        for num_utts in (12, 1):  # There are 12.
            validations = unittest.mock.patch.object(neural_net, "validation_eer", side_effect=[0.1, 0.2])
            with validations, unittest.mock.patch.object(score_normalization, "COHORT_UTTS", num_utts):
                self.train(4, START_OVER=True, **values)
            model, encoder = saved_models.read_model(path), neural_net.load_encoder(path)
            self.assertEqual(len(model["losses"]), 2)
            self.assertEqual(len(encoder.train_speakers), len(spk_to_utts) - 4)
            for speaker, row in zip(encoder.train_speakers, encoder.cohort, strict=True):
                embeddings = evaluation.embed_utterances(encoder, spk_to_utts[speaker])
                mean = embeddings.mean(axis=0)
                expected = mean / np.linalg.norm(mean) if num_utts == 12 else embeddings[np.argmax(embeddings @ row)]
                np.testing.assert_allclose(row, expected, atol=2e-3)  # The store has 16 bits.
        # Killed before it had one, a model gets its cohort from the same command, and then keeps it.
        without = {name: value for name, value in model.items() if name != "cohort"}
        for before, drawn in ((without, 1), (model, 12)):
            saved_models.write_model(path, before)
            with unittest.mock.patch.object(score_normalization, "COHORT_UTTS", drawn):
                self.train(4, **values)
            self.assertTrue(torch.equal(saved_models.read_model(path)["cohort"], model["cohort"]))
        saved_models.write_model(path, model | {"cohort": model["cohort"] * 2})
        with self.assertRaisesRegex(ValueError, "length is not 1"):
            self.train(4, **values)
        Path(path).unlink()
        with self.assertRaisesRegex(ValueError, "model.pt is gone, and .*last.pt is not the best model"):
            self.train(4, **values)

    def test_every_mining_and_specaugment_train(self) -> None:
        for mining in setting_table.SETTINGS["TRIPLET_MINING"].allowed:
            values = {"SPECAUG_TRAINING": True, "LEARNING_RATE_SCHEDULE": "constant", "TRIPLET_MINING": mining}
            losses = self.train(10, f"{mining}.pt", SEQ_LEN_JITTER=0.0, **values)
            self.assertEqual(len(losses), 10)
            self.assertTrue(np.isfinite(losses).all())
        num_curves = len(set(map(str, self.dir.glob("*.png"))))
        self.assertEqual(num_curves, len(setting_table.SETTINGS["TRIPLET_MINING"].allowed))

    def test_training_starts_from_initial_models_and_in_their_shape(self) -> None:
        for seed in (0, 1):
            self.train(4, f"{seed}.pt", LSTM_HIDDEN_SIZE=6, N_MFCC=13, SEED=seed, NUM_VALIDATION_SPEAKERS=2)
        paths = [str(self.dir / "0.pt"), str(self.dir / "1.pt")]
        values = {"INITIAL_MODELS": ", ".join(paths), "LEARNING_RATE": 1e-8}
        losses = self.train(4, "joined.pt", **values)
        self.assertIn("a fifth of the speakers, 4, may be set aside; 0 can be", self.output.getvalue())
        features = 30 * torch.randn(2, 20, 13)
        each = [neural_net.load_encoder(path)(features) for path in paths]
        expected = torch.cat([own / own.norm(dim=1, keepdim=True) for own in each], dim=1)
        joined = neural_net.load_encoder(str(self.dir / "joined.pt"))
        torch.testing.assert_close(joined(features), expected, atol=1e-5, rtol=0)
        self.assertEqual(self.train(6, "joined.pt", **values)[:4], losses)
        for others in (",".join(paths[::-1]), ""):  # Without any, the shape is another one, too.
            with self.assertRaisesRegex(ValueError, "INITIAL_MODELS=.* and now INITIAL_MODELS="):
                self.train(6, "joined.pt", **values | {"INITIAL_MODELS": others})
        self.train(4, "0.pt", LSTM_HIDDEN_SIZE=6, N_MFCC=13, SEED=2, NUM_VALIDATION_SPEAKERS=2, START_OVER=True)
        with self.assertRaisesRegex(ValueError, "from other initial models"):
            self.train(6, "joined.pt", **values)

    def test_initial_models_that_cannot_be_trained_on_are_refused(self) -> None:
        self.train(4, "a.pt")
        path = str(self.dir / "a.pt")
        for saved in ("a.pt", "../" + self.dir.name + "/a.pt"):
            with self.assertRaisesRegex(ValueError, "among INITIAL_MODELS"):
                self.train(4, saved, INITIAL_MODELS=path)
        with self.assertRaisesRegex(ValueError, "one model twice"):
            self.train(4, "b.pt", INITIAL_MODELS=f"{path},{path}")
        for paths, missing in ((", ", ", "), ("a b.pt", "a b.pt"), (f"{path}, b.pt, a.pt", "b.pt")):
            with self.assertRaisesRegex(ValueError, f"there is no file '{missing}'"):
                setting_checks.check_training(settings.all_settings() | {"INITIAL_MODELS": paths})
        for number in (1, 16):
            with settings.override(ENSEMBLE_SIZE=number, LSTM_HIDDEN_SIZE=1):
                saved_models.save_encoder(str(self.dir / f"{number}.pt"), networks.new_encoder())
        with self.assertRaisesRegex(ValueError, "ENSEMBLE_SIZE=17"):
            self.train(4, "b.pt", INITIAL_MODELS=f"{self.dir / '1.pt'},{self.dir / '16.pt'}")
        with settings.override(CEPSTRAL_MEAN_NORMALIZATION=True):
            saved_models.save_encoder(path, networks.new_encoder())
        with self.assertRaisesRegex(ValueError, "CEPSTRAL_MEAN_NORMALIZATION takes away"):
            self.train(4, "b.pt", INITIAL_MODELS=path)
        with self.assertRaisesRegex(ValueError, "bring an ENSEMBLE_SIZE"):
            setting_checks.check_training(settings.all_settings() | {"INITIAL_MODELS": path}, {"ENSEMBLE_SIZE"})
        setting_checks.check(settings.all_settings() | {"INITIAL_MODELS": path, "SAVED_MODEL_PATH": path})

    def test_all_processes_draw_from_the_same_corpus(self) -> None:
        for number in range(12):
            self.write_audio(f"data/{'ab'[number % 2]}-{number}/0.wav", 2, seed=number)
        spk_to_utts = dataset.get_librispeech_spk_to_utts(str(self.dir / "data"))
        store = feature_store.open_store(spk_to_utts, (1.0, 1.1), settings.present(CORPORA="a-,b-"))
        names = np.array(store.speakers)[store.speaker_of]
        drawn = []
        draw_crops = training_batches.draw_crops

        def draw(store: feature_store.FeatureStore, utts: np.ndarray, *more: object) -> torch.Tensor:
            drawn.append({names[utt][0] for utt in utts})
            return draw_crops(store, utts, *more)

        for share, expected in ((1.0, [{"a"}, {"b"}]), (0.0, [{"a", "b"}])):
            drawn.clear()
            with settings.override(ONE_CORPUS_BATCHES=share, BATCH_SIZE=8, UTTERANCES_PER_SPEAKER=2):
                for step in range(10):
                    for rank in (0, 1):
                        with (
                            unittest.mock.patch.object(processes, "rank", lambda rank=rank: rank),
                            unittest.mock.patch.object(processes, "world_size", lambda: 2),
                            unittest.mock.patch.object(training_batches, "draw_crops", draw),
                        ):
                            training_batches.draw_batch(
                                networks.new_encoder(), training_data.Stores(store), step, settings.present()
                            )
            self.assertTrue(all(corpora in drawn for corpora in expected))
            self.assertTrue(all(corpora in expected for corpora in drawn))
            self.assertEqual(drawn[::2], drawn[1::2])

    def test_half_of_the_disturbed_batches_are_of_recordings_disturbed_beforehand(self) -> None:
        spk_to_utts = self.write_speakers(4)
        store = feature_store.open_store(spk_to_utts)
        copies = feature_store.open_store({name: utts[:2] for name, utts in list(spk_to_utts.items())[1:]})
        drawn = []
        draw_crops = training_batches.draw_crops

        def draw(store: feature_store.FeatureStore, *more: object) -> torch.Tensor:
            drawn.append("copies" if store is copies else "recordings")
            return draw_crops(store, *more)

        def disturb(crops: torch.Tensor, *_: object) -> torch.Tensor:
            drawn[-1] += ", disturbed"
            return crops

        for share, kinds in ((0.0, {"recordings"}), (1.0, {"recordings, disturbed", "copies"})):
            drawn.clear()
            with (
                settings.override(DISTURBED_BATCHES=share, BATCH_SIZE=4),
                unittest.mock.patch.object(training_batches, "draw_crops", draw),
                unittest.mock.patch.object(training_batches, "disturb", disturb),
            ):
                stores, config = training_data.Stores(store, copies), settings.present()
                for step in range(60):
                    for rank in (0, 1):
                        with (
                            unittest.mock.patch.object(processes, "rank", lambda rank=rank: rank),
                            unittest.mock.patch.object(processes, "world_size", lambda: 2),
                        ):
                            training_batches.draw_batch(networks.new_encoder(), stores, step, config)
            self.assertEqual(drawn[::2], drawn[1::2])
            self.assertEqual(set(drawn), kinds)
            self.assertTrue(share == 0 or 40 < drawn.count("copies") < 80)

    def test_recordings_disturbed_beforehand_are_of_training_speakers(self) -> None:
        spk_to_utts = self.write_speakers(5)
        rows = [(name, utt) for name, utts in spk_to_utts.items() for utt in utts]
        (self.dir / "copies.csv").write_text("".join(f"{name},{utt}\n" for name, utt in rows), encoding="utf-8")
        with settings.override(DISTURBED_DATA_CSV=str(self.dir / "copies.csv"), SPEEDS=(1.0, 1.1)):
            config = settings.present()
            three = dict(list(spk_to_utts.items())[:3])
            stores = training_data.open_stores(three, {}, config)
            self.assertEqual(stores.disturbed.speakers, [*three, *(f"{name} at speed 1.1" for name in three)])
            self.assertIn("9 recordings of 3 training speakers; 2 other speakers", self.output.getvalue())
            others = {"other": three["s0"], "another": three["s1"]}
            with self.assertRaisesRegex(ValueError, "copies.csv needs two speakers"):
                training_data.open_stores(others | {"s1": three["s1"]}, {}, config)
            with self.assertRaisesRegex(ValueError, "names no training speaker"):
                training_data.open_stores(others, {}, config)
            self.assertIsNone(training_data.open_stores(three, {}, config.but(DISTURBED_BATCHES=0.0)).disturbed)
            before = checkpoint.find_origin(networks.new_encoder(), stores, False)
            after = checkpoint.find_origin(networks.new_encoder(), stores._replace(disturbed=None), False)
            self.assertNotEqual(before, after)

    def test_best_model_has_the_lowest_validation_eer(self) -> None:
        self.train(20, LEARNING_RATE=0.01)
        best = torch.load(self.dir / "model.pt", weights_only=True)
        last = torch.load(self.dir / "model.last.pt", weights_only=True)
        self.assertEqual([step for step, _ in last["validation_eers"]], [4, 8, 12, 16, 20])
        self.assertEqual(best["validation_eers"][-1][1], min(eer for _, eer in last["validation_eers"]))
        self.assertEqual(len(best["train_speakers"]), 20, "a fifth of 24 speakers is set aside")

    def test_validation_is_disturbed_as_training_is(self) -> None:
        store = feature_store.open_store(dataset.get_librispeech_spk_to_utts(str(corpus() / "test")))
        heard = []
        encoder = networks.new_encoder()
        encoder.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
        for share in (0.0, 0.5, 0.5, 1.0):
            disturbances = {"NOISE_PROB": 1.0, "NOISE_SNR_DB": (0.0, 0.0), "ROOM_PROB": 0.0, "NARROW_BAND_PROB": 0.0}
            in_one_batch = unittest.mock.patch.object(inference, "INFERENCE_FRAMES", 10**6)
            with settings.override(DISTURBED_BATCHES=share, **disturbances), in_one_batch:
                eer = neural_net.validation_eer(
                    encoder, training_data.Stores(store, validation=store), settings.present()
                )
        clean, half, again, disturbed = heard
        for crops, share in ((half, 0.5), (disturbed, 1.0)):
            self.assertEqual(((clean - crops).abs().amax(dim=(1, 2)) > 1).float().mean(), share)
        self.assertTrue(torch.equal(clean[0::2], half[0::2]) and torch.equal(half, again))
        pairs = list(itertools.combinations(range(len(disturbed)), 2))
        labels = [store.speaker_of[first] == store.speaker_of[second] for first, second in pairs]
        with torch.no_grad():
            embeddings = torch.nn.functional.normalize(encoder(disturbed)).numpy()
        scores = [embeddings[first] @ embeddings[second] for first, second in pairs]
        false_accepts, true_accepts, _ = sklearn.metrics.roc_curve(labels, scores)
        nearest = np.argmin(np.abs(1 - true_accepts - false_accepts))
        self.assertAlmostEqual(eer, (1 - true_accepts + false_accepts)[nearest] / 2, delta=0.02)

    def test_learning_rate_rises_then_falls_to_zero(self) -> None:
        rates = [neural_net.learning_rate(step, 200, settings.present()) for step in range(200)]
        self.assertEqual(rates.index(max(rates)), 9)
        self.assertEqual(max(rates), myconfig.LEARNING_RATE)
        self.assertAlmostEqual(rates[10 + 95], myconfig.LEARNING_RATE / 2)
        self.assertLess(rates[-1], 1e-3 * myconfig.LEARNING_RATE)

    def test_collapse_and_nan_are_put_in_words(self) -> None:
        progress = TrainingProgress(300, settings.present())
        for step, _ in zip(progress.steps(), range(100), strict=False):
            embeddings = torch.ones(8, 5) + 1e-3 * torch.randn(8, 5)
            progress.update(0.5 / (step + 1), 1.0, [embeddings])
        self.assertIn("all embeddings are nearly equal", self.output.getvalue())
        progress = TrainingProgress(300, settings.present())
        for _ in zip(progress.steps(), range(100), strict=False):  # One network of two has collapsed.
            progress.update(0.5, 1.0, [torch.randn(8, 5), embeddings])
        self.assertTrue(progress.has_warned)
        progress = TrainingProgress(300, settings.present(TRIPLET_MINING="batch_hard"))
        for _ in zip(progress.steps(), range(100), strict=False):
            progress.update(myconfig.TRIPLET_ALPHA, 1.0, [torch.randn(8, 5)])
        self.assertIn("stood at the margin", self.output.getvalue())
        with self.assertRaisesRegex(ValueError, "loss is nan.*LEARNING_RATE"):
            progress.update(math.nan, 1.0, [embeddings])

    def test_one_usable_speaker_is_not_enough(self) -> None:
        spk_to_utts = self.write_speakers(1)
        (self.dir / "bad.wav").write_text("this is no audio")
        for data in (spk_to_utts, {**spk_to_utts, "bad": [str(self.dir / "bad.wav")]}):
            with self.assertRaisesRegex(ValueError, "two speakers or more"):
                neural_net.train_network(data, 3)

    @unittest.skipIf(torch.cuda.is_available(), "there is a GPU")
    def test_a_device_that_is_not_there_is_an_error(self) -> None:
        with self.assertRaisesRegex(ValueError, "DEVICE=cuda is not available"):
            self.train(1, DEVICE="cuda")

    def test_new_networks_leave_the_seed_of_others_alone(self) -> None:
        torch.manual_seed(5)
        expected = torch.rand(1)
        torch.manual_seed(5)
        self.train(1, SEED=3)
        self.assertEqual(torch.rand(1), expected)
        first, second = (neural_net.LstmSpeakerEncoder().state_dict() for _ in range(2))
        self.assertFalse(torch.equal(first["lstms.0.weight_ih_l0"], second["lstms.0.weight_ih_l0"]))
        self.assertEqual(self.train(2, "a.pt", SEED=3), self.train(2, "b.pt", SEED=3))

    def test_the_time_of_training_is_that_of_all_steps(self) -> None:
        progress = TrainingProgress(3, settings.present())
        for _ in progress.steps():
            time.sleep(0.05)
            progress.update(0.5, 1.0, [torch.randn(8, 5)])
            progress.validate(0.1)
            saved = progress.state()["training_time"]
        self.assertGreaterEqual(saved, 0.15)
