"""The straightforward way: the same steps one file, one trial and one threshold at a time, for `__main__.py`."""

from collections.abc import Sequence

import librosa
import numpy as np
import soundfile
import torch

import evaluation
import feature_extraction
import myconfig
import neural_net
from encoder.speaker_encoder import SpeakerEncoder
from foundation import settings


def straightforward_features(audio_file: str) -> np.ndarray:
    """MFCCs of a 16 kHz mono file, (frames, N_MFCC), by librosa."""
    samples, rate = soundfile.read(audio_file, dtype="float32")
    return librosa.feature.mfcc(y=samples, sr=rate, n_mfcc=myconfig.N_MFCC).T


def straightforward_speeds(audio_file: str) -> list[np.ndarray]:
    """MFCCs at each of SPEEDS: the samples resampled, then librosa, once for each speed."""
    samples, rate = soundfile.read(audio_file, dtype="float32")
    at_speeds = [librosa.resample(samples, orig_sr=rate * speed, target_sr=rate) for speed in myconfig.SPEEDS]
    return [librosa.feature.mfcc(y=samples, sr=rate, n_mfcc=myconfig.N_MFCC).T for samples in at_speeds]


def straightforward_crops(files: list[str], crop_frames: int, rng: np.random.Generator) -> torch.Tensor:
    """A random crop of each file, decoded and transformed each time."""
    with settings.override(SEQ_LEN=crop_frames):
        crops = [feature_extraction.trim_features(straightforward_features(file), rng=rng) for file in files]
    return torch.from_numpy(np.stack(crops))


def straightforward_step(encoder: SpeakerEncoder, optimizer: torch.optim.Optimizer, crops: torch.Tensor) -> None:
    """One step of training in float32 with PyTorch's own threads; crops (speakers, utterances, frames, N_MFCC)."""
    crops = crops.to(encoder.feature_mean.device)
    embeddings = encoder(crops.flatten(0, 1)).unflatten(0, crops.shape[:2])
    loss = neural_net.get_triplet_losses(embeddings, settings.present()).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def straightforward_trials(encoder: SpeakerEncoder, triplets: Sequence[Sequence[str]]) -> list[float]:
    """Scores of triplets of files, each file embedded again every time it occurs."""
    scores = []
    for triplet in triplets:
        anchor, pos, neg = (evaluation.run_inference(straightforward_features(file), encoder) for file in triplet)
        scores += [evaluation.cosine_similarity(anchor, pos), evaluation.cosine_similarity(anchor, neg)]
    return scores


def straightforward_sweep(labels: list[int], scores: list[float], thresholds: list[float]) -> float:
    """The error rate where false accepts and false rejects are nearest to each other, trial by trial."""
    best_gap, eer = 1.0, 0.5
    for threshold in thresholds:
        false_accepts = sum(1 for label, score in zip(labels, scores, strict=True) if not label and score >= threshold)
        false_rejects = sum(1 for label, score in zip(labels, scores, strict=True) if label and score < threshold)
        false_accept = false_accepts / labels.count(0)
        false_reject = false_rejects / labels.count(1)
        if abs(false_accept - false_reject) < best_gap:
            best_gap, eer = abs(false_accept - false_reject), (false_accept + false_reject) / 2
    return eer
