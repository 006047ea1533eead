"""Tests of `foundation/safe_files.py`."""

import contextlib

from foundation import safe_files
from unit_tests.shared import ProjectTest


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

    def test_a_folder_that_cannot_be_written_is_an_error(self) -> None:
        (self.dir / "file").touch()
        with self.assertRaises(OSError), safe_files.replace_when_whole(self.dir / "file" / "model.pt"):
            pass
