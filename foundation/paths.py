"""Paths as people write them, and where a model's file is."""

import os
from pathlib import Path

PROJECT_DIR = Path(__file__).resolve().parents[1]
SHIPPED_DIR = PROJECT_DIR / "saved_model" / "pretrained"


def expand_home(path: str) -> str:
    """A path in which a leading `~` is the home folder, as shells read it, but not everywhere: not in `--db=~/v.db`."""
    return os.path.expanduser(path) if path == "~" or path[:2] in ("~/", "~\\") else path  # noqa: PTH111


def find_model(path: str | os.PathLike) -> str:
    """The path of a model; that of a shipped one, where there is none, counts from the project's folder.

    `~` is the home folder. Raises ValueError if there is no such file.
    """
    path = expand_home(os.fspath(path))
    is_shipped = not Path(path).is_absolute() and Path(path).parts[-3:-1] == SHIPPED_DIR.parts[-2:]
    for place in (Path(path), *([SHIPPED_DIR / Path(path).name] if is_shipped else [])):
        if place.is_file():
            return path if place == Path(path) else str(place)
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder: name a model in it, a file that ends in .pt.")
    raise ValueError(f"there is no model {path}: train one with neural_net.py, or correct the path.")
