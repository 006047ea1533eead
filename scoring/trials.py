"""Which utterances are compared: trials from triplets, of all pairs, or from a list."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import dataset
from feature_store import FeatureStore
from foundation import settings
from foundation.paths import expand_home
from foundation.settings import Config

MAX_TRIALS = 5 * 10**7

# Trials are three arrays of one length: labels (1 target, 0 non-target), and the numbers of the utterances that are
# enrolled, (trials,) or, of several for each, (trials, EVAL_ENROL_UTTS), and tested.
Trials = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw_triplet_trials(store: FeatureStore, num_triplets: int, config: Config) -> Trials:
    """Draw triplets from SEED; each makes a target trial, then a non-target trial, that share the anchor.

    With EVAL_ENROL_UTTS, so many utterances of a speaker are the anchor. Raises ValueError unless there are two
    speakers with an utterance more than the anchor has; others are not used.
    """
    num_enrol = config.EVAL_ENROL_UTTS
    utts_of_speaker = [utts for utts in store.utts_of_speaker if len(utts) > num_enrol]
    if len(utts_of_speaker) < 2:
        raise ValueError(
            f"{len(utts_of_speaker)} test speakers have {num_enrol + 1} utterances or more, and triplets need two such "
            "speakers; for EVAL_TRIALS=all_pairs one is enough."
        )
    if len(utts_of_speaker) < len(store.speakers):
        few = "a single utterance" if num_enrol == 1 else f"{num_enrol} utterances or fewer"
        print(f"Left out: {len(store.speakers) - len(utts_of_speaker)} speakers with {few}.")
    rng = np.random.default_rng(config.SEED)
    triplets = dataset.draw_triplets(utts_of_speaker, num_triplets, rng, num_enrol)
    labels = np.tile([1, 0], num_triplets)
    anchors = triplets[:, 0] if num_enrol == 1 else triplets[:, :num_enrol]
    return labels, np.repeat(anchors, 2, axis=0), triplets[:, num_enrol:].ravel()


def group_trials(store: FeatureStore, num_enrol: int) -> Trials:
    """Each speaker's utterances in groups of `num_enrol`, the rest left over; each group and each other utterance."""
    groups = [utts[: len(utts) // num_enrol * num_enrol].reshape(-1, num_enrol) for utts in store.utts_of_speaker]
    enrol = np.concatenate(groups)
    if not len(enrol):
        raise ValueError(f"EVAL_ENROL_UTTS={num_enrol}: no test speaker has so many utterances.")
    if enrol.size * len(store.files) > MAX_TRIALS:
        raise ValueError(f"EVAL_TRIALS=all_pairs would make {len(enrol) * len(store.files):,} trials: use triplets.")
    tests = [np.delete(np.arange(len(store.files)), group) for group in enrol]
    enrol, test = np.repeat(enrol, [len(others) for others in tests], axis=0), np.concatenate(tests)
    return (store.speaker_of[enrol[:, 0]] == store.speaker_of[test]).astype(np.int64), enrol, test


def all_pair_trials(store: FeatureStore) -> Trials:
    """Every pair of utterances once. Raises ValueError if there are more than can be held in memory."""
    num_pairs = len(store.files) * (len(store.files) - 1) // 2
    if num_pairs > MAX_TRIALS:
        raise ValueError(f"EVAL_TRIALS=all_pairs would make {num_pairs:,} trials: use triplets or a trial list.")
    enrol, test = np.triu_indices(len(store.files), k=1)
    return (store.speaker_of[enrol] == store.speaker_of[test]).astype(np.int64), enrol, test


def read_trial_list(path: str, store: FeatureStore, config: Config | None = None) -> Trials:
    """Read lines `label enrol_path test_path`, quoted where a path has spaces.

    Paths are relative to the folder of the test data or of the list, and may go through links. Raises ValueError, with
    the line number, for a line in another format, or a file that is not among the test data or cannot be used.
    """
    config = config or settings.present()
    number_of = {os.path.realpath(file): number for number, file in enumerate(store.files)}
    data_dir = Path(config.TEST_DATA_CSV).parent if config.TEST_DATA_CSV else Path(config.TEST_DATA_DIR)
    folders = (data_dir, Path(path).parent)
    trials = []
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=" ", skipinitialspace=True)
            for row in rows:
                fields = [field for field in row if field]
                if not fields:
                    continue
                place = f"{path}, line {rows.line_num}"
                if len(fields) != 3 or fields[0] not in ("0", "1"):
                    raise ValueError(f"{place}: expected `label enrol_path test_path`, label 0 or 1.")
                numbers = [find_utterance(name, folders, number_of, place) for name in fields[1:]]
                trials.append((int(fields[0]), *numbers))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a trial list in UTF-8: {error}.") from None
    if not trials:
        raise ValueError(f"{path} lists no trials.")
    labels, enrol, test = np.array(trials).T
    return labels, enrol, test


def find_utterance(name: str, folders: Sequence[Path], number_of: dict[str, int], place: str) -> int:
    """The number of the utterance that a trial list names, in the first of the folders that has it."""
    for folder in folders:
        path = os.path.realpath(folder / expand_home(name))
        if path in number_of:
            return number_of[path]
    raise ValueError(f"{place}: {name} is not among the test data that can be used.")


def get_trials(store: FeatureStore, config: Config | None = None) -> Trials:
    """The trials that EVAL_TRIALS names, of the present settings, unless `config` is given."""
    config = config or settings.present()
    if config.EVAL_TRIALS == "triplets":
        return draw_triplet_trials(store, config.NUM_EVAL_TRIPLETS, config)
    if config.EVAL_TRIALS == "all_pairs":
        num_enrol = config.EVAL_ENROL_UTTS
        return all_pair_trials(store) if num_enrol == 1 else group_trials(store, num_enrol)
    return read_trial_list(config.EVAL_TRIALS, store, config)
