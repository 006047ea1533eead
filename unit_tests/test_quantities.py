"""Nothing, one, two and very many of whatever the commands of `speaker_id.py` and its functions count."""

import json

import numpy as np

import evaluation
import speaker_id
from encoder import networks
from foundation import parallel
from unit_tests.shared import ProjectTest, calibration
from voices import answers, clustering, commands, database, recordings, timeline
from voices import windows as sliding

QUANTITIES = (0, 1, 2, 70)


class QuantitiesTest(ProjectTest):
    def setUp(self) -> None:
        super().setUp()
        self.encoder = networks.new_encoder().eval()
        self.encoder.calibration = calibration(0.9999, 0.9, rates=(0.01, 0.1))
        self.files = [self.write_audio(f"{number:02}.wav", 1.0, seed=number) for number in range(max(QUANTITIES))]
        self.decision = answers.decision_for(self.encoder)

    def run_timeline(self, *arguments: str) -> tuple[int, dict]:
        """The exit code of a timeline, and its JSON."""
        options = speaker_id.build_parser().parse_args(["timeline", *arguments, "--json"])
        before = len(self.output.getvalue())
        code = commands.run_timeline(self.encoder, options)
        return code, json.loads(self.output.getvalue()[before:])

    def test_commands(self) -> None:
        parallel.prepare_process()
        path = str(self.dir / "people.db")
        for number in QUANTITIES:
            with self.subTest(number):
                if number:
                    for count in range(number):
                        if count >= self.count_people(path):
                            speaker_id.enrol(self.encoder, path, f"P{count}", self.files[count])
                    self.assertEqual(self.count_people(path), number)
                    ranking = answers.identify(self.encoder, path, self.files[0], self.decision)[0]["ranking"]
                    self.assertEqual(len(ranking), min(number, answers.NUM_SHOWN))
                else:
                    with self.assertRaisesRegex(ValueError, "nobody is enrolled yet"):
                        answers.identify(self.encoder, path, self.files[0], self.decision)
                for more in ((), ("--unknown", "cluster"), ("--speakers", "1"), ("--speakers", "70")):
                    out = ("--plot", str(self.dir / "x.png"))
                    code, found = self.run_timeline(self.files[0], "--db", path, *out, *more)
                    self.assertEqual((code, len(found)), (0, 1), more)

    def count_people(self, path: str) -> int:
        if not database.is_there(path):
            return 0
        with database.open_database(path) as connection:
            return len(database.list_speakers(connection))

    def test_functions_that_take_lists(self) -> None:
        for number in QUANTITIES:
            files = self.files[:number]
            with self.subTest(number):
                self.assertEqual(evaluation.embed_utterances(self.encoder, files).shape, (number, 8))
                embeddings = np.eye(max(1, number), 8, dtype=np.float32)[:number]
                names = [f"P{count}" for count in range(number)]
                people = database.People(names, embeddings, [1] * number, np.ones(number))
                decision = answers.Decision(None, 0.5, {})
                if number:
                    found = timeline.find_candidates(self.encoder, embeddings, people, decision)
                    self.assertEqual(found.tolist(), list(range(min(number, 8))))
                heard = np.ones(min(number, 8), bool)
                starts = 0.4 * np.arange(len(heard))
                of_one = sliding.Windows(embeddings[:8], [], starts, 1.6, heard, heard, [])
                owners = timeline.find_owners(self.encoder, of_one, np.arange(len(heard)), people, decision)
                self.assertEqual([owner.person for owner in owners], list(range(min(number, 8))) or [-1])
                if not number:
                    with self.assertRaisesRegex(ValueError, "no recordings were given"):
                        recordings.hear(self.encoder, files)
                    continue
                heard = recordings.hear(self.encoder, files)
                self.assertEqual(len(heard), number)
                answer = answers.verify(self.encoder, files, self.files[0], self.decision)
                self.assertEqual(answer["recordings"], [number, 1])
                recordings.write_embeddings(str(self.dir / "x.npz"), heard)
                windows = np.random.default_rng(0).normal(size=(number, 8))
                windows /= np.linalg.norm(windows, axis=1, keepdims=True)
                for given in (None, 1, 2, 70):
                    voices, _ = clustering.find_voices(windows, 0.4 * np.arange(number), given, 0.32)
                    self.assertLessEqual(len(voices), number)
