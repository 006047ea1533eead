"""What of a recording is speech, and not noise, music or a ringing tone, by a small network that is ready to use.

Source: Silero VAD (Silero Team 2021, https://github.com/snakers4/silero-vad, MIT), which has heard many languages.
"""

import numpy as np
import torch

from audio.speech_levels import SAMPLE_RATE, SPEECH_FRAME_SAMPLES, fill_pauses

# The network reads so many samples at once, and remembers what came before. Segments of some 8 s are read side by side,
# each after the second before it, which is much faster than one after the other.
CHUNK_SAMPLES = 512
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
        num_threads = torch.get_num_threads()
        import silero_vad  # It sets the number of PyTorch's threads, which is put back.

        torch.set_num_threads(num_threads)
        self.network = silero_vad.load_silero_vad()
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
        of_chunk = self.run(segments)[:, WARM_UP_CHUNKS:].ravel()
        middles = (np.arange(len(samples) // SPEECH_FRAME_SAMPLES) + 0.5) * SPEECH_FRAME_SAMPLES
        return of_chunk[(middles / CHUNK_SAMPLES).astype(int)]

    def run(self, segments: np.ndarray) -> np.ndarray:
        """How probable speech is in each chunk of segments (segments, samples) -> (segments, chunks)."""
        self.network.reset_states()
        with torch.inference_mode():
            return self.network.audio_forward(torch.from_numpy(segments.copy()), SAMPLE_RATE).numpy()


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
    of_chunk = SpeechDetector().run(np.concatenate(pieces))[:, PIECE_WARM_UP_CHUNKS:]
    return (of_chunk >= LEAST_PROBABILITY).reshape(len(pieces), -1).mean(axis=1)


def share_of_loud(samples: np.ndarray, is_loud: np.ndarray) -> float:
    """Which share of what is loud (stretches,) in a whole recording (samples,) is speech."""
    detector = SpeechDetector()
    blocks = np.split(samples, range(BLOCK_SAMPLES, len(samples), BLOCK_SAMPLES))
    is_speech = find_speech(np.concatenate([detector.hear(block) for block in blocks]))
    return float(is_speech[is_loud].mean()) if is_loud.any() else 0.0


def find_speech(probabilities: np.ndarray) -> np.ndarray:
    """Which stretches of a whole recording are speech -> bool (stretches,), by what the detector heard in them."""
    if not len(probabilities):
        return np.zeros(0, bool)
    margin = round(MARGIN_SECONDS * SAMPLE_RATE / SPEECH_FRAME_SAMPLES)
    is_speech = probabilities >= LEAST_PROBABILITY
    return fill_pauses(np.convolve(is_speech, np.ones(2 * margin + 1), "full")[margin : margin + len(is_speech)] > 0.5)
