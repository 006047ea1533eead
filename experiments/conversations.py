"""Conversations made of test recordings, whose turns are known, and how well a model finds them with nobody enrolled.

`python3 -m experiments.conversations SAVED_MODEL_PATH=... TEST_DATA_CSV=...` mixes conversations of two to four
people of one corpus, runs the timeline on each, and prints the diarisation error rate (DER) and how often the number
of people is right. They stay in CONDITIONS_DIR, each with its turns as RTTM, so that other tools can be measured on
them. The errors are counted by pyannote.metrics (Bredin 2017), which only this command needs.
"""

import argparse
import importlib.util
from collections.abc import Collection, Sequence

from foundation import script, settings

if __name__ == "__main__":
    script.begin()
    parser = script.OptionParser(description=__doc__)
    parser.add_argument("--number", type=int, default=8, help="conversations of each corpus (default: 8)")
    parser.add_argument("settings", nargs="*", metavar="NAME=value", help="settings, as for every script")
    options = parser.parse_intermixed_args()
    if options.number < 1:
        parser.error(f"--number {options.number} is less than 1")
    typed = settings.read_command_line(__doc__, arguments=options.settings)
    if importlib.util.find_spec("pyannote") is None or importlib.util.find_spec("pyannote.metrics") is None:
        script.fail("conversations are scored by pyannote.metrics: pip3 install pyannote.metrics.")

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from tqdm import tqdm

import dataset
from audio import mono, speech_levels
from dataset import SpkToUtts
from encoder.saved_models import load_encoder
from encoder.speaker_encoder import SpeakerEncoder
from feature_extraction import SAMPLE_RATE
from foundation import parallel, safe_files
from foundation.settings import Config
from voices import timeline as speaker_timeline
from voices.turns import Turn, to_rttm

SECONDS = 150
NUM_SPEAKERS = (2, 4)
TURN_SECONDS = (1.5, 10.0)
PAUSE_SECONDS = (-0.3, 1.0)
LEVEL_DB = (-6.0, 6.0)
SNR_DB = (20.0, 30.0)

# Around the start and the end of a turn of the reference, as nobody can mark these exactly.
COLLAR_SECONDS = 0.25


class Span(NamedTuple):
    """Somebody speaks from `start` to `end`, in seconds."""

    start: float
    end: float
    speaker: str


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


def build_conversation(spk_to_utts: SpkToUtts, rng: np.random.Generator) -> tuple[np.ndarray, list[Span]]:
    """Samples of a conversation, and who speaks from when to when, in seconds.

    A turn is a piece of an utterance, or several short ones after another. Turns follow after a pause, or before the
    one before has ended; nobody has two turns in sequence. Each person has a level, and all are in noise. A person's
    recordings are those of one folder, the one with the most: nobody changes the microphone during a conversation.
    """
    names = rng.permutation(list(spk_to_utts))[: rng.integers(*NUM_SPEAKERS, endpoint=True)].tolist()
    spk_to_utts = {name: largest_folder(spk_to_utts[name]) for name in names}
    gains = dict(zip(names, 10 ** (rng.uniform(*LEVEL_DB, len(names)) / 20), strict=True))
    waiting = {name: rng.permutation(spk_to_utts[name]).tolist() for name in names}
    mixed, spans, speaker = np.zeros(SECONDS * SAMPLE_RATE, np.float32), [], ""
    end = 0.0
    while end < SECONDS - TURN_SECONDS[1] - PAUSE_SECONDS[1]:
        speaker = str(rng.choice([name for name in names if name != speaker]))
        wanted = round(rng.uniform(*TURN_SECONDS) * SAMPLE_RATE)
        turn = np.zeros(0, np.float32)
        num_pieces = 0
        while len(turn) < wanted:
            if not waiting[speaker]:
                waiting[speaker] = rng.permutation(spk_to_utts[speaker]).tolist()
            num_pieces += 1
            if not len(turn) and num_pieces > len(spk_to_utts[speaker]):
                raise ValueError(f"there is no speech in the recordings of {speaker}.")
            piece = trim(mono.read_audio(waiting[speaker].pop()))
            turn = np.concatenate([turn, piece / max(1e-6, float(np.sqrt(np.mean(piece**2)))) if len(piece) else piece])
        turn = trim(turn[:wanted])
        start = max(0, round((end + rng.uniform(*PAUSE_SECONDS)) * SAMPLE_RATE))
        mixed[start : start + len(turn)] += np.float32(0.05 * gains[speaker]) * turn
        spans.append(Span(start / SAMPLE_RATE, (start + len(turn)) / SAMPLE_RATE, speaker))
        end = spans[-1].end
    mixed = mixed[: round((end + 0.5) * SAMPLE_RATE)]
    noise = rng.normal(size=len(mixed)).astype(np.float32) * np.sqrt(np.mean(mixed**2))
    mixed += noise * np.float32(10 ** (-rng.uniform(*SNR_DB) / 20))
    return mixed / max(1, float(np.abs(mixed).max())), spans


def build_conversations(spk_to_utts: SpkToUtts, number: int, config: Config) -> dict[str, list[Span]]:
    """Write conversations of each corpus with two speakers or more, as FLAC and RTTM -> their paths and turns.

    SEED determines them. Raises OSError if the disk is full or read-only.
    """
    folder = Path(config.CONDITIONS_DIR) / "conversations"
    built = {}
    for corpus, data in dataset.split_by_corpus(spk_to_utts, config.CORPORA).items():
        for take in tqdm(range(number if len(data) > 1 else 0), desc="Mixing", disable=None):
            script.raise_if_interrupted()
            samples, spans = build_conversation(data, np.random.default_rng([config.SEED, take]))
            path = folder / f"{corpus}{take}.flac"
            with safe_files.replace_when_whole(path) as file:
                soundfile.write(file, samples, SAMPLE_RATE, format="FLAC")
            turns = [Turn(*span, None) for span in spans]
            safe_files.write_text(path.with_suffix(".rttm"), to_rttm(turns, str(path)))
            built[str(path)] = spans
    if not built:
        raise ValueError("a conversation needs two speakers or more of one corpus.")
    return built


def diarization_errors(reference: Sequence[Span], found: Sequence[Span]) -> DiarizationErrors:
    """Compare turns with a reference; names of found speakers do not count, and where several speak at once, each does.

    Source: NIST 2009 Rich Transcription evaluation plan, section 6.1.
    """
    from pyannote.core import Annotation, Segment, Timeline
    from pyannote.metrics.diarization import DiarizationErrorRate

    def annotate(spans: Sequence[Span]) -> Annotation:
        annotation = Annotation()
        for track, (start, end, speaker) in enumerate(spans):
            annotation[Segment(start, end), track] = speaker
        return annotation

    whole = Timeline([Segment(0, max(span.end for span in [*reference, *found]) + 1)])
    metric = DiarizationErrorRate(collar=2 * COLLAR_SECONDS)
    parts = metric.compute_components(annotate(reference), annotate(found), uem=whole)
    names = ("total", "missed detection", "false alarm", "confusion")
    return DiarizationErrors(*(float(parts[name]) for name in names))


def score_conversation(encoder: SpeakerEncoder, path: str, spans: Sequence[Span]) -> tuple[DiarizationErrors, bool]:
    """The errors of a timeline with nobody enrolled, and whether it has the right number of people."""
    nobody = np.zeros((0, encoder.dimensions), np.float32)
    found = speaker_timeline.find_timeline(encoder, path, [], nobody, np.zeros((2, 0)), cluster=True).turns
    errors = diarization_errors(spans, [Span(*turn[:3]) for turn in found])
    return errors, len({turn.speaker for turn in found}) == len({span.speaker for span in spans})


def main(options: argparse.Namespace, typed: Collection[str] = ()) -> None:
    """Print a Markdown table of the errors, of each corpus and of all."""
    parallel.prepare_process()
    config = settings.present()
    encoder = load_encoder(config.SAVED_MODEL_PATH, typed)
    settings.report_overruled(encoder.settings)
    conversations = build_conversations(dataset.get_spk_to_utts("TEST", typed), options.number, config)
    of_corpus: dict[str, list[tuple[DiarizationErrors, bool]]] = {}
    for path, spans in conversations.items():
        result = score_conversation(encoder, path, spans)
        corpus = dataset.get_corpus(Path(path).stem, config.CORPORA)
        for name in [corpus, "all of these"] if corpus else ["all of these"]:
            of_corpus.setdefault(name, []).append(result)
    folder = Path(next(iter(conversations))).parent
    print(f"The conversations are in {folder}. DER: 0.25 s around the ends of turns do not count, overlaps do.\n")
    print("| corpus | conversations | DER in % | missed | false alarm | confused | with the right number of people |")
    print("|---|---|---|---|---|---|---|")
    for name in sorted(of_corpus, key=lambda name: (name == "all of these", name)):
        total = DiarizationErrors(*map(sum, zip(*(errors for errors, _ in of_corpus[name]), strict=True)))
        shares = " | ".join(f"{100 * part / total.speech:.1f}" for part in total[1:])
        right = sum(is_right for _, is_right in of_corpus[name])
        print(f"| {name} | {len(of_corpus[name])} | {100 * sum(total[1:]) / total.speech:.1f} | {shares} | {right} |")


if __name__ == "__main__":
    script.run(lambda: main(options, typed))
