"""Tests of `experiments/disturbed_copies.py`."""

import collections
import contextlib
import os
import unittest
import unittest.mock
from pathlib import Path

import numpy as np
import soundfile

import dataset
from audio import mono
from experiments import disturbed_copies
from foundation import settings
from unit_tests.shared import RATE, ProjectTest, corpus


class DisturbedCopiesTest(ProjectTest):
    def test_codecs_keep_the_speech_and_its_place_and_take_its_details(self) -> None:
        speech = mono.read_audio(str(min((corpus() / "test").rglob("*.flac"))))
        speech = np.pad(speech, (RATE // 2, 123))
        for codec, (_, rate, _, bit_rates) in disturbed_copies.CODECS.items():
            with self.subTest(codec):
                if codec not in disturbed_copies.av.codecs_available:
                    self.skipTest(f"PyAV cannot encode by {codec}.")
                distances = []
                for bit_rate in (min(bit_rates), max(bit_rates)):
                    coded = disturbed_copies.through_codec(speech, codec, bit_rate)
                    self.assertTrue(0 <= len(coded) - len(speech) <= 0.04 * RATE or rate == RATE)
                    length = min(len(coded), len(speech))
                    self.assertLess(len(speech) - length, 0.02 * RATE)
                    before, after = (abs(np.fft.rfft(part[:length])) for part in (speech, coded))
                    hz = np.fft.rfftfreq(length, 1 / RATE)
                    self.assertLess(np.sum(after[hz > rate / 2 + 100] ** 2), 1e-3 * np.sum(after**2))
                    band = (hz > 200) & (hz < 3400)
                    distances.append(np.linalg.norm(after[band] - before[band]) / np.linalg.norm(before[band]))
                    # The loudness of pieces of 50 ms rises and falls at the same places.
                    pieces = [part[: length // 800 * 800].reshape(-1, 800).std(axis=1) for part in (speech, coded)]
                    self.assertGreater(np.corrcoef(*pieces)[0, 1], 0.9)
                self.assertTrue(0.01 < distances[1] < distances[0] < 0.9, distances)

    def test_what_is_beyond_full_scale_is_clipped(self) -> None:
        tone = 1.5 * np.sin(2 * np.pi * 300 * np.arange(RATE) / RATE).astype(np.float32)
        coded = disturbed_copies.through_codec(tone, "libopus", 16000)[:RATE]
        self.assertGreater(np.corrcoef(tone[: len(coded)], coded)[0, 1], 0.9)

    def test_without_any_codec_nothing_is_copied(self) -> None:
        with (
            unittest.mock.patch.object(disturbed_copies.av, "codecs_available", {"mp3"}),
            self.assertRaisesRegex(ValueError, "has no codec of libopencore_amrnb, libopus"),
        ):
            disturbed_copies.make(self.write_speakers(2), settings.present())

    def test_each_usable_recording_has_a_copy_made_once(self) -> None:
        self.write_audio("noise/hum/hum.wav", 3)
        data = self.write_speakers(3)
        (self.dir / "data/s0/broken.wav").write_text("broken")
        data["s0"].append(str(self.dir / "data/s0/broken.wav"))
        folders = {"NOISE_DIR": str(self.dir / "noise"), "CONDITIONS_DIR": "copies"}
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(self.dir)
        with settings.override(**folders):
            path = disturbed_copies.make(data, settings.present()).absolute()
            listed = dataset.get_csv_spk_to_utts(str(path))
            self.assertEqual({name: len(utts) for name, utts in listed.items()}, dict.fromkeys(data, 3))
            copies = [Path(utt) for utts in listed.values() for utt in utts]
            changed = [copy.stat().st_mtime_ns for copy in copies]
            self.assertEqual(disturbed_copies.make(data, settings.present()).absolute(), path)
            self.assertEqual(changed, [copy.stat().st_mtime_ns for copy in copies])
            with unittest.mock.patch.object(disturbed_copies, "CODED", 0.3):
                disturbed_copies.make(data, settings.present())
            self.assertNotEqual(dataset.get_csv_spk_to_utts(str(path)), listed)
        sources = {soundfile.read(utt)[0].tobytes() for utts in data.values() for utt in utts[:3]}
        different = [soundfile.read(copy)[0].tobytes() not in sources for copy in copies]
        self.assertGreater(sum(different), 5)  # 14 % are as they were.

    def test_what_happens_to_how_many_copies(self) -> None:
        happened: collections.Counter = collections.Counter()

        def change(kind: str, *arguments: object) -> np.ndarray:
            samples = next(argument for argument in arguments if isinstance(argument, np.ndarray))
            more = [argument for argument in arguments if isinstance(argument, (str, int))]
            happened[" ".join(map(str, [kind, *more]))] += 1
            return samples + 1

        def changing(kind: str) -> contextlib.AbstractContextManager:
            place = disturbed_copies if kind == "through_codec" else disturbed_copies.conditions
            return unittest.mock.patch.object(place, kind, lambda *arguments: change(kind, *arguments))

        with changing("mix_with_noise"), changing("telephone"), changing("through_codec"):
            values = []
            for seed in range(2000):
                rng = np.random.default_rng(seed)
                values.append(disturbed_copies.disturb(["a"], list(disturbed_copies.CODECS), np.zeros(9), rng)[0])
        self.assertAlmostEqual(happened["mix_with_noise"] / 2000, 0.6, delta=0.04)
        self.assertAlmostEqual(happened["telephone"] / 2000, 0.25, delta=0.04)
        for codec, (*_, bit_rates) in disturbed_copies.CODECS.items():
            for bit_rate in bit_rates:
                self.assertAlmostEqual(happened[f"through_codec {codec} {bit_rate}"] / 2000, 0.05, delta=0.02)
        self.assertAlmostEqual(np.mean(np.equal(values, 0)), 0.14, delta=0.03)
        self.assertAlmostEqual(np.mean(np.equal(values, 2)), 0.39, delta=0.04)
        without = disturbed_copies.disturb([], ["libopus"], np.zeros(RATE, np.float32), np.random.default_rng(1))
        self.assertEqual(len(without), RATE)


if __name__ == "__main__":
    unittest.main()
