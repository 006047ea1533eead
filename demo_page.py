"""Try it in the browser: `pip3 install -r requirements-demo.txt && python3 demo_page.py`.

A page on this machine only: compare two recordings, enrol people, ask who it is and who spoke when, see all voices. It
needs no network and sends nothing anywhere.
"""

import argparse
import atexit
import importlib.util
import ipaddress
import os
import shutil
import tempfile
from collections.abc import Iterator
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
    for ending, what in (("certfile", "certificate"), ("keyfile", "key")):
        parser.add_argument(
            f"--ssl-{ending}", type=expand_home, help=f"a {what} for https, without which phones give no microphone"
        )
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

import speaker_id
from encoder.base import Encoder
from encoder.model_files import load_model
from foundation import threads
from voices.actions import Actions, beginning_of
from voices.page import COLOURS, STYLE, hide, in_words, none, show, with_choices

MAX_FILE_MEGABYTES = 50
SECONDS_KEPT = 3600

PICTURES = """The **dial** shows the score; its coloured part is above the threshold. **MFCCs** show a voice over time
as the network reads it: each row is a coefficient of the spectrum; yellow is more of it than usual, blue less."""
MAP = """Each point is a recording, and similar voices are near to each other; the axes have no meaning. The squares
show how similar each pair of recordings is: the yellower, the more alike."""

# One request at a time: each uses all cores.
ONE_BY_ONE: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
PLAIN: dict[str, Any] = {"buttons": [], "editable": False}


def build_page(encoder: Encoder, database: str) -> gradio.Blocks:
    """The page: a tab for each question."""
    actions = Actions(encoder, database)
    with gradio.Blocks(title="Speaker recognition", delete_cache=(SECONDS_KEPT, SECONDS_KEPT)) as page:
        gradio.Markdown(
            f"# Who is speaking?\nEverything stays on this machine. Files may have up to {MAX_FILE_MEGABYTES} MB."
        )
        with gradio.Tab("Compare"):
            build_compare(actions)
        with gradio.Tab("Enrol"):
            build_enrol(actions)
        with gradio.Tab("Who is it"):
            build_identify(actions)
        with gradio.Tab("Who spoke when"):
            build_timeline(actions)
        with gradio.Tab("Voices") as tab:
            people = build_voices(actions)
        for event in (tab.select, page.load):
            event(with_choices(actions.show_people), None, people, **ONE_BY_ONE)
    return page


def choose_recording(label: str) -> list[gradio.components.Component]:
    """A drop zone for files of any kind, as a browser refuses WebM where it expects audio, and the microphone.

    The beginning of a file that was dropped can be heard.
    """
    with gradio.Column():
        zone = gradio.File(label=f"{label}: drop a file here", type="filepath", height=140)
        player = gradio.Audio(label=f"{label}: listen", interactive=False, visible=False, buttons=[])
        zone.change(listen_to, zone, player)
        return [zone, gradio.Audio(sources=["microphone"], type="filepath", label="or record", **PLAIN)]


def listen_to(file: str | None) -> dict:
    """The player with the beginning of a file, or hidden if there is none that can be heard."""
    try:
        return gradio.update(value=beginning_of(file), visible=True) if file else hide()
    except (ValueError, OSError):  # Whoever presses the button is told.
        return hide()


def build_compare(actions: Actions) -> None:
    """Did the same person say both?"""
    gradio.Markdown("Did the same person say both? Drop two recordings, or use the microphone.")
    with gradio.Row():
        pair = [*choose_recording("First recording"), *choose_recording("Second recording")]
    button = gradio.Button("Compare", variant="primary")
    answer = gradio.HTML(elem_id="compared")
    with gradio.Column(visible=False) as results:
        picture = gradio.Plot(show_label=False)
        gradio.Markdown(PICTURES)
    button.click(in_words(actions.compare, none, hide), pair, [answer, picture, results], **ONE_BY_ONE)


def build_enrol(actions: Actions) -> None:
    """Add somebody."""
    gradio.Markdown("Teach it a voice. Several recordings, on several days or devices, make it surer.")
    name = gradio.Textbox(label="Name", max_length=100)
    files = gradio.File(label="Recordings of one person: drop files here", file_count="multiple", type="filepath")
    spoken = gradio.Audio(sources=["microphone"], type="filepath", label="or record", **PLAIN)
    more = gradio.Checkbox(label="These are more recordings of somebody who is enrolled")
    button = gradio.Button("Enrol", variant="primary")
    form = [name, files, spoken, more]
    kept = [gradio.skip] * len(form)
    button.click(in_words(actions.enrol, *kept), form, [gradio.HTML(elem_id="enrolled"), *form], **ONE_BY_ONE)


def build_identify(actions: Actions) -> None:
    """Which enrolled person speaks?"""
    gradio.Markdown("Which of the enrolled people speaks here?")
    inputs = choose_recording("Recording")
    button = gradio.Button("Identify", variant="primary")
    answer = gradio.HTML(elem_id="identified")
    with gradio.Column(visible=False) as results:
        ranking = gradio.Dataframe(headers=["name", "score"], datatype="str", label="Nearest", interactive=False)
    button.click(in_words(actions.identify, none, hide), inputs, [answer, ranking, results], **ONE_BY_ONE)


def build_timeline(actions: Actions) -> None:
    """Who spoke when?"""
    gradio.Markdown("Drop a conversation. Whoever is enrolled gets their name, the other voices a number.")
    conversation = choose_recording("Conversation")
    number = gradio.Number(label="How many people speak? 0: find it out.", value=0, minimum=0, precision=0)
    button = gradio.Button("Find the turns", variant="primary")
    stop = gradio.Button("Stop", visible=False)
    stop.click(script.stop_request.set, queue=False)
    answer, found = gradio.HTML(elem_id="turns"), gradio.State()
    with gradio.Column(visible=False) as results:
        with gradio.Row():
            picture = gradio.Plot(show_label=False)
            with gradio.Column():
                table, *chosen = build_turns(actions, answer, found)
        files = gradio.File(label="To download", file_count="multiple", interactive=False)
    action = in_words(actions.find_timeline, none, none, none, none, hide)

    def find(file: str, spoken: str, number: float, progress: object = gradio.Progress(track_tqdm=True)) -> Iterator:
        """The action, during which the page shows how many seconds were heard, and can stop it."""
        yield *[gradio.skip()] * len(outputs), None, "", "", False, show()
        yield *action(file, spoken, number), *[gradio.skip()] * len(chosen), hide()

    outputs = [answer, picture, table, files, found, results]
    button.click(find, [*conversation, number], [*outputs, *chosen, stop], **ONE_BY_ONE)


def build_turns(actions: Actions, answer: gradio.HTML, found: gradio.State) -> list[gradio.components.Component]:
    """The table of the turns; and of the one that is clicked, its sound, and a form to name its voice."""
    columns = ["from", "to", "who"]
    table = gradio.Dataframe(headers=columns, datatype="str", label="Turns: click on one to hear it", interactive=False)
    player = gradio.Audio(label="The turn", interactive=False, autoplay=True, buttons=[])
    voice = gradio.Textbox(label="This voice", interactive=False)
    name = gradio.Textbox(label="is", placeholder="Write a name", max_length=100)
    more = gradio.Checkbox(label="somebody who is enrolled already")
    give = gradio.Button("Give the voice this name")

    def play(turns: tuple, event: gradio.SelectData) -> tuple:
        try:
            return actions.play_turn(turns, event.index[0])
        except (ValueError, OSError):
            raise gradio.Error("The recording is gone: drop it here again.", title="", print_exception=False) from None

    table.select(play, found, [player, voice], **ONE_BY_ONE)
    kept = [gradio.skip] * 3
    form = [voice, name, more]
    give.click(in_words(actions.name_voice, *kept), [found, *form], [answer, *form], **ONE_BY_ONE)
    return [table, player, *form]


def build_voices(actions: Actions) -> list[gradio.components.Component]:
    """Who is enrolled? Returns the table of people and the names to choose from."""
    gradio.Markdown("Who is enrolled? What is kept of a voice is like a fingerprint: remove what is not needed.")
    columns = ["name", "recordings", "speech"]
    people = gradio.Dataframe(headers=columns, datatype="str", label="Enrolled: click on one", interactive=False)
    person = gradio.Dropdown([], label="Person", value=None)
    new_name = gradio.Textbox(label="New name", max_length=100)
    rename = gradio.Button("Rename")
    is_sure = gradio.Checkbox(label="Yes, forget all these recordings")
    remove = gradio.Button("Remove", variant="stop")
    answer = gradio.HTML(elem_id="voices")
    shown = [answer, people, person]
    people.select(choose_person, None, person)
    kept = [gradio.skip, gradio.skip]
    rename.click(in_words(with_choices(actions.rename), *kept), [person, new_name], shown, **ONE_BY_ONE)
    remove.click(in_words(with_choices(actions.remove), *kept), [person, is_sure], shown, **ONE_BY_ONE)
    remove.click(lambda: False, None, is_sure)
    button = gradio.Button("Draw the map", variant="primary")
    with gradio.Column(visible=False) as results:
        gradio.Markdown(MAP)
        picture = gradio.Plot(show_label=False)
    button.click(in_words(actions.draw_map, none, hide), None, [answer, picture, results], **ONE_BY_ONE)
    return [people, person]


def choose_person(event: gradio.SelectData) -> str:
    """The name in the row that was clicked."""
    return event.row_value[0]


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
        theme=gradio.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"]).set(
            **COLOURS
        ),
        **more,
    )


def is_this_machine(address: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def main(options: argparse.Namespace) -> None:
    """Serve the page until it is stopped."""
    threads.prepare_process()
    setting_checks.check_each(settings.all_settings())
    encoder = load_model(options.model or str(speaker_id.DEFAULT_MODEL))
    page = build_page(encoder, options.db or speaker_id.DEFAULT_DATABASE)
    if not is_this_machine(options.address):
        print("Everybody in this network can open the page, hear nothing, but see, add and remove who is enrolled.")
        if not options.ssl_certfile:
            print("Phones give it no microphone, as it is no https page: record to a file, or give --ssl-certfile.")
    secure = {f"ssl_{name}": getattr(options, f"ssl_{name}") for name in ("certfile", "keyfile")}
    try:
        _, address, _ = launch(
            page, options.address, options.port, prevent_thread_lock=True, ssl_verify=False, **secure
        )
        print(f"The page is at {address} until you press Ctrl-C.", flush=True)
        page.block_thread()
    except OSError as error:
        if error.errno:  # The disk is full, for instance.
            raise
        raise ValueError(
            f"port {options.port} of {options.address} cannot be used: another program may have it, or this machine "
            "has no such address. Choose another --port or --address."
        ) from None


if __name__ == "__main__":
    script.run(lambda: main(options))
