"""Tests of `download_data.py`."""

import hashlib
import http.server
import io
import tarfile
import threading
import unittest
import unittest.mock
from pathlib import Path

import dataset
import download_data
from foundation import safe_files, settings
from unit_tests.shared import ProjectTest, corpus


class DownloadTest(ProjectTest):
    """Against a server on this machine, which can break off and go on."""

    def setUp(self) -> None:
        super().setUp()
        self.served = self.dir / "served"
        self.requests: list[str | None] = []
        self.break_after: list[int] = []
        test = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # noqa: N802 - the name that http.server asks for.
                test.requests.append(self.headers["Range"])
                path = test.served / Path(self.path).name
                if not path.exists():
                    self.send_error(404)
                    return
                content = path.read_bytes()
                start = int(self.headers["Range"][6:-1]) if self.headers["Range"] else 0
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                end = start + test.break_after.pop() if test.break_after else len(content)
                self.wfile.write(content[start:end])

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.mirror = f"http://127.0.0.1:{server.server_address[1]}"
        patch = unittest.mock.patch.object(download_data.time, "sleep")
        self.pause = patch.start()
        self.addCleanup(patch.stop)
        self.data = self.dir / "data"

    def serve(self, members: dict[str, bytes], extra: tarfile.TarInfo | None = None) -> None:
        """Serve an archive as dev-clean, and let its checksum be the published one."""
        self.served.mkdir(exist_ok=True)
        with tarfile.open(self.served / "dev-clean.tar.gz", "w:gz") as tar:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            if extra:
                tar.addfile(extra)
        digest = hashlib.md5((self.served / "dev-clean.tar.gz").read_bytes(), usedforsecurity=False).hexdigest()
        patch = unittest.mock.patch.dict(download_data.PARTS, {"dev-clean": digest})
        patch.start()
        self.addCleanup(patch.stop)

    def serve_voices(self) -> dict[str, bytes]:
        files = sorted((corpus() / "test").rglob("*.flac"))[:6]
        members = {f"LibriSpeech/dev-clean/{path.parent.name}/1/{path.name}": path.read_bytes() for path in files}
        self.serve({"LibriSpeech/SPEAKERS.TXT": b";ID |SEX\ns24 | F | x\n", **members})
        return members

    def fetch(self) -> Path:
        return download_data.fetch_part("dev-clean", self.data, self.mirror)

    def test_part_is_fetched_once_and_whole(self) -> None:
        members = self.serve_voices()
        part = self.fetch()
        self.assertEqual(part, self.data / "LibriSpeech/dev-clean")
        for name, content in members.items():
            self.assertEqual((self.data / name).read_bytes(), content)
        self.fetch()
        self.assertEqual(self.requests, [None])
        self.assertEqual([path.name for path in self.data.iterdir() if path.suffix != ".lock"], ["LibriSpeech"])
        with settings.override(TEST_DATA_DIR=str(part)):
            self.assertEqual(dataset.get_groups("TEST"), {"s24": "F"})

    def test_broken_download_goes_on(self) -> None:
        self.serve_voices()
        self.break_after = [70000, 50000]
        self.fetch()
        self.assertEqual(self.requests, [None, "bytes=50000-", "bytes=120000-"])
        self.assertEqual(self.pause.call_count, 2)

    def test_two_processes_do_not_fetch_one_part(self) -> None:
        self.serve_voices()
        archive = self.data / "dev-clean.tar.gz"
        with safe_files.only_one_process(archive), self.assertRaisesRegex(ValueError, "is writing"):
            self.fetch()
        self.assertEqual(self.requests, [])

    def test_gives_up_and_keeps_what_it_has(self) -> None:
        self.serve_voices()
        self.break_after = [1000] * download_data.ATTEMPTS
        with self.assertRaisesRegex(ValueError, "same command to continue"):
            self.fetch()
        self.assertEqual((self.data / "dev-clean.tar.gz.part").stat().st_size, 1000 * download_data.ATTEMPTS)
        self.assertEqual(self.pause.call_count, download_data.ATTEMPTS - 1)
        self.fetch()

    def test_wrong_checksum(self) -> None:
        self.serve_voices()
        download_data.PARTS["dev-clean"] = "0" * 32  # Put back by what `serve` has prepared.
        with self.assertRaisesRegex(ValueError, "damaged on its way"):
            self.fetch()
        self.assertEqual([path.name for path in self.data.iterdir() if path.suffix != ".lock"], [])

    def test_hostile_archives(self) -> None:
        link = tarfile.TarInfo("LibriSpeech/dev-clean/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        hard_link = tarfile.TarInfo("LibriSpeech/dev-clean/hard")
        hard_link.type, hard_link.linkname = tarfile.LNKTYPE, "../../../x"
        device = tarfile.TarInfo("LibriSpeech/dev-clean/device")
        device.type = tarfile.CHRTYPE
        good = {"LibriSpeech/dev-clean/1/1/x.flac": b"x"}
        for members, extra, message in (
            ({"../evil": b"x"}, None, "evil"),
            ({"/evil": b"x"}, None, "does not hold"),
            ({"LibriSpeech/../../evil": b"x"}, None, "evil"),
            (good, link, "link"),
            (good, hard_link, "hard"),
            (good, device, "device"),
            ({"LibriSpeech/other/x": b"x"}, None, "does not hold"),
        ):
            self.serve(members, extra)
            with self.subTest(members.keys()), self.assertRaisesRegex(ValueError, message):
                self.fetch()
            files = [path.name for path in self.data.rglob("*") if path.is_file() and path.suffix != ".lock"]
            self.assertEqual(files, ["dev-clean.tar.gz"])
            self.assertFalse((self.dir / "evil").exists())
            (self.data / "dev-clean.tar.gz").unlink()

    def test_no_space_and_no_such_part(self) -> None:
        self.serve_voices()
        usage = unittest.mock.Mock(free=1000)
        patch = unittest.mock.patch.object(download_data.shutil, "disk_usage", return_value=usage)
        with patch, self.assertRaisesRegex(ValueError, "0.00 GB free"):
            self.fetch()
        (self.served / "dev-clean.tar.gz").unlink()
        with self.assertRaisesRegex(ValueError, "404"):
            self.fetch()

    def test_command_line(self) -> None:
        result = self.run_script("download_data.py", "everything")
        self.assertEqual(result.returncode, 2)
        result = self.run_script("download_data.py", "dev-clean", "--mirror", "moon")
        self.assertEqual((result.returncode, result.stderr.count("\n")), (2, 1))
