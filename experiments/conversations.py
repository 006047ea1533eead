"""Conversations whose turns are known, and how well a model finds them with nobody enrolled.

`python3 -m experiments.conversations SAVED_MODEL_PATH=... TEST_DATA_CSV=...` mixes conversations of test recordings,
runs the timeline on each, and prints the diarisation error rate (DER) and how often the number of people is right.
Those of the first kind are of two to four people, each with a microphone. Those "on one line" share a room or a
telephone, and the noise; a quarter of them are of one person alone. They stay in CONDITIONS_DIR, each with its turns as
RTTM, so that other tools can be measured on them. `--folder` takes real conversations instead, NAME.flac or other audio
with NAME.rttm beside it: made ones are easier. The errors are counted by pyannote.metrics (Bredin 2017), which only
this command needs.
"""

import argparse
import importlib.util
from collections.abc import Collection, Sequence

from foundation import script, settings
from foundation.paths import expand_home

if __name__ == "__main__":
    script.begin()
    parser = script.OptionParser(description=__doc__)
    parser.add_argument("--number", type=int, default=8, help="conversations of each corpus and kind (default: 8)")
    parser.add_argument("--folder", type=expand_home, default="", help="real conversations with their turns as RTTM")
    parser.add_argument("settings", nargs="*", metavar="NAME=value", help="settings, as for every script")
    options = parser.parse_args()
    if options.number < 1:
        parser.error(f"--number {options.number} is less than 1")
    typed = settings.read_command_line(__doc__, arguments=options.settings)
    if importlib.util.find_spec("pyannote") is None or importlib.util.find_spec("pyannote.metrics") is None:
        script.fail("conversations are scored by pyannote.metrics: pip3 install pyannote.metrics.")

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy
import soundfile
from tqdm import tqdm

import dataset
from audio import mono, speech_levels
from audio.recording_lists import find_audio_files
from dataset import SpkToUtts
from encoder.base import Encoder
from encoder.saved_models import load_encoder
from experiments.conditions import telephone
from feature_extraction import SAMPLE_RATE
from foundation import parallel, safe_files
from foundation.settings import Config
from voices import timeline as speaker_timeline
from voices.formats import to_rttm
from voices.turns import Turn


class Kind(NamedTuple):
    """How conversations are made: their lengths in seconds, numbers of people, pauses before turns in seconds, negative
    where people interrupt each other, share of short turns, and ratios of signal to noise in decibels."""

    seconds: tuple[int, ...]
    num_people: tuple[int, ...]
    pauses: tuple[float, float]
    short_turns: float
    snr_db: tuple[float, float]


APART, ON_ONE_LINE = "", "on one line"
KINDS = {
    APART: Kind((150,), (2, 3, 4), (-0.3, 1.0), 0.0, (20.0, 30.0)),
    ON_ONE_LINE: Kind((30, 90, 300), (1, 1, 2, 2, 3, 3, 4, 5), (-1.0, 1.2), 0.25, (12.0, 25.0)),
}
TURN_SECONDS, SHORT_TURN_SECONDS = (1.5, 10.0), (0.5, 1.5)
LEVEL_DB = (-6.0, 6.0)

# How long a room takes until its echoes are 60 dB softer, in seconds, and how much softer they begin.
ROOM_SECONDS, ECHO_DB = (0.15, 0.5), (3.0, 9.0)

# Around the start and the end of a turn of the reference, as nobody can mark these exactly.
COLLAR_SECONDS = 0.25


class DiarizationErrors(NamedTuple):
    """Seconds of reference speech, of which `missed` and `confused`, and seconds of speech that is a false alarm."""

    speech: float
    missed: float
    false_alarm: float
    confused: float


def trim(samples: np.ndarray) -> np.ndarray:
    """Samples without the silence at both ends."""
    speech = np.flatnonzero(speech_levels.find_speech(speech_levels.levels_db(samples)))
    if not len(speech):
        return samples[:0]
    frame = speech_levels.SPEECH_FRAME_SAMPLES
    return samples[speech[0] * frame : (speech[-1] + 1) * frame]


def largest_folder(paths: Sequence[str]) -> list[str]:
    """Those of the paths that are in the folder which has the most of them; all if no folder has two."""
    [(largest, number)] = Counter(Path(path).parent for path in paths).most_common(1)
    return [path for path in paths if number == 1 or Path(path).parent == largest]


def draw_turn(utts: Sequence[str], waiting: list[str], seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Samples of a turn of about so many seconds, whose power is 1: a piece of an utterance, or several short ones.

    `waiting` are those of the utterances that were not used yet; when all were, they come again. Raises ValueError if
    there is no speech in them.
    """
    wanted, num_pieces, turn = round(seconds * SAMPLE_RATE), 0, np.zeros(0, np.float32)
    while len(turn) < wanted:
        if not waiting:
            waiting += rng.permutation(utts).tolist()
        num_pieces += 1
        if not len(turn) and num_pieces > len(utts):
            raise ValueError(f"there is no speech in {utts[0]} and others of the same person.")
        piece = trim(mono.read_audio(waiting.pop()))
        turn = np.concatenate([turn, piece / max(1e-6, float(np.sqrt(np.mean(piece**2)))) if len(piece) else piece])
    return trim(turn[:wanted])


def build_conversation(
    spk_to_utts: SpkToUtts, rng: np.random.Generator, kind: str = APART
) -> tuple[np.ndarray, list[Turn]]:
    """Samples of a conversation, and who speaks from when to when, in seconds.

    Turns follow after a pause, or before the one before has ended; nobody has two turns in sequence, unless alone. Each
    person has a level, and all are in noise. A person's recordings are those of one folder, the one with the most:
    nobody changes the microphone during a conversation.
    """
    made = KINDS[kind]
    names = rng.permutation(list(spk_to_utts))[: rng.choice(made.num_people)].tolist()
    utts_of = {name: largest_folder(spk_to_utts[name]) for name in names}
    gains = dict(zip(names, 10 ** (rng.uniform(*LEVEL_DB, len(names)) / 20), strict=True))
    waiting: dict[str, list[str]] = {name: [] for name in names}
    length = int(rng.choice(made.seconds))
    mixed, end = np.zeros((length + 1) * SAMPLE_RATE, np.float32), 0.0
    spans: list[Turn] = []
    while end < length - TURN_SECONDS[1] - made.pauses[1]:
        last = spans[-1].speaker if spans and len(names) > 1 else ""
        speaker = str(rng.choice([name for name in names if name != last]))
        seconds = rng.uniform(*(SHORT_TURN_SECONDS if rng.random() < made.short_turns else TURN_SECONDS))
        turn = draw_turn(utts_of[speaker], waiting[speaker], seconds, rng)
        pause = max(rng.uniform(*made.pauses), 0.0 if len(names) == 1 else -np.inf)
        start = max(0, round((end + pause) * SAMPLE_RATE))
        mixed[start : start + len(turn)] += np.float32(0.05 * gains[speaker]) * turn
        spans.append(Turn(start / SAMPLE_RATE, (start + len(turn)) / SAMPLE_RATE, speaker))
        end = max(end, spans[-1].end)
    mixed = mixed[: round((end + 0.5) * SAMPLE_RATE)]
    if kind == ON_ONE_LINE:
        mixed = add_room(mixed, rng) if rng.random() < 0.5 else telephone(mixed, rng)[: len(mixed)]
    noise = rng.normal(size=len(mixed)).astype(np.float32) * np.sqrt(np.mean(mixed**2))
    mixed = mixed + noise * np.float32(10 ** (-rng.uniform(*made.snr_db) / 20))
    return mixed / max(1, float(np.abs(mixed).max())), spans


def add_room(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Samples with the echoes of a room: noise that decays exponentially (Polack 1988)."""
    seconds = rng.uniform(*ROOM_SECONDS)
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    echoes = rng.normal(size=len(times)) * 10 ** (-3 * times / seconds)
    echoes *= 10 ** (-rng.uniform(*ECHO_DB) / 20) / np.sqrt(np.sum(echoes**2))
    return (samples + scipy.signal.fftconvolve(samples, echoes)[: len(samples)]).astype(np.float32)


def build_conversations(spk_to_utts: SpkToUtts, number: int, config: Config) -> dict[str, list[Turn]]:
    """Write conversations of each kind and corpus with two speakers or more, as FLAC and RTTM -> their paths and turns.

    SEED determines them. Raises OSError if the disk is full or read-only.
    """
    folder = Path(config.CONDITIONS_DIR) / "conversations"
    built = {}
    for corpus, data in dataset.split_by_corpus(spk_to_utts, config.CORPORA).items():
        takes = [(kind, take) for kind in KINDS for take in range(number if len(data) > 1 else 0)]
        for kind, take in tqdm(takes, desc="Mixing", disable=None):
            script.raise_if_interrupted()
            samples, spans = build_conversation(data, np.random.default_rng([config.SEED, take]), kind)
            path = folder / f"{corpus}{take}{' ' * bool(kind)}{kind}.flac"
            with safe_files.replace_when_whole(path) as file:
                soundfile.write(file, samples, SAMPLE_RATE, format="FLAC")
            safe_files.write_text(path.with_suffix(".rttm"), to_rttm(spans, str(path)))
            built[str(path)] = spans
    if not built:
        raise ValueError("a conversation needs two speakers or more of one corpus.")
    return built


def diarization_errors(reference: Sequence[Turn], found: Sequence[Turn]) -> DiarizationErrors:
    """Compare turns with a reference; names of found speakers do not count, and where several speak at once, each does.

    Source: NIST 2009 Rich Transcription evaluation plan, section 6.1.
    """
    from pyannote.core import Annotation, Segment, Timeline
    from pyannote.metrics.diarization import DiarizationErrorRate

    def annotate(spans: Sequence[Turn]) -> Annotation:
        annotation = Annotation()
        for track, turn in enumerate(spans):
            annotation[Segment(turn.start, turn.end), track] = turn.speaker
        return annotation

    whole = Timeline([Segment(0, max(span.end for span in [*reference, *found]) + 1)])
    metric = DiarizationErrorRate(collar=2 * COLLAR_SECONDS)
    parts = metric.compute_components(annotate(reference), annotate(found), uem=whole)
    names = ("total", "missed detection", "false alarm", "confusion")
    return DiarizationErrors(*(float(parts[name]) for name in names))


def read_rttm(path: Path) -> list[Turn]:
    """The turns of an RTTM file. Raises ValueError, with the line, for what is no turn, or if there is none."""
    spans = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        row = line.split()
        if row and row[0] == "SPEAKER":
            try:
                start, length, who = float(row[3]), float(row[4]), row[7]
            except (ValueError, IndexError):
                start, length, who = -1.0, 0.0, ""
            if not 0 <= start < np.inf or not 0 < length < np.inf:
                raise ValueError(f"{path}, line {number}: a turn has a start, a length above 0 and a name.")
            spans.append(Turn(start, start + length, who))
    if not spans:
        raise ValueError(f"{path} has no turns.")
    return spans


def read_conversations(folder: str) -> dict[str, list[Turn]]:
    """The recordings of a folder that have an RTTM file beside them -> their turns. Raises ValueError if none has."""
    found = {}
    for path in find_audio_files(folder):
        rttm = Path(path).with_suffix(".rttm")
        if rttm.is_file():
            found[path] = read_rttm(rttm)
    if not found:
        raise ValueError(f"{folder} has no recordings with an RTTM file of the same name.")
    return found


def score_conversation(encoder: Encoder, path: str, spans: Sequence[Turn]) -> tuple[DiarizationErrors, bool]:
    """The errors of a timeline with nobody enrolled, and whether it has the right number of people."""
    found = speaker_timeline.find_timeline(encoder, path).turns
    errors = diarization_errors(spans, found)
    return errors, len({turn.speaker for turn in found}) == len({span.speaker for span in spans})


def main(options: argparse.Namespace, typed: Collection[str] = ()) -> None:
    """Print a Markdown table of the errors, of each corpus and of all."""
    parallel.prepare_process()
    config = settings.present()
    encoder = load_encoder(config.SAVED_MODEL_PATH, typed)
    settings.report_overruled(encoder.settings)
    if options.folder:
        conversations = read_conversations(options.folder)
    else:
        conversations = build_conversations(dataset.get_spk_to_utts("TEST", typed), options.number, config)
    of_corpus: dict[str, list[tuple[DiarizationErrors, bool]]] = {}
    for path, spans in conversations.items():
        result = score_conversation(encoder, path, spans)
        name = Path(path).stem
        kind = ON_ONE_LINE if name.endswith(ON_ONE_LINE) else ""
        group = name if options.folder else f"{dataset.get_corpus(name, config.CORPORA)} {kind}".strip()
        for name in {group, f"all {kind}".strip()} - {""}:
            of_corpus.setdefault(name, []).append(result)
    folder = Path(next(iter(conversations))).parent
    print(f"The conversations are in {folder}. DER: 0.25 s around the ends of turns do not count, overlaps do.\n")
    print("| corpus | conversations | DER in % | missed | false alarm | confused | with the right number of people |")
    print("|---|---|---|---|---|---|---|")
    for name in sorted(of_corpus, key=lambda name: (name.startswith("all"), name)):
        total = DiarizationErrors(*map(sum, zip(*(errors for errors, _ in of_corpus[name]), strict=True)))
        total = total._replace(speech=max(total.speech, 1e-9))  # The collar may leave none.
        shares = " | ".join(f"{100 * part / total.speech:.1f}" for part in total[1:])
        right = sum(is_right for _, is_right in of_corpus[name])
        print(f"| {name} | {len(of_corpus[name])} | {100 * sum(total[1:]) / total.speech:.1f} | {shares} | {right} |")


if __name__ == "__main__":
    script.run(lambda: main(options, typed))
