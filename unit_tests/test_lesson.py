"""Tests of `lesson.ipynb`: it is kept without outputs, and runs as it stands."""

import importlib.util
import json
import re
import shutil
import unittest

from unit_tests.shared import PROJECT_DIR, ProjectTest
from unit_tests.test_imports import find_modules

LESSON = PROJECT_DIR / "lesson.ipynb"
CAN_RUN = all(importlib.util.find_spec(name) for name in ("nbclient", "ipykernel"))


class LessonTest(ProjectTest):
    def test_it_is_kept_without_outputs(self) -> None:
        cells = json.loads(LESSON.read_text(encoding="utf-8"))["cells"]
        for cell in cells:
            if cell["cell_type"] == "code":
                self.assertEqual((cell["outputs"], cell["execution_count"]), ([], None))
        self.assertGreater(len(cells), 20)

    @unittest.skipUnless(CAN_RUN, "the notebook is not run: pip3 install nbclient ipykernel")
    def test_it_runs_and_what_it_prints_is_true(self) -> None:
        import nbclient
        import nbformat

        for path in find_modules().values():
            copy = self.dir / path.relative_to(PROJECT_DIR)
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(path, copy)
        for name in ("foundation/figures.mplstyle", "resources/system.png", "requirements.txt", "requirements-use.txt"):
            (self.dir / name).parent.mkdir(exist_ok=True)
            shutil.copy(PROJECT_DIR / name, self.dir / name)
        notebook = nbformat.read(LESSON, 4)
        nbclient.NotebookClient(
            notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(self.dir)}}
        ).execute()
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        printed = "".join(output.get("text", "") for output in outputs)
        self.assertEqual(sum("image/png" in output.get("data", {}) for output in outputs), 5)
        self.assertLess(float(re.search(r"librosa differs by ([0-9.]+)", printed)[1]), 0.001)
        self.assertLess(float(re.search(r"NumPy differs from PyTorch by ([0-9.]+)", printed)[1]), 1e-5)
        first, last = map(float, re.search(r"loss: ([0-9.]+) at first, ([0-9.]+) at last", printed).groups())
        self.assertLess(last, first)
        eer, on_the_curve = re.search(r"EER: ([0-9.]+)%", printed)[1], re.search(r"equal at ([0-9.]+)%", printed)[1]
        self.assertAlmostEqual(float(eer), float(on_the_curve), delta=0.1)
        self.assertLess(float(eer), 40)
        self.assertIn("No recordings yet.", printed)


if __name__ == "__main__":
    unittest.main()
