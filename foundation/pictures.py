"""Pictures: one style for all of them, letters of any script, and files that are never half-written."""

import contextlib
import functools
import os
import sys
import types
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation import safe_files, script

if TYPE_CHECKING:  # matplotlib is slow to import, and most commands draw nothing.
    import matplotlib.figure

USUAL_FONT = "DejaVu Sans"  # It comes with matplotlib.


def load_matplotlib() -> types.ModuleType:
    """matplotlib, loaded without the backend that MPLBACKEND names: pictures are files here, and need no display.

    Notebooks set MPLBACKEND for what they start, to one that may not be installed.
    """
    backend = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib.figure
        import matplotlib.style
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    return matplotlib


@contextlib.contextmanager
def style(texts: Sequence[str] = ()) -> Iterator[None]:
    """The project's style, for the length of a `with` block in which a figure is made and drawn.

    `texts`, such as names, may have letters of any script: fonts of the system that have them are used. If there is
    none, it is said on the error stream which one to install.
    """
    matplotlib = load_matplotlib()
    missing = frozenset("".join(texts)) - letters_of(font_path(USUAL_FONT))
    missing = frozenset(letter for letter in missing if not unicodedata.category(letter).startswith("C"))
    families, without = find_fonts(missing)
    if without:
        scripts = sorted({unicodedata.name(letter, "Symbols").split()[0].title() for letter in without})
        fonts = ", ".join(f"Noto Sans {script}" for script in scripts).replace("Cjk", "CJK SC")
        print(f"The picture shows boxes for {without}: install fonts for them, such as {fonts}.", file=sys.stderr)
    with matplotlib.style.context([str(Path(__file__).with_name("figures.mplstyle")), families]):
        yield


def find_fonts(letters: frozenset[str]) -> tuple[dict[str, Any], str]:
    """The setting with the fonts of the system that have these letters, beside the usual one; the letters of none."""
    fonts, missing = [USUAL_FONT], set(letters)
    for path, name in system_fonts() if letters else ():
        if found := missing & letters_of(path):
            fonts.append(name)
            missing -= found
        if not missing:
            break
    return {"font.family": fonts}, "".join(sorted(missing))


@functools.cache
def system_fonts() -> list[tuple[str, str]]:
    """Path and name of each upright font that matplotlib knows, but for those that draw a box for every letter."""
    from matplotlib.font_manager import fontManager

    fonts = {(font.fname, font.name) for font in fontManager.ttflist if font.style == "normal"}
    return sorted(font for font in fonts if "lastresort" not in font[1].lower().replace(" ", ""))


@functools.cache
def letters_of(path: str) -> frozenset[str]:
    """The letters that a font has; none if it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (RuntimeError, OSError, ValueError):
        return frozenset()


def font_path(name: str) -> str:
    """The path of a font."""
    from matplotlib.font_manager import findfont

    return findfont(name)


def new_figure(**options: Any) -> "matplotlib.figure.Figure":
    """A figure that belongs to no window."""
    return load_matplotlib().figure.Figure(**options)


def save(path: str | Path, figure: "matplotlib.figure.Figure") -> None:
    """Write a figure as PNG. Raises OSError if the disk is full or read-only."""
    with safe_files.replace_when_whole(path) as file:
        figure.savefig(file, format="png")


def save_or_warn(path: str | Path, figure: "matplotlib.figure.Figure") -> bool:
    """Write a figure that belongs to an answer; if that fails, say so on the error stream, and return False."""
    try:
        save(path, figure)
    except OSError as error:
        print(f"Warning: there is no picture: {path}: {script.in_words(error).lower()}.", file=sys.stderr)
        return False
    return True
