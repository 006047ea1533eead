"""The order of the house: which file may import which."""

import ast
import graphlib
import shutil
import subprocess
import unittest

from unit_tests.shared import PROJECT_DIR

# From the ground up. A file imports from its own floor and from those below.
FLOORS = (
    "myconfig metrics diarization_error demo_data",
    "foundation",
    "dataset download_data generate_csv training_progress speech_levels",
    "feature_extraction augmentation specaug",
    "feature_store",
    "tdnn encoder_networks saved_encoder speaker_encoder calibration trials score_normalization voices",
    "training_batches checkpoint neural_net evaluation speaker_id",
    "conditions conversations ladder demo_page benchmark stress",
    "unit_tests tests",
)
TRAINING = {"training_progress", "training_batches", "checkpoint", "neural_net"}


def imports_of_project() -> dict[str, set[str]]:
    """Module -> the modules of the project that it imports, anywhere in it; files of a student's own do not count."""
    names = {name for floor in FLOORS for name in floor.split()}
    paths = [
        path for name in sorted(names) for path in (PROJECT_DIR / f"{name}.py", *(PROJECT_DIR / name).glob("*.py"))
    ]
    paths = [path for path in paths if path.exists()]
    modules = {".".join(path.relative_to(PROJECT_DIR).with_suffix("").parts): path for path in paths}
    imports = {}
    for module, path in modules.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):  # Of a room, its files; of a file, what stands in it.
                found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        imports[module] = found & modules.keys()
    return imports


def room(module: str) -> str:
    """The room of a module, or its own name if it is a flat one."""
    return module.split(".")[0]


class ImportsTest(unittest.TestCase):
    def test_no_import_runs_upward(self) -> None:
        floor_of = {name: number for number, names in enumerate(FLOORS) for name in names.split()}
        imports = imports_of_project()
        upward = [
            f"{module} imports {other}"
            for module, found in imports.items()
            for other in found
            if floor_of[room(other)] > floor_of[room(module)]
        ]
        self.assertEqual(upward, [])

    @unittest.skipUnless((PROJECT_DIR / ".git").exists() and shutil.which("git"), "this is no clone made with git")
    def test_every_file_of_the_project_has_a_floor(self) -> None:
        listing = subprocess.run(["git", "ls-files", "*.py"], cwd=PROJECT_DIR, capture_output=True, text=True).stdout
        modules = {room(path.removesuffix(".py").replace("/", ".")) for path in listing.split()}
        known = {name for floor in FLOORS for name in floor.split()}
        self.assertEqual(modules - known, set(), "put them into FLOORS, and into the table of CONTRIBUTING.md")

    def test_there_are_no_cycles(self) -> None:
        graphlib.TopologicalSorter(imports_of_project()).prepare()  # Raises CycleError, with the cycle.

    def test_rooms_keep_their_rules(self) -> None:
        imports = imports_of_project()
        self.assertTrue(any(module.startswith("foundation.") for module in imports))
        for module, found in imports.items():
            rooms = {room(other) for other in found}
            if room(module) == "foundation":
                self.assertLessEqual(rooms, {"foundation", "myconfig"}, module)
            if room(module) == "voices":
                self.assertFalse(rooms & TRAINING, module)
            if room(module) not in ("unit_tests", "tests"):
                self.assertFalse(rooms & {"unit_tests", "tests"}, module)
