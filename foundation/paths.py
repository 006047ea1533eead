"""Paths as people write them."""

import os


def expand_home(path: str) -> str:
    """A path in which a leading `~` is the home folder, as shells read it, but not everywhere: not in `--db=~/v.db`."""
    return os.path.expanduser(path) if path == "~" or path[:2] in ("~/", "~\\") else path  # noqa: PTH111
