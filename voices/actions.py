"""What the buttons of the page do, and the pictures that they draw: answers in words, for `demo_page.py`."""

import contextlib
import html
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.axes
import matplotlib.figure
import numpy as np

import feature_extraction
from audio import mono
from encoder.base import Encoder
from foundation import pictures, safe_files
from voices import answers, enrolment, formats, timeline, wording
from voices import database as speaker_database
from voices import map as voice_map
from voices.naming import cut_out, enrol_turns
from voices.timeline_picture import draw_timeline
from voices.turns import Turn

MAX_FILES = 20

# What can be heard of a recording that was dropped.
HEARD_SECONDS = 60

# Name, files, a recording, and whether it is one more.
EMPTY_FORM = ("", None, None, False)

# The colour is not needed: each kind of verdict has a sign, too.
SIGNS = {"same": "✓", "known": "✓", "probable": "✓", "different": "✗", "unknown": "✗", "unclear": "?"}


class Answer(NamedTuple):
    """What the page shows large, in one of three colours, below it, and folded: how it is known.

    `kind` is a verdict of `voices.answers`, or "" for what is none.
    """

    verdict: str
    more: Sequence[str] = ()
    why: Sequence[str] = ()
    kind: str = ""


def as_html(answer: Answer) -> str:
    """An answer: the verdict large, with a sign, sentences below, and folded, how it is known."""
    lines = [f'<p class="verdict">{SIGNS.get(answer.kind, "")} {html.escape(answer.verdict)}</p>']
    lines += [f"<p>{html.escape(words)}</p>" for words in answer.more if words]
    if answer.why:
        why = "".join(f"<p>{html.escape(words)}</p>" for words in answer.why)
        lines.append(f"<details><summary>How do we know?</summary>{why}</details>")
    return f'<div role="status" class="{answer.kind}">{"".join(lines)}</div>'


class Actions:
    """What the buttons do: the functions of `voices`, with one model and one database."""

    def __init__(self, encoder: Encoder, database: str) -> None:
        self.encoder, self.database = encoder, database
        self.model = answers.model_of(encoder)
        self.decision = answers.decision_for(encoder)
        speaker_database.read_people(database, self.model)  # Raises an error where it is of another model.

    def compare(self, file: str | None, spoken: str | None, other_file: str | None, other_spoken: str | None) -> tuple:
        """An answer, and a picture of both recordings."""
        first, second = choose(file, spoken), choose(other_file, other_spoken)
        answer = answers.verify(self.encoder, [first], [second], self.decision)
        more = [wording.meaning_in_words(answer, self.decision), *notes(answer["warnings"])]
        why = [wording.score_in_words(answer, self.decision), wording.decision_in_words(self.decision)]
        picture = draw_comparison(self.encoder, [first, second], answer["score"], answer["threshold"])
        return Answer(wording.capital(wording.VERDICTS[answer["verdict"]]), more, why, answer["verdict"]), picture

    def enrol(self, name: str, files: list[str] | None, recording: str | None, more: bool) -> tuple:
        """An answer, and an empty form."""
        recordings = [*(files or []), *([recording] if recording else [])]
        if not name.strip():
            raise ValueError("Whose recordings are these? Write a name.")
        if not recordings or len(recordings) > MAX_FILES:
            raise ValueError(f"1 to {MAX_FILES} recordings are needed, and there are {len(recordings)}.")
        seconds, warnings = enrolment.enrol(self.encoder, self.database, name.strip(), recordings, more)
        return Answer(
            f"{name.strip()} is enrolled", [f"Heard {seconds:.1f} s of speech.", *notes(warnings)]
        ), *EMPTY_FORM

    def identify(self, file: str | None, spoken: str | None) -> tuple:
        """An answer, and the most similar people with their scores."""
        recording = choose(file, spoken)
        [answer] = answers.identify(self.encoder, self.database, [recording], self.decision)
        ranking = [[name, f"{score:.3f}"] for name, score in answer["ranking"]]
        why = [f"With {ranking[0][0]}: {wording.score_in_words(answer, self.decision)}"]
        why.append(wording.decision_in_words(self.decision, answer["enrolled"]))
        who = wording.name_in_words(answer)
        who = who if answer["verdict"] == "known" else wording.capital(who)
        return Answer(who, notes(answer["warnings"]), why, answer["verdict"]), ranking

    def find_timeline(self, file: str | None, spoken: str | None, num_voices: float | None) -> tuple:
        """An answer, the turns as a picture and a table, files of them, and the turns with their recording."""
        recording = choose(file, spoken)
        people, number = speaker_database.read_people(self.database, self.model), int(num_voices or 0) or None
        found = timeline.find_timeline(self.encoder, recording, people, self.decision, True, number)
        speakers = list(dict.fromkeys(turn.speaker for turn in found.turns))
        seconds = [sum(turn.end - turn.start for turn in found.turns if turn.speaker == name) for name in speakers]
        spoken = ", ".join(f"{name} {formats.clock(time)}" for name, time in zip(speakers, seconds, strict=True))
        how_many = f"{len(speakers)} {'voice' if len(speakers) == 1 else 'voices'}"
        more = [f"{spoken}."] if speakers else []
        if speakers and not number:
            more.append("How many people speak is an estimate: if it is wrong, give the number.")
        more += notes([(recording, fault) for fault in found.faults])
        answer = Answer(how_many if speakers else "No voice was found", more)
        turns = [[formats.clock(turn.start), formats.clock(turn.end), formats.named(turn)] for turn in found.turns]
        picture = draw_timeline(found, width=6)
        return answer, picture, turns, write_turns(recording, found.turns, picture), (recording, found.turns)

    def play_turn(self, found: tuple[str, list[Turn]], number: int) -> tuple:
        """The sound of a turn, as its rate and samples, and whose voice it is."""
        recording, turns = found
        samples = cut_out(recording, [turns[number]])
        return playable(samples), turns[number].speaker

    def name_voice(self, found: tuple[str, list[Turn]] | None, voice: str, name: str, more: bool) -> tuple:
        """An answer, after a voice of the conversation that was heard last was enrolled; and an empty form."""
        if not found or not voice or not name.strip():
            raise ValueError("Click on one of the turns first, then write the name.")
        own = [turn for turn in found[1] if turn.speaker == voice]
        seconds, warnings = enrol_turns(self.encoder, self.database, name.strip(), found[0], own, more)
        words = f"Heard {seconds:.1f} s of speech. Find the turns again to see the name, also in the files."
        return Answer(f"{voice} is {name.strip()}", [words, *notes(warnings)]), "", "", False

    def show_people(self) -> tuple[list[list], list[str]]:
        """Name, number of recordings and time of speech of each enrolled person, and the names to choose from."""
        if not speaker_database.is_there(self.database):
            return [], []
        with speaker_database.open_database(self.database) as connection:
            rows = speaker_database.list_speakers(connection)
        people = [[name, number, formats.clock(seconds)] for name, number, seconds, _ in rows]
        return people, [row[0] for row in rows]

    def remove(self, name: str | None, is_sure: bool) -> tuple:
        """An answer, and who is left."""
        if not name:
            raise ValueError("Choose a person first.")
        if not is_sure:
            raise ValueError(
                f"All recordings of {name} will be forgotten. If you are sure, tick the box, and press again."
            )
        with speaker_database.open_database(self.database, "write") as connection:
            speaker_database.remove(connection, name)
        return Answer(f"{name} is removed"), *self.show_people()

    def rename(self, old: str | None, new: str) -> tuple:
        """An answer, and the people with the new name."""
        if not old or not new.strip():
            raise ValueError("Choose a person, and give a new name.")
        with speaker_database.open_database(self.database, "write") as connection:
            speaker_database.rename(connection, old, new)
        return Answer(f"{old} is now {new.strip()}"), *self.show_people()

    def draw_map(self) -> tuple:
        """An answer, and the map of all recordings."""
        names: list[str] = []
        if speaker_database.is_there(self.database):
            with speaker_database.open_database(self.database) as connection:
                names, embeddings = speaker_database.read_recordings(connection, self.model)
        if len(names) < 2:
            raise ValueError("A map needs two enrolled recordings or more.")
        words = f"{len(names)} recordings of {len(set(names))} {'people' if len(set(names)) > 1 else 'person'}"
        return Answer(words), voice_map.draw_map(embeddings, names, is_wide=False)


def write_turns(recording: str, turns: Sequence[Turn], picture: matplotlib.figure.Figure) -> list[str]:
    """The turns in files of all formats, and their picture, beside the recording that was uploaded."""
    start = Path(recording).with_name(f"{Path(recording).stem}-turns")
    contents = {
        "txt": formats.to_text(turns),
        "csv": formats.to_csv({Path(recording).name: list(turns)}),
        "labels.txt": formats.to_audacity(turns),
        "srt": formats.to_srt(turns),
    }
    for ending, text in contents.items():
        safe_files.write_text(f"{start}.{ending}", text)
    pictures.save(f"{start}.png", picture)
    return [f"{start}.{ending}" for ending in (*contents, "png")]


def beginning_of(file: str) -> tuple[int, np.ndarray]:
    """The rate and the samples of the first HEARD_SECONDS of a recording, as 16-bit integers, which browsers play."""
    with contextlib.closing(mono.read_blocks(file, HEARD_SECONDS * feature_extraction.SAMPLE_RATE, [])) as blocks:
        return playable(next(blocks))


def playable(samples: np.ndarray) -> tuple[int, np.ndarray]:
    """The rate, and samples (samples,) as 16-bit integers."""
    return feature_extraction.SAMPLE_RATE, (32767 * samples.clip(-1, 1)).astype(np.int16)


def choose(file: str | None, spoken: str | None) -> str:
    """The recording that was given, as a file or from the microphone. Raises ValueError for none or both."""
    if file and spoken:
        raise ValueError("There are a file and a recording from the microphone: remove one of them.")
    if not file and not spoken:
        raise ValueError("A recording is missing: drop a file, or use the microphone.")
    return str(file or spoken)


def notes(warnings: Sequence[tuple[str, str]]) -> list[str]:
    """Warnings, with the names of the files that they are about."""
    return [f"Please note, {Path(about).name}: {wording.sentence(words)}" for about, words in warnings]


def draw_dial(axes: matplotlib.axes.Axes, score: float, threshold: float) -> None:
    """Draw a score between -1 and 1 as the hand of a dial; the range above the threshold is coloured."""
    angle = np.pi * (1 - score) / 2
    limit = np.pi * (1 - threshold) / 2
    axes.set(thetamin=0, thetamax=180, ylim=(0, 1), yticks=[], title=f"score {score:.3f}, threshold {threshold:.3f}")
    axes.set_xticks(np.pi * (1 - np.linspace(-1, 1, 5)) / 2, [f"{value:g}" for value in np.linspace(-1, 1, 5)])
    axes.bar(limit / 2, 0.3, width=limit, bottom=0.7, color="C0", alpha=0.8)
    axes.bar((limit + np.pi) / 2, 0.3, width=np.pi - limit, bottom=0.7, color="0.8")
    axes.annotate("", (angle, 0.95), (0, 0), arrowprops={"width": 2, "color": "0.2"})


def draw_comparison(encoder: Encoder, files: Sequence[str], score: float, threshold: float) -> matplotlib.figure.Figure:
    """Draw the score of two recordings on a dial, and the MFCCs of both, as the encoder sees them."""
    weights = encoder.weights()
    with pictures.style():
        figure = matplotlib.figure.Figure(figsize=(5, 8))
        draw_dial(figure.add_subplot(3, 1, 1, projection="polar"), score, threshold)
        for place, file, title in zip((2, 3), files, ("first recording", "second recording"), strict=True):
            mfcc = feature_extraction.extract_features(file, encoder.feature_settings)
            normalised = (mfcc - weights["feature_mean"]) / weights["feature_std"]
            seconds = len(mfcc) * encoder.feature_settings.hop_length / feature_extraction.SAMPLE_RATE
            axes = figure.add_subplot(3, 1, place)
            extent = (0, seconds, 0, mfcc.shape[1])
            axes.imshow(normalised.T, vmin=-3, vmax=3, origin="lower", aspect="auto", extent=extent)
            axes.grid(visible=False)
            axes.set(title=f"MFCCs of the {title}", xlabel="time (s)", ylabel="coefficient")
    return figure
