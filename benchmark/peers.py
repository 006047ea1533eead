"""From files to embeddings: the pretrained models against the course's way and against Resemblyzer."""

import importlib.util
from collections.abc import Callable, Sequence

import evaluation
from benchmark.straightforward import straightforward_features
from benchmark.timing import Row, compare, in_torch_threads, median_seconds
from encoder.lstm import LstmEncoder
from encoder.model_files import load_model
from encoder.speaker_encoder import SpeakerEncoder
from experiments.ladder import COURSE
from foundation import paths, settings


def course_embeddings(encoder: SpeakerEncoder, files: Sequence[str]) -> None:
    """Embed one file after the other."""
    with settings.override(USE_FULL_SEQUENCE_INFERENCE=False):
        for file in files:
            evaluation.run_inference(straightforward_features(file), encoder)


def resemblyzer_embeddings() -> Callable[[Sequence[str]], None] | None:
    """A function that embeds files with Resemblyzer, one after the other, if it is installed."""
    if not importlib.util.find_spec("resemblyzer"):
        print("Resemblyzer is not installed (pip3 install resemblyzer): the table has no rows of it.")
        return None
    import resemblyzer

    encoder = resemblyzer.VoiceEncoder("cpu", verbose=False)

    def embed(files: Sequence[str]) -> None:
        for file in files:
            encoder.embed_utterance(resemblyzer.preprocess_wav(file))

    return embed


def peer_rows(files: Sequence[str], rounds: int) -> list[Row]:
    """Embedding the files, decoding included, on all cores."""
    with settings.override(**COURSE | {"BI_LSTM": True, "FRAME_AGGREGATION_MEAN": True}):
        course = LstmEncoder().eval()
    models = {path.name: load_model(path) for path in sorted(paths.SHIPPED_DIR.glob("*.pt"))}
    others = {"the course's way": in_torch_threads(lambda: course_embeddings(course, files))}
    if embed := resemblyzer_embeddings():
        others["Resemblyzer"] = in_torch_threads(lambda: embed(files))
    ours = [lambda encoder=encoder: evaluation.embed_utterances(encoder, files) for encoder in models.values()]
    times = median_seconds(rounds, *others.values(), *ours)
    of_others, of_models = times[: len(others)], times[len(others) :]
    return [
        compare(f"embedding {len(files)} recordings, decoded, `{model}` against {name}", other, here)
        for model, here in zip(models, of_models, strict=True)
        for name, other in zip(others, of_others, strict=True)
    ]
