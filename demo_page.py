"""Try it in the browser: `pip3 install -r requirements-demo.txt && python3 demo_page.py`.

A page on this machine only: compare two recordings, enrol people, ask who is speaking, see a map of all voices. It
needs no network and sends nothing anywhere.
"""

import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any

from foundation import script, settings

if __name__ == "__main__":
    script.begin()
    parser = script.OptionParser(description=__doc__)
    parser.add_argument("--model", default="", help="a model (default: the best pretrained one)")
    parser.add_argument("--db", default="", help="the database (default: that of speaker_id.py)")
    parser.add_argument("--port", type=int, default=7860, help="(default: 7860)")
    parser.add_argument("--address", default="127.0.0.1", help="others let other machines in (default: 127.0.0.1)")
    options = parser.parse_args()
    if importlib.util.find_spec("gradio") is None:
        script.fail("the page needs Gradio: pip3 install -r requirements-demo.txt.")

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
from foundation import parallel, pictures
from speaker_encoder import SpeakerEncoder, load_encoder
from voices import answers
from voices import database as speaker_database
from voices import map as voice_map

MAX_FILES = 20
MAX_FILE_SIZE = "50mb"
SECONDS_KEPT = 3600


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
    """Draw the MFCCs of two recordings side by side, as the encoder sees them, and their score on a dial."""
    with pictures.style():
        figure = matplotlib.figure.Figure(figsize=(12, 3.5))
        for place, file, title in zip((1, 2), files, ("first recording", "second recording"), strict=True):
            mfcc = feature_extraction.extract_features(file, encoder.feature_settings)
            normalised = (mfcc - encoder.feature_mean.cpu().numpy()) / encoder.feature_std.cpu().numpy()
            seconds = len(mfcc) * encoder.feature_settings.hop_length / feature_extraction.SAMPLE_RATE
            axes = figure.add_subplot(1, 3, place)
            extent = (0, seconds, 0, mfcc.shape[1])
            axes.imshow(normalised.T, vmin=-3, vmax=3, origin="lower", aspect="auto", extent=extent)
            axes.grid(visible=False)
            axes.set(title=f"MFCC of the {title}", xlabel="time (s)", ylabel="coefficient")
        draw_dial(figure.add_subplot(1, 3, 3, projection="polar"), score, threshold)
    return figure


def in_words(action: Callable[..., tuple], otherwise: Callable[[], object] = lambda: None) -> Callable[..., tuple]:
    """The action, but an error of the user becomes its first answer, and `otherwise` gives the second."""

    def answer(*inputs: object) -> tuple:
        try:
            return action(*inputs)
        except (ValueError, OSError) as error:
            return str(error), otherwise()

    return answer


def build_page(encoder: SpeakerEncoder, database: str) -> gradio.Blocks:
    """The page, with the functions of `voices` behind its buttons."""
    model = answers.model_of(encoder)
    decision = answers.decision_for(encoder)

    def compare(first: str | None, second: str | None) -> tuple:
        if not first or not second:
            raise ValueError("Two recordings are needed.")
        answer = answers.verify(encoder, [first], [second], decision)
        verdict = "The same speaker" if answer["same"] else "Different speakers"
        words = [f"{verdict}: {answers.describe(decision)}.", *doubts(answer["warnings"])]
        return "\n".join(words), draw_comparison(encoder, [first, second], answer["score"], decision.threshold)

    def enrol(name: str, recording: str | None, files: list[str] | None, more: bool) -> tuple:
        recordings = [*([recording] if recording else []), *(files or [])]
        if not recordings or len(recordings) > MAX_FILES:
            raise ValueError(f"1 to {MAX_FILES} recordings are needed.")
        seconds, warnings = answers.enrol(encoder, database, name.strip(), recordings, more)
        words = [f"{name.strip()} is enrolled: heard {seconds:.1f} s of speech.", *doubts(warnings)]
        return "\n".join(words), list_enrolled()

    def identify(recording: str | None) -> tuple:
        if not recording:
            raise ValueError("A recording is needed.")
        [answer] = answers.identify(encoder, database, [recording], decision)
        ranking = [[name, f"{score:.3f}"] for name, score in answer["ranking"]]
        words = [f"This is {answer['speaker']}." if answer["speaker"] else "This is nobody who is enrolled."]
        return "\n".join([*words, *doubts(answer["warnings"])]), ranking

    def show_map() -> tuple:
        with speaker_database.open_database(database) as connection:
            names, embeddings = speaker_database.read_recordings(connection, model)
        if not names:
            raise ValueError("Nobody is enrolled.")
        return f"{len(names)} recordings of {len(set(names))} people.", voice_map.draw_map(embeddings, names)

    def list_enrolled() -> list[list]:
        try:
            with speaker_database.open_database(database) as connection:
                rows = speaker_database.list_speakers(connection)
        except (ValueError, OSError):  # Nobody is enrolled yet, or the buttons will report the error.
            return []
        return [[name, number, f"{seconds:.1f}"] for name, number, seconds, _ in rows]

    def audio(label: str) -> gradio.Audio:
        return gradio.Audio(sources=["microphone", "upload"], type="filepath", label=label, buttons=[], editable=False)

    # One request at a time: each uses all cores.
    one_by_one: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
    with gradio.Blocks(title="Speaker recognition", delete_cache=(SECONDS_KEPT, SECONDS_KEPT)) as page:
        gradio.Markdown("# Who is speaking?\nEverything stays on this machine.")
        with gradio.Tab("Compare"):
            with gradio.Row():
                pair = [audio("First recording"), audio("Second recording")]
            button = gradio.Button("Compare", variant="primary")
            outputs = [gradio.Textbox(label="Answer", elem_id="compared"), gradio.Plot(show_label=False)]
            button.click(in_words(compare), pair, outputs, **one_by_one)
        with gradio.Tab("Enrol"):
            name = gradio.Textbox(label="Name", max_length=100)
            with gradio.Row():
                inputs = [name, audio("Recording"), gradio.File(label="Files", file_count="multiple", type="filepath")]
            more = gradio.Checkbox(label="Add to somebody who is enrolled (--more)")
            button = gradio.Button("Enrol", variant="primary")
            answer = gradio.Textbox(label="Answer", elem_id="enrolled")
            columns = ["name", "recordings", "speech (s)"]
            people = gradio.Dataframe(
                list_enrolled, headers=columns, datatype="str", label="Enrolled", interactive=False
            )
            button.click(in_words(enrol, list_enrolled), [*inputs, more], [answer, people], **one_by_one)
        with gradio.Tab("Who is speaking?"):
            recording = audio("Recording")
            button = gradio.Button("Identify", variant="primary")
            answer = gradio.Textbox(label="Answer", elem_id="identified")
            ranking = gradio.Dataframe(headers=["name", "score"], datatype="str", label="Nearest", interactive=False)
            button.click(in_words(identify), recording, [answer, ranking], **one_by_one)
        with gradio.Tab("Map"):
            button = gradio.Button("Draw everyone enrolled", variant="primary")
            outputs = [gradio.Textbox(label="Answer", elem_id="mapped"), gradio.Plot(show_label=False)]
            button.click(in_words(show_map), None, outputs, **one_by_one)
    return page


def doubts(warnings: Sequence[tuple[str, str]]) -> list[str]:
    """Warnings about uploads, without the paths where these are stored."""
    return [f"Please note: {words}." for _, words in warnings]


def launch(page: gradio.Blocks, address: str, port: int | None, **more: Any) -> tuple:
    """Serve the page; the size of uploads is limited, and no other file of the machine can be read through it."""
    return page.launch(
        server_name=address,
        server_port=port,
        share=False,
        max_file_size=MAX_FILE_SIZE,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        footer_links=[],
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        **more,
    )


def main() -> None:
    """Serve the page until it is stopped."""
    parallel.prepare_process()
    settings.check_each(settings.all_settings())
    encoder = load_encoder(options.model or str(speaker_id.DEFAULT_MODEL))
    launch(build_page(encoder, options.db or speaker_id.DEFAULT_DATABASE), options.address, options.port)


if __name__ == "__main__":
    script.run(main)
