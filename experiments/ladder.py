"""The effect of each improvement, from the course's recipe to this project's, one per row of a Markdown table.

`python3 -m experiments.ladder TRAIN_DATA_CSV=... TEST_DATA_CSV=... --minutes 10` trains every row for the same time
and scores it under all conditions of `experiments/conditions.py`. If it is killed, the same command continues. The
project's recipe is the current settings, so the ladder also shows the effect of your own changes.
"""

import argparse
from collections.abc import Collection

from foundation import script, settings

if __name__ == "__main__":
    script.begin()
    parser = script.OptionParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="minutes of training for each row")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each row, whose errors are averaged")
    parser.add_argument("--condition", default="clean", help="condition with its own column, such as ls-clean")
    parser.add_argument("settings", nargs="*", metavar="NAME=value", help="settings, as for every script")
    options = parser.parse_args()
    typed = settings.read_command_line(__doc__, arguments=options.settings)

import contextlib
import io
import json
import math
import re
import time
from pathlib import Path

import numpy as np

import dataset
import metrics
import neural_net
from dataset import SpkToUtts
from encoder.base import Encoder
from encoder.networks import new_encoder
from encoder.saved_models import load_encoder
from experiments import conditions
from foundation import parallel, safe_files
from foundation.setting_table import VALUES_BEFORE
from foundation.settings import Config
from training.checkpoint import training_settings

# The course's recipe, where it differs from the settings.
COURSE = {
    "DELTAS": False,
    "STACKED_FRAMES": 1,
    "USE_TRANSFORMER": False,
    "LSTM_HIDDEN_SIZE": 64,
    "LSTM_LAYER_NORM": False,
    "BI_LSTM": False,
    "FRAME_AGGREGATION_MEAN": False,
    "TRIPLET_MINING": "random",
    "BATCH_SIZE": 8,
    "MAX_SPEECH_SECONDS": 0.0,
    "SEQ_LEN_JITTER": 0.0,
    "SPEEDS": (1.0,),
    "LEARNING_RATE": 0.0001,
    "LEARNING_RATE_SCHEDULE": "constant",
    "ENSEMBLE_SIZE": 1,
    "TDNN_CHANNELS": 0,
    "CHANNEL_AUGMENTATION": 0.0,
    "GAIN_AUGMENTATION_DB": 0.0,
    "ONE_CORPUS_BATCHES": 0.0,
    "CORPUS_BALANCE": 0.0,
    "DISTURBED_BATCHES": 1.0,
    "ROOM_PROB": 0.0,
    "NOISE_PROB": 0.0,
    "NARROW_BAND_PROB": 0.0,
    "SPECAUG_TRAINING": False,
    "MIXED_PRECISION": False,
}

# Each row takes these settings from `myconfig.py`, in addition to those of the rows above. Rows that change nothing,
# because the settings have the course's values, are left out.
ROWS = {
    "the course's recipe": (),
    "bfloat16, so more steps": ("MIXED_PRECISION",),
    "higher learning rate, with warm-up and cosine": ("LEARNING_RATE", "LEARNING_RATE_SCHEDULE"),
    "mean over frames": ("FRAME_AGGREGATION_MEAN",),
    "triplets mined in larger batches": ("TRIPLET_MINING", "BATCH_SIZE"),
    "crops of many lengths": ("SEQ_LEN_JITTER",),
    "speakers drawn by how much they say": ("MAX_SPEECH_SECONDS",),
    "wider layers": ("LSTM_HIDDEN_SIZE",),
    "both directions": ("BI_LSTM",),
    "other speeds as new speakers": ("SPEEDS",),
    "random channels": ("CHANNEL_AUGMENTATION",),
    "rooms, noise and narrow bands": ("ROOM_PROB", "NOISE_PROB", "NARROW_BAND_PROB"),
    "half of the batches undisturbed": ("DISTURBED_BATCHES",),
    "random gains": ("GAIN_AUGMENTATION_DB",),
    "batches of one corpus": ("ONE_CORPUS_BATCHES",),
    "corpora balanced": ("CORPUS_BALANCE",),
    "deltas": ("DELTAS",),
    "several frames in a step": ("STACKED_FRAMES",),
    "layers normalised": ("LSTM_LAYER_NORM",),
    "an ensemble": ("ENSEMBLE_SIZE",),
    "a TDNN beside the LSTMs": ("TDNN_CHANNELS",),
    "a transformer instead": ("USE_TRANSFORMER",),
    "SpecAugment": ("SPECAUG_TRAINING",),
}

PROBE_SECONDS = 5
PROBES = 4


def steps_in(seconds: float, spk_to_utts: SpkToUtts, config: Config) -> int:
    """How many steps of training with these settings this machine does in `seconds`.

    A probe has as many steps as take PROBE_SECONDS, and is timed several times. The shortest time counts, because other
    programs can only lengthen it. The time of one step is subtracted: it is the start and the end of a training.
    """

    def time_training(num_steps: int) -> float:
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            neural_net.train_network(spk_to_utts, num_steps, config=config)
        return time.perf_counter() - start

    neural_net.train_network(spk_to_utts, 1, config=config)  # Extracts the features, if needed.
    num_steps = 10
    while time_training(num_steps) < PROBE_SECONDS:
        num_steps *= 2
    shortest, around_it = (min(time_training(steps) for _ in range(PROBES)) for steps in (num_steps, 1))
    return max(1, round(seconds * (num_steps - 1) / max(shortest - around_it, 1e-3)))


def list_rows(config: Config) -> dict[str, dict]:
    """Row -> the settings that it still has from the course, on the way to those of `config`."""
    remaining = dict(COURSE)
    rows = {}
    for row, names in ROWS.items():
        taken = [name for name in names if remaining[name] != getattr(config, name)]
        for name in names:
            del remaining[name]
        if taken or not names:
            rows[row] = dict(remaining)
    return rows


def row_path(row: str, ending: str, config: Config) -> Path:
    """The path of a row's file with this ending."""
    return Path(config.RESULTS_DIR) / "ladder" / (re.sub("[^a-z0-9]+", "-", row) + ending)


def plan_row(row: str, spk_to_utts: SpkToUtts, minutes: float, config: Config) -> int:
    """The number of steps of a row with these settings, measured once and kept.

    Raises ValueError if it was measured for another plan.
    """
    path = row_path(row, ".json", config)
    plan = {"minutes": minutes, "utterances": sum(map(len, spk_to_utts.values())), **training_settings(config)}
    plan = json.loads(json.dumps(plan))  # Tuples become lists.
    if not path.exists():
        print(f"Measuring the steps of a row: {row}.", flush=True)
        steps = steps_in(60 * minutes, spk_to_utts, config)
        safe_files.write_text(path, json.dumps({**plan, "steps": steps}))
    planned = {**VALUES_BEFORE, **json.loads(path.read_text())}
    if planned != {**plan, "steps": planned["steps"]}:
        raise ValueError(
            f"{path} has a row of other minutes, settings or data: delete its folder, or take another RESULTS_DIR."
        )
    return planned["steps"]


def train_row(row: str, seed: int, spk_to_utts: SpkToUtts, num_steps: int, config: Config) -> Encoder:
    """Train the model of a row with its settings and this seed, or continue its training."""
    path = str(row_path(row, f"-{seed}.pt", config))
    config = config.but(SEED=seed, SAVED_MODEL_PATH=path)
    neural_net.train_network(spk_to_utts, num_steps, path, config=config)
    return load_encoder(path)


def replicates(trials: conditions.ScoredTrials, seed: int) -> np.ndarray:
    """The EER in %, then that of each bootstrap replicate; every row gets the same draws of the same speakers."""
    labels, scores, enrol, test = trials
    eer, _ = metrics.equal_error_rate(*metrics.error_rates(labels, scores))
    rng = np.random.default_rng([seed, *np.union1d(enrol, test)])
    return 100 * np.append(eer, metrics.bootstrap_eers(labels, scores, enrol, test, rng))


def with_interval(eers: np.ndarray, sign: str = "") -> str:
    """An EER or a difference of two, with the 95 % interval of its replicates, as text."""
    low, high = metrics.central_95_percent(eers[1:])
    return f"{eers[0]:{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"


def score(encoder: Encoder, tested: dict[str, SpkToUtts], condition: str, config: Config) -> np.ndarray:
    """EERs in %, each followed by its replicates: of one condition, of all pooled, and the mean over all conditions."""
    scored = conditions.score_conditions(encoder, tested, config)
    if condition not in scored:
        raise ValueError(f"--condition {condition}: there are {', '.join(scored)}.")
    each = {name: replicates(trials, config.SEED) for name, trials in scored.items()}
    pooled = replicates(conditions.pool(scored), config.SEED)
    return np.array([each[condition], pooled, np.mean(list(each.values()), axis=0)])


def climb(minutes: float, seeds: int, condition: str, typed: Collection[str] = ()) -> list[str]:
    """Train and score row after row; returns the lines of the table. Raises ValueError for unusable options."""
    config = settings.present()
    if config.INITIAL_MODELS:
        raise ValueError("a ladder begins with new networks: leave INITIAL_MODELS empty.")
    if seeds < 1 or not 0 < minutes < math.inf:
        raise ValueError(f"--minutes {minutes:g} --seeds {seeds}: at least one training of some time is needed.")
    train_data = dataset.get_spk_to_utts("TRAIN", typed)
    tested = conditions.build_conditions(dataset.get_spk_to_utts("TEST", typed), config)
    # A scoring error is found before hours of training.
    score(new_encoder().eval(), tested, condition, settings.present(AS_NORM=False))
    table = [
        f"| row | steps | EER in %, {condition} | all pooled | mean of all | its change | significant |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = {row: settings.present(**values) for row, values in list_rows(config).items()}
    # All rows are measured before training, so that later load on the machine does not change the steps of a row.
    num_steps = {row: plan_row(row, train_data, minutes, of_row) for row, of_row in rows.items()}
    above = None
    for number, (row, of_row) in enumerate(rows.items()):
        eers = []
        for seed in range(config.SEED, config.SEED + seeds):
            print(f"Row {number + 1} of {len(rows)}: {row}, seed {seed}.", flush=True)
            trained = train_row(row, seed, train_data, num_steps[row], of_row)
            eers.append(score(trained, tested, condition, of_row))
        *_, mean = eers_of_row = np.mean(eers, axis=0)
        change, significant = "", ""
        if above is not None:
            low, high = metrics.central_95_percent((mean - above)[1:])
            change, significant = with_interval(mean - above, "+"), "no" if low <= 0 <= high else "yes"
        above = mean
        figures = [f"{num_steps[row]:,}", *map(with_interval, eers_of_row), change, significant]
        table.append(f"| {number + 1}. {row} | {' | '.join(figures)} |")
    return table


def main(options: argparse.Namespace, typed: Collection[str] = ()) -> None:
    """Print the ladder."""
    parallel.prepare_process()
    table = climb(options.minutes, options.seeds, options.condition, typed)
    print("\n".join(table))


if __name__ == "__main__":
    script.run(lambda: main(options, typed))
