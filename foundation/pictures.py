"""Pictures: one style for all of them, and files that are never half-written."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from foundation import safe_files

if TYPE_CHECKING:  # matplotlib is slow to import, and most commands draw nothing.
    import matplotlib.figure


def style() -> AbstractContextManager:
    """The project's style, for the length of a `with` block in which a figure is made and drawn."""
    import matplotlib

    return matplotlib.rc_context(fname=Path(__file__).with_name("figures.mplstyle"))


def save(path: str | Path, figure: "matplotlib.figure.Figure") -> None:
    """Write a figure as PNG. Raises OSError if the disk is full or read-only."""
    with safe_files.replace_when_whole(path) as file:
        figure.savefig(file, format="png")
