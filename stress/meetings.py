"""Meetings put together at random: what the command `timeline` prints must be who was put in, and when.

Anybody from nobody to thirty people is enrolled, and as many strangers speak. The voices are noises of different
colours, which a simple encoder tells apart, so that everything but trained networks is tried.
"""

import argparse
import contextlib
import io
import json
import unittest.mock
from pathlib import Path

import numpy as np
import scipy
import soundfile
import torch

import feature_extraction
import speaker_id
from audio.speech_levels import levels_db
from encoder.speaker_encoder import SpeakerEncoder
from feature_extraction import SAMPLE_RATE
from foundation import settings
from voices import commands
from voices.database import UNKNOWN
from voices.speech_detector import SpeechDetector
from voices.turns import Turn

NUMBERS = (0, 1, 2, 9, 30)
TURN_SECONDS, GAP_SECONDS, LEVEL_DB = (2.5, 7.0), (1.0, 2.5), (-6.0, 6.0)
TOLERANCE_SECONDS = 0.5
ENROL_SECONDS = 6

# Strangers are told apart surely if they have so many turns each, and there are two or more of them.
TURNS = 2
THRESHOLD, NUM_GAINS = 0.7, 32
MOST_ALIKE = 0.4
LEAST_SPEECH_DB = -60

# Names that look alike in formats which have no spaces, or that timelines give to strangers.
NAMES = ("Ann Lee", "Ann_Lee", "speaker_1", "speaker 1", "Ann%20Lee", "声", "<NA>", "Zo\u00eb")


class LoudestFrames(SpeakerEncoder):
    """Embeds the mean of what it reads, in which loud frames count most; without the level."""

    def build(self, num_inputs: int, values: dict) -> None:  # noqa: ARG002 - other networks have a shape.
        """There are no layers."""
        self.dimensions = num_inputs - 1

    def embed(self, inputs: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """The weighted mean of each row's steps, without padding."""
        loudness = 4 * inputs[:, :, :1]
        if lengths is not None:
            is_padding = torch.arange(inputs.shape[1])[None] >= lengths[:, None]
            loudness = loudness.masked_fill(is_padding[:, :, None], -torch.inf)
        return (loudness.softmax(dim=1) * inputs[:, :, 1:]).sum(dim=1)


def loud_is_speech() -> contextlib.AbstractContextManager:
    """In a `with` block, whatever is louder than -60 dB of full scale is speech, also noise."""

    def hear(_: SpeechDetector, samples: np.ndarray) -> np.ndarray:
        return (levels_db(samples) > LEAST_SPEECH_DB).astype(np.float32)

    return unittest.mock.patch.object(SpeechDetector, "hear", hear)


def speak(colour: np.ndarray, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """So many seconds of a voice: noise of a colour, gains in decibels at equal distances on the mel scale."""
    frequencies = feature_extraction.mel_frequencies(len(colour))
    frequencies = frequencies / frequencies[-1]
    taps = scipy.signal.firwin2(1023, frequencies, 10 ** (colour / 20))
    noise = scipy.signal.fftconvolve(rng.normal(size=round(seconds * SAMPLE_RATE)), taps, "same")
    return (0.05 * noise / np.sqrt(np.mean(noise**2))).astype(np.float32)


def draw_colours(number: int, rng: np.random.Generator) -> np.ndarray:
    """Voices (number, gains), of which no two are much alike."""
    colours: list[np.ndarray] = []
    while len(colours) < number:
        colour = 15 * rng.permutation(np.linspace(-1, 1, NUM_GAINS))
        if all(np.corrcoef(colour, other)[0, 1] < MOST_ALIKE for other in colours):
            colours.append(colour)
    return np.array(colours).reshape(-1, NUM_GAINS)


def make_encoder() -> SpeakerEncoder:
    """An encoder with thresholds that tells such voices apart."""
    config = settings.present(DELTAS=False, STACKED_FRAMES=1)
    encoder = LoudestFrames(vars(config)).eval()
    rng = np.random.default_rng(0)
    mfcc = [feature_extraction.compute_mfcc(speak(colour, 1, rng)) for colour in draw_colours(200, rng)]
    encoder.feature_mean.copy_(torch.from_numpy(np.concatenate(mfcc).mean(axis=0)))
    encoder.feature_std.copy_(torch.from_numpy(np.stack([of.mean(axis=0) for of in mfcc]).std(axis=0)))
    curve = [[THRESHOLD], np.linspace(THRESHOLD, 1, 16).tolist()]
    curves = {f"{first} {second}": curve for first in (0, 1) for second in (0, 1)}
    encoder.calibration = {"source": "stress", "false_accept_rates": [0.01], "counts": [0, 1], "curves": curves}
    return encoder


def hold_meeting(speakers: dict[str, np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, list[Turn]]:
    """Samples of a meeting in which everybody has TURNS turns, and who spoke when; silence if nobody is there."""
    samples, said, now = [np.zeros(SAMPLE_RATE, np.float32)], [], 1.0
    levels = {who: 10 ** (rng.uniform(*LEVEL_DB) / 20) for who in speakers}
    for who in [who for _ in range(TURNS) for who in rng.permutation(list(speakers)).tolist()]:
        seconds, gap = rng.uniform(*TURN_SECONDS), rng.uniform(*GAP_SECONDS)
        samples.append(np.float32(levels[who]) * speak(speakers[who], seconds, rng))
        samples.append(np.zeros(round(gap * SAMPLE_RATE), np.float32))
        said.append(Turn(now, now + seconds, who))
        now += seconds + gap
    mixed = np.concatenate(samples)
    return mixed + rng.normal(0, 1e-4, len(mixed)).astype(np.float32) * bool(speakers), said


def run_timeline(
    encoder: SpeakerEncoder, file: Path, database: Path, unknown: str, num_speakers: int | None
) -> list[Turn]:
    """What the command prints, read back."""
    arguments = ["timeline", str(file), "--db", str(database), "--plot", str(file.with_suffix(".png"))]
    arguments += ["--unknown", unknown, "--json"]
    arguments += [] if num_speakers is None else ["--speakers", str(num_speakers)]
    options: argparse.Namespace = speaker_id.build_parser().parse_args(arguments)
    output = io.StringIO()
    with loud_is_speech(), contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()):
        assert commands.run_timeline(encoder, options) == 0
    turns = json.loads(output.getvalue())[str(file)]
    return [Turn(**turn) for turn in turns]


def check_answer(found: list[Turn], said: list[Turn], enrolled: set[str], unknown: str) -> None:
    """Raise AssertionError unless these are the turns of a meeting, with the right names for all who are enrolled.

    In one stranger's turns there is always one number, and in those of another one another number.
    """
    assert len(found) == len(said), (found, said)
    number_of: dict[str, str] = {}
    for turn, truth in zip(found, said, strict=True):
        assert abs(turn.start - truth.start) <= TOLERANCE_SECONDS, (turn, truth)
        assert abs(turn.end - truth.end) <= TOLERANCE_SECONDS, (turn, truth)
        if truth.speaker in enrolled:
            assert turn.speaker == truth.speaker, (turn, truth)
        elif unknown == "one":
            assert turn.speaker == UNKNOWN, (turn, truth)
        else:
            assert turn.speaker not in enrolled, (turn, truth)
            assert number_of.setdefault(truth.speaker, turn.speaker) == turn.speaker, (turn, truth)
    assert len(set(number_of.values())) == len(number_of), number_of


def hold_meetings(folder: Path, num_meetings: int, seed: int = 0) -> str:
    """Hold so many meetings; returns what happened. Raises AssertionError for a wrong answer."""
    encoder = make_encoder()
    num_turns = 0
    for number in range(num_meetings):
        rng = np.random.default_rng([seed, number])
        num_enrolled, num_strangers = rng.choice(NUMBERS, 2).tolist()
        if number < len(NUMBERS) ** 2:  # Every pair of numbers comes once, then they are drawn.
            num_enrolled, num_strangers = (NUMBERS[part] for part in divmod(7 * number % 25, len(NUMBERS)))
        colours = draw_colours(num_enrolled + num_strangers, rng)
        names = [*NAMES, *(f"P{count}" for count in range(num_enrolled))][:num_enrolled]
        people = dict(zip(names, colours, strict=False))
        database = folder / f"{number}.db"
        for name, colour in people.items():
            voice = folder / "enrolled.wav"
            soundfile.write(voice, speak(colour, ENROL_SECONDS, rng), SAMPLE_RATE)
            speaker_id.enrol(encoder, str(database), name, [str(voice)])
        speaking = {name: people[name] for name in names if rng.random() < 0.7}
        speaking |= {f"stranger {count}": colour for count, colour in enumerate(colours[num_enrolled:])}
        samples, said = hold_meeting(speaking, rng)
        file = folder / f"the {number}th_meeting.flac"
        soundfile.write(file, samples, SAMPLE_RATE)
        unknown = str(rng.choice(["one", "cluster"]))
        num_speakers = len(speaking) if speaking and rng.random() < 0.3 else None
        found = run_timeline(encoder, file, database, unknown, num_speakers)
        # With nobody enrolled, or where their number is given, strangers have numbers in any case.
        unknown = unknown if names and num_speakers is None else "cluster"
        try:
            check_answer(found, said, set(names), unknown)
        except AssertionError as error:
            place = f"meeting {number}, {num_enrolled} enrolled, {num_strangers} strangers, {unknown}"
            raise AssertionError(f"{place}, {num_speakers}: {error}") from None
        num_turns += len(said)
    return f"{num_meetings} meetings with {num_turns} turns, all as they were."
