"""Evaluate a model: embed the test utterances, score trials, and report the Equal Error Rate (EER).

`python3 evaluation.py` evaluates SAVED_MODEL_PATH on the test data that the settings name, and writes scores, all
figures and one picture to RESULTS_DIR.
"""

from foundation import script, settings

if __name__ == "__main__":
    script.begin()
    typed = settings.read_command_line(__doc__)

import contextlib
import json
import time
import warnings
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike

import dataset
import feature_extraction
import feature_store
import metrics
from audio.recording_lists import Paths, as_paths
from encoder.base import Encoder, unit_length
from encoder.inference import embed_features, embed_store
from encoder.saved_models import load_encoder
from foundation import parallel, processes, safe_files, setting_table, threads
from foundation.settings import Config
from scoring.calibration import cllr_of_answers, keep_thresholds
from scoring.report import plot_evaluation, write_scores
from scoring.score_normalization import score_offsets
from scoring.trials import draw_triplet_trials, get_trials

CHUNK_FILES = 64
BLOCK_TRIALS = 2**18


def run_inference(features: np.ndarray, encoder: torch.nn.Module) -> np.ndarray:
    """Embed one utterance's features (frames, N_MFCC) -> (dimensions,), not scaled to length 1.

    The simple version of `inference.embed_features`: the whole sequence, or the mean over its sliding windows.
    """
    config = settings.present()
    is_whole = config.USE_FULL_SEQUENCE_INFERENCE
    windows = [] if is_whole else feature_extraction.extract_sliding_windows(features, config)
    batch = torch.from_numpy(np.stack(windows or [features])).float().to(next(encoder.parameters()).device)
    with torch.no_grad():
        return encoder(batch).mean(dim=0).cpu().numpy()


def embed_utterances(encoder: Encoder, audio_files: Paths) -> np.ndarray:
    """Embed audio files of any format -> float32 (utterances, dimensions), each of length 1, in the order of the files.

    The dot product of two rows is the cosine similarity of two utterances. Warns of doubtful files, such as those of
    which a part cannot be read. Raises ValueError for a file that cannot be used.
    """

    def extract(file: str) -> tuple[np.ndarray, list[str]]:
        notes: list[str] = []
        return feature_extraction.extract_features(file, encoder.feature_settings, notes), notes

    chunks = [np.zeros((0, encoder.dimensions), np.float32)]
    config = settings.present()
    paths, pool = as_paths(audio_files), threads.thread_pool(config.NUM_PROCESSES)
    for start in range(0, len(paths), CHUNK_FILES):
        chunk = paths[start : start + CHUNK_FILES]
        features = []
        with threads.one_thread_each:
            extracted = list(pool.map(extract, chunk))
        for file, (of_file, notes) in zip(chunk, extracted, strict=True):
            features.append(of_file)
            for words in notes:
                warnings.warn(f"{file}: {words}.", stacklevel=2)
        chunks.append(embed_features(encoder, features, config))
    return np.concatenate(chunks)


def cosine_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of the angle between two embeddings (dimensions,), from -1 to 1: the score of a trial."""
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def score_trials(
    encoder: Encoder,
    store: feature_store.FeatureStore,
    enrol: np.ndarray,
    test: np.ndarray,
    config: Config | None = None,
) -> np.ndarray:
    """Cosine similarity of each trial's two embeddings -> (trials,), normalised if AS_NORM is set.

    `enrol` (trials,) or, for means of several utterances, (trials, utterances), and `test` (trials,) are their numbers.
    Raises ValueError if AS_NORM is set and the model has no cohort.
    """
    config = config or settings.present()
    similarities, normalised = score_both_ways(encoder, store, enrol, test, config)
    return normalised if config.AS_NORM else similarities


def score_both_ways(
    encoder: Encoder, store: feature_store.FeatureStore, enrol: np.ndarray, test: np.ndarray, config: Config
) -> tuple[np.ndarray, np.ndarray]:
    """Cosine similarities of trials, and normalised scores, which are the same without a cohort, both (trials,).

    Raises ValueError if AS_NORM is set and the model has no cohort.
    """
    if config.AS_NORM and not len(encoder.cohort):
        raise ValueError(
            f"{encoder.path} holds no cohort for AS_NORM. Training puts one in at its end; for an older model, repeat "
            "the command of its training, with its checkpoint beside it."
        )
    embeddings, seconds = embed_store(encoder, store, config=config), store.utt_seconds
    if enrol.ndim > 1:  # The mean of each group is one more embedding.
        groups, group = np.unique(enrol, axis=0, return_inverse=True)
        enrol = len(embeddings) + group.ravel()
        embeddings = np.concatenate([embeddings, unit_length(embeddings[groups].mean(axis=1))])
        seconds = np.concatenate([seconds, seconds[groups].sum(axis=1)])
    offsets = score_offsets(embeddings, seconds, encoder.cohort)
    similarities = np.empty(len(enrol), np.float32)
    for start in range(0, len(enrol), BLOCK_TRIALS):
        block = slice(start, start + BLOCK_TRIALS)
        similarities[block] = np.einsum("td,td->t", embeddings[enrol[block]], embeddings[test[block]])
    return similarities, similarities - offsets[enrol] - offsets[test]


class TripletScoreFetcher:
    """The course's name for a function that draws and scores a triplet each time that it is called."""

    def __init__(self, spk_to_utts: dataset.SpkToUtts, encoder: torch.nn.Module, num_eval_triplets: int):
        self.spk_to_utts, self.encoder, self.num_eval_triplets = spk_to_utts, encoder, num_eval_triplets

    def __call__(self, _: object) -> tuple[list[int], list[float]]:
        """Labels [1, 0] and the scores of the positive and of the negative; the argument, a number, does not count."""
        triplet = feature_extraction.get_triplet_features(self.spk_to_utts)
        anchor, positive, negative = (run_inference(features, self.encoder) for features in triplet)
        return [1, 0], [cosine_similarity(anchor, positive), cosine_similarity(anchor, negative)]


def compute_scores(
    encoder: Encoder, spk_to_utts: dataset.SpkToUtts, num_eval_triplets: int | None = None
) -> tuple[list[int], list[float]]:
    """Score random triplets, NUM_EVAL_TRIPLETS unless told -> labels [1, 0, 1, 0, ...] and scores, two each."""
    config = settings.present(**encoder.settings)
    store = feature_store.open_store(spk_to_utts, config=config)
    labels, enrol, test = draw_triplet_trials(store, num_eval_triplets or config.NUM_EVAL_TRIPLETS, config)
    return labels.tolist(), score_trials(encoder, store, enrol, test, config).tolist()


def compute_eer(labels: ArrayLike, scores: ArrayLike) -> tuple[float, float]:
    """Equal Error Rate, from 0 to 1, and its threshold; the sweep is exact unless EVAL_THRESHOLD_STEP is set.

    Of thresholds that are equally good it is the lowest, which lies just above a score. Raises ValueError unless there
    are finite scores of both labels.
    """
    return metrics.equal_error_rate(*metrics.error_rates(labels, scores, settings.present().EVAL_THRESHOLD_STEP))


def evaluate(encoder: Encoder, spk_to_utts: dataset.SpkToUtts, groups: dict[str, str] | None = None) -> dict:
    """Evaluate an encoder on test data; writes scores.txt, results.json and results.png, returns the figures.

    `groups` can give each speaker's group, such as the sex; the EER within each group is reported too.
    """
    start = time.perf_counter()
    config = settings.present(**encoder.settings)
    store = feature_store.open_store(spk_to_utts, config=config)
    warn_of_known_speakers(encoder, store)
    labels, enrol, test = get_trials(store, config)
    similarities, normalised = score_both_ways(encoder, store, enrol, test, config)
    scores = normalised if config.AS_NORM else similarities
    first = enrol.reshape(len(enrol), -1)[:, 0]
    group_of = np.array([(groups or {}).get(speaker, "") for speaker in store.speakers])[store.speaker_of]
    sweep = metrics.error_rates(labels, scores, config.EVAL_THRESHOLD_STEP)
    eer, eer_threshold = metrics.equal_error_rate(*sweep)
    interval = None
    if len(np.unique(store.speaker_of[[first, test]])) >= 3:
        rng, speaker_of = np.random.default_rng(config.SEED), store.speaker_of
        interval = metrics.eer_interval(labels, scores, speaker_of[first], speaker_of[test], rng)
    results = {
        "eer": eer,
        "eer_threshold": eer_threshold,
        "eer_ci95": interval,
        "eer_of_similarities": compute_eer(labels, similarities)[0],
        "eer_normalised": compute_eer(labels, normalised)[0] if len(encoder.cohort) else None,
        **cllr_of_answers(encoder, labels, similarities, normalised, config),
        "min_dcf_0.01": metrics.min_dcf(*sweep[1:], p_target=0.01),
        "min_dcf_0.05": metrics.min_dcf(*sweep[1:], p_target=0.05),
        "num_target_trials": int((labels == 1).sum()),
        "num_nontarget_trials": int((labels == 0).sum()),
        "num_distinct_trials": count_distinct(enrol, test) if config.EVAL_TRIALS == "triplets" else len(labels),
        "num_speakers": len(store.speakers),
        "num_utterances": len(store.files),
        "eer_within_groups": eer_by_group(labels, scores, group_of[first], group_of[test]),
        "seconds": time.perf_counter() - start,
        "settings": evaluation_settings(config) | encoder.settings,
    }
    if processes.rank() == 0:
        results_dir = Path(config.RESULTS_DIR)
        safe_files.write_text(results_dir / "results.json", json.dumps(results, indent=2) + "\n")
        write_scores(results_dir / "scores.txt", store.files, (labels, enrol, test), scores)
        plot_evaluation(results_dir / "results.png", labels, scores, sweep, results)
    return results


def count_distinct(enrol: np.ndarray, test: np.ndarray) -> int:
    """How many trials are different: the order does not count within a group, nor between two single utterances."""
    trials = np.column_stack([enrol, test])
    in_any_order = trials if enrol.ndim == 1 else trials[:, :-1]
    in_any_order.sort(axis=1)
    return len(np.unique(trials, axis=0))


def evaluation_settings(config: Config) -> dict:
    """The settings that can affect an evaluation; those that only affect training are left out."""
    only_training = {*setting_table.TRAINING_SETTINGS, "TRAINING_STEPS", "SAVE_MODEL_FREQUENCY", "START_OVER"}
    only_training |= {"TRAIN_DATA_DIR", "TRAIN_DATA_CSV"}
    only_training -= {"SEED", "SEQ_LEN"}
    values = vars(config) | {"DEVICE": str(config.DEVICE)}  # Exercises give a `torch.device`.
    return {name: value for name, value in values.items() if name not in only_training}


def eer_by_group(
    labels: np.ndarray, scores: np.ndarray, enrol_groups: np.ndarray, test_groups: np.ndarray
) -> dict[str, float]:
    """The EER of the trials within each group, and of all trials within a group, which are harder; "" is no group."""
    is_within = (enrol_groups == test_groups) & (enrol_groups != "")
    chosen = {name: is_within & (enrol_groups == name) for name in np.unique(enrol_groups[is_within]).tolist()}
    if len(chosen) > 1:
        chosen["any one group"] = is_within
    return {
        name: compute_eer(labels[trials], scores[trials])[0]
        for name, trials in chosen.items()
        if 0 < labels[trials].sum() < trials.sum()
    }


def warn_of_known_speakers(encoder: Encoder, store: feature_store.FeatureStore) -> None:
    """Print a warning with the names of the test speakers on whom the encoder was trained, if any."""
    if known := sorted(set(encoder.train_speakers) & set(store.speakers)):
        names = ", ".join([*known[:5], "..."][: len(known)])
        print(f"Warning: the model was trained on {len(known)} of the test speakers ({names}): the EER is too low.")


def print_report(results: dict) -> None:
    """Print the figures; the last line is the one that the course's exercises read."""
    interval = "no interval with fewer than 3 speakers"
    if results["eer_ci95"]:
        interval = "95 % confidence interval {:.2%} to {:.2%} (bootstrap over speakers)".format(*results["eer_ci95"])
    print(f"Test data: {results['num_speakers']} speakers, {results['num_utterances']} utterances.")
    num_trials = results["num_target_trials"] + results["num_nontarget_trials"]
    distinct = results["num_distinct_trials"]
    repeated = f"; {distinct} of these {num_trials} are distinct" if distinct < num_trials else ""
    print(f"Trials: {results['num_target_trials']} target, {results['num_nontarget_trials']} non-target{repeated}.")
    if results["settings"]["EVAL_ENROL_UTTS"] > 1:
        print(f"Enrolled: the mean of {results['settings']['EVAL_ENROL_UTTS']} recordings in each trial.")
    print(f"EER: {results['eer']:.2%}, {interval}.")
    if results["settings"]["AS_NORM"]:
        print(f"These scores are normalised. EER of cosine similarities: {results['eer_of_similarities']:.2%}.")
    elif results["eer_normalised"] is not None:
        print(f"EER of normalised scores (AS_NORM=true): {results['eer_normalised']:.2%}.")
    for name, eer in results["eer_within_groups"].items():
        print(f"EER within {name}: {eer:.2%}.")
    print(f"minDCF: {results['min_dcf_0.01']:.3f} at P_target 0.01, {results['min_dcf_0.05']:.3f} at 0.05.")
    now = "not calibrated yet" if results["cllr"] is None else f"{results['cllr']:.3f} as calibrated"
    print(f"Cllr, scores as in speaker_id.py: {results['min_cllr']:.3f} at best, {now}.")
    print(f"Time: {results['seconds']:.1f} s. Scores, figures and plots are in {results['settings']['RESULTS_DIR']}.")
    print(f"eer_threshold = {results['eer_threshold']:.6f} eer = {results['eer']:.6f}")


def run_eval(typed: Collection[str] = ()) -> None:
    """Evaluate the saved model on the test data of the settings; `typed` are settings of the command line."""
    parallel.prepare_process()
    config = settings.present()
    with parallel.process_group(config.DEVICE), contextlib.ExitStack() as locks:
        if processes.rank() == 0:
            locks.enter_context(safe_files.only_one_process(Path(config.RESULTS_DIR) / "results.json"))
        encoder = load_encoder(config.SAVED_MODEL_PATH, typed)
        settings.report_overruled(encoder.settings)
        spk_to_utts = dataset.get_spk_to_utts("TEST", typed)
        results = evaluate(encoder, spk_to_utts, dataset.get_groups("TEST"))
        if processes.world_size() == 1:
            keep_thresholds(encoder, spk_to_utts)
        print_report(results)


if __name__ == "__main__":
    script.run(lambda: run_eval(typed))
