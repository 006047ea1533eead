"""Verify the set-up and every script. Needs no network and no data, and leaves nothing behind.

`python3 tests.py metrics evaluation` runs the tests of some chapters (files of `unit_tests/`), and
`python3 tests.py -k name` those with `name` in their names.
"""

import sys
import unittest
import warnings

from foundation import script, setting_checks, settings
from foundation.paths import PROJECT_DIR


def main() -> None:
    """Run the tests that the command line asks for; the exit code is 1 if one fails."""
    chapters = sorted(path.stem.removeprefix("test_") for path in (PROJECT_DIR / "unit_tests").glob("test_*.py"))
    parser = script.OptionParser(description=__doc__)
    parser.add_argument("chapters", nargs="*", metavar="chapter", help=", ".join(chapters))
    parser.add_argument("-k", action="append", default=[], metavar="name", help="only tests with this in their names")
    parser.add_argument("-v", action="store_true", help="name each test")
    options = parser.parse_args()
    setting_checks.check_each(settings.all_settings())
    chosen = [chapter.removesuffix(".py") for chapter in options.chapters]
    if unknown := set(chosen) - set(chapters):
        raise ValueError(f"there are no tests of {min(unknown)}; the chapters are {', '.join(chapters)}.")
    import unit_tests.shared  # noqa: F401 - it needs all packages.

    modules = [f"unit_tests.test_{chapter}" for chapter in chosen or chapters]
    patterns = [part for name in options.k for part in ("-k", name)]
    verbosity = 2 if options.v else 1
    refuse_deprecated_calls()
    argv = ["tests.py", *modules, *patterns]
    # An empty text keeps these filters; unittest would put its own before them.
    program = unittest.main(module=None, argv=argv, verbosity=verbosity, exit=False, warnings="")
    for reason in sorted({reason for _, reason in program.result.skipped}):
        print(f"Skipped: {reason}", file=sys.stderr)
    if not program.result.testsRun:
        raise ValueError(f"no test has {' or '.join(options.k)} in its name.")
    sys.exit(not program.result.wasSuccessful())


def refuse_deprecated_calls() -> None:
    """Make it an error if a file of this project calls what a package will change or remove."""
    warnings.simplefilter("default")
    paths = [*PROJECT_DIR.glob("*.py"), *(path.parent for path in PROJECT_DIR.glob("*/__init__.py"))]
    ours = "|".join(sorted({path.stem for path in paths}))
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
        warnings.filterwarnings("error", category=category, module=rf"({ours})(\.|$)")


if __name__ == "__main__":
    script.run(main)
