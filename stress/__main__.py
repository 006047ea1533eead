"""Stress tests of the project: `python3 -m stress`, in an hour at most, on Linux or macOS.

They use broken recordings, lists, models and databases, kills at any moment, many threads, meetings of up to sixty
people, and large inputs in a laptop's memory.
`--quick` uses fewer files and kills, and leaves out the large inputs.
"""

from foundation import script, settings

if __name__ == "__main__":
    script.begin()
    parser = script.OptionParser(prog="python3 -m stress", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer files and kills, no large inputs")
    options = parser.parse_args()

import tempfile
from pathlib import Path

from foundation import parallel
from stress import audio, kill, large, meetings, parsing, threads, together

NUM_BROKEN_FILES, NUM_BROKEN_FILES_QUICK = 1000, 150
NUM_BROKEN_LISTS, NUM_BROKEN_LISTS_QUICK = 1000, 40
NUM_KILLS, NUM_KILLS_QUICK = 100, 6
NUM_ROUNDS, NUM_ROUNDS_QUICK = 50, 3
NUM_MEETINGS, NUM_MEETINGS_QUICK = 200, 10
NUM_CALLS, NUM_CALLS_QUICK = 200, 40


def main() -> None:
    """Run the stress tests and print the results. Raises AssertionError for the first failure."""
    parallel.prepare_process()
    with tempfile.TemporaryDirectory() as folder, settings.override(FEATURE_STORE_DIR=f"{folder}/features"):
        num_files = NUM_BROKEN_FILES_QUICK if options.quick else NUM_BROKEN_FILES
        print(f"Broken recordings: {audio.hear_broken_corpus(Path(folder) / 'audio', num_files)}", flush=True)
    small = {"LSTM_HIDDEN_SIZE": 8, "BATCH_SIZE": 2, "SPEEDS": (1.0,), "UTTERANCES_PER_SPEAKER": 2}
    with (
        tempfile.TemporaryDirectory() as folder,
        settings.override(FEATURE_STORE_DIR=f"{folder}/features", **small),
    ):
        num_files = NUM_BROKEN_LISTS_QUICK if options.quick else NUM_BROKEN_LISTS
        print(f"Broken lists: {parsing.parse_broken_files(Path(folder), num_files)}.", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        num_kills = NUM_KILLS_QUICK if options.quick else NUM_KILLS
        print(f"Killed: {kill.soak(Path(folder), num_kills)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        num_rounds = NUM_ROUNDS_QUICK if options.quick else NUM_ROUNDS
        print(f"Together: {together.embed_together(Path(folder), num_rounds)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        num_calls = NUM_CALLS_QUICK if options.quick else NUM_CALLS
        print(f"Threads: {threads.work_together(Path(folder), num_calls)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        num_meetings = NUM_MEETINGS_QUICK if options.quick else NUM_MEETINGS
        print(f"Meetings: {meetings.hold_meetings(Path(folder), num_meetings)}", flush=True)
    if not options.quick:
        large.withstand_large_inputs()


if __name__ == "__main__":
    script.run(main)
