"""What of a recording is speech, and not noise, music or a ringing tone, by a small network that others have trained.

Source: Silero VAD 6.2 (Silero Team 2021, https://github.com/snakers4/silero-vad), which has heard many languages. Its
weights for 16 kHz stand in `silero_vad.npz` under its licence, MIT; the forward pass is that of `encoder/forward.py`.
"""

import functools
from pathlib import Path

import numpy as np

from audio.speech_levels import SAMPLE_RATE, SPEECH_FRAME_SAMPLES, fill_pauses
from encoder import forward
from feature_extraction import hann_window

# The network reads so many samples at once, with the last of those before, and remembers what came earlier. Segments of
# some 8 s are read side by side, each after the second before it, which is much faster than one after the other.
CHUNK_SAMPLES, CONTEXT_SAMPLES = 512, 64
FFT_SAMPLES, HOP_SAMPLES = 256, 128
STRIDES = (1, 2, 2, 1)
SEGMENT_CHUNKS = 256
WARM_UP_CHUNKS = 32

# Speech is more probable than this; what is nearer to it than the margin counts as its begin or end.
LEAST_PROBABILITY = 0.2
MARGIN_SECONDS = 0.16

# Whether there is speech at all is seen in so many pieces of half a second, each after a quarter of one.
NUM_PIECES = 6
PIECE_CHUNKS, PIECE_WARM_UP_CHUNKS = 16, 8

# A whole recording is heard in blocks of two minutes.
BLOCK_SAMPLES = 15 * SEGMENT_CHUNKS * CHUNK_SAMPLES


class SpeechDetector:
    """Hears a recording block by block."""

    def __init__(self) -> None:
        self.before = np.zeros(0, np.float32)

    def hear(self, samples: np.ndarray) -> np.ndarray:
        """How probable speech is in each stretch of SPEECH_FRAME_SAMPLES of the next block (samples,) -> (stretches,).

        A block is a multiple of CHUNK_SAMPLES, but for the last one.
        """
        if not len(samples):
            return np.zeros(0, np.float32)
        num_segments = -(-len(samples) // (SEGMENT_CHUNKS * CHUNK_SAMPLES))
        padding = num_segments * SEGMENT_CHUNKS * CHUNK_SAMPLES - len(samples)
        if not len(self.before):
            self.before = mirrored_begin(samples)
        padded = np.concatenate([self.before, samples, np.zeros(padding, np.float32)])
        self.before = padded[len(samples) : len(samples) + len(self.before)]
        length = (WARM_UP_CHUNKS + SEGMENT_CHUNKS) * CHUNK_SAMPLES
        segments = np.lib.stride_tricks.sliding_window_view(padded, length)[:: SEGMENT_CHUNKS * CHUNK_SAMPLES]
        of_chunk = probabilities(segments)[:, WARM_UP_CHUNKS:].ravel()
        middles = (np.arange(len(samples) // SPEECH_FRAME_SAMPLES) + 0.5) * SPEECH_FRAME_SAMPLES
        return of_chunk[(middles / CHUNK_SAMPLES).astype(int)]


@functools.cache
def load_weights() -> forward.Weights:
    """The weights of the network, nested by the names of its parts."""
    with np.load(Path(__file__).with_name("silero_vad.npz")) as arrays:
        return forward.nest(dict(arrays))


def probabilities(segments: np.ndarray) -> np.ndarray:
    """How probable speech is in each chunk of segments (segments, samples) -> (segments, chunks).

    Four spectra of a chunk go through convolutions that leave one step, and an LSTM reads these steps.
    """
    weights = load_weights()
    with_context = np.pad(segments, ((0, 0), (CONTEXT_SAMPLES, 0)))
    chunks = sliding(with_context, CONTEXT_SAMPLES + CHUNK_SAMPLES, CHUNK_SAMPLES)
    mirrored = np.pad(chunks.reshape(-1, chunks.shape[2]), ((0, 0), (0, CONTEXT_SAMPLES)), "reflect")
    frames = sliding(mirrored, FFT_SAMPLES, HOP_SAMPLES) * hann_window(FFT_SAMPLES).astype(np.float32)
    steps = np.abs(np.fft.rfft(frames)).astype(np.float32, copy=False)
    for layer, stride in zip(weights["encoder"].values(), STRIDES, strict=True):
        steps = forward.relu(forward.convolve(layer, steps, stride=stride))
    inputs = np.ascontiguousarray(steps.reshape(*chunks.shape[:2], -1).swapaxes(0, 1))  # (chunks, segments, values)
    outputs = forward.lstm_layer(weights["lstm"], "l0", inputs, np.full(len(segments), len(inputs)))
    return forward.sigmoid(forward.linear(weights["last"], forward.relu(outputs)))[:, :, 0].T


def sliding(samples: np.ndarray, length: int, hop: int) -> np.ndarray:
    """Rows of samples (rows, samples) -> overlapping windows (rows, windows, length), `hop` apart."""
    return np.lib.stride_tricks.sliding_window_view(samples, length, axis=1)[:, ::hop]


def mirrored_begin(samples: np.ndarray, num_chunks: int = WARM_UP_CHUNKS) -> np.ndarray:
    """What is put before a recording: at a sudden begin, the network would take any noise for speech."""
    return np.resize(samples[: num_chunks * CHUNK_SAMPLES][::-1], num_chunks * CHUNK_SAMPLES)


def cut_pieces(samples: np.ndarray, is_loud: np.ndarray) -> np.ndarray:
    """Pieces of a recording (samples,) for `speech_shares`, spread over what is loud (stretches,) -> (pieces, samples).

    There are NUM_PIECES of them.
    """
    whole = np.resize(samples, max(len(samples), PIECE_CHUNKS * CHUNK_SAMPLES))
    whole = np.concatenate([mirrored_begin(samples, PIECE_WARM_UP_CHUNKS), whole])
    length = (PIECE_WARM_UP_CHUNKS + PIECE_CHUNKS) * CHUNK_SAMPLES
    loud = np.flatnonzero(is_loud) if is_loud.any() else np.zeros(1, int)
    middles = loud[np.linspace(0, len(loud) - 1, NUM_PIECES).astype(int)] * SPEECH_FRAME_SAMPLES
    starts = (middles - PIECE_CHUNKS // 2 * CHUNK_SAMPLES).clip(0, len(whole) - length)
    return np.stack([whole[start : start + length] for start in starts])


def speech_shares(pieces: np.ndarray) -> np.ndarray:
    """About which share of each recording is speech, by its pieces (recordings, NUM_PIECES, samples)."""
    of_chunk = probabilities(np.concatenate(pieces))[:, PIECE_WARM_UP_CHUNKS:]
    return (of_chunk >= LEAST_PROBABILITY).reshape(len(pieces), -1).mean(axis=1)


def share_of_loud(samples: np.ndarray, is_loud: np.ndarray) -> float:
    """Which share of what is loud (stretches,) in a whole recording (samples,) is speech."""
    detector = SpeechDetector()
    blocks = np.split(samples, range(BLOCK_SAMPLES, len(samples), BLOCK_SAMPLES))
    is_speech = find_speech(np.concatenate([detector.hear(block) for block in blocks]))
    return float(is_speech[is_loud].mean()) if is_loud.any() else 0.0


def find_speech(of_stretches: np.ndarray) -> np.ndarray:
    """Which stretches of a whole recording are speech -> bool (stretches,), by what the detector heard in them."""
    if not len(of_stretches):
        return np.zeros(0, bool)
    margin = round(MARGIN_SECONDS * SAMPLE_RATE / SPEECH_FRAME_SAMPLES)
    is_speech = of_stretches >= LEAST_PROBABILITY
    return fill_pauses(np.convolve(is_speech, np.ones(2 * margin + 1), "full")[margin : margin + len(is_speech)] > 0.5)
