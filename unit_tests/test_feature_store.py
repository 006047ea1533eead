"""Tests of `feature_store.py`."""

import json
import os
import re
import subprocess
import sys
import time
import unittest.mock
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import librosa
import numpy as np
import soundfile
import soxr

import augmentation
import dataset
import feature_extraction
import feature_store
import myconfig
from audio import mono
from foundation import settings
from training.batches import draw_crops
from unit_tests.shared import PROJECT_DIR, RATE, ProjectTest

# Of four signals: frames at a speed of 0.9 and as they are, and the first four coefficients' means of both.
KNOWN_FEATURES = {
    "16 kHz.wav": [35, 32, -140.43, 103.33, 19.28, 41.5, -124.84, 87.85, 36.5, 20.61],
    "stereo at 44.1 kHz.flac": [105, 94, -150.56, 127.99, -29.81, -8.09, -134.23, 109.32, -24.93, -30.15],
    "8 kHz.ogg": [87, 79, -200.72, 186.16, -27.14, 53.59, -186.05, 177.12, -25.83, 62.55],
    "float.wav": [35, 32, -11.66, 131.79, -7.04, 15.3, 4.24, 115.99, 1.37, -6.0],
}


class FeatureStoreTest(ProjectTest):
    def setUp(self) -> None:
        super().setUp()
        myconfig.FEATURE_STORE_DIR = str(self.dir / "features")  # Put back with all the others.

    def test_store_gives_the_features_of_every_speed(self) -> None:
        spk_to_utts = self.write_speakers()
        store = feature_store.open_store(spk_to_utts, (1.0, 1.1))
        self.assertEqual(len(store.speakers), 6)
        for utt, file in enumerate(store.files):
            samples = mono.read_audio(file)
            if "1.1" in store.speakers[store.speaker_of[utt]]:
                samples = soxr.resample(samples, 1.1 * RATE, RATE)
            expected = librosa.feature.mfcc(y=samples, sr=RATE, n_mfcc=40).T
            np.testing.assert_allclose(store.read(utt), expected, rtol=1e-3, atol=1e-2)
            self.assertIn(Path(file).parent.name, store.speakers[store.speaker_of[utt]])

    def test_files_are_decoded_once_and_again_when_they_change(self) -> None:
        spk_to_utts = self.write_speakers(2, 2)
        decoded = []
        extract, augmentation.features_at_speeds = (
            augmentation.features_at_speeds,
            lambda file, *more: decoded.append(file) or extract(file, *more),
        )
        self.addCleanup(setattr, augmentation, "features_at_speeds", extract)
        feature_store.open_store(spk_to_utts)
        self.assertEqual(sorted(decoded), sorted(sum(spk_to_utts.values(), [])))
        decoded.clear()
        feature_store.open_store(spk_to_utts)
        self.assertEqual(decoded, [])
        changed = self.write_audio("data/s0/u1.wav", 3, seed=99)
        store = feature_store.open_store(spk_to_utts)
        self.assertEqual(decoded, [changed])
        expected = feature_extraction.extract_features(changed)
        np.testing.assert_allclose(store.read(store.files.index(changed)), expected, rtol=1e-3, atol=1e-2)
        decoded.clear()
        size = (store.path.stat().st_size, len(store.files))
        for _ in range(2):  # Another time of change, as some network drives give, is no change.
            for file in store.files:
                os.utime(file, ns=(1, int(time.time() * 1e9)))
            store = feature_store.open_store(spk_to_utts)
        self.assertEqual((decoded, (store.path.stat().st_size, len(store.files))), ([], size))
        np.testing.assert_allclose(store.read(store.files.index(changed)), expected, rtol=1e-3, atol=1e-2)
        with settings.override(N_MFCC=13):
            self.assertEqual(feature_store.open_store(spk_to_utts).read(0).shape[1], 13)
        self.assertEqual(len(decoded), 4)

    def test_unusable_files_are_skipped_once_with_a_reason(self) -> None:
        spk_to_utts = self.write_speakers(2, 2)
        bad = self.write_bad_audio()
        spk_to_utts["bad"] = [path for path in bad if Path(path).name != "gone.wav"]
        store = feature_store.open_store(spk_to_utts)
        self.assertEqual(store.speakers, ["s0", "s1"])
        self.assertIn(f"Skipped {len(bad) - 1} of {len(bad) + 3} files", self.output.getvalue())
        listing = next((self.dir / "features").glob("*/skipped.csv")).read_text(encoding="utf-8")
        for path, word in bad.items():
            if Path(path).name != "gone.wav":
                self.assertRegex(listing, f"{re.escape(Path(path).name)}.*({word})")
        with self.assertRaisesRegex(ValueError, "no files"):
            feature_store.open_store({})
        with self.assertRaisesRegex(ValueError, "none of the"):
            feature_store.open_store({"bad": spk_to_utts["bad"]})

    def test_whichever_file_is_cut_off_the_next_opening_completes_all(self) -> None:
        spk_to_utts = {"a": [self.write_audio("a.wav")], "b": [self.write_audio("empty.wav", 0)]}

        def open_store(number: int) -> None:
            config = settings.present(FEATURE_STORE_DIR=str(self.dir / f"features-{number}"))
            feature_store.open_store(spk_to_utts, config=config)

        cut_off = []
        for number, name in enumerate(self.cut_off_each_file(open_store), start=1):
            cut_off.append(name)
            listing = next(self.dir.glob(f"features-{number}/*/skipped.csv"))
            self.assertIn("empty.wav", listing.read_text(encoding="utf-8"))
            self.assertTrue(listing.with_name("doubtful.csv").exists())
        self.assertEqual(cut_off, ["store.json", "skipped.csv", "doubtful.csv"])

    def test_another_computation_gives_another_store(self) -> None:
        """The features of these signals belong to FEATURES_VERSION: where they change, it must be raised."""
        rng = np.random.default_rng(5)
        tone = np.sin(np.cumsum(rng.uniform(0.02, 0.2, 3 * 44100)))
        signals = {
            "16 kHz.wav": (0.3 * tone[:16000] + 0.01 * rng.normal(size=16000), 16000),
            "stereo at 44.1 kHz.flac": (np.stack([0.2 * tone, -0.2 * tone + 0.05], axis=1), 44100),
            "8 kHz.ogg": (0.5 * tone[:20000], 8000),
            "float.wav": (3 * tone[:32000], 32000),
        }
        features = feature_store.FeatureFormat(feature_extraction.feature_settings(), (0.9, 1.0))
        self.assertEqual(feature_store.FEATURES_VERSION, 2, "then write the new features below, too")
        for name, (samples, rate) in signals.items():
            subtype = "FLOAT" if name == "float.wav" else None
            soundfile.write(self.dir / name, samples, rate, subtype=subtype)
            slow, usual = augmentation.features_at_speeds(str(self.dir / name), *features[:2], [])
            found = [len(slow), len(usual), *slow.mean(axis=0)[:4], *usual.mean(axis=0)[:4]]
            np.testing.assert_allclose(
                found, KNOWN_FEATURES[name], atol=0.05, err_msg=f"{name}: raise FEATURES_VERSION"
            )
        folders = {
            feature_store.store_folder(["a/b/c.wav"], described, "features")
            for described in (features, features._replace(version=1), features._replace(speeds=(1.0,)))
        }
        self.assertEqual(len(folders), 3)

    def test_a_passing_error_is_tried_again(self) -> None:
        spk_to_utts = self.write_speakers(2, 2)
        broken = spk_to_utts["s0"][0]
        extract = augmentation.features_at_speeds

        def fail_once(file: str, *more) -> list[np.ndarray]:
            if file == broken:
                raise OSError(24, "too many open files")
            return extract(file, *more)

        with unittest.mock.patch.object(augmentation, "features_at_speeds", fail_once):
            self.assertNotIn(broken, feature_store.open_store(spk_to_utts).files)
        self.assertIn(broken, feature_store.open_store(spk_to_utts).files)

    def test_same_audio_under_two_speakers_is_named(self) -> None:
        spk_to_utts = self.write_speakers(2, 2)
        feature_store.open_store(spk_to_utts, (1.0, 1.1))
        self.assertNotIn("same audio", self.output.getvalue())
        content = Path(spk_to_utts["s0"][1]).read_bytes()
        (self.dir / "data/s1/copy.wav").write_bytes(content)
        feature_store.open_store(dataset.get_librispeech_spk_to_utts(str(self.dir / "data")))
        self.assertRegex(self.output.getvalue(), "same audio stands under two speakers: .*s0.u1.wav and .*copy.wav")

    def test_an_interrupted_build_continues(self) -> None:
        spk_to_utts = self.write_speakers()
        whole = feature_store.open_store(spk_to_utts)
        folder = next((self.dir / "features").iterdir())
        expected = [whole.read(utt) for utt in range(9)]
        del whole
        lines = (folder / "index.jsonl").read_bytes().splitlines(keepends=True)
        no_places = json.dumps({**json.loads(lines[8]), "places": []}).encode()
        cuts = [(4, b""), (4, lines[4][:20]), (9, b""), (9, b"damaged\n"), (9, b"5\n"), (8, no_places), (0, b"")]
        for kept, cut in cuts:
            with self.subTest(kept=kept, cut=cut):
                (folder / "index.jsonl").write_bytes(b"".join(lines[:kept]) + cut)
                with (folder / "features.f16").open("ab") as file:
                    file.write(b"half written")
                if not kept:
                    os.truncate(folder / "features.f16", 1000)
                store = feature_store.open_store(spk_to_utts)
                for utt in range(9):
                    np.testing.assert_array_equal(store.read(utt), expected[utt])
                del store

    def test_two_builds_at_once_do_not_disturb_each_other(self) -> None:
        spk_to_utts = self.write_speakers(4, 4)
        code = (
            "import sys, json, myconfig, feature_store\n"
            "myconfig.FEATURE_STORE_DIR = sys.argv[1]\n"
            "store = feature_store.open_store(json.loads(sys.argv[2]))\n"
            "assert len(store.files) == 16, store.files"
        )
        command = [sys.executable, "-c", code, str(self.dir / "features"), json.dumps(spk_to_utts)]
        both = [subprocess.Popen(command, cwd=PROJECT_DIR, stdout=subprocess.DEVNULL) for _ in range(2)]
        self.assertEqual([process.wait(60) for process in both], [0, 0])
        store = feature_store.open_store(spk_to_utts)
        for utt, file in enumerate(store.files):
            expected = feature_extraction.extract_features(file)
            np.testing.assert_allclose(store.read(utt), expected, rtol=1e-3, atol=1e-2)
        self.assertEqual(len(store.frames), store.num_frames.sum(), "nothing stands in the store twice")

    def test_threads_with_other_settings_do_not_disturb_each_other(self) -> None:
        spk_to_utts = self.write_speakers(3, 3)
        configs = [settings.present(N_MFCC=number, FEATURE_STORE_DIR=str(self.dir / "both")) for number in (13, 20)]

        def build(number: int) -> np.ndarray:
            store = feature_store.open_store(spk_to_utts, config=configs[number % 2])
            return np.concatenate([store.read(utt) for utt in range(len(store.files))])

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(build, range(16)))
        for number, features in enumerate(found):
            np.testing.assert_array_equal(features, found[number % 2])
        with settings.override(N_MFCC=13):
            expected = [feature_extraction.extract_features(file) for file in sum(spk_to_utts.values(), [])]
        np.testing.assert_allclose(found[0], np.concatenate(expected), rtol=1e-3, atol=0.3)
        for index in (self.dir / "both").glob("*/index.jsonl"):
            files = [json.loads(line)["file"] for line in index.read_text().splitlines() if line]
            self.assertEqual(len(files), len(set(files)))

    def test_crops_are_from_their_utterance_and_short_ones_are_joined(self) -> None:
        spk_to_utts = self.write_speakers(2, 3, seconds=1.0)
        store = feature_store.open_store(spk_to_utts)
        rng = np.random.default_rng(0)
        frames_of = [{frame.tobytes() for frame in store.read(utt)} for utt in range(6)]
        for crop, utt in zip(draw_crops(store, np.array([0, 4]), 20, rng).numpy(), (0, 4), strict=True):
            self.assertTrue({frame.tobytes() for frame in crop} <= frames_of[utt])
        joined = {frame.tobytes() for frame in draw_crops(store, np.array([1]), 90, rng).numpy()[0]}
        self.assertTrue(joined <= frames_of[0] | frames_of[1] | frames_of[2])
        self.assertTrue(all(joined & frames_of[utt] for utt in (0, 1, 2)))
        first, second = draw_crops(store, np.array([0, 1]), 60, rng).numpy()
        self.assertFalse({frame.tobytes() for frame in first} & {frame.tobytes() for frame in second})
        self.assertEqual(draw_crops(store, np.array([1]), 300, rng).shape, (1, 300, 40), "all of a speaker is repeated")

    def test_one_utterance_drawn_twice_gives_different_parts(self) -> None:
        store = feature_store.open_store(self.write_speakers(2, 1, seconds=3.0))
        rng = np.random.default_rng(0)
        for _ in range(20):
            for crop_frames in (40, 60, 200):
                first, _, second = draw_crops(store, np.array([0, 1, 0]), crop_frames, rng).numpy()
                self.assertFalse({frame.tobytes() for frame in first} & {frame.tobytes() for frame in second})
