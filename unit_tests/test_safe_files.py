"""Tests of `foundation/safe_files.py`, of pictures and of what errors say."""

import contextlib
import csv
import io
import os
import subprocess
import sys
import unittest.mock

from foundation import pictures, safe_files, script
from unit_tests.shared import PROJECT_DIR, ProjectTest


class SafeFilesTest(ProjectTest):
    def test_a_file_is_replaced_whole_or_not_at_all(self) -> None:
        path = self.dir / "folder" / "file"
        with safe_files.replace_when_whole(path) as file:
            file.write(b"first")
        with contextlib.suppress(KeyError), safe_files.replace_when_whole(path) as file:
            file.write(b"sec")
            raise KeyError
        self.assertEqual(path.read_bytes(), b"first")
        self.assertEqual(list(path.parent.iterdir()), [path])

    def test_rows_are_read_back_as_they_were(self) -> None:
        rows = [["a", "b c"], ["a,b", 'a"b'], ["new\nline", "return\rhere"], ["both\r\n", ""], ["声", "1"]]
        for delimiter in (",", " "):
            safe_files.write_rows(self.dir / "rows.csv", rows, delimiter)
            with (self.dir / "rows.csv").open(encoding="utf-8", newline="") as file:
                self.assertEqual(list(csv.reader(file, delimiter=delimiter)), rows)
        safe_files.write_rows(self.dir / "rows.csv", rows[:2])
        self.assertEqual((self.dir / "rows.csv").read_bytes(), b'a,b c\n"a,b","a""b"\n')

    def test_a_folder_that_cannot_be_written_is_an_error(self) -> None:
        (self.dir / "file").touch()
        with self.assertRaises(OSError), safe_files.replace_when_whole(self.dir / "file" / "model.pt"):
            pass

    def test_pictures_need_no_backend_and_no_folder_to_answer(self) -> None:
        code = (
            "from foundation import pictures\n"
            "with pictures.style(['\\u674e']):\n"
            "    figure = pictures.new_figure(); figure.subplots().set_title('\\u674e')\n"
            "    print(pictures.save_or_warn('x.png', figure), pictures.save_or_warn('x.png/y.png', figure))\n"
        )
        environment = {**os.environ, "MPLBACKEND": "no such backend", "PYTHONPATH": str(PROJECT_DIR)}
        answer = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], cwd=self.dir, env=environment, capture_output=True, text=True
        )
        self.assertEqual((answer.returncode, answer.stdout), (0, "True False\n"), answer.stderr)
        self.assertIn("there is no picture: x.png/y.png", answer.stderr)

    def test_letters_that_no_font_has_are_told(self) -> None:
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            with unittest.mock.patch.object(pictures, "system_fonts", lambda: []), pictures.style(["Ann", "\u674e"]):
                pass
            with pictures.style(["Ann", "Zo\u00eb"]):
                pass
        self.assertEqual(errors.getvalue().count("\n"), 1)
        self.assertIn("\u674e: install fonts for them, such as Noto Sans CJK", errors.getvalue())
        self.assertFalse([name for _, name in pictures.system_fonts() if "Last Resort" in name])

    def test_what_errors_say(self) -> None:
        self.assertEqual(script.in_words(OSError()), "an error of the kind OSError")
        self.assertEqual(script.in_words(OSError(28, "No space left")), "No space left")
        with self.assertRaises(ModuleNotFoundError) as raised:
            exec(compile("import feature_extration", str(PROJECT_DIR / "metrics.py"), "exec"))
        self.assertIsNone(script.missing_package(raised.exception))
        self.assertIn("torch is not installed", str(script.missing_package(ModuleNotFoundError("x", name="torch.nn"))))
