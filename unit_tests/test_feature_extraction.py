"""Tests of `feature_extraction.py`."""

import re
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch

import demo_data
import feature_extraction
import myconfig
from audio import mono, speech_levels
from foundation import settings
from unit_tests.shared import RATE, ProjectTest


class FeatureExtractionTest(ProjectTest):
    def test_mfcc_is_librosas(self) -> None:
        samples = np.random.default_rng(0).normal(size=3 * RATE).astype(np.float32) * np.hanning(3 * RATE)
        samples = samples.astype(np.float32)
        for values in ({}, {"N_MFCC": 20, "N_FFT": 512, "HOP_LENGTH": 160, "N_MELS": 64}):
            with self.subTest(**values), settings.override(**values):
                expected = librosa.feature.mfcc(
                    y=samples,
                    sr=RATE,
                    n_mfcc=myconfig.N_MFCC,
                    n_fft=myconfig.N_FFT,
                    hop_length=myconfig.HOP_LENGTH,
                    n_mels=myconfig.N_MELS,
                )
                wanted = feature_extraction.feature_settings()
                without_mean = wanted._replace(cepstral_mean_normalization=True)
                for compute in (feature_extraction.compute_mfcc, feature_extraction.compute_mfcc_fast):
                    mfcc = compute(samples, wanted)
                    self.assertEqual(mfcc.dtype, np.float32)
                    np.testing.assert_allclose(mfcc, expected.T, atol=1e-3)
                    mfcc = compute(samples, without_mean)
                    np.testing.assert_allclose(mfcc, (expected - expected.mean(axis=1, keepdims=True)).T, atol=2e-3)

    def test_long_audio_in_blocks_is_librosas(self) -> None:
        seconds = 2.5 * feature_extraction.BLOCK_FRAMES * myconfig.HOP_LENGTH / RATE
        samples = mono.read_audio(self.write_audio("long.wav", seconds))
        expected = librosa.feature.mfcc(y=samples, sr=RATE, n_mfcc=myconfig.N_MFCC)
        mfcc = feature_extraction.compute_mfcc_fast(samples, feature_extraction.feature_settings())
        np.testing.assert_allclose(mfcc, expected.T, atol=1e-3)

    def test_every_format_rate_and_channel_count_is_read(self) -> None:
        reference = mono.read_audio(self.write_audio("reference.wav", subtype="FLOAT"))
        self.assertEqual((reference.dtype, len(reference)), (np.float32, RATE))
        for name, options in {
            "8bit.wav": {"subtype": "PCM_U8"},
            "24bit.flac": {"subtype": "PCM_24"},
            "64bit.wav": {"subtype": "DOUBLE"},
            "music.mp3": {},
            "vorbis.ogg": {},
            "opus.ogg": {"subtype": "OPUS"},
            "apple.aiff": {},
            "no_ending": {"format": "WAV"},
        }.items():
            with self.subTest(name):
                samples = mono.read_audio(self.write_audio(name, **options))
                self.assertLess(abs(len(samples) - RATE), 0.1 * RATE)
                spectra = [np.abs(np.fft.rfft(signal, RATE)) for signal in (samples, reference)]
                self.assertEqual(np.argmax(spectra[0]), np.argmax(spectra[1]))
        for rate in (4000, 8000, 44100, 192000):
            with self.subTest(rate=rate):
                samples = mono.read_audio(self.write_audio("rate.wav", rate=rate))
                self.assertLessEqual(abs(len(samples) - RATE), 1)
                self.assertEqual(np.argmax(np.abs(np.fft.rfft(samples, RATE))), 200)
        channels = np.random.default_rng(0).uniform(-0.5, 0.5, (RATE, 8)).astype(np.float32)
        soundfile.write(self.dir / "channels.wav", channels, RATE, subtype="FLOAT")
        samples = mono.read_audio(str(self.dir / "channels.wav"))
        mean = channels.mean(axis=1)
        np.testing.assert_allclose(samples, mean - mean.mean(), atol=1e-6)

    def voice(self, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        samples = demo_data.synthesise(demo_data.draw_voice(rng), 3, rng)
        return (samples - samples.mean()).astype(np.float32)

    def read(self, channels: np.ndarray, rate: int = RATE) -> tuple[np.ndarray, list[str]]:
        warnings = []
        soundfile.write(self.dir / "x.wav", channels, rate, subtype="FLOAT")
        return mono.read_audio(str(self.dir / "x.wav"), warnings), warnings

    def test_a_constant_offset_is_taken_off(self) -> None:
        voice = self.voice()
        for channels in (voice + 0.05, np.stack([voice + 0.2, voice - 0.01], axis=1)):
            samples, warnings = self.read(channels)
            np.testing.assert_allclose(samples, voice, atol=1e-6)
            self.assertEqual(warnings, [])
            [block] = mono.read_blocks(str(self.dir / "x.wav"), 10 * RATE)
            np.testing.assert_allclose(block, voice, atol=1e-6)
        offset_alone = np.full(RATE, 0.3, np.float32)
        soundfile.write(self.dir / "x.wav", np.concatenate([voice + 0.3, *[offset_alone] * 9]), RATE, subtype="FLOAT")
        samples = mono.read_audio(str(self.dir / "x.wav"))
        self.assertLess(speech_levels.speech_seconds(speech_levels.levels_db(samples)), 3.3)

    def test_channels_that_cancel_give_the_loudest_one(self) -> None:
        voice = self.voice()
        surround = np.zeros((len(voice), 6), np.float32)
        surround[:, 2] = voice
        for channels, number in ((np.stack([voice, -voice], axis=1), 1), (surround, 3)):
            samples, warnings = self.read(channels)
            np.testing.assert_allclose(samples, voice, atol=1e-6)
            self.assertEqual(len(warnings), 1)
            self.assertRegex(warnings[0], f"far quieter than number {number},")
        for channels in (np.stack([voice, 0 * voice], axis=1), np.stack([voice, 0.3 * np.roll(voice, 8)], axis=1)):
            samples, warnings = self.read(channels)
            np.testing.assert_allclose(samples, channels.mean(axis=1), atol=1e-6)
            self.assertEqual(warnings, [])

    def test_a_person_on_each_channel_is_noticed(self) -> None:
        silence = np.zeros(3 * RATE, np.float32)
        ann, bob = (np.resize(self.voice(seed), 3 * RATE) for seed in (1, 2))
        _, warnings = self.read(np.stack([np.append(ann, silence), np.append(silence, bob)], axis=1))
        self.assertRegex(warnings[0], "different sounds")
        _, warnings = self.read(np.stack([ann, 0.5 * ann + 0.01 * bob], axis=1))
        self.assertEqual(warnings, [])

    def test_unusable_files_say_why(self) -> None:
        for path, word in self.write_bad_audio().items():
            with self.subTest(path), self.assertRaisesRegex(ValueError, f"{re.escape(Path(path).name)}.*({word})"):
                feature_extraction.extract_features(path)

    def test_clipped_audio_is_used(self) -> None:
        soundfile.write(self.dir / "clipped.wav", 9 * np.sin(np.arange(RATE) / 9.0), RATE, subtype="PCM_16")
        self.assertTrue(np.isfinite(feature_extraction.extract_features(str(self.dir / "clipped.wav"))).all())

    def test_sliding_windows(self) -> None:
        features = np.arange(100 * 40, dtype=np.float32).reshape(100, 40)
        with settings.override(SEQ_LEN=40, SLIDING_WINDOW_STEP=30):
            windows = feature_extraction.extract_sliding_windows(features)
            self.assertEqual([window[0, 0] / 40 for window in windows], [0, 30, 60])
            self.assertEqual({window.shape for window in windows}, {(40, 40)})
            self.assertEqual(feature_extraction.extract_sliding_windows(features[:39]), [])

    def test_batched_triplet_input_has_crops_in_rows_anchor_positive_negative(self) -> None:
        spk_to_utts = self.write_speakers(2, 2)
        batch = feature_extraction.get_batched_triplet_input(spk_to_utts, 3)
        self.assertEqual((batch.shape, batch.dtype), ((9, 40, 40), torch.float32))
        whole = {s: [feature_extraction.extract_features(utt) for utt in utts] for s, utts in spk_to_utts.items()}

        def speaker_of(crop: np.ndarray) -> str:
            for speaker, utts in whole.items():
                for features in utts:
                    for start in range(len(features) - 39):
                        if np.array_equal(features[start : start + 40], crop):
                            return speaker
            return self.fail("the crop is from no utterance")

        speakers = [speaker_of(crop) for crop in batch.numpy()]
        for anchor, pos, neg in zip(speakers[::3], speakers[1::3], speakers[2::3], strict=True):
            self.assertEqual(anchor, pos)
            self.assertNotEqual(anchor, neg)

    def test_a_speakers_only_utterance_gives_two_different_parts(self) -> None:
        spk_to_utts = self.write_speakers(2, 1)
        anchor, pos, _ = feature_extraction.get_triplet_features(spk_to_utts)
        self.assertFalse({row.tobytes() for row in anchor} & {row.tobytes() for row in pos})
