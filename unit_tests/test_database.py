"""Tests of `voices/database.py`."""

import concurrent.futures
import contextlib
import os
import sqlite3
import unittest
from pathlib import Path

import numpy as np

from unit_tests.shared import ProjectTest
from voices import database as speaker_database


class SpeakerDatabaseTest(ProjectTest):
    MODEL = speaker_database.Model("abc", 4, "model.pt")

    def setUp(self) -> None:
        super().setUp()
        self.path = str(self.dir / "speakers.db")

    def recording(self, seed: int) -> speaker_database.Recording:
        embedding = np.random.default_rng(seed).normal(size=4).astype(np.float32)
        return speaker_database.Recording(f"{seed}.wav", f"hash{seed}", 2.0, embedding / np.linalg.norm(embedding))

    def enrol(self, name: str, *seeds: int, **options) -> None:
        with speaker_database.open_database(self.path, "create") as connection:
            found = [self.recording(seed) for seed in seeds]
            speaker_database.enrol(connection, name, found, **{"model": self.MODEL, **options})

    def read(self) -> tuple[list[str], np.ndarray]:
        with speaker_database.open_database(self.path) as connection:
            return speaker_database.read_speakers(connection, self.MODEL)[:2]

    def test_two_spellings_of_the_same_letters_are_one_person(self) -> None:
        composed, decomposed = "Zo\u00eb", "Zoe\u0308"
        self.enrol(decomposed, 1)
        with self.assertRaisesRegex(ValueError, "enrolled already"):
            self.enrol(composed, 2)
        self.enrol(composed, 2, more=True)
        self.assertEqual(self.read()[0], [composed])
        with contextlib.closing(sqlite3.connect(self.path)) as connection:  # As an older version wrote it.
            connection.execute("UPDATE recordings SET speaker = ?", (decomposed,))
            connection.commit()
        self.enrol(composed, 3, more=True)
        self.assertEqual(self.read()[0], [composed])
        with speaker_database.open_database(self.path, "write") as connection:
            self.assertEqual(speaker_database.names_alike(connection, "ZO\u00cb"), [composed])
            self.assertEqual(speaker_database.names_alike(connection, composed), [])
            speaker_database.remove(connection, decomposed)
            self.assertEqual(speaker_database.list_speakers(connection), [])

    def test_an_empty_file_is_no_database(self) -> None:
        self.assertFalse(speaker_database.is_there(self.path))
        Path(self.path).touch()
        self.assertFalse(speaker_database.is_there(self.path))
        self.enrol("ann", 1)
        self.assertTrue(speaker_database.is_there(self.path))

    def test_a_damaged_database_is_refused(self) -> None:
        for column, value in (("speaker", b"ann"), ("speech_seconds", "long"), ("embedding", "text")):
            self.path = str(self.dir / f"{column}.db")
            self.enrol("ann", 1)
            with contextlib.closing(sqlite3.connect(self.path)) as connection:
                connection.execute(f"UPDATE recordings SET {column} = ?", (value,))  # noqa: S608
                connection.commit()
            with self.subTest(column), self.assertRaisesRegex(ValueError, "damaged"):
                self.read()

    def test_no_word_is_a_database_in_memory(self) -> None:
        folder = Path.cwd()
        self.addCleanup(os.chdir, folder)
        os.chdir(self.dir)
        self.path = ":memory:"
        if os.name == "nt":
            self.skipTest("Windows has no files of this name.")
        self.enrol(" ann ", 1)
        self.assertEqual(self.read()[0], ["ann"])

    def test_speakers_are_means_of_their_recordings(self) -> None:
        self.enrol("b", 1, 2)
        self.enrol("a", 3)
        self.enrol("b", 4, more=True)
        names, embeddings = self.read()
        self.assertEqual(names, ["a", "b"])
        total = sum(self.recording(seed).embedding for seed in (1, 2, 4))
        np.testing.assert_allclose(embeddings[1], total / np.linalg.norm(total), rtol=1e-6)
        np.testing.assert_allclose(embeddings[0], self.recording(3).embedding, rtol=1e-6)
        with speaker_database.open_database(self.path) as connection:
            rows = speaker_database.list_speakers(connection)
            people = speaker_database.read_speakers(connection, self.MODEL)
        self.assertEqual([row[:3] for row in rows], [("a", 1, 2.0), ("b", 3, 6.0)])
        self.assertEqual((people.counts, people.seconds.tolist()), ([1, 3], [2.0, 6.0]))

    def test_mistakes_change_nothing(self) -> None:
        self.enrol("ann", 1)
        other_model = speaker_database.Model("xyz", 4, "other.pt")
        for name, seeds, options, message in (
            ("ann", (2,), {}, "enrolled already: .* use --more"),
            ("bob", (2,), {"more": True}, "nobody called 'bob'"),
            ("bob", (2, 1), {}, "same recording as 1.wav of 'ann'"),
            ("bob", (2,), {"model": other_model}, r"with another model, model.pt, .* name that model"),
            (" ", (2,), {}, "cannot be a name"),
            *(
                (name, (2,), {}, "is what strangers are called")
                for name in ("Unknown", "probably Ann", "Nobody I know")
            ),
            (101 * "x", (2,), {}, "longer than 100 letters"),
            ("b\nb", (2,), {}, "cannot be a name"),
        ):
            with self.subTest(message), self.assertRaisesRegex(ValueError, message):
                self.enrol(name, *seeds, **options)
        self.assertEqual(self.read()[0], ["ann"])
        with speaker_database.open_database(self.path, "write") as connection:
            for old, new, message in (
                ("bob", "ann", "no 'bob'"),
                ("ann", "ann", "already"),
                ("ann", "", "cannot be a name"),
            ):
                with self.subTest(message), self.assertRaisesRegex(ValueError, message):
                    speaker_database.rename(connection, old, new)
            with self.assertRaisesRegex(ValueError, "no 'bob'"):
                speaker_database.remove(connection, "bob")
            with self.assertRaisesRegex(ValueError, "another model"):
                speaker_database.read_speakers(connection, other_model)

    def test_removed_is_gone_from_the_file(self) -> None:
        self.enrol("ann", 1)
        self.enrol("secretname", 2)
        blob = self.recording(2).embedding.tobytes()
        self.assertIn(blob, Path(self.path).read_bytes())
        with speaker_database.open_database(self.path, "write") as connection:
            speaker_database.remove(connection, "secretname")
        content = Path(self.path).read_bytes()
        self.assertNotIn(blob, content)
        self.assertNotIn(b"secretname", content)
        with speaker_database.open_database(self.path, "write") as connection:
            speaker_database.rename(connection, "ann", "eve")
            speaker_database.remove(connection, "eve")
        self.enrol("bob", 5, model=speaker_database.Model("xyz", 4, "other.pt"))  # Empty, it takes any model.

    def test_files_that_are_no_database(self) -> None:
        with self.assertRaisesRegex(ValueError, "nobody is enrolled yet"):
            self.read()
        Path(self.path).write_bytes(b"this is text, and long enough to be read as a header" * 10)
        with self.assertRaisesRegex(ValueError, "not a database"):
            self.read()
        Path(self.path).unlink()
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            connection.execute("CREATE TABLE other (x)")
        with self.assertRaisesRegex(ValueError, "another program"):
            self.enrol("ann", 1)
        Path(self.path).unlink()
        self.enrol("ann", 1)
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            connection.execute("UPDATE recordings SET embedding = x'00'")
            connection.commit()
        with self.assertRaisesRegex(ValueError, "damaged"):
            self.read()

    @unittest.skipIf(os.name == "nt", "Windows has no such permissions.")
    def test_only_the_owner_may_read(self) -> None:
        self.enrol("ann", 1)
        self.assertEqual(Path(self.path).stat().st_mode & 0o777, 0o600)

    def test_many_write_at_once(self) -> None:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda seed: self.enrol(f"s{seed:02}", seed), range(32)))
        self.assertEqual(len(self.read()[0]), 32)

    def test_names_with_joiners_and_in_two_spellings(self) -> None:
        persian, hindi = "\u0646\u06cc\u200c\u0645\u0627", "\u0915\u094d\u200d\u0937"
        for name in (persian, hindi):
            self.assertEqual(speaker_database.clean_name(name), name)
        self.assertEqual(speaker_database.clean_name("Zoe\u0308"), "Zo\u00eb")
        for name in ("a\u202eb", "a\nb", "\x07", "An\u200dn", "Ann\u200d", "\u200d", "\u3164", "unknown\u200d"):
            with self.assertRaisesRegex(ValueError, "cannot be a name"):
                speaker_database.clean_name(name)
        from voices.map import name_speakers

        self.assertEqual(len(set(name_speakers(["x/Zoe\u0308/1.wav", "x/Zo\u00eb/2.wav", "x/Bob/1.wav"]))), 2)
