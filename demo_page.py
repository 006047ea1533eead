"""Try it in the browser: `pip3 install -r requirements-demo.txt && python3 demo_page.py`.

A page on this machine only: compare two recordings, enrol people, ask who it is and who spoke when, see all voices. It
needs no network and sends nothing anywhere.
"""

import atexit
import importlib.util
import ipaddress
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from foundation import script, setting_checks, settings
from foundation.paths import expand_home

if __name__ == "__main__":
    script.begin()
    parser = script.OptionParser(description=__doc__)
    parser.add_argument("--model", type=expand_home, default="", help="a model (default: the best pretrained one)")
    parser.add_argument("--db", type=expand_home, default="", help="the database (default: that of speaker_id.py)")
    parser.add_argument("--port", type=int, default=7860, help="(default: 7860)")
    parser.add_argument("--address", default="127.0.0.1", help="others let other machines in (default: 127.0.0.1)")
    options = parser.parse_args()
    if importlib.util.find_spec("gradio") is None:
        script.fail("the page needs Gradio: pip3 install -r requirements-demo.txt.")
    # The page has a folder of its own for uploads, which is deleted at its end, needs no display, and asks this machine
    # whether it is there, not a proxy.
    uploads_dir = tempfile.mkdtemp(prefix="speaker-page-")
    atexit.register(shutil.rmtree, uploads_dir, ignore_errors=True)
    os.environ |= {"GRADIO_TEMP_DIR": uploads_dir, "MPLBACKEND": "agg"}
    no_proxy = ",".join({"localhost", "127.0.0.1", "::1", options.address, os.environ.get("NO_PROXY", "localhost")})
    os.environ |= {"NO_PROXY": no_proxy, "no_proxy": no_proxy}

# Before gradio is imported, because otherwise it checks for updates.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"

import gradio
import matplotlib
import matplotlib.axes
import matplotlib.figure
import numpy as np

import feature_extraction
import speaker_id
from encoder.saved_models import load_encoder
from encoder.speaker_encoder import SpeakerEncoder
from foundation import parallel, pictures
from voices import answers, timeline, wording
from voices import database as speaker_database
from voices import map as voice_map

MAX_FILES = 20
MAX_FILE_MEGABYTES = 50
SECONDS_KEPT = 3600


# On a phone, all tabs fit side by side; Gradio would hide some behind dots.
STYLE = """
@media (max-width: 600px) {.tab-container button {padding: 0 3px !important; font-size: 12px !important}}
"""

PICTURES = """The **dial** shows the score; its coloured part is above the threshold. **MFCCs** show a voice over time
as the network reads it: each row is a coefficient of the spectrum; yellow is more of it than usual, blue less."""
MAP = """Each point is a recording, and similar voices are near to each other; the axes have no meaning. The squares
show how similar each pair of recordings is: yellow is the same voice."""


def draw_dial(axes: matplotlib.axes.Axes, score: float, threshold: float) -> None:
    """Draw a score between -1 and 1 as the hand of a dial; the range above the threshold is coloured."""
    angle = np.pi * (1 - score) / 2
    limit = np.pi * (1 - threshold) / 2
    axes.set(thetamin=0, thetamax=180, ylim=(0, 1), yticks=[], title=f"score {score:.3f}, threshold {threshold:.3f}")
    axes.set_xticks(np.pi * (1 - np.linspace(-1, 1, 5)) / 2, [f"{value:g}" for value in np.linspace(-1, 1, 5)])
    axes.bar(limit / 2, 0.3, width=limit, bottom=0.7, color="C0", alpha=0.8)
    axes.bar((limit + np.pi) / 2, 0.3, width=np.pi - limit, bottom=0.7, color="0.8")
    axes.annotate("", (angle, 0.95), (0, 0), arrowprops={"width": 2, "color": "0.2"})


def draw_comparison(
    encoder: SpeakerEncoder, files: Sequence[str], score: float, threshold: float
) -> matplotlib.figure.Figure:
    """Draw the score of two recordings on a dial, and the MFCCs of both, as the encoder sees them."""
    with pictures.style():
        figure = matplotlib.figure.Figure(figsize=(5, 8))
        draw_dial(figure.add_subplot(3, 1, 1, projection="polar"), score, threshold)
        for place, file, title in zip((2, 3), files, ("first recording", "second recording"), strict=True):
            mfcc = feature_extraction.extract_features(file, encoder.feature_settings)
            normalised = (mfcc - encoder.feature_mean.cpu().numpy()) / encoder.feature_std.cpu().numpy()
            seconds = len(mfcc) * encoder.feature_settings.hop_length / feature_extraction.SAMPLE_RATE
            axes = figure.add_subplot(3, 1, place)
            extent = (0, seconds, 0, mfcc.shape[1])
            axes.imshow(normalised.T, vmin=-3, vmax=3, origin="lower", aspect="auto", extent=extent)
            axes.grid(visible=False)
            axes.set(title=f"MFCCs of the {title}", xlabel="time (s)", ylabel="coefficient")
    return figure


def in_words(action: Callable[..., tuple], *otherwise: Callable[[], object]) -> Callable[..., tuple]:
    """The action, but an error of the user becomes its first answer, and each of `otherwise` gives one of the others.

    Uploads lie in folders with long names, of which only the file's name is shown.
    """

    def answer(*inputs: Any) -> tuple:
        try:
            words, *others = action(*inputs)
        except (ValueError, OSError) as error:
            words, others = str(error), [make() for make in otherwise]
        for path in (path for given in inputs for path in (given if isinstance(given, list) else [given])):
            words = words.replace(str(path), Path(path).name) if path and Path(str(path)).is_absolute() else words
        return (words.replace(" --more", " the box below"), *others)

    return answer


def notes(warnings: Sequence[tuple[str, str]]) -> list[str]:
    """Warnings, with the names of the files that they are about."""
    return [f"Please note, {Path(about).name}: {words}." for about, words in warnings]


class Page:
    """What the buttons do: the functions of `voices`, with one model and one database."""

    def __init__(self, encoder: SpeakerEncoder, database: str) -> None:
        self.encoder, self.database = encoder, database
        self.model = answers.model_of(encoder)
        self.decision = answers.decision_for(encoder)

    def compare(self, file: str | None, spoken: str | None, other_file: str | None, other_spoken: str | None) -> tuple:
        """An answer, and a picture of both recordings."""
        first, second = choose(file, spoken), choose(other_file, other_spoken)
        answer = answers.verify(self.encoder, [first], [second], self.decision)
        verdict, meaning = wording.verdict_in_words(answer), wording.score_in_words(answer, self.decision)
        words = [f"{verdict[0].upper()}{verdict[1:]}: {meaning}", *notes(answer["warnings"])]
        picture = draw_comparison(self.encoder, [first, second], answer["score"], answer["threshold"])
        return "\n".join(words), picture

    def enrol(self, name: str, files: list[str] | None, recording: str | None, more: bool) -> tuple:
        """An answer, and an empty form."""
        recordings = [*(files or []), *([recording] if recording else [])]
        if not name.strip() or not recordings or len(recordings) > MAX_FILES:
            raise ValueError(f"A name and 1 to {MAX_FILES} recordings are needed.")
        seconds, warnings = answers.enrol(self.encoder, self.database, name.strip(), recordings, more)
        words = [f"{name.strip()} is enrolled: heard {seconds:.1f} s of speech.", *notes(warnings)]
        return "\n".join(words), "", None, None, False

    def identify(self, file: str | None, spoken: str | None) -> tuple:
        """An answer, and the most similar people with their scores."""
        recording = choose(file, spoken)
        [answer] = answers.identify(self.encoder, self.database, [recording], self.decision)
        ranking = [[name, f"{score:.3f}"] for name, score in answer["ranking"]]
        who = wording.name_in_words(answer)
        verdict = f"This is {who}" if answer["speaker"] else f"This is nobody who is enrolled ({who})"
        words = [f"{verdict}: {wording.score_in_words(answer, self.decision)}"]
        if answer["enrolled"] > 1:
            words.append(wording.decision_in_words(self.decision, answer["enrolled"]))
        return "\n".join([*words, *notes(answer["warnings"])]), ranking

    def find_timeline(self, file: str | None, spoken: str | None, num_voices: float | None) -> tuple:
        """An answer, the turns as a picture and a table, and the recording to listen to."""
        recording = choose(file, spoken)
        names, enrolled, counts = self.read_people()
        thresholds, number = self.decision.timeline_thresholds(counts), int(num_voices or 0) or None
        found = timeline.find_timeline(self.encoder, recording, names, enrolled, thresholds, True, number)
        speakers = list(dict.fromkeys(turn.speaker for turn in found.turns))
        seconds = [sum(turn.end - turn.start for turn in found.turns if turn.speaker == name) for name in speakers]
        spoken = ", ".join(f"{name} ({time:.0f} s)" for name, time in zip(speakers, seconds, strict=True))
        how_many = f"{len(speakers)} {'voice' if len(speakers) == 1 else 'voices'}"
        words = [f"{how_many}: {spoken}." if speakers else "No voice was found."]
        if speakers and not number:
            words.append("How many people speak is an estimate: if it is wrong, give the number.")
        turns = [[f"{turn.start:.1f}", f"{turn.end:.1f}", turn.speaker] for turn in found.turns]
        words += notes([(recording, fault) for fault in found.faults])
        return "\n".join(words), timeline.draw_timeline(found, width=6), turns, recording

    def read_people(self) -> tuple[list[str], np.ndarray, list[int]]:
        """Who is enrolled: names, embeddings and numbers of recordings; nobody where there is no database."""
        if not speaker_database.is_there(self.database):
            return [], np.zeros((0, self.encoder.dimensions), np.float32), []
        with speaker_database.open_database(self.database) as connection:
            return speaker_database.read_speakers(connection, self.model)

    def list_people(self) -> list[list]:
        """Name, number of recordings and seconds of speech of each enrolled person."""
        if not speaker_database.is_there(self.database):
            return []
        with speaker_database.open_database(self.database) as connection:
            rows = speaker_database.list_speakers(connection)
        return [[name, number, f"{seconds:.1f}"] for name, number, seconds, _ in rows]

    def show_people(self) -> tuple[list[list], dict]:
        """The table of people, and the names to choose from."""
        people = self.list_people()
        return people, gradio.update(choices=[name for name, *_ in people], value=None)

    def remove(self, name: str | None) -> tuple:
        """An answer, and who is left."""
        if not name:
            raise ValueError("Choose a person first.")
        with speaker_database.open_database(self.database, "write") as connection:
            speaker_database.remove(connection, name)
        return f"{name} is removed.", *self.show_people()

    def rename(self, old: str | None, new: str) -> tuple:
        """An answer, and the people with the new name."""
        if not old or not new.strip():
            raise ValueError("Choose a person, and give a new name.")
        with speaker_database.open_database(self.database, "write") as connection:
            speaker_database.rename(connection, old, new)
        return f"{old} is now {new.strip()}.", *self.show_people()

    def draw_map(self) -> tuple:
        """An answer, and the map of all recordings."""
        names: list[str] = []
        if speaker_database.is_there(self.database):
            with speaker_database.open_database(self.database) as connection:
                names, embeddings = speaker_database.read_recordings(connection, self.model)
        if len(names) < 2:
            raise ValueError("A map needs two enrolled recordings or more.")
        words = f"{len(names)} recordings of {len(set(names))} {'people' if len(set(names)) > 1 else 'person'}."
        return words, voice_map.draw_map(embeddings, names, is_wide=False)


def build_page(encoder: SpeakerEncoder, database: str) -> gradio.Blocks:
    """The page: a tab for each question."""
    actions = Page(encoder, database)
    # One request at a time: each uses all cores.
    one_by_one: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
    plain: dict[str, Any] = {"buttons": [], "editable": False}

    def recording(label: str) -> list[gradio.components.Component]:
        """A drop zone for files of any kind, as a browser refuses WebM where it expects audio, and the microphone."""
        with gradio.Column():
            zone = gradio.File(label=f"{label}: drop a file here", type="filepath", height=140)
            return [zone, gradio.Audio(sources=["microphone"], type="filepath", label="or record", **plain)]

    def textbox(name: str) -> gradio.Textbox:
        return gradio.Textbox(label="Answer", elem_id=name)

    with gradio.Blocks(title="Speaker recognition", delete_cache=(SECONDS_KEPT, SECONDS_KEPT)) as page:
        gradio.Markdown(
            f"# Who is speaking?\nEverything stays on this machine. Files may have up to {MAX_FILE_MEGABYTES} MB."
        )
        with gradio.Tab("Compare"):
            gradio.Markdown("Did the same person say both? Drop two recordings, or use the microphone.")
            with gradio.Row():
                pair = [*recording("First recording"), *recording("Second recording")]
            button = gradio.Button("Compare", variant="primary")
            outputs = [textbox("compared"), gradio.Plot(show_label=False)]
            gradio.Markdown(PICTURES)
            button.click(in_words(actions.compare, none), pair, outputs, **one_by_one)
        with gradio.Tab("Enrol"):
            gradio.Markdown("Teach it a voice. Several recordings, on several days or devices, make it surer.")
            name = gradio.Textbox(label="Name", max_length=100)
            files = gradio.File(
                label="Recordings of one person: drop files here", file_count="multiple", type="filepath"
            )
            spoken = gradio.Audio(sources=["microphone"], type="filepath", label="or record", **plain)
            more = gradio.Checkbox(label="These are more recordings of somebody who is enrolled")
            button = gradio.Button("Enrol", variant="primary")
            form = [name, files, spoken, more]
            kept = [gradio.skip] * len(form)
            button.click(in_words(actions.enrol, *kept), form, [textbox("enrolled"), *form], **one_by_one)
        with gradio.Tab("Who is it"):
            gradio.Markdown("Which of the enrolled people speaks here?")
            inputs = recording("Recording")
            button = gradio.Button("Identify", variant="primary")
            answer = textbox("identified")
            ranking = gradio.Dataframe(headers=["name", "score"], datatype="str", label="Nearest", interactive=False)
            button.click(in_words(actions.identify, none), inputs, [answer, ranking], **one_by_one)
        with gradio.Tab("Who spoke when"):
            gradio.Markdown("Drop a conversation. Whoever is enrolled gets their name, the other voices a number.")
            conversation = recording("Conversation")
            number = gradio.Number(label="How many people speak? 0: find it out.", value=0, minimum=0, precision=0)
            button = gradio.Button("Find the turns", variant="primary")
            answer = textbox("turns")
            with gradio.Row():
                picture = gradio.Plot(show_label=False)
                with gradio.Column():
                    player = gradio.Audio(label="Listen", interactive=False, type="filepath", buttons=[])
                    columns = ["from (s)", "to (s)", "who"]
                    table = gradio.Dataframe(headers=columns, datatype="str", label="Turns", interactive=False)
            action = in_words(actions.find_timeline, none, none, none)
            button.click(action, [*conversation, number], [answer, picture, table, player], **one_by_one)
        with gradio.Tab("Voices") as tab:
            gradio.Markdown(
                "Who is enrolled? An embedding tells a person like a fingerprint: remove what is not needed."
            )
            columns = ["name", "recordings", "speech (s)"]
            people = gradio.Dataframe(headers=columns, datatype="str", label="Enrolled", interactive=False)
            person = gradio.Dropdown([], label="Person", value=None)
            new_name = gradio.Textbox(label="New name", max_length=100)
            with gradio.Row():
                rename = gradio.Button("Rename")
                remove = gradio.Button("Remove", variant="stop")
            answer = textbox("voices")
            shown = [answer, people, person]
            kept = [gradio.skip, gradio.skip]
            rename.click(in_words(actions.rename, *kept), [person, new_name], shown, **one_by_one)
            remove.click(in_words(actions.remove, *kept), person, shown, **one_by_one)
            button = gradio.Button("Draw the map", variant="primary")
            gradio.Markdown(MAP)
            picture = gradio.Plot(show_label=False)
            button.click(in_words(actions.draw_map, none), None, [answer, picture], **one_by_one)
            for event in (tab.select, page.load):
                event(actions.show_people, None, [people, person], **one_by_one)
    return page


def choose(file: str | None, spoken: str | None) -> str:
    """The recording that was given, as a file or from the microphone. Raises ValueError for none or both."""
    if file and spoken:
        raise ValueError("There are a file and a recording from the microphone: remove one of them.")
    if not file and not spoken:
        raise ValueError("A recording is missing: drop a file, or use the microphone.")
    return str(file or spoken)


def none() -> None:
    """The answer of a place that stays empty."""


def launch(page: gradio.Blocks, address: str, port: int | None, **more: Any) -> tuple:
    """Serve the page; the size of uploads is limited, and no other file of the machine can be read through it."""
    return page.launch(
        server_name=f"[{address}]" if ":" in address else address,
        server_port=port,
        share=False,
        quiet=True,
        max_file_size=f"{MAX_FILE_MEGABYTES}mb",
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        footer_links=[],
        css=STYLE,
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        **more,
    )


def is_this_machine(address: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def main() -> None:
    """Serve the page until it is stopped."""
    parallel.prepare_process()
    setting_checks.check_each(settings.all_settings())
    encoder = load_encoder(options.model or str(speaker_id.DEFAULT_MODEL))
    page = build_page(encoder, options.db or speaker_id.DEFAULT_DATABASE)
    try:
        _, address, _ = launch(page, options.address, options.port, prevent_thread_lock=True)
        print(f"The page is at {address} until you press Ctrl-C.", flush=True)
        if not is_this_machine(options.address):
            print("Browsers of other machines give it no microphone, as it is no https page: record to a file there.")
        page.block_thread()
    except OSError as error:
        if error.errno:  # The disk is full, for instance.
            raise
        raise ValueError(
            f"port {options.port} of {options.address} cannot be used: another program may have it, or this machine "
            "has no such address. Choose another --port or --address."
        ) from None


if __name__ == "__main__":
    script.run(main)
