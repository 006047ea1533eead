"""Tests of `voices/recordings.py`."""

import hashlib

import numpy as np
import soundfile
import soxr

import feature_extraction
from audio import mono, recording_lists, speech_levels
from unit_tests.shared import RATE, ProjectTest, corpus
from voices import recordings


class RecordingsTest(ProjectTest):
    def test_files_folders_and_patterns(self) -> None:
        a, b = self.write_audio("x/a.wav"), self.write_audio("x/y/b.wav")
        (self.dir / "x/notes.txt").touch()
        for names in ([str(self.dir / "x")], [str(self.dir / "x/**/*.wav")], [str(self.dir / "x/*")], [a, b, a]):
            self.assertEqual(recording_lists.expand_files(names), [a, b])
        (self.dir / "empty").mkdir()
        cases = {"empty": "no audio files", "x/*.txt": "no audio files", "gone.wav": "not exist", "*.ogg": "not exist"}
        for name, message in cases.items():
            with self.assertRaisesRegex(ValueError, message):
                recording_lists.expand_files([str(self.dir / name)])

    def test_speech_is_found_by_its_energy(self) -> None:
        rng = np.random.default_rng(0)
        loud, soft = (rng.normal(0, deviation, RATE) for deviation in (0.1, 0.0005))
        samples = np.concatenate([soft, loud, soft[: RATE // 10], loud, soft, soft]).astype(np.float32)
        speech = speech_levels.find_speech(speech_levels.levels_db(samples))
        frame = speech_levels.SPEECH_FRAME_SAMPLES
        found = np.flatnonzero(speech) * frame / RATE
        self.assertAlmostEqual(found[0], 1, delta=0.03)
        self.assertAlmostEqual(found[-1] + frame / RATE, 3.1, delta=0.03)
        self.assertEqual(len(found), found[-1] * RATE / frame - found[0] * RATE / frame + 1)  # The pause belongs to it.
        self.assertFalse(speech_levels.find_speech(speech_levels.levels_db(soft)).any())

    def test_faults_are_told(self) -> None:
        voice = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32)
        quiet = np.zeros(20 * RATE, np.float32)
        cases = {
            "only 0.3 s of speech": np.concatenate([voice[: int(0.3 * RATE)], quiet[:RATE]]),
            "mostly silent": np.concatenate([voice, quiet]),
            "clipped": np.clip(10 * voice, -1, 1),
            "clipped: it": soxr.resample(np.clip(10 * voice, -1, 1), RATE, 48000),  # As recorded at another rate.
        }
        for message, samples in cases.items():
            path = self.dir / "x.wav"
            soundfile.write(path, samples, 48000 if message == "clipped: it" else RATE)
            faults = recordings.listen(str(path), feature_extraction.feature_settings()).faults
            self.assertEqual(len(faults), 1)
            self.assertIn(message, faults[0])
        soundfile.write(path, voice, RATE)
        features, levels, digest, faults, _ = recordings.listen(str(path), feature_extraction.feature_settings())
        self.assertEqual((faults, digest), ([], hashlib.sha256(path.read_bytes()).hexdigest()))
        self.assertAlmostEqual(speech_levels.speech_seconds(levels), 3, delta=0.05)
        np.testing.assert_array_equal(features, feature_extraction.extract_features(str(path)))

    def test_blocks_are_the_whole_recording(self) -> None:
        for rate in (RATE, 44100):
            path = self.write_audio("x.wav", 3.3, rate)
            blocks = list(mono.read_blocks(path, RATE))
            self.assertEqual({len(block) for block in blocks[:-1]}, {RATE})
            whole = mono.read_audio(path)
            joined = np.concatenate(blocks)
            self.assertLessEqual(abs(len(joined) - len(whole)), 1)
            np.testing.assert_allclose(joined[: len(whole)], whole[: len(joined)], atol=1e-3)

    def test_the_same_audio_is_known_again_quieter_cut_or_coded_anew(self) -> None:
        files = sorted((corpus() / "test").rglob("*.flac"))[:2]
        samples, other = (mono.read_audio(str(file)) for file in files)
        soundfile.write(self.dir / "x.ogg", samples, RATE, format="OGG", subtype="OPUS")
        changed = {
            "quieter": 0.3 * samples,
            "cut": samples[RATE // 3 : -RATE // 2],
            "coded": mono.read_audio(str(self.dir / "x.ogg")),
            "itself": samples,
        }

        def beginning(of: np.ndarray) -> np.ndarray:
            return feature_extraction.compute_mfcc(of)[
                : recordings.COMPARED_FRAMES, 1 : recordings.COMPARED_COEFFICIENTS
            ]

        for name, version in changed.items():
            self.assertTrue(recordings.is_same_audio(beginning(samples), beginning(version)), name)
            self.assertFalse(recordings.is_same_audio(beginning(other), beginning(version)), name)
        self.assertFalse(recordings.is_same_audio(beginning(samples)[:40], beginning(samples)))  # Too short to tell.
        steady = np.zeros((60, 12), np.float32)
        self.assertFalse(recordings.is_same_audio(steady, beginning(samples)))
