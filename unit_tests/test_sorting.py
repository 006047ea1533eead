"""Tests of `voices/sorting.py`."""

import itertools
from pathlib import Path

import numpy as np

from encoder import saved_models
from unit_tests.shared import ProjectTest, calibration, corpus
from voices import database, recordings, sorting
from voices.answers import Decision
from voices.recordings import Heard

NOBODY = database.nobody(8)


class SortingTest(ProjectTest):
    def heard(self, embeddings: np.ndarray) -> list[Heard]:
        unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        rows = [database.Recording(f"{number}.wav", "", 1.0, row) for number, row in enumerate(unit)]
        return [Heard(row, [], np.zeros((0, 12))) for row in rows]

    def test_groups_are_those_of_average_linkage(self) -> None:
        rng = np.random.default_rng(0)
        for number in (1, 2, 3, 12):
            scores = rng.uniform(-0.5, 1, (number, number))
            scores = (scores + scores.T) / 2
            groups = [[one] for one in range(number)]
            while len(groups) > 1:  # As the definition says, one step after the other.
                pairs = list(itertools.combinations(groups, 2))
                means = [scores[np.ix_(first, second)].mean() for first, second in pairs]
                if max(means) < 0.3:
                    break
                first, second = pairs[int(np.argmax(means))]
                groups = [group for group in groups if group not in (first, second)] + [first + second]
            found = sorting.group_recordings(scores, 0.3)
            self.assertEqual(
                sorted(sorted(np.flatnonzero(found == group).tolist()) for group in np.unique(found)),
                sorted(map(sorted, groups)),
            )
            self.assertEqual(np.bincount(found).tolist(), sorted(map(len, groups), reverse=True))

    def test_voices_have_names_numbers_and_doubt(self) -> None:
        encoder = saved_models.get_speaker_encoder()
        axes = np.eye(8)
        between = axes[0] + axes[1]  # Like both of the first two voices.
        heard = self.heard(np.stack([axes[0], axes[1], axes[0], axes[1], axes[1], between, axes[2]]))
        people = database.People(["Ann"], axes[:1], [1], np.ones(1))
        groups = sorting.sort_recordings(encoder, heard, people, Decision(None, 0.6, {}))
        self.assertEqual([group.name for group in groups], ["voice 1", "Ann", "voice 2"])
        files = {group.name: group.files for group in groups}
        self.assertEqual(files["Ann"][:2], ["0.wav", "2.wav"])
        self.assertEqual(files["voice 2"], ["6.wav"])
        doubt = {file: sure for group in groups for file, sure in zip(group.files, group.sure, strict=True)}
        self.assertEqual([file for file, sure in doubt.items() if not sure], ["5.wav"])
        several = heard[6]._replace(faults=[recordings.SEVERAL_VOICES])
        [*_, last] = sorting.sort_recordings(encoder, [*heard[:6], several], people, Decision(None, 0.6, {}))
        self.assertEqual(last, ("voice 2", ["6.wav"], [False]))
        known = calibration(0.9, 0.5, rates=(0.01, 0.05))
        self.assertAlmostEqual(sorting.rival_threshold(Decision(0.01, None, known)), 0.5)
        [alone] = sorting.sort_recordings(encoder, heard[:1], NOBODY, Decision(None, 0.6, {}))
        self.assertEqual(alone, ("voice 1", ["0.wav"], [True]))

    def test_nothing_is_overwritten(self) -> None:
        for name in ("a/1.wav", "b/1.wav", "2.wav"):
            (self.dir / name).parent.mkdir(exist_ok=True)
            (self.dir / name).write_text(name)
        files = [str(self.dir / name) for name in ("a/1.wav", "2.wav", "b/1.wav")]
        groups = [sorting.Group("Ann", files[:2], [True, True]), sorting.Group("voice 2", files[2:], [True])]
        sorting.copy_groups(groups, str(self.dir / "out"))
        copies = {path.relative_to(self.dir / "out").as_posix() for path in (self.dir / "out").rglob("*.wav")}
        self.assertEqual(copies, {"Ann/1.wav", "Ann/2.wav", "voice 2/1.wav"})
        self.assertEqual((self.dir / "out/voice 2/1.wav").read_text(), "b/1.wav")
        with self.assertRaisesRegex(ValueError, "is there already: nothing was copied"):
            sorting.copy_groups(groups, str(self.dir / "out"))
        same_name = [sorting.Group("Ann", [files[0], files[2]], [True, True])]
        with self.assertRaisesRegex(ValueError, "nothing was copied"):
            sorting.copy_groups(same_name, str(self.dir / "other"))
        self.assertFalse(Path(self.dir / "other").exists())
        for name, folder in (("../Ann", "_Ann"), ("a/b", "a_b"), ("..", "_"), ("Zoë ", "Zoë"), ("Ann: 1?", "Ann_ 1_")):
            self.assertEqual(sorting.folder_name(name), folder)

    def test_the_command(self) -> None:
        encoder_path = str(self.dir / "model.pt")
        saved_models.save_encoder(encoder_path, saved_models.get_speaker_encoder())
        files = [str(path) for path in sorted((corpus() / "test").rglob("*.flac"))[:3]]
        result = self.run_script(
            "speaker_id.py", "sort", *files, "--model", encoder_path, "--threshold", "-1", "--copy-to", "sorted"
        )
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("3 recordings, 1 voice; 0 unsure (?).", result.stdout)
        self.assertEqual(len(list((self.dir / "sorted/voice 1").iterdir())), 3)
