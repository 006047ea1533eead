"""Train the pretrained models as they were trained, one stage after the other, on a GPU if there is one.

    python3 -m experiments.pretrained lstm160-tdnn148 TRAIN_DATA_CSV=train.csv NOISE_DIR=noise

Each stage begins with the model of the one before; the last also hears copies by `experiments/disturbed_copies.py`,
which are made in CONDITIONS_DIR. The same command goes on where it was stopped; `--share 0.01` takes a hundredth of the
steps, to try it. The last stage is saved_model/<model>.pt, or what SAVED_MODEL_PATH names.
"""

import argparse
from collections.abc import Collection
from pathlib import Path

from foundation import script, settings

MODELS = ("lstm160-tdnn148", "lstm64-tdnn56")

if __name__ == "__main__":
    script.begin()
    parser = script.OptionParser(description=__doc__)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--share", type=float, default=1.0, help="of the steps of each stage (default: 1)")
    parser.add_argument("settings", nargs="*", metavar="NAME=value", help="settings, as for every script")
    options = parser.parse_args()
    typed = settings.read_command_line(__doc__, arguments=options.settings)

import dataset
import neural_net
from experiments import disturbed_copies
from foundation import parallel

# What all stages of all models have: nobody is set aside, and no embedding of Common Voice's people is kept.
ALWAYS = {"NUM_VALIDATION_SPEAKERS": 0, "NO_COHORT_CORPORA": "cv-", "CORPORA": "ls-,so-,sc-,ar-,ds-,cv-"}
NEW = {"STACKED_FRAMES": 1, "LSTM_LAYER_NORM": True}
LATER = {"DISTURBED_BATCHES": 0.6}
BEFORE_LAST = {**LATER, "NARROW_BAND_PROB": 0.4, "TRAINING_STEPS": 4500, "LEARNING_RATE": 0.0015, "SEED": 2}
LAST = {**LATER, "TRAINING_STEPS": 2500, "SPEEDS": (1.0,), "LEARNING_RATE": 0.001}

# The settings of each stage that are not the defaults.
STAGES: dict[str, list[dict]] = {
    "lstm160-tdnn148": [
        {**NEW, "LSTM_HIDDEN_SIZE": 160, "TDNN_CHANNELS": 148, "TRAINING_STEPS": 9000},
        {"TRAINING_STEPS": 4500, "LEARNING_RATE": 0.0015},
        {**LATER, "TRAINING_STEPS": 4500, "LEARNING_RATE": 0.0015, "SEED": 1},
        BEFORE_LAST,
        LAST,
    ],
    "lstm64-tdnn56": [
        {**NEW, "LSTM_HIDDEN_SIZE": 64, "TDNN_CHANNELS": 56, "TRAINING_STEPS": 7000},
        {**LATER, "TRAINING_STEPS": 4500, "LEARNING_RATE": 0.002, "SEED": 1},
        BEFORE_LAST,
        LAST,
    ],
}


def train(model: str, share: float, spk_to_utts: dataset.SpkToUtts, last: Path) -> None:
    """Train the stages of a model, or continue, up to the file of the `last`; the others lie beside it.

    Raises ValueError for a share of the steps that is none.
    """
    if not 0 < share <= 1:
        raise ValueError(f"--share {share:g} is not above 0 and at most 1.")
    copies = str(disturbed_copies.make(spk_to_utts, settings.present()))
    stages, before = STAGES[model], ""
    for number, values in enumerate(stages, start=1):
        path = str(last if number == len(stages) else last.with_name(f"{last.stem}-stage{number}.pt"))
        num_steps = max(1, round(share * values["TRAINING_STEPS"]))
        changes = ALWAYS | values | {"TRAINING_STEPS": num_steps, "SAVED_MODEL_PATH": path, "INITIAL_MODELS": before}
        changes["DISTURBED_DATA_CSV"] = copies if number == len(stages) else ""
        print(f"Stage {number} of {len(stages)}: {num_steps} steps, {path}.", flush=True)
        neural_net.train_network(spk_to_utts, num_steps, path, config=settings.present(**changes))
        before = path


def main(options: argparse.Namespace, typed: Collection[str] = ()) -> None:
    """Train the model that is asked for."""
    parallel.prepare_process()
    config = settings.present()
    last = Path(config.SAVED_MODEL_PATH if "SAVED_MODEL_PATH" in typed else f"saved_model/{options.model}.pt")
    train(options.model, options.share, dataset.get_spk_to_utts("TRAIN", typed), last)


if __name__ == "__main__":
    script.run(lambda: main(options, typed))
