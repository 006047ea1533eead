"""Tests of `voices/speech_detector.py`."""

import importlib.util
import unittest
import unittest.mock

import numpy as np
import soundfile
import torch

from audio import mono
from audio import speech_levels as levels
from audio.speech_levels import SPEECH_FRAME_SAMPLES
from encoder import saved_models
from unit_tests.shared import RATE, ProjectTest, corpus
from voices import answers, recordings, speech_detector, wording
from voices.answers import Decision
from voices.enrolment import enrol
from voices.speech_detector import SpeechDetector, cut_pieces, find_speech, share_of_loud, speech_shares
from voices.timeline import find_timeline


class SpeechDetectorTest(ProjectTest):
    rng = np.random.default_rng(0)

    def voice(self, number: int, seconds: float) -> np.ndarray:
        recordings = [mono.read_audio(str(path)) for path in sorted((corpus() / f"train/s{number:02}").rglob("*.flac"))]
        return np.resize(np.concatenate(recordings), round(seconds * RATE))

    def test_speech_is_found_where_it_is(self) -> None:
        noise = self.rng.normal(0, 1e-4, 40 * RATE)
        starts, lengths = (2, 11, 19, 33), (6, 5, 9, 4)
        for number, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            level = 10 ** (-10 * number / 20)  # The last one is 30 dB below the first.
            noise[start * RATE : (start + length) * RATE] += level * self.voice(number, length)
        found = find_speech(SpeechDetector().hear(noise.astype(np.float32)))
        times = (np.arange(len(found)) + 0.5) * SPEECH_FRAME_SAMPLES / RATE
        expected = np.zeros(len(found), bool)
        for start, length in zip(starts, lengths, strict=True):
            expected |= (times > start) & (times < start + length)
        near_an_end = np.min(np.abs(times[:, None] - [[*starts, *np.add(starts, lengths)]]), axis=1) < 0.4
        self.assertGreater((found == expected)[~near_an_end].mean(), 0.98)

    def test_other_sounds_are_no_speech(self) -> None:
        times = np.arange(20 * RATE) / RATE
        sounds = {
            "silence": 0 * times,
            "noise": self.rng.normal(0, 0.1, len(times)),
            "mains hum": sum(0.1 / k * np.sin(2 * np.pi * 50 * k * times) for k in range(1, 9)),
            "ringing tone": 0.2 * np.sin(2 * np.pi * 425 * times) * (times % 5 < 1),
            "chord": sum(0.1 * np.sin(2 * np.pi * f * times) * np.exp(-(times % 1)) for f in (262, 330, 392)),
        }
        for name, samples in sounds.items():
            with self.subTest(name):
                heard = SpeechDetector().hear(samples.astype(np.float32))
                self.assertLess(find_speech(heard).mean(), 0.15)

    def test_segments_side_by_side_and_blocks_give_what_one_pass_gives(self) -> None:
        samples = np.concatenate([self.voice(0, 15), np.zeros(5 * RATE), self.voice(1, 14.93)]).astype(np.float32)
        padded = np.resize(samples, -(-len(samples) // 512) * 512)
        [of_chunk] = speech_detector.probabilities(padded[None])
        in_one_pass = find_speech(of_chunk[((np.arange(len(samples) // 320) + 0.5) * 320 / 512).astype(int)])
        self.assertGreater((find_speech(SpeechDetector().hear(samples)) == in_one_pass).mean(), 0.98)
        detector = SpeechDetector()
        cuts = np.arange(512 * 100, len(samples), 512 * 100)
        in_blocks = np.concatenate([detector.hear(block) for block in np.split(samples, cuts)])
        self.assertGreater((find_speech(in_blocks) == in_one_pass).mean(), 0.98)

    def test_noise_is_nobody_in_a_timeline(self) -> None:
        encoder = saved_models.get_speaker_encoder()
        noise = self.rng.normal(0, 0.02, 20 * RATE)
        soundfile.write(self.dir / "noise.wav", noise, RATE)
        alone = find_timeline(encoder, str(self.dir / "noise.wav"))
        self.assertEqual((alone.turns, alone.faults), ([], ["there is no speech in it"]))
        soundfile.write(self.dir / "both.wav", np.concatenate([noise, self.voice(2, 9), noise]), RATE)
        both = find_timeline(encoder, str(self.dir / "both.wav"), num_voices=1)
        self.assertAlmostEqual(both.turns[0].start, 20, delta=0.8)
        self.assertAlmostEqual(both.turns[-1].end, 29, delta=0.8)

    def test_the_share_of_speech_is_seen_in_pieces(self) -> None:
        noise = self.rng.normal(0, 0.02, 60 * RATE).astype(np.float32)
        voice = self.voice(3, 60)
        for seconds in (0.01, 0.5, 1.0, 3.5, 60):
            both = [samples[: round(seconds * RATE)] for samples in (noise, voice)]
            is_loud = [levels.find_speech(levels.levels_db(samples)) for samples in both]
            shares = speech_shares(np.stack([cut_pieces(*one) for one in zip(both, is_loud, strict=True)]))
            self.assertLess(max(shares[0], share_of_loud(both[0], is_loud[0])), 0.1)
            if seconds >= 1:
                self.assertGreater(min(shares[1], share_of_loud(both[1], is_loud[1])), 0.6)

    def test_a_few_words_in_a_long_silence_are_speech(self) -> None:
        encoder = saved_models.get_speaker_encoder()
        paths = []
        for seconds, background in ((20, 1e-4), (60, 1e-4), (200, 1e-5), (20, 3e-3)):
            samples = self.rng.normal(0, background, seconds * RATE)
            samples[7 * RATE : 10 * RATE] += self.voice(5, 3)
            paths.append(str(self.dir / f"{len(paths)}.wav"))
            soundfile.write(paths[-1], samples, RATE)
        with unittest.mock.patch.object(recordings, "speech_shares", speech_shares):
            for one in recordings.hear(encoder, paths):
                self.assertNotIn(recordings.NO_SPEECH, one.faults, one.recording.file)

    def test_noise_is_nobody_in_answers(self) -> None:
        rain = [str(self.dir / f"rain {number}.wav") for number in range(2)]
        for path in rain:
            soundfile.write(path, self.rng.normal(0, 0.1, 10 * RATE), RATE)
        voice = str(self.dir / "voice.wav")
        soundfile.write(voice, self.voice(4, 6), RATE)
        with unittest.mock.patch.object(recordings, "speech_shares", speech_shares):
            encoder = saved_models.get_speaker_encoder()
            decision = Decision(None, -1.0, {})
            for first, second, verdict in ((rain[0], rain[1], "unclear"), (rain[0], voice, "unclear")):
                answer = answers.verify(encoder, [first], [second], decision)
                self.assertEqual(answer["verdict"], verdict)
                self.assertIn((rain[0], recordings.NO_SPEECH), answer["warnings"])
                self.assertIn("without speech", wording.meaning_in_words(answer, decision))
            self.assertEqual(answers.verify(encoder, [voice], [voice], decision)["verdict"], "same")
            _, noted = enrol(encoder, str(self.dir / "people.db"), "Ann", [voice])
            self.assertNotIn(recordings.NO_SPEECH, [words for _, words in noted])
            _, noted = enrol(encoder, str(self.dir / "people.db"), "Rain", rain[1:])
            self.assertIn(recordings.NO_SPEECH, [words for _, words in noted])
            found = answers.identify(encoder, str(self.dir / "people.db"), [rain[0], voice], decision)
            self.assertEqual([answer["verdict"] for answer in found], ["unknown", "probable"])
            self.assertIsNone(found[0]["speaker"])

    def test_little_or_nothing(self) -> None:
        for number in (0, 1, 319, 320, 512, 700):
            heard = SpeechDetector().hear(np.zeros(number, np.float32))
            self.assertEqual(len(heard), number // 320)
            self.assertFalse(find_speech(heard).any())

    def test_probabilities_of_syllables(self) -> None:
        """The expected ones are those of silero-vad 6.2.3, of every fourth chunk; the first second is silent."""
        times = np.arange(93 * 512) / RATE
        pitch, formant = 120 + 20 * np.sin(2.6 * np.pi * times), 600 + 250 * np.sin(1.6 * np.pi * times)
        phase = 2 * np.pi * np.cumsum(pitch) / RATE
        voice = sum(np.exp(-(((k * pitch - formant) / 300) ** 2)) * np.sin(k * phase) for k in range(1, 12))
        samples = 0.1 * voice * np.clip(np.sin(5 * np.pi * times), 0, None) * (times > 1)
        expected = [0.0017, 0.0059, 0.0054, 0.0047, 0.0042, 0.004, 0.0038, 0.0037, 0.0036, 0.0036, 0.7506, 0.3967]
        expected += [0.0122, 0.2751, 0.1192, 0.0316, 0.6143, 0.696, 0.0795, 0.4516, 0.1606, 0.0209, 0.165, 0.0911]
        found = speech_detector.probabilities(samples.astype(np.float32)[None])[0, ::4]
        np.testing.assert_allclose(found, expected, atol=0.002)

    @unittest.skipUnless(importlib.util.find_spec("silero_vad"), "silero-vad, its reference, is not installed")
    def test_probabilities_are_those_of_the_package(self) -> None:
        import silero_vad

        self.addCleanup(torch.set_num_threads, torch.get_num_threads())  # The package sets it.
        network = silero_vad.load_silero_vad()
        voices = np.stack([self.voice(number, 4) for number in range(3)])
        noisy = (voices + self.rng.normal(0, 0.01, voices.shape)).astype(np.float32)[:, : 120 * 512]
        with torch.inference_mode():
            expected = network.audio_forward(torch.from_numpy(noisy), RATE).numpy()
        np.testing.assert_allclose(speech_detector.probabilities(noisy), expected, atol=1e-5)
        self.assertGreater(np.ptp(expected), 0.5)


if __name__ == "__main__":
    unittest.main()
