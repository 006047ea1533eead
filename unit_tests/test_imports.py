"""The order of the house: which file may import which. `python3 -m unit_tests.test_imports` prints the map of it."""

import ast
import graphlib
import shutil
import subprocess
import unittest
from pathlib import Path

PROJECT_DIR = Path(__file__).resolve().parents[1]

# From the ground up. A file imports from its own floor and from those below.
FLOORS = (
    "myconfig metrics demo_data",
    "foundation",
    "audio",
    "dataset download_data generate_csv",
    "feature_extraction augmentation specaug",
    "feature_store",
    "encoder",
    "scoring",
    "training voices",
    "neural_net evaluation speaker_id demo_page",
    "experiments benchmark stress",
    "unit_tests tests",
)
MAP_TITLE = "| floor | what stands there | what it imports of the project |"
TRAINING = {"training", "neural_net"}


def find_modules() -> dict[str, Path]:
    """Module -> its file; files of a student's own do not count."""
    names = [name for floor in FLOORS for name in floor.split()]
    paths = [
        path for name in names for path in (PROJECT_DIR / f"{name}.py", *sorted((PROJECT_DIR / name).glob("*.py")))
    ]
    return {".".join(path.relative_to(PROJECT_DIR).with_suffix("").parts): path for path in paths if path.exists()}


def imports_of_project() -> dict[str, set[str]]:
    """Module -> the modules of the project that it imports, anywhere in it."""
    modules = find_modules()
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


def draw_map() -> str:
    """The map of the house as a Markdown table, from the top: each file or room with its docstring's first line."""
    modules, imports = find_modules(), imports_of_project()
    lines = [MAP_TITLE, "|---|---|---|"]
    for floor in range(len(FLOORS) - 2, -1, -1):
        for name in FLOORS[floor].split():
            is_room = f"{name}.__init__" in modules
            path = modules[f"{name}.__init__" if is_room else name]
            meaning = str(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))).partition("\n")[0]
            imported = {room(other) for module, found in imports.items() if room(module) == name for other in found}
            shown = ", ".join(other for floors in FLOORS for other in floors.split() if other in imported - {name})
            lines.append(f"| {floor} | `{name}{'/' if is_room else '.py'}`: {meaning} | {shown} |")
    return "\n".join(lines)


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
        self.assertEqual(modules - known, set(), "put them into FLOORS, and into the map of CONTRIBUTING.md")

    def test_there_are_no_cycles(self) -> None:
        imports = imports_of_project()
        graphlib.TopologicalSorter(imports).prepare()  # Raises CycleError, with the cycle.
        of_rooms: dict[str, set[str]] = {}
        for module, found in imports.items():
            of_rooms.setdefault(room(module), set()).update({room(other) for other in found} - {room(module)})
        graphlib.TopologicalSorter(of_rooms).prepare()

    def test_rooms_keep_their_rules(self) -> None:
        imports = imports_of_project()
        self.assertTrue(any(module.startswith("foundation.") for module in imports))
        for module, found in imports.items():
            rooms = {room(other) for other in found}
            if room(module) == "foundation":
                self.assertLessEqual(rooms, {"foundation", "myconfig"}, module)
            if room(module) == "audio":
                self.assertLessEqual(rooms, {"audio", "foundation"}, module)
            if room(module) in ("voices", "encoder", "scoring"):
                self.assertFalse(rooms & TRAINING, module)
            if room(module) not in ("unit_tests", "tests"):
                self.assertFalse(rooms & {"unit_tests", "tests"}, module)

    def test_the_map_shows_the_house_as_it_is(self) -> None:
        page = (PROJECT_DIR / "CONTRIBUTING.md").read_text(encoding="utf-8")
        shown = page[page.index(MAP_TITLE) :].partition("\n\n")[0]
        self.assertEqual(shown, draw_map(), "put what `python3 -m unit_tests.test_imports` prints into the page")


if __name__ == "__main__":
    print(draw_map())
