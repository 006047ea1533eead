"""Tests of `demo_page.py`."""

import importlib.util
import json
import os
import re
import shutil
import unittest
import urllib.error
import urllib.parse
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import soundfile

from audio import mono
from encoder import saved_models
from foundation import settings
from unit_tests.shared import PROJECT_DIR, RATE, ProjectTest, calibration, corpus


def is_upload(response: "playwright.sync_api.Response") -> bool:  # noqa: F821
    """Whether an answer to the browser says that a recording has arrived, which the page does not show."""
    return urllib.parse.urlsplit(response.url).path.endswith("/upload")


# What a screen reader says of an element, those of which it can say nothing, and texts that hardly differ from what is
# behind them: less than 4.5 to 1, by the formula of WCAG 2.2.
NAME_OF = """const nameOf = e => (e.ariaLabel || [...(e.labels || [])].map(label => label.innerText).join(" ")
    || e.innerText || e.placeholder || e.title).trim();"""
WITHOUT_NAME = f"""() => {{{NAME_OF}
return [...document.querySelectorAll("button, input, textarea, select, a[href], [role=tab]")]
    .filter(e => e.checkVisibility() && e.getClientRects().length && !nameOf(e)).map(e => e.outerHTML);}}"""
WITHOUT_CONTRAST = """() => {
const numbers = text => (text.match(/[0-9.]+/g) || []).map(Number);
const linear = value => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
const luminance = ([red, green, blue]) => 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
const behind = e => {
    for (; e; e = e.parentElement) {
        const colour = numbers(getComputedStyle(e).backgroundColor);
        if (colour.length == 3 || colour[3] > 0.5) return colour;
    }
    return [255, 255, 255];
};
const contrast = e => {
    const both = [luminance(numbers(getComputedStyle(e).color)), luminance(behind(e))];
    return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
};
const hasText = e => [...e.childNodes].some(node => node.nodeType == 3 && node.textContent.trim());
return [...document.querySelectorAll("*")].filter(e => hasText(e) && e.checkVisibility() && e.getClientRects().length)
    .filter(e => contrast(e) < 4.5).map(e => [e.innerText, contrast(e)]);
}"""


@unittest.skipUnless(importlib.util.find_spec("gradio"), "gradio is not installed: see requirements-demo.txt.")
class DemoPageTest(ProjectTest):
    """The page in headless Chromium, whose microphone is a file."""

    def setUp(self) -> None:
        super().setUp()
        # Gradio leaves an event loop open; Python 3.11 cannot import anything in the moment when it warns of that.
        warnings.simplefilter("ignore", ResourceWarning)
        import demo_page

        self.voices = sorted((corpus() / "test").rglob("*.flac"))
        encoder = saved_models.get_speaker_encoder()
        encoder.calibration = calibration(0.9999)
        page = demo_page.build_page(encoder, str(self.dir / "speakers.db"))
        with settings.override(**encoder.settings):
            _, self.address, _ = demo_page.launch(page, "127.0.0.1", None, prevent_thread_lock=True)
        self.addCleanup(page.close)

    def open_browser(self, width: int, **more: str) -> "playwright.sync_api.Page":  # noqa: F821
        try:
            import playwright.sync_api
        except ImportError:
            self.skipTest("playwright is not installed.")
        programs = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
        if not programs:
            self.skipTest("there is no Chromium.")
        samples = np.concatenate([mono.read_audio(str(self.voices[0]))] * 3)
        soundfile.write(self.dir / "microphone.wav", samples, RATE, subtype="PCM_16")
        microphone = f"--use-file-for-fake-audio-capture={self.dir / 'microphone.wav'}"
        flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--no-sandbox", microphone]
        running = playwright.sync_api.sync_playwright().start()
        self.addCleanup(running.stop)
        browser = running.chromium.launch(executable_path=programs[0], args=flags)
        self.addCleanup(browser.close)
        page = browser.new_page(viewport={"width": width, "height": 900}, permissions=["microphone"], **more)
        self.asked: set[str] = set()
        # What is inside the page, blobs and data, has no host.
        page.on("request", lambda request: self.asked.add(urllib.parse.urlsplit(request.url).hostname or "127.0.0.1"))
        page.goto(self.address)
        return page

    def answer(self, page: "playwright.sync_api.Page", name: str, button: str) -> str:  # noqa: F821
        """Press a button and wait for its answer to change."""
        box = page.locator(f"#{name} [role=status]")
        before = box.all_inner_texts()
        page.get_by_role("button", name=button, exact=True).click()
        for _ in range(300):
            if box.all_inner_texts() != before:
                break
            page.wait_for_timeout(100)
        pictures = os.environ.get("PICTURES_DIR")
        if pictures:
            page.wait_for_timeout(1500)
            width = (page.viewport_size or {})["width"]
            page.screenshot(path=f"{pictures}/{name}-{width}.png", full_page=True)
        return box.inner_text()

    def show(self, page: "playwright.sync_api.Page", tab: str) -> None:  # noqa: F821
        """Choose a tab, which must be inside the window, and so must be what is on it."""
        chosen = page.get_by_role("tab", name=tab, exact=True).locator("visible=true")
        box = chosen.bounding_box()
        width = (page.viewport_size or {})["width"]
        self.assertTrue(box and box["x"] >= 0 and box["x"] + box["width"] <= width, f"{tab}: {box}")
        chosen.click()
        page.wait_for_timeout(300)
        self.assertLessEqual(page.evaluate("document.documentElement.scrollWidth"), width, tab)
        self.assertEqual(page.evaluate(WITHOUT_CONTRAST), [], f"{tab}: these can hardly be read")

    def upload(self, page: "playwright.sync_api.Page", file: str | Path, number: int = 0) -> None:  # noqa: F821
        """Give a file to one of the view's drop zones for recordings."""
        zone = page.locator("button:has-text('Click to Upload')").locator("visible=true").nth(number)
        with page.expect_file_chooser() as chooser:
            zone.click()
        with page.expect_response(is_upload):
            chooser.value.set_files(file)
        page.wait_for_timeout(500)

    def record(self, page: "playwright.sync_api.Page") -> None:  # noqa: F821
        """Record two seconds of what the microphone plays."""
        page.get_by_role("button", name="Record", exact=True).locator("visible=true").first.click()
        page.wait_for_timeout(2000)
        with page.expect_response(is_upload):
            page.get_by_role("button", name="Stop").locator("visible=true").first.click()
        page.get_by_label("Play").locator("visible=true").first.wait_for()

    def test_all_tabs_on_a_laptop(self) -> None:
        self.walk_through(self.open_browser(1280))

    def test_all_tabs_on_a_phone(self) -> None:
        self.walk_through(self.open_browser(390))

    def test_with_a_keyboard_alone_in_the_dark(self) -> None:
        page = self.open_browser(390, color_scheme="dark")
        for tab in ("Compare", "Enrol", "Who is it", "Who spoke when", "Voices"):
            self.press_until(page, tab, "Enter")
            page.wait_for_timeout(300)
            unnamed = page.evaluate(WITHOUT_NAME)
            self.assertEqual(unnamed, [], f"{tab}: a screen reader cannot tell what these are")
            self.assertEqual(page.evaluate(WITHOUT_CONTRAST), [], f"{tab}: these can hardly be read")
        self.press_until(page, "Enrol", "Enter")
        self.press_until(page, "Name", "A", is_tab=False)
        self.press_until(page, "Enrol", "Enter", is_tab=False)
        page.locator("#enrolled [role=status]").wait_for()
        self.assertIn("1 to 20 recordings are needed, and there are 0", page.locator("#enrolled").inner_text())
        self.assertEqual(page.evaluate(WITHOUT_CONTRAST), [])

    def press_until(self, page: "playwright.sync_api.Page", name: str, key: str, is_tab: bool = True) -> None:  # noqa: F821
        """Press Tab until what has the focus is called so, and is a tab or not, then press a key."""
        for _ in range(80):
            page.keyboard.press("Tab")
            found, role = page.evaluate(
                f"() => {{{NAME_OF} const e = document.activeElement; return [nameOf(e), e.role]}}"
            )
            if found == name and (role == "tab") == is_tab:
                page.keyboard.press(key)
                return
        self.fail(f"no key leads to {name}")

    def walk_through(self, page: "playwright.sync_api.Page") -> None:  # noqa: F821
        m4a, webm = self.encode("m4a", "mp4", "aac"), self.encode("webm", "webm", "libopus")
        self.show(page, "Compare")
        self.assertIn("A recording is missing", self.answer(page, "compared", "Compare"))
        self.upload(page, m4a)
        self.upload(page, webm)  # The first zone is filled, so this is the second one.
        page.get_by_label("Play").locator("visible=true").nth(1).wait_for()  # Both can be heard.
        self.assertRegex(
            self.answer(page, "compared", "Compare"),
            r"^[✓✗?] (The same person|Different people|Cannot tell)\n(.|\n)*How do we know\?",
        )
        why = page.locator("#compared details p").first
        self.assertFalse(why.is_visible())
        page.get_by_text("How do we know?").locator("visible=true").press("Enter")
        self.assertRegex(why.inner_text(), r"score \d\.\d{3} ")

        self.show(page, "Enrol")
        name = "<b>Ann</b>"
        page.get_by_label("Name", exact=True).fill(name)
        self.record(page)
        self.assertTrue(self.answer(page, "enrolled", "Enrol").startswith(f"{name} is enrolled\n"))
        self.assertEqual(page.get_by_label("Name", exact=True).input_value(), "")
        page.get_by_label("Name", exact=True).fill(name)
        self.upload(page, self.voices[0])
        again = self.answer(page, "enrolled", "Enrol")
        self.assertIn("enrolled already: if these are more recordings of the same person, tick the box", again)
        (self.dir / "text.wav").write_text("no audio")
        page.get_by_label("Name", exact=True).fill("Bob")
        page.get_by_label("Clear").locator("visible=true").first.click()
        self.upload(page, self.dir / "text.wav")
        refused = self.answer(page, "enrolled", "Enrol")
        self.assertIn("text.wav", refused)
        self.assertNotRegex(refused, r"/|\\|--")

        self.show(page, "Who is it")
        self.upload(page, self.voices[0])
        self.assertRegex(
            self.answer(page, "identified", "Identify"),
            r"^[✓✗?] (<b>Ann</b>|Probably .*|Cannot tell.*|Nobody I know)\n",
        )

        self.show(page, "Who spoke when")
        self.upload(page, webm)
        self.assertRegex(self.answer(page, "turns", "Find the turns"), r"^\d voices?\n+(.* \d+:\d\d\.\d)+\.")
        self.assertIn("Click on one of the turns", self.answer(page, "turns", "Give the voice this name"))
        players = page.get_by_label("Play").locator("visible=true")
        number = players.count()
        page.get_by_role("gridcell", name="0:00.0").locator("visible=true").first.click()
        players.nth(number).wait_for()
        voice = page.get_by_label("This voice").input_value()
        page.get_by_label("is", exact=True).fill("Cem")
        self.assertTrue(self.answer(page, "turns", "Give the voice this name").startswith(f"{voice} is Cem\n"))
        self.assertGreaterEqual(page.get_by_text(re.compile("voice-turns")).count(), 5)

        self.show(page, "Voices")
        self.assertEqual(self.answer(page, "voices", "Draw the map"), "2 recordings of 2 people")
        self.choose(page, name)
        page.get_by_label("New name").fill("Anna")
        self.assertEqual(self.answer(page, "voices", "Rename"), f"{name} is now Anna")
        self.choose(page, "Anna")
        self.assertIn("tick the box", self.answer(page, "voices", "Remove"))
        page.get_by_label("Yes, forget").check()
        self.assertEqual(self.answer(page, "voices", "Remove"), "Anna is removed")
        self.assertIn("Choose a person", self.answer(page, "voices", "Remove"))
        self.assertEqual(page.locator("b", has_text="Ann").count(), 0)
        self.assertEqual(self.asked, {"127.0.0.1"})

    def choose(self, page: "playwright.sync_api.Page", name: str) -> None:  # noqa: F821
        """Choose an enrolled person."""
        page.get_by_label("Person").click()
        page.get_by_role("option", name=name, exact=True).click()

    def encode(self, ending: str, container: str, codec: str) -> Path:
        """The first voice as a phone or a browser would write it."""
        import av

        path = self.dir / f"voice.{ending}"
        samples = np.concatenate([mono.read_audio(str(self.voices[0]))] * 2)
        with av.open(str(path), "w", format=container) as output:
            stream = output.add_stream(codec, rate=48000, layout="mono")
            frame = av.AudioFrame.from_ndarray(samples[None], "fltp", "mono")
            frame.rate = RATE
            for resampled in av.AudioResampler("fltp" if codec == "aac" else "s16", "mono", 48000).resample(frame):
                output.mux(stream.encode(resampled))
            output.mux(stream.encode(None))
        return path

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
