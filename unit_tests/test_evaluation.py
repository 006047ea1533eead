"""Tests of `evaluation.py`."""

import csv
import json
import math
import os
import statistics
import unittest
import unittest.mock
from pathlib import Path

import numpy as np
import soundfile

import dataset
import demo_data
import evaluation
import feature_extraction
import feature_store
import metrics
import neural_net
from encoder import networks, saved_models
from foundation import settings
from scoring import score_normalization, trials
from unit_tests.shared import PROJECT_DIR, ProjectTest, corpus


class EvaluationTest(ProjectTest):
    def setUp(self) -> None:
        super().setUp()
        self.encoder = networks.new_encoder().eval()
        self.spk_to_utts = dataset.get_librispeech_spk_to_utts(str(corpus() / "test"))

    def evaluate(self, **values) -> dict:
        with settings.override(**values):
            return evaluation.evaluate(self.encoder, self.spk_to_utts)

    def test_scores_of_triplets_are_cosines_of_the_utterances(self) -> None:
        labels, scores = evaluation.compute_scores(self.encoder, self.spk_to_utts, 50)
        self.assertEqual(labels, [1, 0] * 50)
        results = self.evaluate(NUM_EVAL_TRIPLETS=50)
        lines = [line.split(" ") for line in (self.dir / "results/scores.txt").read_text().splitlines()]
        self.assertEqual(len(lines), 100)
        for (label, score, enrol, test), expected in zip(lines, scores, strict=True):
            self.assertEqual(int(label), Path(enrol).parts[-3] == Path(test).parts[-3])
            self.assertAlmostEqual(float(score), expected, places=5)
        self.assertAlmostEqual(results["eer"], evaluation.compute_eer(labels, scores)[0])
        _, score, enrol, test = lines[7]
        pair = [
            evaluation.run_inference(feature_extraction.extract_features(file), self.encoder) for file in (enrol, test)
        ]
        self.assertAlmostEqual(evaluation.cosine_similarity(*pair), float(score), places=3)

    def test_what_strangers_would_score_is_subtracted_from_normalised_scores(self) -> None:
        with self.assertRaisesRegex(ValueError, "holds no cohort for AS_NORM"):
            self.evaluate(AS_NORM=True)
        self.assertIsNone(self.evaluate()["eer_normalised"])
        cohort = np.random.default_rng(0).normal(size=(250, self.encoder.dimensions)).astype(np.float32)
        self.encoder.cohort = cohort / np.linalg.norm(cohort, axis=1, keepdims=True)
        with unittest.mock.patch.object(score_normalization, "BLOCK_UTTS", 7):
            results = self.evaluate(AS_NORM=True, EVAL_TRIALS="all_pairs")
        lines = [line.split(" ") for line in (self.dir / "results/scores.txt").read_text().splitlines()]
        files = sorted({file for _, _, *pair in lines for file in pair})
        embedding_of = dict(zip(files, evaluation.embed_utterances(self.encoder, files), strict=True))
        for _, score, *pair in lines[::50]:
            expected = embedding_of[pair[0]] @ embedding_of[pair[1]]
            for file in pair:
                nearest = sorted((embedding_of[file] @ row for row in self.encoder.cohort), reverse=True)[:30]
                expected -= 0.325 * statistics.fmean(nearest) + 0.015 * math.log(soundfile.info(file).duration)
            self.assertAlmostEqual(float(score), expected, delta=0.005)
        labels, scores = np.array([line[:2] for line in lines], float).T
        self.assertAlmostEqual(results["eer"], evaluation.compute_eer(labels, scores)[0], places=3)
        self.assertEqual(results["eer"], results["eer_normalised"])
        plain = self.evaluate(EVAL_TRIALS="all_pairs")
        self.assertEqual(results["eer_of_similarities"], plain["eer"])
        self.assertEqual(results["eer"], plain["eer_normalised"])
        evaluation.print_report(results)
        evaluation.print_report(plain)
        self.assertIn(f"EER of cosine similarities: {plain['eer']:.2%}", self.output.getvalue())
        self.assertIn(f"EER of normalised scores (AS_NORM=true): {results['eer']:.2%}", self.output.getvalue())

    def test_the_cost_of_log_likelihood_ratios(self) -> None:
        labels = [1, 1, 0, 0]
        self.assertAlmostEqual(metrics.cllr(labels, [0, 0, 0, 0]), 1)
        self.assertAlmostEqual(metrics.cllr(labels, [50, 50, -50, -50]), 0)
        by_hand = (
            np.log2(1 + np.exp(-1)) + np.log2(1 + np.exp(2)) + np.log2(1 + np.exp(1)) + np.log2(1 + np.exp(-3))
        ) / 4
        self.assertAlmostEqual(metrics.cllr(labels, [1, -2, 1, -3]), by_hand)
        rng = np.random.default_rng(0)
        labels = np.repeat([1, 0], [4000, 9000])
        scores = rng.normal(np.where(labels == 1, 2.0, -2.0), 2.0)  # Then 1 times the score is the true ratio.
        best = metrics.min_cllr(labels, scores)
        self.assertLess(abs(best - metrics.cllr(labels, scores)), 0.01)
        self.assertAlmostEqual(best, metrics.min_cllr(labels, np.exp(scores / 3)))  # Only their order counts.
        self.assertLess(best, metrics.cllr(labels, 3 * scores))
        self.encoder.calibration = {"counts": [0, 1], "curves": {"1 1": [[0.5], [0.0] * 16, [4.0, -1.0]]}}
        self.encoder.calibration |= {"false_accept_rates": [0.01], "source": "a test"}
        results = self.evaluate(EVAL_TRIALS="all_pairs")
        lines = [line.split(" ") for line in (self.dir / "results/scores.txt").read_text().splitlines()]
        labels, scores = np.array([line[:2] for line in lines], float).T
        self.assertAlmostEqual(results["cllr"], metrics.cllr(labels, 4 * scores - 1), places=4)
        self.assertLessEqual(results["min_cllr"], results["cllr"])

    def test_groups_are_reported_apart(self) -> None:
        speakers = list(self.spk_to_utts)
        groups = {name: "f" if number < 4 else "m" for number, name in enumerate(speakers[:9])}  # Three have none.
        with settings.override(EVAL_TRIALS="all_pairs"):
            results = evaluation.evaluate(self.encoder, self.spk_to_utts, groups)
            self.assertEqual(list(results["eer_within_groups"]), ["f", "m", "any one group"])
            self.spk_to_utts = {name: self.spk_to_utts[name] for name in speakers[:4]}
            self.assertAlmostEqual(results["eer_within_groups"]["f"], self.evaluate()["eer"])
        labels, scores = np.array([1, 0, 0, 1, 0]), np.array([0.9, 0.1, 0.8, 0.3, 0.7])
        within = evaluation.eer_by_group(labels, scores, np.array(list("ffmmm")), np.array(list("fffmm")))
        # The third trial is between the groups; of "m" there remain one target and one non-target, the wrong way round.
        self.assertEqual(within, {"f": 0.0, "m": 1.0, "any one group": 0.5})

    def test_all_pairs(self) -> None:
        results = self.evaluate(EVAL_TRIALS="all_pairs")
        self.assertEqual(results["num_target_trials"], 12 * 12 * 11 // 2)
        self.assertEqual(results["num_nontarget_trials"], 144 * 143 // 2 - 12 * 12 * 11 // 2)
        self.assertEqual((results["num_speakers"], results["num_utterances"]), (12, 144))
        saved = json.loads((self.dir / "results/results.json").read_text())
        self.assertEqual(saved["eer"], results["eer"])
        self.assertEqual((saved["settings"]["N_MFCC"], saved["settings"]["SEED"]), (40, 0))
        self.assertNotIn("BATCH_SIZE", saved["settings"])
        self.assertTrue(saved["eer_ci95"][0] < saved["eer"] < saved["eer_ci95"][1])
        self.assertEqual((self.dir / "results/results.png").read_bytes()[:4], b"\x89PNG")
        self.assertEqual(self.evaluate(EVAL_TRIALS="all_pairs")["eer"], results["eer"])

    def test_a_cohort_has_no_speakers_of_excluded_corpora(self) -> None:
        utts = list(self.spk_to_utts.values())
        store = feature_store.open_store({"ls-1": utts[0], "cv-1": utts[1], "ls-2": utts[2], "new": utts[3]})
        self.encoder.train_speakers = ["cv-1", "ls-1", "ls-2"]
        with unittest.mock.patch.object(score_normalization, "COHORT_UTTS", 99):
            everyone = score_normalization.embed_cohort(self.encoder, store, settings.present())
            with settings.override(NO_COHORT_CORPORA="cv"):
                cohort = score_normalization.embed_cohort(self.encoder, store, settings.present())
        self.assertEqual(len(everyone), 3)
        np.testing.assert_allclose(cohort, everyone[[0, 2]], atol=1e-6)
        with settings.override(NO_COHORT_CORPORA="cv-,ls-"):
            self.assertEqual(len(score_normalization.embed_cohort(self.encoder, store, settings.present())), 0)
        with (
            settings.override(NO_COHORT_CORPORA="vc-"),
            self.assertRaisesRegex(ValueError, "no training speaker's name begins with 'vc-'"),
        ):
            score_normalization.embed_cohort(self.encoder, store, settings.present())

    def test_several_recordings_are_enrolled_by_their_mean(self) -> None:
        results = self.evaluate(NUM_EVAL_TRIPLETS=40, EVAL_ENROL_UTTS=3)
        self.assertEqual(results["num_target_trials"], 40)
        for line in (self.dir / "results/scores.txt").read_text().splitlines()[:6]:
            label, score, *enrol, test = line.split(" ")
            self.assertEqual(len({*enrol, test}), 4)
            speakers = {Path(file).parts[-3] for file in enrol}
            self.assertEqual((len(speakers), Path(test).parts[-3] in speakers), (1, label == "1"))
            mean = evaluation.embed_utterances(self.encoder, enrol).sum(axis=0)
            own = evaluation.embed_utterances(self.encoder, [test])[0]
            self.assertAlmostEqual(float(score), evaluation.cosine_similarity(mean, own), delta=2e-3)
        num_utts = [len(utts) for utts in self.spk_to_utts.values()]
        results = self.evaluate(EVAL_TRIALS="all_pairs", EVAL_ENROL_UTTS=5)
        self.assertEqual(results["num_target_trials"], sum(number // 5 * (number - 5) for number in num_utts))
        self.assertEqual(results["num_distinct_trials"], results["num_target_trials"] + results["num_nontarget_trials"])
        self.assertEqual(evaluation.count_distinct(np.array([0, 1, 0, 2]), np.array([1, 0, 1, 0])), 2)
        with self.assertRaisesRegex(ValueError, "0 test speakers have 1000 utterances or more"):
            self.evaluate(EVAL_ENROL_UTTS=999)

    def test_trial_list(self) -> None:
        first, second = list(self.spk_to_utts)[:2]
        spaced = self.write_audio("with space/x y.wav")
        self.spk_to_utts[first].append(spaced)
        utts = [os.path.relpath(utt, corpus() / "test") for utt in self.spk_to_utts[first][:2]]
        lines = [
            f"1 {utts[0]} {utts[1]}",
            f"0 {utts[0]}   {self.spk_to_utts[second][0]}",
            '1 "with space/x y.wav" ' + utts[0],
        ]
        (self.dir / "trials.txt").write_text("\r\n".join(lines) + "\r\n\r\n", newline="")
        values = {"EVAL_TRIALS": str(self.dir / "trials.txt"), "TEST_DATA_DIR": str(corpus() / "test")}
        results = self.evaluate(**values)
        self.assertEqual((results["num_target_trials"], results["num_nontarget_trials"]), (2, 1))
        self.assertIn(f'"{spaced}"', (self.dir / "results/scores.txt").read_text())
        for line, message in (
            ("1 a.wav", "line 1: expected"),
            ("2 a.wav b.wav", "line 1: expected"),
            (f"1 {utts[0]} gone.wav", "line 1: gone.wav is not among"),
            ("", "lists no trials"),
            ('1 "' + "x" * 200_000, "not a trial list"),
        ):
            (self.dir / "trials.txt").write_text(line)
            with self.subTest(line), self.assertRaisesRegex(ValueError, message):
                self.evaluate(**values)

    def test_training_speakers_in_the_test_data_are_named(self) -> None:
        self.encoder.train_speakers = ["s00", "s30"]
        self.evaluate(NUM_EVAL_TRIPLETS=50)
        self.assertIn("trained on 1 of the test speakers (s30): the EER is too low", self.output.getvalue())

    def test_speakers_with_one_utterance_each_cannot_be_evaluated(self) -> None:
        with self.assertRaisesRegex(ValueError, "0 test speakers have 2 utterances or more"):
            evaluation.compute_scores(self.encoder, self.write_speakers(3, 1), 10)

    def test_training_makes_the_eer_fall_well_below_that_of_an_untrained_network(self) -> None:
        train_data = dataset.get_librispeech_spk_to_utts(str(corpus() / "train"))
        values = {"LSTM_HIDDEN_SIZE": 64, "BATCH_SIZE": 24, "NUM_VALIDATION_SPEAKERS": 0}
        with settings.override(**values, EVAL_TRIALS="all_pairs"):
            neural_net.train_network(train_data, 1, str(self.dir / "untrained.pt"))
            neural_net.train_network(train_data, 100, str(self.dir / "trained.pt"))
            eers = {
                name: evaluation.evaluate(neural_net.load_encoder(str(self.dir / f"{name}.pt")), self.spk_to_utts)[
                    "eer"
                ]
                for name in ("untrained", "trained")
            }
        self.assertGreater(eers["untrained"], 0.25)
        self.assertLess(eers["trained"], 0.75 * eers["untrained"])
        self.assertGreater(eers["trained"], 0)

    def test_pretrained_models_beat_a_network_without_training(self) -> None:
        neural_net.set_normalisation(self.encoder, feature_store.open_store(self.spk_to_utts), seed=0)
        untrained = self.evaluate(EVAL_TRIALS="all_pairs")["eer"]
        models = sorted((PROJECT_DIR / "saved_model/pretrained").glob("*.pt"))
        self.assertGreater(len(models), 0)
        for path in models:
            self.encoder = neural_net.load_encoder(str(path))
            self.assertLess(self.evaluate(EVAL_TRIALS="all_pairs")["eer"], untrained, path.name)

    def test_pretrained_models_give_the_embeddings_that_lie_beside_them(self) -> None:
        for number in range(40, 43):
            folder = self.dir / f"data/demo/test/{1001 + number}"
            demo_data.write_speaker(folder, np.random.default_rng([demo_data.SEED, number]))
        models = sorted((PROJECT_DIR / "saved_model/pretrained").glob("*.pt"))
        self.assertGreater(len(models), 0)
        for path in models:
            with path.with_suffix(".csv").open(encoding="utf-8", newline="") as file:
                rows = list(csv.reader(file))
            self.assertEqual(len(rows), 3)
            encoder = neural_net.load_encoder(str(path))
            embeddings = evaluation.embed_utterances(encoder, [str(self.dir / row[0]) for row in rows])
            expected = np.array([row[1:] for row in rows], float)
            np.testing.assert_allclose(embeddings, expected, atol=1e-4, err_msg=path.name)

    @unittest.skipIf(os.name == "nt", "Windows makes links only for administrators.")
    def test_trial_lists_may_go_through_links(self) -> None:
        spk_to_utts = self.write_speakers(2, 2)
        (self.dir / "linked").symlink_to(self.dir / "data")
        store = feature_store.open_store(spk_to_utts)
        (self.dir / "trials.txt").write_text("1 linked/s0/u0.wav data/s0/u1.wav\n0 data/s0/u0.wav linked/s1/u0.wav\n")
        labels, enrol, test = trials.read_trial_list(str(self.dir / "trials.txt"), store)
        names = [Path(store.files[number]).relative_to(self.dir / "data").as_posix() for number in (*enrol, *test)]
        self.assertEqual((labels.tolist(), names), ([1, 0], ["s0/u0.wav", "s0/u0.wav", "s0/u1.wav", "s1/u0.wav"]))

    def test_the_last_line_is_the_courses(self) -> None:
        saved_models.save_encoder(str(self.dir / "model.pt"), self.encoder)
        answer = self.run_script("evaluation.py", *self.typed, "NUM_EVAL_TRIPLETS=100")
        self.assertEqual((answer.returncode, answer.stderr), (0, ""))
        results = self.evaluate(NUM_EVAL_TRIPLETS=100)
        expected = f"eer_threshold = {results['eer_threshold']:.6f} eer = {results['eer']:.6f}"
        self.assertEqual(answer.stdout.splitlines()[-1], expected)

    def test_mistakes_end_in_one_sentence(self) -> None:
        with settings.override(TRAIN_DATA_CSV="gone.csv"):
            trained = self.run_here(neural_net.run_training)
        evaluated = self.run_script("evaluation.py", "SAVED_MODEL_PATH=gone.pt")
        for answer, word in ((trained, "gone.csv"), (evaluated, "gone.pt")):
            self.assertEqual(answer.returncode, 2)
            self.assertRegex(answer.stderr, f"^Error: .*{word}.*\n$")
