"""Encoders of other settings at work in many threads at once: scores, features and enrolment as in one thread."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import demo_data
import evaluation
import feature_extraction
import speaker_id
from encoder.networks import new_encoder
from encoder.speaker_encoder import SpeakerEncoder
from foundation import settings
from voices import database as speaker_database

NUM_THREADS, NUM_TRIPLETS = 4, 20
SHAPES = ({"N_MFCC": 13, "HOP_LENGTH": 256}, {"N_MFCC": 40}, {"N_MFCC": 20, "N_FFT": 512, "STACKED_FRAMES": 1})


def make_encoders() -> list[SpeakerEncoder]:
    """New encoders that read different features."""
    return [new_encoder(vars(settings.present(LSTM_HIDDEN_SIZE=8, **shape))).eval() for shape in SHAPES]


def check_stores(folder: Path) -> int:
    """How many files the feature stores hold. Raises AssertionError if one is in a store twice, or of another width."""
    total = 0
    for store in folder.iterdir():
        width = json.loads((store / "store.json").read_text())["settings"]["n_mfcc"]
        entries = [json.loads(line) for line in (store / "index.jsonl").read_text().splitlines() if line]
        assert len({entry["file"] for entry in entries}) == len(entries), store
        num_frames = sum(frames for entry in entries for _, frames in entry["places"])
        assert (store / "features.f16").stat().st_size == 2 * width * num_frames, store
        total += len(entries)
    return total


def work_together(folder: Path, num_calls: int) -> str:
    """Score, extract and enrol in several threads; returns what happened. Raises AssertionError for a difference."""
    for number in range(4):
        demo_data.write_speaker(folder / "voices" / f"s{number}", np.random.default_rng([5, number]))
    spk_to_utts = {path.name: sorted(map(str, path.rglob("*.flac"))) for path in (folder / "voices").iterdir()}
    file = spk_to_utts["s0"][0]
    encoders = make_encoders()

    def work(number: int) -> tuple[list[float], np.ndarray]:
        encoder = encoders[number % len(encoders)]
        _, scores = evaluation.compute_scores(encoder, spk_to_utts, NUM_TRIPLETS)
        return scores, feature_extraction.extract_features(file, encoder.feature_settings)

    def enrol(number: int) -> None:
        database = str(folder / f"{number % len(encoders)}.db")
        utts = list(spk_to_utts.values())[number % 4]
        speaker_id.enrol(encoders[number % len(encoders)], database, f"P{number}", utts[number // 12])

    before = settings.all_settings()
    with settings.override(FEATURE_STORE_DIR=str(folder / "alone")):
        alone = [work(number) for number in range(len(encoders))]
    with settings.override(FEATURE_STORE_DIR=str(folder / "together")), ThreadPoolExecutor(NUM_THREADS) as pool:
        enrolled = pool.map(enrol, range(24))
        for number, (scores, features) in enumerate(pool.map(work, range(num_calls))):
            expected_scores, expected_features = alone[number % len(encoders)]
            assert np.abs(np.subtract(scores, expected_scores)).max() < 1e-5, number
            assert np.array_equal(features, expected_features), number
        list(enrolled)
    assert settings.all_settings() == before
    for number in range(len(encoders)):
        with speaker_database.open_database(str(folder / f"{number}.db")) as connection:
            assert len(speaker_database.list_speakers(connection)) == 24 // len(encoders)
    assert check_stores(folder / "together") == check_stores(folder / "alone")
    return f"{num_calls} calls and 24 enrolments in {NUM_THREADS} threads, all as in one."
