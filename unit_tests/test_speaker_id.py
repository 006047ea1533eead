"""Tests of `speaker_id.py`."""

import csv
import json
import shutil
import subprocess
import unittest
import unittest.mock
from pathlib import Path

import numpy as np

import evaluation
import speaker_id
from encoder import saved_models
from foundation import settings
from unit_tests.shared import ProjectTest, calibration, corpus
from voices import answers, commands, recordings
from voices import map as voice_map


class SpeakerIdTest(ProjectTest):
    def setUp(self) -> None:
        super().setUp()
        with settings.override(LSTM_HIDDEN_SIZE=8):
            encoder = saved_models.get_speaker_encoder()
        encoder.calibration = calibration(0.9999, 0.9, 0.5, rates=(0.01, 0.1, 0.2))
        self.model = str(self.dir / "model.pt")
        saved_models.save_encoder(self.model, encoder)
        self.encoder = saved_models.load_encoder(self.model)
        voices = sorted((corpus() / "test").rglob("*.flac"))
        self.ann, self.bob = str(voices[0]), str(voices[-1])
        self.database = str(self.dir / "speakers.db")

    def run_command(self, *arguments: str) -> subprocess.CompletedProcess:
        arguments = [argument.replace("DIR", str(self.dir)) for argument in arguments]
        if arguments[0] not in ("list", "remove", "rename"):
            arguments += ["--model", self.model] if "--model" not in arguments else []
        if arguments[0] in ("list", "remove", "rename", "enrol", "identify") and "--db" not in arguments:
            arguments += ["--db", self.database]

        return self.run_here(lambda: speaker_id.main(speaker_id.build_parser().parse_args(arguments)))

    def test_thresholds_of_the_model(self) -> None:
        self.assertEqual(speaker_id.decision_for(self.encoder).threshold(1, 1), 0.9999)
        self.assertAlmostEqual(speaker_id.decision_for(self.encoder, 0.1).threshold(1, 3), 0.9)
        self.assertTrue(0.9 < speaker_id.decision_for(self.encoder, 0.05).threshold(1, 1) < 0.9999)
        self.assertEqual(speaker_id.decision_for(self.encoder, threshold=0.3).threshold(5, 5), 0.3)
        for far, message in (
            (0.5, "end at 0.2; 0.01 is 1 %"),
            (0.001, "for 0.01 and more: give --far 0.01"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                speaker_id.decision_for(self.encoder, far)
        self.encoder.calibration = {}
        with self.assertRaisesRegex(ValueError, "--calibrate"):
            speaker_id.decision_for(self.encoder)

    def test_options_may_stand_anywhere(self) -> None:
        for order in (
            ["Ann", "--more", "a.wav", "b.wav"],
            ["--more", "Ann", "a.wav", "b.wav"],
            ["Ann", "a.wav", "--more", "b.wav"],
        ):
            options = speaker_id.build_parser().parse_args(["enrol", *order, "--db", "x.db"])
            self.assertEqual((options.name, options.files, options.more), ("Ann", ["a.wav", "b.wav"], True))
        options = speaker_id.build_parser().parse_args(["verify", "a.wav", "--far", "0.1", "b.wav"])
        self.assertEqual((options.first, options.second, options.far), ("a.wav", "b.wav", 0.1))
        self.assertIn("not a number: 'x'", self.run_command("verify", self.ann, self.bob, "--far", "x").stderr)

    def test_files_that_cannot_be_used_are_left_out_of_many(self) -> None:
        folder = self.dir / "many"
        folder.mkdir()
        for number, file in enumerate((self.ann, self.bob)):
            shutil.copy(file, folder / f"{number}.flac")
        (folder / "broken.wav").write_text("no audio")
        self.run_command("enrol", "Ann", self.ann)
        for command, more in (
            ("sort", ()),
            ("identify", ("--threshold", "-1")),
            ("map", ("--out", "DIR/map.png")),
            ("embed", ("--out", "DIR/e.npz")),
        ):
            answer = self.run_command(command, str(folder), *more)
            with self.subTest(command):
                self.assertEqual(answer.returncode, 0, answer.stderr)
                self.assertRegex(answer.stderr, "Warning: left out: .*broken.wav cannot be decoded")
                alone = self.run_command(command, str(folder / "broken.wav"), *more)
                self.assertEqual((alone.returncode, alone.stderr.count("\n")), (2, 1))
        for command in (("enrol", "Bob"), ("verify", self.ann)):
            self.assertEqual(self.run_command(*command, str(folder)).returncode, 2)

    def test_models_of_synthetic_voices_say_so(self) -> None:
        model = self.dir / "demo.pt"
        saved_models.save_encoder(str(model), self.encoder)
        self.encoder.calibration["source"] = "20 speakers of data/demo/test"
        saved_models.save_encoder(str(self.dir / "synthetic.pt"), self.encoder)
        for name, is_warned in (("demo.pt", False), ("synthetic.pt", True)):
            answer = self.run_script("speaker_id.py", "verify", self.ann, self.bob, "--model", str(self.dir / name))
            self.assertEqual("synthetic voices" in answer.stderr, is_warned, answer.stderr)

    def test_a_file_is_no_name(self) -> None:
        answer = self.run_command("enrol", self.ann, self.bob)
        self.assertEqual((answer.returncode, answer.stderr.count("\n")), (2, 1))
        self.assertIn("the name of the person comes first", answer.stderr)

    def test_several_voices_in_one_recording(self) -> None:
        rng = np.random.default_rng(0)
        two = rng.normal(size=(2, 16))[np.repeat([0, 1], 20)] + rng.normal(0, 0.2, (40, 16))
        one = rng.normal(size=16) + rng.normal(0, 0.2, (40, 16))
        features = [np.zeros((500, 40), np.float32), np.zeros((500, 40), np.float32), np.zeros((60, 40), np.float32)]
        number = 1 + 4 * 450 // 50
        embedded = np.concatenate([two[:number], one[:number], one[:1]])
        embedded /= np.linalg.norm(embedded, axis=1, keepdims=True)
        with unittest.mock.patch.object(recordings, "embed_features", lambda _, windows, __: embedded[: len(windows)]):
            loud = [np.zeros(900)] * 3
            self.assertEqual(recordings.have_several_voices(self.encoder, features, loud), [True, False, False])
            silent_end = [np.repeat([0.0, -90.0], [400, 500])] * 3  # What is left is of one voice.
            self.assertFalse(recordings.have_several_voices(self.encoder, features, silent_end)[0])

    def test_score_is_the_cosine_of_the_mean_embeddings(self) -> None:
        files = [self.ann, self.bob]
        decision = speaker_id.decision_for(self.encoder, threshold=0.5)
        answer = speaker_id.verify(self.encoder, files, [self.bob], decision)
        both = evaluation.embed_utterances(self.encoder, files)
        self.assertAlmostEqual(answer["score"], evaluation.cosine_similarity(both.sum(axis=0), both[1]), places=5)
        self.assertEqual(answer["same"], answer["score"] >= 0.5)

    def test_verify_answers_by_its_exit_code(self) -> None:
        result = self.run_script("speaker_id.py", "verify", self.ann, self.ann, "--far", "0.01", "--model", self.model)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stdout, r"^the same person\n.* in .* strangers would sound this alike\.\n$")
        result = self.run_command("verify", self.ann, self.ann, "--explain")
        self.assertRegex(result.stdout, r"\nscore 1.000 \(threshold 1.000\)\. Of pairs of .*\n.* on a test.\n$")
        self.assertIn("it sounds like the same recording as", result.stderr)
        result = self.run_command("verify", self.ann, self.bob, "--threshold", "1", "--json")
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertEqual(json.loads(result.stdout)["verdict"], "different")
        self.assertNotIn("same recording", result.stderr)  # The new encoder has hardly any other scores than 1.

    def test_enrol_and_identify(self) -> None:
        result = self.run_command("enrol", "Ann", self.ann)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertRegex(result.stdout, r"^Ann is enrolled: heard \d\.\d s of speech in 1 recording.\n$")
        self.run_command("enrol", "Bob", self.bob)
        result = self.run_command("identify", self.ann, self.bob, "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        answers = json.loads(result.stdout)
        self.assertEqual([answer["speaker"] for answer in answers], ["Ann", "Bob"])
        self.assertEqual({name for name, _ in answers[0]["ranking"]}, {"Ann", "Bob"})
        stranger = str(sorted((corpus() / "test").rglob("*.flac"))[40])
        result = self.run_command("identify", stranger, "--threshold", "1", "--explain")
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertRegex(
            result.stdout, r": nobody I know\n    (Ann|Bob) 0\.\d{3}, (Ann|Bob) 0\.\d{3}\. With (Ann|Bob): score "
        )
        self.assertIn("Bob is now Robert", self.run_command("rename", "Bob", "Robert").stdout)
        self.assertIn("Ann is removed", self.run_command("remove", "Ann").stdout)
        self.assertRegex(self.run_command("list").stdout, r"^Robert: 1 recording, \d\.\d s of speech, .* UTC\n$")

    def test_one_path_several_or_none(self) -> None:
        decision = answers.decision_for(self.encoder, threshold=0.5)
        expected = answers.verify(self.encoder, [self.ann], [self.bob], decision)["score"]
        for first, second in ((self.ann, self.bob), (Path(self.ann), (self.bob,))):
            self.assertEqual(answers.verify(self.encoder, first, second, decision)["score"], expected)
        with self.assertRaisesRegex(ValueError, "no recordings were given"):
            answers.verify(self.encoder, [], self.bob, decision)

    def test_a_name_that_differs_in_case_only_gets_a_warning(self) -> None:
        self.run_command("enrol", "Ann", self.ann)
        result = self.run_command("enrol", "ANN", self.bob)
        self.assertEqual(result.returncode, 0)
        self.assertRegex(result.stderr, "Warning: ANN: 'Ann' is another person.*differs in case only")

    def test_mistakes_are_one_line_and_exit_code_2(self) -> None:
        (self.dir / "text.wav").write_text("not audio")
        (self.dir / "text.db").write_text("not a database, but long enough to be looked at" * 20)
        (self.dir / "empty").mkdir()
        same_name = shutil.copy(self.ann, self.dir)
        speaker_id.enrol(self.encoder, self.database, "Ann", [self.ann])
        for arguments in (
            ("verify", self.ann, "DIR/gone.wav"),
            ("verify", self.ann, "DIR/text.wav"),
            ("verify", self.ann, "DIR/empty"),
            ("verify", self.ann, self.bob, "--far", "0.9"),
            ("verify", self.ann, self.bob, "--far", "nan"),
            ("enrol", "Ann", self.bob),
            ("enrol", "Eve", self.ann),
            ("identify", self.ann, "--db", "DIR/gone.db"),
            ("identify", self.ann, "--db", "DIR/text.db"),
            ("remove", "Eve"),
            ("rename", "Eve", "Ann"),
            ("timeline", "DIR/gone.wav", "--db", "DIR/speakers.db"),
            ("embed", "DIR/two\nlines \x1b[31m.wav"),
            ("embed", "-dash.wav"),
            ("enrol", " ", self.ann, "--db", "DIR/speakers.db"),
            ("enrol", "unknown ", self.ann, "--db", "DIR/speakers.db"),
            ("enrol", "Bob", self.bob, "--db", ""),
            ("verify", self.ann, self.bob, "--threshold", "nan"),
            ("verify", self.ann, self.bob, "--threshold", "abc"),
            ("map", self.ann, "--out", self.ann),
            ("timeline", self.ann, "--db", "DIR/speakers.db", "--plot", "DIR/speakers.db"),
            ("timeline", self.ann, "--out", "DIR/text.wav"),
            ("timeline", self.ann, "--out", self.ann, "--force"),
            ("timeline", self.ann, "--out", "DIR/speakers.db", "--db", "DIR/speakers.db", "--force"),
            ("timeline", self.ann, "--out", "DIR/empty", "--force"),
            ("timeline", self.ann, "--out", "DIR/gone/turns.csv"),
            ("timeline", self.ann, "--out", ""),
            ("timeline", self.ann, "--out", "DIR/timeline-1.png"),
            ("timeline", self.ann, self.bob, "--format", "srt"),
            ("timeline", self.ann, "--json", "--rttm"),
            ("timeline", self.ann, same_name, "--rttm", "--db", "DIR/speakers.db"),
            ("embed", self.ann, "--out", "x.txt"),
            ("verify", self.ann, self.bob, "--model", "DIR/text.wav"),
            ("verify", self.ann, self.bob, "--model", "DIR/empty"),
        ):
            result = self.run_command(*arguments)
            with self.subTest(arguments):
                self.assertEqual(
                    (result.returncode, result.stdout, result.stderr.count("\n")), (2, "", 1), result.stderr
                )
                self.assertTrue(result.stderr.startswith("Error: "))

    def test_a_fault_of_the_program_is_not_taken_for_an_answer(self) -> None:
        with unittest.mock.patch.object(commands, "verify", side_effect=KeyError("a fault")):
            result = self.run_command("verify", self.ann, self.bob)
        self.assertEqual(result.returncode, 70)
        self.assertIn("KeyError: 'a fault'", result.stderr)

    def test_embeddings_for_others(self) -> None:
        expected = evaluation.embed_utterances(self.encoder, [self.ann, self.bob])
        heard = recordings.hear(self.encoder, [self.ann, self.bob])
        for name in ("x.npz", "x.csv"):
            recordings.write_embeddings(str(self.dir / name), heard)
        with np.load(self.dir / "x.npz") as archive:
            np.testing.assert_allclose(archive["embeddings"], expected, atol=1e-6)
            self.assertEqual(archive["files"].tolist(), [self.ann, self.bob])
        with (self.dir / "x.csv").open(newline="") as file:
            rows = list(csv.reader(file))
        self.assertEqual([row[0] for row in rows], [self.ann, self.bob])
        np.testing.assert_allclose(np.array([row[1:] for row in rows], float), expected, atol=1e-6)

    def test_pictures_of_a_map(self) -> None:
        self.assertEqual(voice_map.name_speakers(["x/ann/1.wav", "x/bob/1.wav"]), ["ann", "bob"])
        self.assertEqual(voice_map.name_speakers(["x/ann-1.wav", "x/bob_b_2.wav", "x/c.wav"]), ["ann", "bob_b", "c"])
        self.assertEqual(voice_map.name_speakers(["x/ann0.wav", "x/ann12.wav", "x/7.wav"]), ["ann", "ann", "7"])
        self.assertEqual(
            voice_map.name_speakers(["84/121123/84-121123-0000.flac", "84/7/84-7-0001.flac"]), ["84", "84"]
        )
        files = [str(path) for path in sorted((corpus() / "test").rglob("*.flac"))[:24]]
        result = self.run_command("map", *files, "--out", "DIR/map.png")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual((self.dir / "map.png").read_bytes()[:4], b"\x89PNG")
        for number in (1, 2, 5):
            voice_map.draw_map(np.eye(8, dtype=np.float32)[:number], ["x"] * number)
