"""The turns of a timeline in the formats that people and their tools read."""

import re
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from foundation.safe_files import rows_as_text
from voices.turns import Turn


def clock(seconds: float) -> str:
    """A time as people read it: 0:05.2, 12:34.5 or 1:02:03.4."""
    tenths = round(10 * seconds)
    hours, minutes, rest = tenths // 36000, tenths // 600 % 60, tenths % 600 / 10
    return f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def named(turn: Turn) -> str:
    """Who speaks in a turn, with a question mark if that is in doubt."""
    return f"{turn.speaker}?" if turn.sure is False else turn.speaker


def to_text(turns: Sequence[Turn]) -> str:
    """Lines of start, end, name and score, for people."""
    lines = (
        f"{clock(turn.start)} {clock(turn.end)} {named(turn)} {'-' if turn.score is None else f'{turn.score:.3f}'}\n"
        for turn in turns
    )
    return "".join(lines)


def to_plain(turn: Turn) -> dict:
    """The fields of a turn, times in seconds with three digits, the score with four."""
    score = None if turn.score is None else round(turn.score, 4)
    return turn._asdict() | {"start": round(turn.start, 3), "end": round(turn.end, 3), "score": score}


def one_word(text: str) -> str:
    """A name without spaces and line ends, which separate fields and lines: "Ann%20Lee" for "Ann Lee".

    Other names stay other names; `urllib.parse.unquote` gives the name back.
    """
    return re.sub(r"[%\s]", lambda found: urllib.parse.quote(found[0]), text)


def to_rttm(turns: Sequence[Turn], recording: str) -> str:
    """Turns as RTTM, the format of NIST's Rich Transcription evaluations: one line per turn."""
    name = one_word(Path(recording).stem)
    lines = (
        f"SPEAKER {name} 1 {turn.start:.3f} {turn.end - turn.start:.3f} <NA> <NA> {one_word(turn.speaker)} <NA> <NA>\n"
        for turn in turns
    )
    return "".join(lines)


def to_csv(found: dict[str, list[Turn]]) -> str:
    """A row for each turn of each recording, times in seconds, with the names of the columns in the first."""
    rows = [[file, *to_plain(turn).values()] for file, turns in found.items() for turn in turns]
    return rows_as_text([["file", *Turn._fields], *rows])


def to_audacity(turns: Sequence[Turn]) -> str:
    """Labels for a track of Audacity: start, end and name, with tabs between them; times in seconds."""
    return "".join(f"{turn.start:.6f}\t{turn.end:.6f}\t{named(turn)}\n" for turn in turns)


def to_srt(turns: Sequence[Turn]) -> str:
    """Subtitles (SubRip): each turn has its number, its times, and the name as its text."""

    def stamp(seconds: float) -> str:
        milliseconds = round(1000 * seconds)
        minutes = milliseconds // 60000
        return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000 % 60:02},{milliseconds % 1000:03}"

    return "".join(
        f"{number}\n{stamp(turn.start)} --> {stamp(turn.end)}\n{named(turn)}\n\n"
        for number, turn in enumerate(turns, start=1)
    )
