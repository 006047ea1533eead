"""Tests of `augmentation.py`."""

import librosa
import numpy as np
import torch

import augmentation
import feature_extraction
import myconfig
import specaug
from audio import mono
from foundation import settings
from unit_tests.shared import RATE, ProjectTest, corpus


class AugmentationTest(ProjectTest):
    def test_speed_scales_length_and_frequency(self) -> None:
        tone = np.sin(2 * np.pi * 400 * np.arange(RATE) / RATE).astype(np.float32)
        for speed in (0.8, 1.0, 1.25):
            changed = augmentation.change_speed(tone, speed)
            self.assertEqual(len(changed), RATE / speed)
            self.assertEqual(np.argmax(np.abs(np.fft.rfft(changed, RATE))), 400 * speed)

    def test_a_random_channel_shifts_all_frames_of_a_crop_alike(self) -> None:
        crops, deviation = torch.randn(500, 20, 40), torch.linspace(1, 50, 40)
        with settings.override(CHANNEL_AUGMENTATION=0.3, GAIN_AUGMENTATION_DB=0.0):
            shift = augmentation.random_channel(crops, deviation, np.random.default_rng(0), settings.present()) - crops
        torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), atol=1e-4, rtol=1e-3)
        relative = shift[:, 0].std(dim=0) / deviation
        np.testing.assert_allclose(relative, 0.3, rtol=0.15)
        self.assertLess(shift[:, 0].mean(dim=0).abs().max(), 0.1 * 50)

    def test_a_random_gain_is_that_of_louder_samples(self) -> None:
        voice = mono.read_audio(str(next((corpus() / "train/s00").rglob("*.flac"))))
        quiet, loud = (feature_extraction.compute_mfcc(voice * np.float32(gain)) for gain in (1, 10 ** (6 / 20)))
        six_db = torch.from_numpy((loud - quiet).mean(axis=0))
        with settings.override(CHANNEL_AUGMENTATION=0.0, GAIN_AUGMENTATION_DB=4.0):
            shift = augmentation.random_channel(
                torch.zeros(2000, 5, 40), torch.ones(40), np.random.default_rng(0), settings.present()
            )
        in_decibels = 6 * shift[:, :, :1] / six_db[0]
        torch.testing.assert_close(shift, in_decibels / 6 * six_db, atol=0.05, rtol=0)
        self.assertTrue((in_decibels == in_decibels[:, :1]).all())
        self.assertAlmostEqual(float(in_decibels.std()), 4.0, delta=0.2)
        self.assertAlmostEqual(float(in_decibels.mean()), 0.0, delta=0.3)

    def test_noise_in_mel_bands_is_noise_in_the_samples(self) -> None:
        voice = mono.read_audio(str(next((corpus() / "train/s00").rglob("*.flac"))))
        noise = np.random.default_rng(1).normal(size=len(voice)).astype(np.float32)
        noise *= np.sqrt(np.mean(voice**2) / np.mean(noise**2) / 10)  # 10 dB below the voice.
        clean, recording, expected = (
            torch.from_numpy(feature_extraction.compute_mfcc(samples)) for samples in (voice, noise, voice + noise)
        )
        constants = feature_extraction.mfcc_constants(myconfig.N_FFT, myconfig.N_MELS, myconfig.N_MFCC)
        cosines = torch.from_numpy(constants.transform)
        power, recordings = (10 ** ((crop @ cosines.T) / 10)[None].repeat(50, 1, 1) for crop in (clean, recording))
        with settings.override(NOISE_SNR_DB=(10.0, 10.0)):
            noisy = augmentation.add_noise(power, power, recordings, np.random.default_rng(0), myconfig.NOISE_SNR_DB)
        errors = (10 * torch.log10(noisy) @ cosines - expected).abs().mean(dim=(1, 2))
        change = (clean - expected).abs().mean()
        self.assertLess(errors.min(), change / 3, "one of the crops has the recording")

    def test_echoes_die_away_exponentially(self) -> None:
        power = torch.zeros(200, 30, 4)
        power[:, 5] = 1.0
        heard = augmentation.add_echoes(power, np.random.default_rng(0), myconfig.HOP_LENGTH)
        self.assertEqual(heard[:, :5].abs().max(), 0)
        decibels = 10 * torch.log10(heard[:, 6:])
        slopes = decibels.diff(dim=1)
        torch.testing.assert_close(slopes, slopes[:, :1].expand_as(slopes), rtol=1e-3, atol=1e-3)
        reverberation_seconds = -60 / slopes[:, 0] * myconfig.HOP_LENGTH / RATE
        self.assertTrue(0.19 < reverberation_seconds.min() < 0.25 and 0.95 < reverberation_seconds.max() < 1.01)
        loudness = 10 * torch.log10(heard[:, 6:].sum(dim=1))
        self.assertTrue(-16 < loudness.min() < -10 and 0 < loudness.max() < 3.01)

    def test_narrow_bands_end_where_telephones_and_codecs_do(self) -> None:
        power = augmentation.narrow_band(torch.ones(400, 5, 128), np.random.default_rng(0))
        frequencies = torch.from_numpy(librosa.mel_frequencies(130, fmin=0, fmax=8000)[1:-1])
        kept = 10 * torch.log10(power[:, 0] + 1e-20)
        self.assertGreater(kept[:, (frequencies > 400) & (frequencies < 3000)].min(), -0.1)
        is_telephone = kept[:, 0] < -3
        self.assertAlmostEqual(is_telephone.float().mean().item(), 0.5, delta=0.1)
        self.assertLess(kept[is_telephone][:, frequencies > 4700].max(), -30)
        reaches = (kept[~is_telephone] > -3).float() @ torch.diff(frequencies, prepend=torch.zeros(1)).float()
        self.assertTrue(reaches.min() < 3500 and reaches.max() > 7500)

    def test_crops_are_disturbed_as_often_as_the_settings_say(self) -> None:
        crops = 20 * torch.randn(500, 6, myconfig.N_MFCC)
        silence = {"ROOM_PROB": 0.0, "NOISE_PROB": 0.0, "NARROW_BAND_PROB": 0.0}
        for name in silence:
            with settings.override(**{**silence, name: 0.3}):
                disturbed = augmentation.disturb(crops, None, np.random.default_rng(0), settings.present())
            is_changed = (disturbed != crops).flatten(1).any(dim=1)
            self.assertAlmostEqual(is_changed.float().mean().item(), 0.3, delta=0.07)

    def test_masks_have_the_probability_and_width_of_the_settings(self) -> None:
        masks = specaug.draw_masks(4000, 40, 0.3, 8, np.random.default_rng(0)).numpy()
        widths = masks.sum(axis=1)
        self.assertAlmostEqual((widths > 0).mean(), 0.3, delta=0.03)
        self.assertEqual(set(widths[widths > 0]), set(range(1, 9)))
        edges = np.abs(np.diff(np.pad(masks, ((0, 0), (1, 1))).astype(int), axis=1)).sum(axis=1)
        self.assertEqual(set(edges), {0, 2})
        self.assertTrue(masks[:, 0].any() and masks[:, -1].any())

    def test_masked_values_are_filled(self) -> None:
        crops, fill = torch.randn(64, 50, 40), torch.full((40,), 9.0)
        with settings.override(SPECAUG_FREQ_MASK_PROB=1.0, SPECAUG_TIME_MASK_PROB=0.0):
            masked = specaug.mask_crops(crops, fill, np.random.default_rng(0), settings.present())
        changed = masked != crops
        self.assertTrue((masked[changed] == 9).all())
        self.assertTrue((changed.all(dim=1) | ~changed.any(dim=1)).all(), "a mask covers all frames of a coefficient")
