"""Tests of `dataset.py`."""

import contextlib
import io
import os
import unicodedata
import unittest

import numpy as np

import dataset
from audio import recording_lists
from foundation import settings
from unit_tests.shared import ProjectTest


class DatasetTest(ProjectTest):
    def test_folders_give_speakers_and_sorted_files(self) -> None:
        names = ["b/2/y.FLAC", "b/1/z.wav", "a b/é ü/x 'q.ogg", "b/notes.txt", "b/.hidden.wav", "loose.wav"]
        names.append(".trash/a.wav")
        for name in names:
            path = self.dir / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        spk_to_utts = dataset.get_librispeech_spk_to_utts(str(self.dir / "data"))
        expected = {"a b": [names[2]], "b": [names[1], names[0]]}
        self.assertEqual(spk_to_utts, {s: [str(self.dir / "data" / n) for n in ns] for s, ns in expected.items()})

    def test_missing_or_empty_folder_is_an_error(self) -> None:
        (self.dir / "empty").mkdir()
        with settings.override(TRAIN_DATA_DIR=str(self.dir / "missing")), self.assertRaisesRegex(ValueError, "missing"):
            dataset.get_spk_to_utts("TRAIN")
        with settings.override(TRAIN_DATA_DIR=str(self.dir / "empty")), self.assertRaisesRegex(ValueError, "empty"):
            dataset.get_spk_to_utts("TRAIN")

    def touch(self, *names: str) -> None:
        for name in names:
            (self.dir / name).parent.mkdir(parents=True, exist_ok=True)
            (self.dir / name).touch()

    def test_a_folder_one_level_too_high_or_too_low_is_noticed(self) -> None:
        self.touch(*(f"corpus/{part}/{s}/7/{s}-7-0.flac" for part in ("train-clean-100", "test-clean") for s in "12"))
        self.touch(*(f"other/wav/{speaker}/a.wav" for speaker in ("ann", "bob")))
        for folder in ("corpus", "other"):
            with self.assertRaisesRegex(ValueError, "one level too high.*Name .*(test-clean|wav) instead"):
                dataset.get_librispeech_spk_to_utts(str(self.dir / folder))
        with self.assertRaisesRegex(ValueError, "one level too low"):
            dataset.get_librispeech_spk_to_utts(str(self.dir / "corpus/test-clean/1"))
        self.assertEqual(list(dataset.get_librispeech_spk_to_utts(str(self.dir / "corpus/test-clean"))), ["1", "2"])

    def test_nothing_is_left_out_in_silence(self) -> None:
        self.touch(
            "data/ann/a.m4a", "data/ann/b.wma", "data/ann/c.mid", "data/ann/notes.txt", "data/d.wav", "data/e.mp3"
        )
        self.assertEqual(len(dataset.get_librispeech_spk_to_utts(str(self.dir / "data"))["ann"]), 3)
        self.assertIn("Not used: 2 recordings", self.output.getvalue())

    def test_noise_is_spoken_of_by_kind(self) -> None:
        self.touch("noise/rain/a.wav", "noise/loose.wav", "empty/x.txt")
        self.assertEqual(list(dataset.get_noises(str(self.dir / "noise"))), ["rain", dataset.LOOSE])
        with self.assertRaisesRegex(ValueError, "<kind>"):
            dataset.get_noises(str(self.dir / "empty"))

    def test_two_spellings_of_one_name_are_one_speaker(self) -> None:
        composed, decomposed = "Zoë", unicodedata.normalize("NFD", "Zoë")
        if len({composed, decomposed}) == 2:
            self.touch(f"data/{composed}/a.wav", f"data/{decomposed}/b.wav", "data/Bob/c.wav")
            found = dataset.get_librispeech_spk_to_utts(str(self.dir / "data"))
            self.assertEqual({speaker: len(utts) for speaker, utts in found.items()}, {"Bob": 1, composed: 2})
            listed = self.read_csv(f"{composed},data/a.wav\n{decomposed},data/b.wav\n".encode())
            self.assertEqual(list(listed), [composed])

    @unittest.skipIf(os.name == "nt", "Links need rights on Windows.")
    def test_links_are_followed_and_circles_noticed(self) -> None:
        self.touch("elsewhere/deep/a.wav")
        (self.dir / "data").mkdir()
        (self.dir / "data/ann").symlink_to(self.dir / "elsewhere")
        (self.dir / "elsewhere/deep/again").symlink_to(self.dir / "elsewhere")
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            found = dataset.get_librispeech_spk_to_utts(str(self.dir / "data"))
        self.assertEqual(found, {"ann": [str(self.dir / "data/ann/deep/a.wav")]})
        self.assertRegex(errors.getvalue(), "again leads back")

    def test_a_typed_folder_is_not_silently_overruled_by_a_list(self) -> None:
        with settings.override(TEST_DATA_CSV="list.csv", TEST_DATA_DIR=str(self.dir)):
            with self.assertRaisesRegex(ValueError, "TEST_DATA_CSV=list.csv is used instead"):
                dataset.get_spk_to_utts("TEST", {"TEST_DATA_DIR"})
            for typed in ((), {"TEST_DATA_DIR", "TEST_DATA_CSV"}):
                with self.assertRaisesRegex(ValueError, "no .*list.csv|list.csv .*not"):
                    dataset.get_spk_to_utts("TEST", typed)

    def read_csv(self, content: bytes) -> dict[str, list[str]]:
        (self.dir / "list.csv").write_bytes(content)
        return dataset.get_csv_spk_to_utts(str(self.dir / "list.csv"))

    def test_csv_forms(self) -> None:
        for name in ("x.wav", "y, z.wav", "é.wav"):
            (self.dir / name).touch()
        expected = {"1": [str(self.dir / "x.wav")], "b": [str(self.dir / "y, z.wav"), str(self.dir / "é.wav")]}
        rows = ["1,x.wav", 'b,"y, z.wav"', f"b, {self.dir / 'é.wav'}"]
        for head, end in ((b"", "\n"), (b"\xef\xbb\xbf", "\r\n"), (b"Speaker,Path\n", "\n"), (b"\n", "\n\n")):
            with self.subTest(head=head, end=end):
                self.assertEqual(self.read_csv(head + end.join(rows).encode()), expected)
        self.assertEqual(self.read_csv(b"1,x.wav\n1,x.wav\n"), {"1": [str(self.dir / "x.wav")]})

    def test_csv_faults_name_the_line(self) -> None:
        (self.dir / "x.wav").touch()
        (self.dir / "y.wav").touch()
        cases = {
            b"1,x.wav\n2\n": "line 2",
            b"1,x.wav,3,4\n": "line 1",
            b"1,x.wav,f\n1,y.wav,m\n": "line 2.*two groups",
            b"1;x.wav\n": "line 1",
            b"1,x.wav\n,x.wav\n": "line 2",
            b"1,x.wav\n2,x.wav\n": "line 2.*speaker '1'",
            b"": "lists no files",
            b"speaker,path\n": "lists no files",
        }
        files_that_are_missing = {
            b"1,x.wav\n1,gone.wav\n": "line 2.*gone.wav",
            b"1,\xff\xfe.wav\n": "UTF-8",
            b"1,voices\\gone.wav\n": "Windows",
        }
        for content, message in cases.items():
            with self.subTest(content), self.assertRaisesRegex(ValueError, message):
                self.read_csv(content)
        with settings.override(TRAIN_DATA_CSV=str(self.dir / "list.csv")):
            for content, message in files_that_are_missing.items():
                self.read_csv(content)  # A list may be read where its files are not.
                with self.subTest(content), self.assertRaisesRegex(ValueError, message):
                    dataset.get_spk_to_utts("TRAIN")
        with self.assertRaisesRegex(ValueError, "no CSV file"):
            dataset.get_csv_spk_to_utts(str(self.dir / "gone.csv"))

    def test_triplets_are_two_of_one_speaker_and_one_of_another(self) -> None:
        spk_to_utts = {"a": ["a1", "a2"], "b": ["b1", "b2", "b3"], "c": ["c1"]}
        rng = np.random.default_rng(0)
        triplets = [dataset.get_triplet(spk_to_utts, rng) for _ in range(300)]
        for anchor, pos, neg in triplets:
            self.assertEqual(anchor[0], pos[0])
            self.assertNotEqual(anchor[0], neg[0])
            self.assertTrue(anchor != pos or anchor == "c1")
        self.assertEqual({utt for triplet in triplets for utt in triplet}, {"a1", "a2", "b1", "b2", "b3", "c1"})
        self.assertEqual(len(dataset.get_triplet(spk_to_utts)), 3)
        with self.assertRaisesRegex(ValueError, "two speakers"):
            dataset.get_triplet({"a": ["a1", "a2"]})

    def test_a_batch_is_of_one_corpus_and_filled_up_where_that_is_too_small(self) -> None:
        corpus_of_speaker = np.array([*"aaaaaabbbbbbcc"])
        seconds = np.where(corpus_of_speaker == "a", 20.0, 10.0)
        drawn = []
        with settings.override(ONE_CORPUS_BATCHES=1.0, MAX_SPEECH_SECONDS=32.0, CORPUS_BALANCE=0.0):
            for seed in range(300):
                rng = np.random.default_rng(seed)
                weights = dataset.draw_speaker_weights(seconds, corpus_of_speaker, rng, settings.present())
                batch = dataset.draw_speaker_batch(np.arange(14)[:, None], 4, 2, rng, weights)[:, 0]
                drawn.append("".join(sorted(corpus_of_speaker[batch])))
        self.assertTrue({"aaaa", "bbbb"} <= set(drawn) <= {"aaaa", "bbbb", "aacc", "abcc", "bbcc"})
        # By what they say: 120 s, 60 s and 20 s.
        self.assertAlmostEqual(drawn.count("aaaa") / 300, 0.6, delta=0.1)
        self.assertAlmostEqual(drawn.count("bbbb") / 300, 0.3, delta=0.1)

    def test_corpora_are_balanced_by_a_power_of_their_speech(self) -> None:
        corpus_of_speaker = np.array([*"aaaab"])
        seconds = np.array([20.0, 20.0, 20.0, 20.0, 5.0])  # 80 s and 5 s.
        for balance, share in ((0.0, 80 / 85), (0.5, 80**0.5 / (80**0.5 + 5**0.5)), (1.0, 0.5)):
            with settings.override(ONE_CORPUS_BATCHES=0.0, MAX_SPEECH_SECONDS=32.0, CORPUS_BALANCE=balance):
                weights = dataset.draw_speaker_weights(
                    seconds, corpus_of_speaker, np.random.default_rng(0), settings.present()
                )
            self.assertAlmostEqual(weights[:4].sum() / weights.sum(), share)

    def test_speaker_batch_has_distinct_speakers_and_repeats_only_what_it_must(self) -> None:
        utts_of_speaker = [np.arange(0, 5), np.arange(5, 7), np.arange(7, 8)]
        batch = dataset.draw_speaker_batch(utts_of_speaker, 8, 4, np.random.default_rng(0))
        self.assertEqual(batch.shape, (3, 4))
        counts = sorted(tuple(sorted(np.unique(row, return_counts=True)[1])) for row in batch)
        self.assertEqual(counts, [(1, 1, 1, 1), (2, 2), (4,)])
        self.assertEqual(len({utt // 5 + utt // 7 for utt in batch[:, 0]}), 3)

    def test_a_corpus_is_what_the_setting_says(self) -> None:
        names = ["3f2a-11", "3f2a-12", "9c01-77", "Jean-Luc", "Jean-Marc", "Ann"]
        data = {name: ["x"] for name in names}
        self.assertEqual(list(dataset.split_by_corpus(data, "")), [""])
        self.assertIn("if that tells the source of recordings, set CORPORA=3f2a-,Jean-", self.output.getvalue())
        parts = dataset.split_by_corpus(data, "3f2a-,Jean-")
        self.assertEqual({corpus: len(part) for corpus, part in parts.items()}, {"3f2a-": 2, "": 2, "Jean-": 2})
        self.assertIn("2 in 3f2a-, 2 in Jean-", self.output.getvalue())
        with self.assertRaisesRegex(ValueError, "no speaker's name begins with 'ls-'"):
            dataset.split_by_corpus(data, "ls-")

    def test_brackets_in_names_and_patterns(self) -> None:
        for name in ("take [1]/a.wav", "take 1/b.wav"):
            self.write_audio(name)
        found = recording_lists.expand_files([str(self.dir / "take [1]" / "*.wav")])
        self.assertEqual(found, [str(self.dir / "take [1]/a.wav")])
        self.assertEqual(recording_lists.expand_files([str(self.dir / "take [1]/a.wav")]), found)
        self.assertEqual(len(recording_lists.expand_files([str(self.dir / "take*")])), 2)
