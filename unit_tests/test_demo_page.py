"""Tests of `demo_page.py`."""

import importlib.util
import json
import os
import shutil
import unittest
import urllib.error
import urllib.parse
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import soundfile

import feature_extraction
import speaker_encoder
from foundation import settings
from unit_tests.shared import PROJECT_DIR, RATE, ProjectTest, calibration, corpus


def is_upload(response: "playwright.sync_api.Response") -> bool:  # noqa: F821
    """Whether an answer to the browser says that a recording has arrived, which the page does not show."""
    return urllib.parse.urlsplit(response.url).path.endswith("/upload")


@unittest.skipUnless(importlib.util.find_spec("gradio"), "gradio is not installed: see requirements-demo.txt.")
class DemoPageTest(ProjectTest):
    """The page in headless Chromium, whose microphone is a file."""

    def setUp(self) -> None:
        super().setUp()
        # Gradio leaves an event loop open; Python 3.11 cannot import anything in the moment when it warns of that.
        warnings.simplefilter("ignore", ResourceWarning)
        import demo_page

        self.voices = sorted((corpus() / "test").rglob("*.flac"))
        encoder = speaker_encoder.get_speaker_encoder()
        encoder.calibration = calibration(0.9999)
        page = demo_page.build_page(encoder, str(self.dir / "speakers.db"))
        with settings.override(**encoder.settings):
            _, self.address, _ = demo_page.launch(page, "127.0.0.1", None, prevent_thread_lock=True, quiet=True)
        self.addCleanup(page.close)

    def open_browser(self) -> "playwright.sync_api.Page":  # noqa: F821
        try:
            import playwright.sync_api
        except ImportError:
            self.skipTest("playwright is not installed.")
        programs = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
        if not programs:
            self.skipTest("there is no Chromium.")
        samples = np.concatenate([feature_extraction.read_audio(str(self.voices[0]))] * 3)
        soundfile.write(self.dir / "microphone.wav", samples, RATE, subtype="PCM_16")
        microphone = f"--use-file-for-fake-audio-capture={self.dir / 'microphone.wav'}"
        flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--no-sandbox", microphone]
        running = playwright.sync_api.sync_playwright().start()
        self.addCleanup(running.stop)
        browser = running.chromium.launch(executable_path=programs[0], args=flags)
        self.addCleanup(browser.close)
        page = browser.new_page(viewport={"width": 1200, "height": 900}, permissions=["microphone"])
        self.asked: set[str] = set()
        # What is inside the page, blobs and data, has no host.
        page.on("request", lambda request: self.asked.add(urllib.parse.urlsplit(request.url).hostname or "127.0.0.1"))
        page.goto(self.address)
        return page

    def answer(self, page: "playwright.sync_api.Page", name: str, button: str) -> str:  # noqa: F821
        """Press a button and wait for its answer to change."""
        box = page.locator(f"#{name} textarea")
        before = box.input_value()
        page.get_by_role("button", name=button, exact=True).click()
        for _ in range(300):
            if box.input_value() != before:
                break
            page.wait_for_timeout(100)
        pictures = os.environ.get("PICTURES_DIR")
        if pictures:
            page.wait_for_timeout(1500)
            page.screenshot(path=f"{pictures}/{name}.png", full_page=True)
        return box.input_value()

    def upload(self, page: "playwright.sync_api.Page", number: int) -> None:  # noqa: F821
        """Give a file to one of the view's places for recordings."""
        page.get_by_role("button", name="Upload file").locator("visible=true").nth(number).click()
        with page.expect_response(is_upload):
            page.locator("input[type=file]").last.set_input_files(self.voices[0])
        page.get_by_label("Play").locator("visible=true").first.wait_for()

    def record(self, page: "playwright.sync_api.Page") -> None:  # noqa: F821
        """Record two seconds of what the microphone plays."""
        page.get_by_role("button", name="Record", exact=True).locator("visible=true").click()
        page.wait_for_timeout(2000)
        with page.expect_response(is_upload):
            page.get_by_role("button", name="Stop").locator("visible=true").first.click()
        page.get_by_label("Play").locator("visible=true").first.wait_for()

    def test_record_compare_enrol_and_identify(self) -> None:
        page = self.open_browser()
        for number in (1, 0):
            self.upload(page, number)
        self.assertTrue(self.answer(page, "compared", "Compare").startswith("The same speaker: threshold 1.000"))
        page.get_by_role("tab", name="Enrol").click()
        name = "<b>Ann</b>"
        page.get_by_label("Name").fill(name)
        self.record(page)
        self.assertTrue(self.answer(page, "enrolled", "Enrol").startswith(f"{name} is enrolled: heard "))
        self.assertIn("is enrolled already", self.answer(page, "enrolled", "Enrol"))
        page.get_by_role("tab", name="Who is speaking?").click()
        self.record(page)
        self.assertIn("This is ", self.answer(page, "identified", "Identify"))
        page.get_by_role("tab", name="Map").click()
        self.assertEqual(self.answer(page, "mapped", "Draw everyone enrolled"), "1 recordings of 1 people.")
        self.assertEqual(page.locator("b", has_text="Ann").count(), 0)
        self.assertEqual(self.asked, {"127.0.0.1"})

    def test_no_other_file_can_be_read(self) -> None:
        secret = self.dir / "secret.txt"
        secret.write_text("secret")
        for path in (secret, PROJECT_DIR / "myconfig.py", Path("/etc/passwd")):
            for form in ("gradio_api/file=", "file="):
                with self.assertRaises(urllib.error.HTTPError) as refused:
                    urllib.request.urlopen(f"{self.address}{form}{path}")  # noqa: S310 - this machine.
                self.assertIn(refused.exception.code, (403, 404))
                refused.exception.close()

    def post(self, place: str, content: bytes, kind: str) -> bytes:
        request = urllib.request.Request(f"{self.address}gradio_api/{place}", content, {"Content-Type": kind})  # noqa: S310
        with urllib.request.urlopen(request) as response:  # noqa: S310 - this machine.
            return response.read()

    def test_files_that_were_not_uploaded_are_not_heard(self) -> None:
        voice = {"path": str(self.voices[0]), "meta": {"_type": "gradio.FileData"}}
        content = json.dumps({"data": [voice, voice]}).encode()
        event = json.loads(self.post("call/answer", content, "application/json"))["event_id"]
        with urllib.request.urlopen(f"{self.address}gradio_api/call/answer/{event}") as response:  # noqa: S310
            answer = response.read().decode()
        self.assertIn("event: error", answer)
        self.assertNotIn("speaker", answer)

    def test_large_uploads_are_refused(self) -> None:
        head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="x.wav"\r\n\r\n'
        with self.assertRaises(urllib.error.HTTPError) as refused:
            self.post("upload", head + bytes(51 * 10**6 + 2**21) + b"\r\n--x--\r\n", "multipart/form-data; boundary=x")
        self.assertEqual(refused.exception.code, 413)
        refused.exception.close()
