"""What each improvement buys: from the course's recipe to this project's, one setting a row, in a Markdown table.

`python3 ladder.py TRAIN_DATA_CSV=... TEST_DATA_CSV=... --minutes 10` trains every row for the same time and scores it
under all conditions of `conditions.py`. Killed, the same command continues. The project's recipe is what the settings
say, so the ladder also explains your own changes of them.
"""

import sys

import script
import settings

if __name__ == "__main__":
    parser = script.OptionParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="of training for each row")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each row, whose errors are averaged")
    parser.add_argument("--condition", default="clean", help="that gets a column of its own, as ls-clean")
    parser.add_argument("settings", nargs="*", metavar="NAME=value", help="settings, as of every script")
    options = parser.parse_intermixed_args()
    sys.argv[1:] = options.settings
    settings.read_command_line(__doc__)

import json
import math
import re
import time
from pathlib import Path

import numpy as np

import conditions
import dataset
import metrics
import myconfig
import neural_net
import parallel
import safe_files
from checkpoint import training_settings
from dataset import SpkToUtts
from speaker_encoder import SpeakerEncoder, load_encoder

# The course's recipe, where it differs from the settings.
COURSE = {
    "LSTM_HIDDEN_SIZE": 64,
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
    "CHANNEL_AUGMENTATION": 0.0,
    "GAIN_AUGMENTATION_DB": 0.0,
    "ONE_CORPUS_BATCHES": 0.0,
    "DISTURBED_BATCHES": 1.0,
    "ROOM_PROB": 0.0,
    "NOISE_PROB": 0.0,
    "NARROW_BAND_PROB": 0.0,
    "SPECAUG_TRAINING": False,
    "MIXED_PRECISION": False,
}

# Each row takes these settings over from `myconfig.py`, on top of those of the rows above. Those that change nothing,
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
    "an ensemble": ("ENSEMBLE_SIZE",),
    "SpecAugment": ("SPECAUG_TRAINING",),
}

PROBE_STEPS = (10, 40)
PROBES = 4


def steps_in(seconds: float, spk_to_utts: SpkToUtts) -> int:
    """How many steps of training this machine does in that time, with the present settings.

    Each probe is timed several times and the shortest time counts, because other programs can only lengthen it.
    """
    neural_net.train_network(spk_to_utts, 1)  # Extracts the features, if need be.
    shortest = dict.fromkeys(PROBE_STEPS, math.inf)
    for num_steps in PROBE_STEPS * PROBES:
        start = time.perf_counter()
        neural_net.train_network(spk_to_utts, num_steps)
        shortest[num_steps] = min(shortest[num_steps], time.perf_counter() - start)
    fewer, more = PROBE_STEPS
    return max(1, round(seconds * (more - fewer) / max(shortest[more] - shortest[fewer], 1e-3)))


def list_rows() -> dict[str, dict]:
    """Row -> the settings that it still has from the course."""
    remaining = dict(COURSE)
    rows = {}
    for row, names in ROWS.items():
        taken = [name for name in names if remaining[name] != getattr(myconfig, name)]
        for name in names:
            del remaining[name]
        if taken or not names:
            rows[row] = dict(remaining)
    return rows


def row_path(row: str, ending: str) -> Path:
    """The path of a row's file with this ending."""
    return Path(myconfig.RESULTS_DIR) / "ladder" / (re.sub("[^a-z0-9]+", "-", row) + ending)


def plan_row(row: str, spk_to_utts: SpkToUtts, minutes: float) -> int:
    """The number of steps of a row, measured once and kept. Raises ValueError if it was planned for something else."""
    path = row_path(row, ".json")
    with settings.override(**list_rows()[row]):
        plan = {"minutes": minutes, "utterances": sum(map(len, spk_to_utts.values())), **training_settings()}
        plan = json.loads(json.dumps(plan))  # Tuples become lists.
        if not path.exists():
            steps = steps_in(60 * minutes, spk_to_utts)
            safe_files.write_text(path, json.dumps({**plan, "steps": steps}))
    planned = json.loads(path.read_text())
    if planned != {**plan, "steps": planned["steps"]}:
        raise ValueError(
            f"{path} has a row of other minutes, settings or data: delete its folder, or take another RESULTS_DIR."
        )
    return planned["steps"]


def train_row(row: str, seed: int, spk_to_utts: SpkToUtts, num_steps: int) -> SpeakerEncoder:
    """Train the model of a row, or what is left of it."""
    path = str(row_path(row, f"-{seed}.pt"))
    with settings.override(**list_rows()[row], SEED=seed, SAVED_MODEL_PATH=path):
        neural_net.train_network(spk_to_utts, num_steps, path)
        return load_encoder(path)


def replicates(trials: conditions.ScoredTrials) -> np.ndarray:
    """The EER in %, then that of each bootstrap replicate; the same draws of speakers for every row."""
    labels, scores, enrol, test = trials
    eer, _ = metrics.equal_error_rate(*metrics.error_rates(labels, scores))
    rng = np.random.default_rng(myconfig.SEED)
    return 100 * np.append(eer, metrics.bootstrap_eers(labels, scores, enrol, test, rng))


def with_interval(eers: np.ndarray, sign: str = "") -> str:
    """An EER or a difference of two, with the 95 % interval of its replicates, as text."""
    low, high = metrics.central_95_percent(eers[1:])
    return f"{eers[0]:{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"


def climb(minutes: float, seeds: int, condition: str) -> list[str]:
    """Train and score row after row; returns the lines of the table. Raises ValueError for an unknown condition."""
    train_data, test_data = dataset.get_spk_to_utts("TRAIN"), dataset.get_spk_to_utts("TEST")
    tested = conditions.build_conditions(test_data)
    if condition not in tested:
        raise ValueError(f"--condition {condition}: there are {', '.join(tested)}.")
    table = [
        f"| row | steps | EER in %, {condition} | EER in %, all conditions | change | significant |",
        "|---|---|---|---|---|---|",
    ]
    if myconfig.INITIAL_MODELS:
        raise ValueError("a ladder begins with new networks: leave INITIAL_MODELS empty.")
    if seeds < 1:
        raise ValueError(f"--seeds {seeds}: at least one training is needed.")
    rows = list_rows()
    # All measured before the first is trained, so that no row suffers from what else the machine does later.
    num_steps = {row: plan_row(row, train_data, minutes) for row in rows}
    above = None
    for number, row in enumerate(rows):
        eers = []
        for seed in range(myconfig.SEED, myconfig.SEED + seeds):
            print(f"Row {number + 1} of {len(rows)}: {row}, seed {seed}.", flush=True)
            encoder = train_row(row, seed, train_data, num_steps[row])
            scored = conditions.score_conditions(encoder, tested)
            eers.append([replicates(scored[condition]), replicates(conditions.pool(scored))])
        shown, pooled = np.mean(eers, axis=0)
        change, significant = "", ""
        if above is not None:
            low, high = metrics.central_95_percent((pooled - above)[1:])
            change, significant = with_interval(pooled - above, "+"), "no" if low <= 0 <= high else "yes"
        above = pooled
        figures = f"{num_steps[row]:,} | {with_interval(shown)} | {with_interval(pooled)} | {change} | {significant}"
        table.append(f"| {number + 1}. {row} | {figures} |")
    return table


def main() -> None:
    """Print the ladder."""
    parallel.prepare_process()
    table = climb(options.minutes, options.seeds, options.condition)
    print("\n".join(table))


if __name__ == "__main__":
    script.run(main)
