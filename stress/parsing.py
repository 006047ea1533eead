"""Broken lists, models, databases and settings: all must be read, or refused with an error message.

Every kind of file that the project itself parses is written once, correctly, and then changed at random.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

import dataset
import demo_data
import evaluation
import feature_store
import neural_net
import speaker_id
from encoder.saved_models import load_encoder
from foundation import setting_checks, setting_table, settings
from scoring.trials import read_trial_list
from stress import audio
from training import checkpoint
from voices import database as speaker_database

# Reads a file. Raises ValueError if it cannot be used.
Reader = Callable[[Path], object]

# Pieces of lists and command lines, which are inserted where they do not belong.
SNIPPETS: tuple[bytes, ...] = (b"\n", b'"', b",", b" ", b"\0", b"\xff", b"\r", b"=", b"..", b"-1", b"1e999", b"nan")
SNIPPETS += ("声".encode(), b"1" * 5000)


def put_in_snippets(content: bytes, rng: np.random.Generator) -> bytes:
    """Insert pieces that have a meaning for parsers at random places, or replace bytes with them."""
    for _ in range(rng.integers(1, 5)):
        start = int(rng.integers(len(content) + 1))
        end = start + int(rng.integers(4))
        content = content[:start] + SNIPPETS[int(rng.integers(len(SNIPPETS)))] + content[end:]
    return content


CHANGES = (*audio.CHANGES, put_in_snippets)


def write_samples(folder: Path) -> dict[str, Reader]:
    """Write a file of each kind; returns how each is read."""
    rng = np.random.default_rng(0)
    for speaker in ("ann", "bob"):
        (folder / "voices" / speaker).mkdir(parents=True)
        for number in range(2):
            samples = rng.normal(0, 0.1, demo_data.SAMPLE_RATE)
            soundfile.write(folder / "voices" / speaker / f"{number}.wav", samples, demo_data.SAMPLE_RATE)
    rows = [f"{path.parent.name},{path.relative_to(folder).as_posix()}\n" for path in sorted(folder.rglob("*.wav"))]
    (folder / "list.csv").write_text("speaker,path\n" + "".join(rows))
    spk_to_utts = dataset.get_csv_spk_to_utts(str(folder / "list.csv"))
    store = feature_store.open_store(spk_to_utts)
    names = [row.strip().split(",")[1] for row in rows]
    trials = [f"{int(first[:10] == second[:10])} {first} {second}\n" for first in names for second in names]
    (folder / "trials.txt").write_text("".join(trials))
    neural_net.train_network(spk_to_utts, 1, str(folder / "model.pt"))
    model = str(folder / "model.pt")
    voice = str(folder / names[0])
    speaker_id.enrol(load_encoder(model), str(folder / "speakers.db"), "Ann", [voice])
    assignments = [f"{name}={setting_table.display(value)}\n" for name, value in settings.all_settings().items()]
    (folder / "overrides.txt").write_text("".join(assignments))

    def read_model(path: Path) -> None:
        encoder = load_encoder(str(path))
        assert np.isfinite(evaluation.embed_utterances(encoder, [voice])).all()

    def read_database(path: Path) -> None:
        with speaker_database.open_database(str(path), "write") as connection:
            speaker_database.list_speakers(connection)
            speaker_database.read_speakers(connection, speaker_id.model_of(load_encoder(model)))
            speaker_database.rename(connection, "Ann", "Bob")
            speaker_database.remove(connection, "Bob")

    return {
        "list.csv": lambda path: dataset.get_csv_spk_to_utts(str(path)),
        "trials.txt": lambda path: read_trial_list(str(path), store),
        "model.pt": read_model,
        "model.last.pt": lambda path: checkpoint.read_checkpoint(
            str(path).replace(".last", ""), ["ann", "bob"], settings.present()
        ),
        "speakers.db": read_database,
        "overrides.txt": read_overrides,
    }


def read_overrides(path: Path) -> None:
    """Apply each line like an assignment on the command line."""
    with settings.override(**settings.all_settings()):
        for line in path.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            settings.apply_override(line)
        setting_checks.check(settings.all_settings())
        setting_checks.check_training(settings.all_settings())


def parse_broken_files(folder: Path, num_files: int, seed: int = 0) -> str:
    """Read broken files of each kind; returns what happened. Raises AssertionError for any error but ValueError."""
    readers = write_samples(folder)
    rng = np.random.default_rng(seed)
    refused = dict.fromkeys(readers, 0)
    for name, read in readers.items():
        content = (folder / name).read_bytes()
        for number in range(num_files):
            change = CHANGES[number % len(CHANGES)]
            path = folder / f"broken {name}"
            path.write_bytes(change(content, rng))
            try:
                read(path)
            except ValueError as error:
                refused[name] += 1
                assert str(error), repr(error)
            except Exception as error:
                raise AssertionError(f"{name}, {change.__name__}, number {number}: {error!r}") from error
    return ", ".join(f"{name} refused {number} of {num_files} times" for name, number in refused.items()) + "."
