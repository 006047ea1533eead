"""Embeddings of utterances, in batches of similar length."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

import feature_extraction
from encoder.base import Encoder, unit_length
from foundation import processes, settings, threads
from foundation.settings import Config

if TYPE_CHECKING:  # It needs PyTorch.
    from feature_store import FeatureStore

# Frames in a batch at inference, padding included.
INFERENCE_FRAMES = 4096

# Frames that are embedded in one piece at most: ten minutes of audio at 32 ms.
MOST_FRAMES = 20000

# Frames of a store that are held in memory at once.
CHUNK_FRAMES = 10**6


def embed_features(encoder: Encoder, features: Sequence[np.ndarray], config: Config | None = None) -> np.ndarray:
    """Features of utterances, each (frames, N_MFCC) -> float32 (utterances, dimensions), each of length 1, in order.

    Batches hold utterances of similar length. The settings are the present ones, unless `config` is given: with
    USE_FULL_SEQUENCE_INFERENCE or not. An utterance shorter than SEQ_LEN is embedded in one piece anyway, one longer
    than MOST_FRAMES in equal parts, so that memory does not grow with its length.
    """
    config = config or settings.present()
    if not len(features):
        return np.zeros((0, encoder.dimensions), np.float32)
    if config.USE_FULL_SEQUENCE_INFERENCE:
        pieces_of_utt = [np.array_split(utt, max(1, math.ceil(len(utt) / MOST_FRAMES))) for utt in features]
    else:
        pieces_of_utt = [feature_extraction.extract_sliding_windows(utt, config) or [utt] for utt in features]
    pieces = [piece for pieces in pieces_of_utt for piece in pieces]
    lengths = np.array([len(piece) for piece in pieces])
    outputs = np.empty((len(pieces), encoder.dimensions), np.float32)

    def embed(numbers: np.ndarray) -> None:
        outputs[numbers] = encoder.embed_batch([pieces[number] for number in numbers])

    longest_first = np.argsort(-lengths, kind="stable")
    batches = []
    while len(longest_first):
        batch_size = max(1, INFERENCE_FRAMES // lengths[longest_first[0]])
        batches.append(longest_first[:batch_size])
        longest_first = longest_first[batch_size:]
    pool = threads.thread_pool(config.NUM_PROCESSES if encoder.is_on_cpu else 1)
    with threads.one_thread_each:
        list(pool.map(embed, batches))  # The list raises the errors of the threads.
    ends = np.cumsum([len(pieces) for pieces in pieces_of_utt])[:-1]
    return unit_length(np.stack([of_pieces.mean(axis=0) for of_pieces in np.split(outputs, ends)]))


def embed_store(
    encoder: Encoder,
    store: "FeatureStore",
    utts: np.ndarray | None = None,
    config: Config | None = None,
) -> np.ndarray:
    """Embed utterances of a feature store, by their numbers, or all -> float32 (utterances, dimensions), of length 1.

    With several processes, each one embeds its share, and all get the full result.
    """
    utts = np.arange(len(store.files)) if utts is None else utts
    own_utts = processes.own_share(utts)
    chunk_of_utt = np.cumsum(store.num_frames[own_utts]) // CHUNK_FRAMES
    chunks = np.split(own_utts, np.flatnonzero(np.diff(chunk_of_utt)) + 1)
    own = [embed_features(encoder, [store.read(utt) for utt in chunk], config) for chunk in chunks]
    embeddings = np.empty((len(utts), encoder.dimensions), np.float32)
    for rank, share in enumerate(processes.gather_objects(np.concatenate(own))):
        embeddings[rank :: processes.world_size()] = share
    return embeddings
