"""Tests of `voices/answers.py` and of what `voices/enrolment.py` warns of: verdicts, doubts, and their words."""

import unittest.mock

import numpy as np

from encoder import saved_models
from unit_tests.shared import ProjectTest, calibration
from voices import answers, enrolment, recordings, wording
from voices.database import People


class AnswersTest(ProjectTest):
    def test_doubt_is_an_answer(self) -> None:
        decision = answers.Decision(0.01, None, calibration(0.9, 0.8, 0.7, 0.4, rates=(0.001, 0.01, 0.1, 0.5)))
        for score, as_high, is_sure in ((0.95, 0.001, True), (0.86, 0.0025, True), (0.81, 0.008, False)):
            self.assertAlmostEqual(decision.rates(score, 1, 1)[0], as_high, places=3)
            self.assertEqual(decision.is_sure(score, 1, 1), is_sure, score)
        # With ten people, a score as of 1 in 400 strangers is not sure any more; with 100, no score is known to be.
        self.assertEqual([decision.is_sure(score, 1, 1, 10) for score in (0.95, 0.86)], [True, False])
        self.assertEqual([decision.is_sure(score, 1, 1, 100) for score in (0.95, 0.86)], [None, False])
        for score, is_sure in ((0.79, False), (0.76, False), (0.74, True), (-1.0, True)):
            self.assertEqual(decision.is_sure(score, 1, 1), is_sure, score)
        self.assertIsNone(answers.Decision(None, 0.5, {}).is_sure(0.5, 1, 1))
        answer = answers.describe_score(decision, 0.85, 1, 1)
        self.assertEqual(
            wording.score_in_words(answer, decision),
            "score 0.850 (threshold 0.800). Of pairs of different people 0.32 % score this high or higher, "
            "of pairs of one person 1.5 %.",
        )
        for rate, words in (
            (0.001, "1 in 1,000"),
            (0.0123, "1 in 81"),
            (0.1, "1 in 10"),
            (0.2, "2 in 10"),
            (0.99, "9 in 10"),
        ):
            self.assertEqual(wording.one_in(rate), words)

    def test_three_verdicts(self) -> None:
        curves = [[0.9, 0.8, 0.7, 0.4], np.linspace(0, 1, 16).tolist(), [20.0, -12.0]]  # Ratio 1 at a score of 0.6.
        known = calibration(0.9, 0.8, 0.7, 0.4, rates=(0.001, 0.01, 0.1, 0.5))
        known["curves"] = dict.fromkeys(known["curves"], curves)
        decision = answers.Decision(0.01, None, known)
        said = {
            0.95: ("same", "Fewer than 1 in 1,000 strangers would sound this alike."),
            0.8: ("same", "1 in 100 strangers would sound this alike."),
            0.75: (
                "unclear",
                "1 in 32 strangers would sound this alike. Two recordings of one person are this unlike ",
            ),
            0.3: ("unclear", "More than 5 in 10 strangers would sound this alike."),
            0.1: ("different", "Two recordings of one person are this unlike 1 time in 67."),
            0.02: ("different", "Two recordings of one person are this unlike fewer than 1 time in 100."),
        }
        for score, (verdict, words) in said.items():
            answer = answers.describe_score(decision, score, 1, 1)
            answer["verdict"] = answers.verdict_of(answer, decision)
            self.assertEqual(answer["verdict"], verdict, score)
            self.assertTrue(wording.meaning_in_words(answer, decision).startswith(words), (score, words))
        given = answers.Decision(None, 0.5, {})
        for score, verdict in ((0.5, "same"), (0.49, "different")):
            answer = answers.describe_score(given, score, 1, 1)
            self.assertEqual(answers.verdict_of(answer, given), verdict)
            self.assertEqual(wording.meaning_in_words(answer, given), "")
        ranking = {"ranking": [("Ann", 0.9), ("Bob", 0.85)], "speaker": "Ann", "rivals": []}
        for verdict, rivals, words in (
            ("known", [], "Ann"),
            ("probable", [], "probably Ann"),
            ("probable", ["Bob"], "probably Ann or Bob"),
            ("unclear", [], "cannot tell, perhaps Ann"),
            ("unknown", [], "nobody I know"),
        ):
            speaker = "Ann" if verdict in ("known", "probable") else None
            self.assertEqual(
                wording.name_in_words({**ranking, "verdict": verdict, "rivals": rivals, "speaker": speaker}), words
            )
        # 0.2 below the best, a score is e^4 times less likely: no reason for doubt; 0.1 below, it is.
        scores, counts = np.array([0.95, 0.75, 0.85]), [1, 1, 1]
        self.assertEqual([answers.is_rival(decision, scores, counts, 0, other) for other in (1, 2)], [False, True])

    def test_how_decisions_are_described(self) -> None:
        decision = answers.Decision(0.01, None, calibration(0.9, 0.8, 0.7, 0.4, rates=(0.001, 0.01, 0.1, 0.5)))
        self.assertIn("up to 5 % of unknown voices get one of 5 names", wording.decision_in_words(decision, 5))

    def test_what_enrolment_warns_of(self) -> None:
        def heard(*embeddings: np.ndarray) -> list[recordings.Heard]:
            made = [recordings.Recording(f"{at}.wav", "", 1.0, value) for at, value in enumerate(embeddings)]
            rng = np.random.default_rng(0)
            return [recordings.Heard(one, [], rng.normal(size=(60, 12))) for one in made]

        axes = np.eye(4)
        decision = answers.Decision(0.01, None, calibration(0.9, 0.1, rates=(0.01, 0.9)))
        curve = [[0.9, 0.1], np.linspace(0.2, 1, 16).tolist()]
        decision.calibration["curves"] = dict.fromkeys(("0 0", "0 1", "1 1"), curve)
        three = heard(axes[0], axes[0], axes[1])
        three[1] = three[1]._replace(beginning=three[0].beginning)
        encoder = saved_models.get_speaker_encoder()  # Without a cohort, scores are cosine similarities.
        found = enrolment.find_copies_of_enrolled(three, ["Bob"], axes[1:2])
        found += enrolment.compare_recordings(encoder, three, axes[:0], 3.0, decision)
        self.assertEqual([file for file, _ in found], ["1.wav", "2.wav", "2.wav"])
        self.assertIn("the same recording as 0.wav", found[0][1])
        self.assertIn("the same recording as one of 'Bob'", found[1][1])
        self.assertIn("does not sound like the other recordings", found[2][1])
        self.assertEqual(enrolment.compare_recordings(encoder, heard(axes[0]), axes[:0], 1.0, decision), [])
        [(_, words)] = enrolment.compare_recordings(encoder, heard(axes[0]), axes[3:4], 2.0, decision)  # With --more.
        self.assertIn("does not sound like", words)
        mixed = np.array([0.95, (1 - 0.95**2) ** 0.5, 0, 0])
        three_people = People(["Ann", "Bob", "Cleo"], np.stack([axes[0], mixed, axes[2]]), [1, 1, 1], np.ones(3))
        people = enrolment.compare_people(encoder, "Ann", three_people, decision)
        self.assertEqual(people, [("Ann", "'Bob' sounds alike (score 0.950): identify may confuse them")])
        rivals = enrolment.find_rivals(encoder, "Ann", heard(axes[0], axes[2], axes[3]), three_people, decision)
        self.assertEqual(rivals, [("1.wav", "it sounds more like 'Cleo': is it a recording of 'Ann'?")])

    def test_two_voices_on_a_side_leave_it_open_who_they_are(self) -> None:
        """Of two people on one side, one may be the voice on the other."""
        decision = answers.Decision(0.01, None, calibration(0.9, 0.1, rates=(0.01, 0.9)))
        decision.calibration["curves"] = dict.fromkeys(
            ("0 0", "0 1", "1 1"), [[0.9, 0.1], [0.5 + k for k in range(16)]]
        )

        def verdict_of(*sides: list[tuple[np.ndarray, list[str]]]) -> tuple[str, bool]:
            heard = [
                [
                    recordings.Heard(
                        recordings.Recording(f"{number}.wav", "", 1.0, axes[axis]), faults, np.zeros((1, 12))
                    )
                    for number, (axis, faults) in enumerate(side)
                ]
                for side in sides
            ]
            with unittest.mock.patch.object(answers, "hear", lambda _, side: heard[side]):
                answer = answers.verify(encoder, 0, 1, decision)
            return answer["verdict"], answer["same"]

        axes, encoder = np.eye(8, dtype=np.float32), saved_models.get_speaker_encoder()
        self.assertEqual(verdict_of([(0, [])], [(1, [])]), ("different", False))
        self.assertEqual(verdict_of([(0, [recordings.SEVERAL_VOICES])], [(1, [])]), ("unclear", False))
        self.assertEqual(verdict_of([(0, [])], [(1, []), (2, [])]), ("unclear", False))
        self.assertEqual(verdict_of([(0, [])], [(1, []), (1, [])]), ("different", False))
