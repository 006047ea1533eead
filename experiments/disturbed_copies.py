"""Copy the training recordings as noisy places, telephones, mobile telephones and messengers change them.

    python3 -m experiments.disturbed_copies TRAIN_DATA_CSV=train.csv NOISE_DIR=noise CONDITIONS_DIR=copies

writes a copy of each recording to CONDITIONS_DIR, and a list of them there, disturbed.csv, for DISTURBED_DATA_CSV; what
was copied before is not copied again. The training disturbs features at every step, which is fast; samples can be mixed
with noise as it is, and go through a real codec.
"""

import functools
import io
from collections.abc import Collection, Sequence
from pathlib import Path

from audio import ffmpeg
from foundation import script, settings

if __name__ == "__main__":
    script.begin()
    typed = settings.read_command_line(__doc__)

import av
import numpy as np
import soxr

import dataset
import feature_store
from experiments import conditions
from feature_extraction import SAMPLE_RATE
from foundation import parallel
from foundation.settings import Config

# Shares of the copies that get noise, and, with it or not, go through a telephone line or a codec.
NOISY, BY_TELEPHONE, CODED = 0.6, 0.25, 0.4

# FFmpeg's name of a codec -> the format of its file, its sampling rate in Hz, its options, and bit rates in bits per
# second. AMR is that of mobile telephones, Opus that of messengers.
CODECS = {
    "libopencore_amrnb": ("amr", 8000, {}, (4750, 5900, 7400, 12200)),
    "libopus": ("ogg", 16000, {"application": "voip"}, (6000, 8000, 12000, 16000)),
}
FRAME_SECONDS = 0.02


def through_codec(samples: np.ndarray, codec: str, bit_rate: int) -> np.ndarray:
    """Encode and decode samples (n,) at SAMPLE_RATE by one of CODECS -> (m,), up to 0.04 s longer.

    What is beyond full scale is clipped. Speech comes out of AMR some 5 ms later. Raises ValueError if FFmpeg has not
    this codec.
    """
    container, rate, options, _ = CODECS[codec]
    frame_samples = round(FRAME_SECONDS * rate)
    whole = soxr.resample(samples, SAMPLE_RATE, rate)
    whole = np.pad(whole, (0, -len(whole) % frame_samples))
    whole = (whole * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16)
    coded = io.BytesIO()
    with av.open(coded, "w", format=container) as file:
        file.add_stream(codec, rate=rate, options=options, layout="mono", bit_rate=bit_rate)
        stream = file.streams.audio[0]
        for number, values in enumerate(whole.reshape(-1, 1, frame_samples)):
            frame = av.AudioFrame.from_ndarray(values, "s16", "mono")
            frame.sample_rate, frame.pts = rate, number * frame_samples
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    blocks = list(ffmpeg.decode_with_ffmpeg(coded, codec, [], [], with_gaps=False))
    return soxr.resample(np.concatenate([block[:, 0] for _, block in blocks]), blocks[0][0], SAMPLE_RATE)


def disturb(noises: Sequence[str], codecs: Sequence[str], samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Samples as a noisy place and a channel may change them; `noises` are recordings, or none."""
    if noises and rng.random() < NOISY:
        samples = conditions.mix_with_noise(noises, samples, rng)
    channel = rng.random()
    if channel < BY_TELEPHONE:
        return conditions.telephone(samples, rng)
    if channel < BY_TELEPHONE + CODED:
        codec = codecs[int(rng.integers(len(codecs)))]
        return through_codec(samples, codec, int(rng.choice(CODECS[codec][-1])))
    return samples


def make(spk_to_utts: dataset.SpkToUtts, config: Config) -> Path:
    """Copy each recording that can be used into CONDITIONS_DIR; the path of the list of copies.

    Noise is from NOISE_DIR; random choices depend on SEED and on the recording's place in the data set. Raises
    ValueError if no recording can be used, or no codec is there, OSError if the disk is full or read-only.
    """
    codecs = [codec for codec in CODECS if codec in av.codecs_available]
    if not codecs:
        raise ValueError(f"PyAV {av.__version__} has no codec of {', '.join(CODECS)}: install that of pip.")
    if len(codecs) < len(CODECS):
        print(
            f"Of {', '.join(CODECS)}, PyAV {av.__version__} has only {', '.join(codecs)}; versions 14 to 18 have both."
        )
    noises = dataset.get_noises(config.NOISE_DIR)
    noise_files = feature_store.open_store(noises, config=config).files if noises else []
    usable = conditions.keep_usable(spk_to_utts, feature_store.open_store(spk_to_utts, config=config))
    change = functools.partial(disturb, noise_files, codecs)
    made_of = [NOISY, BY_TELEPHONE, CODED, CODECS, codecs]
    with conditions.locked_folder(config) as folder:
        copies = conditions.derive(usable, change, noise_files, config, made_of)
        conditions.write_list(copies, folder / "disturbed.csv")
    print(f"{folder / 'disturbed.csv'} lists {sum(map(len, copies.values()))} copies.", flush=True)
    return folder / "disturbed.csv"


def main(typed: Collection[str] = ()) -> None:
    """Copy the training data."""
    parallel.prepare_process()
    make(dataset.get_spk_to_utts("TRAIN", typed), settings.present())


if __name__ == "__main__":
    script.run(lambda: main(typed))
