"""Tests of `feature_extraction.py`."""

import re
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch

import feature_extraction
import myconfig
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
                mfcc = feature_extraction.compute_mfcc(samples)
                self.assertEqual(mfcc.dtype, np.float32)
                np.testing.assert_allclose(mfcc, expected.T, atol=1e-3)
                with settings.override(CEPSTRAL_MEAN_NORMALIZATION=True):
                    mfcc = feature_extraction.compute_mfcc(samples)
                np.testing.assert_allclose(mfcc, (expected - expected.mean(axis=1, keepdims=True)).T, atol=2e-3)

    def test_long_audio_in_blocks_is_librosas(self) -> None:
        seconds = 2.5 * feature_extraction.BLOCK_FRAMES * myconfig.HOP_LENGTH / RATE
        samples = feature_extraction.read_audio(self.write_audio("long.wav", seconds))
        expected = librosa.feature.mfcc(y=samples, sr=RATE, n_mfcc=myconfig.N_MFCC)
        np.testing.assert_allclose(feature_extraction.compute_mfcc(samples), expected.T, atol=1e-3)

    def test_every_format_rate_and_channel_count_is_read(self) -> None:
        reference = feature_extraction.read_audio(self.write_audio("reference.wav", subtype="FLOAT"))
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
                samples = feature_extraction.read_audio(self.write_audio(name, **options))
                self.assertLess(abs(len(samples) - RATE), 0.1 * RATE)
                spectra = [np.abs(np.fft.rfft(signal, RATE)) for signal in (samples, reference)]
                self.assertEqual(np.argmax(spectra[0]), np.argmax(spectra[1]))
        for rate in (4000, 8000, 44100, 192000):
            with self.subTest(rate=rate):
                samples = feature_extraction.read_audio(self.write_audio("rate.wav", rate=rate))
                self.assertLessEqual(abs(len(samples) - RATE), 1)
                self.assertEqual(np.argmax(np.abs(np.fft.rfft(samples, RATE))), 200)
        channels = np.random.default_rng(0).uniform(-0.5, 0.5, (RATE, 8)).astype(np.float32)
        soundfile.write(self.dir / "channels.wav", channels, RATE, subtype="FLOAT")
        samples = feature_extraction.read_audio(str(self.dir / "channels.wav"))
        np.testing.assert_allclose(samples, channels.mean(axis=1), atol=1e-6)

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
