"""Stress tests of the project: `python3 -m stress`, in an hour at most, on Linux or macOS.

They use broken recordings, lists, models and databases, kills at any moment, meetings of up to sixty people, and large
inputs in a laptop's memory.
`--quick` uses fewer files and kills, and leaves out the large inputs.
"""

from foundation import script, settings

if __name__ == "__main__":
    script.begin()
    parser = script.OptionParser(prog="python3 -m stress", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer files and kills, no large inputs")
    options = parser.parse_args()

import tempfile
from collections.abc import Callable
from pathlib import Path

from foundation import parallel
from stress import audio, kill, large, meetings, parsing

# What is done in an empty folder, how often, and how often with --quick.
IN_A_FOLDER: dict[str, tuple[Callable[[Path, int], str], int, int]] = {
    "Broken recordings": (audio.hear_broken_corpus, 1000, 150),
    "Broken lists": (parsing.parse_broken_files, 1000, 40),
    "Killed": (kill.soak, 100, 6),
    "Meetings": (meetings.hold_meetings, 200, 10),
}

# With small networks, a training takes seconds.
SMALL = {"LSTM_HIDDEN_SIZE": 8, "BATCH_SIZE": 2, "SPEEDS": (1.0,), "UTTERANCES_PER_SPEAKER": 2}


def main() -> None:
    """Run the stress tests and print the results. Raises AssertionError for the first failure."""
    parallel.prepare_process()
    for name, (withstand, number, number_quick) in IN_A_FOLDER.items():
        with (
            tempfile.TemporaryDirectory() as folder,
            tempfile.TemporaryDirectory() as features,
            settings.override(FEATURE_STORE_DIR=features, **SMALL),
        ):
            print(f"{name}: {withstand(Path(folder), number_quick if options.quick else number)}", flush=True)
    if not options.quick:
        large.withstand_large_inputs()


if __name__ == "__main__":
    script.run(main)
