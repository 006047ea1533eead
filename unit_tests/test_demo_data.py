"""Tests of `demo_data.py`."""

import numpy as np
import soundfile

import demo_data
from unit_tests.shared import RATE, ProjectTest, corpus


class DemoDataTest(ProjectTest):
    def test_voices_are_the_same_on_every_call(self) -> None:
        demo_data.write_speaker(self.dir / "s03", np.random.default_rng([7, 3]))
        for path in (self.dir / "s03").rglob("*.flac"):
            samples, rate = soundfile.read(path)
            expected, _ = soundfile.read(corpus() / "train" / path.relative_to(self.dir))
            np.testing.assert_array_equal(samples, expected)
            self.assertEqual(rate, RATE)
            self.assertTrue(2.5 < len(samples) / rate < 7 and 0.001 < np.abs(samples).max() <= 1)

    def test_pitch_and_formants_are_those_of_the_voice(self) -> None:
        voice = demo_data.draw_voice(np.random.default_rng(0)) | {"pitch_hz": 125, "pitch_range": 0, "jitter": 0}
        sound = demo_data.vowel(voice, 0.5, 1.0, 1.0, np.random.default_rng(0))
        correlation = np.correlate(sound, sound, "full")[len(sound) - 1 :]
        self.assertAlmostEqual(RATE / (np.argmax(correlation[80:200]) + 80), 125, delta=2)
        noise = np.random.default_rng(0).normal(size=RATE)
        filtered = demo_data.resonate(noise, np.array([700.0]), np.array([80.0]))
        power = np.abs(np.fft.rfft(filtered)) ** 2
        self.assertAlmostEqual(np.sum(power * np.arange(len(power))) / power.sum(), 700, delta=60)
