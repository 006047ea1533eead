"""The test data under other conditions (cut short, mixed with noise, by telephone), and a model's EER under each.

`python3 -m experiments.conditions SAVED_MODEL_PATH=... TEST_DATA_CSV=...` derives them once, writes a CSV file for
each to CONDITIONS_DIR, so that any script can use it, and prints a table. Each of the CORPORA is scored separately,
because trials between two corpora are easy. `--calibrate` measures what scores mean (how often different people score
as high), by the number of recordings that are compared, over all conditions, and writes it into the model, for
`speaker_id.py`.
"""

import argparse
from collections.abc import Callable, Collection, Iterator, Sequence

from audio import mono
from foundation import script, settings

if __name__ == "__main__":
    script.begin()
    parser = script.OptionParser(description=__doc__)
    parser.add_argument("--calibrate", metavar="TEXT", default="", help="description of the test data, shown to users")
    parser.add_argument("settings", nargs="*", metavar="NAME=value", help="settings, as for every script")
    options = parser.parse_args()
    if options.calibrate.partition("=")[0] in settings.all_settings():
        parser.error(f"--calibrate {options.calibrate}: that is a setting; say first what the test data are")
    typed = settings.read_command_line(__doc__, arguments=options.settings)

import collections
import contextlib
import functools
import hashlib
import json
import urllib.parse
from pathlib import Path

import filelock
import numpy as np
import scipy
import soundfile
import soxr
from tqdm import tqdm

import dataset
import evaluation
import feature_extraction
import feature_store
import metrics
from dataset import SpkToUtts
from encoder.base import Encoder
from encoder.saved_models import load_encoder
from foundation import parallel, safe_files
from foundation.settings import Config
from scoring import calibration
from scoring.trials import all_pair_trials

SHORT_SECONDS = 1.6
SNR_DB = (5.0, 15.0)
# `speaker_id.py` decides at the first unless told otherwise.
FALSE_ACCEPT_RATES = (0.01, 0.001)
TELEPHONE_RATE = 8000
TELEPHONE_BAND_HZ = (300, 3400)

# To be raised whenever a change gives other samples than before; a test tells when.
CHANGES_VERSION = 1

# A corpus of utterances no longer than this (median) is not cut short.
LONG_SECONDS = 3.0

# Samples of an utterance and a random generator -> changed samples.
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]

# Labels, scores, and the numbers of the speakers that are enrolled and tested, one of each per trial.
ScoredTrials = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


# ------------------------------- The conditions, in samples ----------------------------


def cut_short(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """SHORT_SECONDS from anywhere in an utterance, or all of a shorter one."""
    length = min(len(samples), int(SHORT_SECONDS * feature_extraction.SAMPLE_RATE))
    start = rng.integers(len(samples) - length, endpoint=True)
    return samples[start : start + length]


def mix_with_noise(recordings: Sequence[str], samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add one of the recordings, from anywhere in it and repeated, at a ratio of powers within SNR_DB."""
    recording = mono.read_audio(recordings[int(rng.integers(len(recordings)))])
    noise = np.resize(np.roll(recording, -rng.integers(len(recording))), len(samples))
    ratio = np.mean(samples**2) / max(np.mean(noise**2), 1e-12)
    return samples + noise * np.float32(np.sqrt(ratio * 10 ** (-rng.uniform(*SNR_DB) / 10)))


def telephone(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG001 - all are changed alike.
    """Send samples through a telephone line: its band at 8 kHz, and 8 bits mu-law (ITU-T G.711)."""
    narrow = soxr.resample(samples, feature_extraction.SAMPLE_RATE, TELEPHONE_RATE)
    band = scipy.signal.butter(4, TELEPHONE_BAND_HZ, "bandpass", fs=TELEPHONE_RATE, output="sos")
    coded = mu_law(scipy.signal.sosfilt(band, narrow).clip(-1, 1))
    return soxr.resample(coded.astype(np.float32), TELEPHONE_RATE, feature_extraction.SAMPLE_RATE)


def mu_law(samples: np.ndarray) -> np.ndarray:
    """Samples in [-1, 1] as they come out of 8-bit mu-law coding, which has finer steps for softer sounds."""
    steps = np.round(127 * np.sign(samples) * np.log1p(255 * np.abs(samples)) / np.log(256))
    return np.sign(steps) * np.expm1(np.abs(steps) / 127 * np.log(256)) / 255


# ------------------------------------ Building them ------------------------------------


def build_conditions(spk_to_utts: SpkToUtts, config: Config) -> dict[str, SpkToUtts]:
    """Condition -> its data set, "clean" and changed, for each corpus; what was built before is not built again.

    Random choices depend on SEED and on the utterance's place in the corpus. Raises OSError if the disk is full or
    read-only.
    """
    noises = dataset.get_noises(config.TEST_NOISE_DIR)
    noise_files = feature_store.open_store(noises, config=config).files if noises else []
    with locked_folder(config) as folder:
        conditions = derive_all(dataset.split_by_corpus(spk_to_utts, config.CORPORA), noise_files, config)
        for name, data in conditions.items():
            write_list(data, folder / f"{urllib.parse.quote(name, safe='')}.csv")
    return conditions


@contextlib.contextmanager
def locked_folder(config: Config) -> Iterator[Path]:
    """CONDITIONS_DIR, for this process alone: others wait, then find in it what they want."""
    folder = Path(config.CONDITIONS_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / "build.lock"):
        yield folder


def write_list(spk_to_utts: SpkToUtts, path: Path) -> None:
    """Write a data set as a CSV file with absolute paths."""
    rows = ([speaker, str(Path(utt).absolute())] for speaker, utts in spk_to_utts.items() for utt in utts)
    safe_files.write_rows(path, rows)


def derive_all(corpora: dict[str, SpkToUtts], noise_files: Sequence[str], config: Config) -> dict[str, SpkToUtts]:
    """Condition -> its data set, of each corpus."""
    conditions = {}
    for corpus, data in corpora.items():
        conditions[corpus + "clean"] = data
        store = feature_store.open_store(data, config=config)
        usable = keep_usable(data, store)
        long_frames = LONG_SECONDS * feature_extraction.SAMPLE_RATE / config.HOP_LENGTH
        if np.median(store.num_frames) > long_frames:
            conditions[f"{corpus}{SHORT_SECONDS}s"] = derive(usable, cut_short, [], config)
        if noise_files:
            add_noise = functools.partial(mix_with_noise, noise_files)
            conditions[corpus + "noise"] = derive(usable, add_noise, noise_files, config)
        conditions[corpus + "telephone"] = derive(usable, telephone, [], config)
    return conditions


def keep_usable(spk_to_utts: SpkToUtts, store: feature_store.FeatureStore) -> SpkToUtts:
    """The data set without the files that its store could not use."""
    usable = set(store.files)
    return {speaker: [utt for utt in utts if utt in usable] for speaker, utts in spk_to_utts.items()}


def derive(
    spk_to_utts: SpkToUtts, change: Change, other_files: Sequence[str], config: Config, more: Sequence[object] = ()
) -> SpkToUtts:
    """Write a changed copy of each utterance, as FLAC, unless it is there; its name is a hash of what it is made of.

    These are the utterance and its place in the data set, the change, and `more` on which that depends.
    """
    name = (change.func if isinstance(change, functools.partial) else change).__name__
    made_of = [CHANGES_VERSION, name, SHORT_SECONDS, SNR_DB, TELEPHONE_RATE, TELEPHONE_BAND_HZ, config.SEED, *more]
    made_of += [[file, feature_store.file_state(file)] for file in other_files]
    derived: SpkToUtts = {}
    utts = [(speaker, utt) for speaker, utts in spk_to_utts.items() for utt in utts]
    for number, (speaker, utt) in enumerate(tqdm(utts, desc="Changing", disable=None)):
        source = json.dumps([*made_of, number, str(Path(utt).absolute()), feature_store.file_state(utt)])
        script.raise_if_interrupted()
        path = Path(config.CONDITIONS_DIR) / "audio" / f"{hashlib.sha256(source.encode()).hexdigest()[:24]}.flac"
        if not path.exists():
            changed = change(mono.read_audio(utt), np.random.default_rng([config.SEED, number]))
            changed = changed / max(1, np.abs(changed).max())
            with safe_files.replace_when_whole(path) as file:
                soundfile.write(file, changed, feature_extraction.SAMPLE_RATE, format="FLAC")
        derived.setdefault(speaker, []).append(str(path))
    return derived


# ------------------------------------ Scoring them -------------------------------------


def score_conditions(
    encoder: Encoder, conditions: dict[str, SpkToUtts], config: Config | None = None
) -> dict[str, ScoredTrials]:
    """Score all pairs of utterances of each condition; one without target or non-target trials is left out."""
    scored = {}
    number_of = {
        name: number for number, name in enumerate(sorted({name for data in conditions.values() for name in data}))
    }
    config = (config or settings.present()).but(**encoder.settings)
    for condition, data in conditions.items():
        store = feature_store.open_store(data, config=config)
        labels, enrol, test = all_pair_trials(store)
        if labels.all() or not labels.any():
            print(f"Left out: {condition}, which needs two speakers, one of them with two utterances.")
            continue
        if condition.endswith("clean"):
            evaluation.warn_of_known_speakers(encoder, store)
        scores = evaluation.score_trials(encoder, store, enrol, test, config)
        speaker_of = np.array([number_of[name] for name in store.speakers], dtype=np.int32)[store.speaker_of]
        scored[condition] = labels, scores, speaker_of[enrol], speaker_of[test]
    if not scored:
        raise ValueError("no condition has both target and non-target trials.")
    return scored


def pool(scored: dict[str, ScoredTrials]) -> ScoredTrials:
    """The trials of all conditions together, to which a single threshold applies."""
    labels, scores, enrol, test = (np.concatenate(column) for column in zip(*scored.values(), strict=True))
    return labels, scores, enrol, test


def eer_with_interval(trials: ScoredTrials, seed: int) -> str:
    """The EER and its 95 % confidence interval as text, in %."""
    labels, scores, enrol, test = trials
    eer, _ = metrics.equal_error_rate(*metrics.error_rates(labels, scores))
    if len(np.union1d(enrol, test)) < 3:
        return f"{100 * eer:.1f}"
    low, high = metrics.eer_interval(labels, scores, enrol, test, np.random.default_rng(seed))
    return f"{100 * eer:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def thresholds_in_words(trials: ScoredTrials) -> str:
    """The thresholds at the EER and at FALSE_ACCEPT_RATES as text; "-" where there are too few trials to know one."""
    labels, scores, enrol, test = trials
    eer_threshold = metrics.equal_error_rate(*metrics.error_rates(labels, scores))[1]
    pairs = np.sort(np.stack([enrol, test], axis=1)[labels == 0], axis=1)
    num_pairs = len(np.unique(pairs, axis=0))
    words = [f"{eer_threshold:.3f}"]
    thresholds = calibration.thresholds_with(labels, scores, FALSE_ACCEPT_RATES)
    for rate, threshold in zip(FALSE_ACCEPT_RATES, thresholds, strict=True):
        words.append(f"{threshold:.3f}" if calibration.is_measurable(rate, num_pairs, len(pairs)) else "-")
    return ", ".join(words)


def calibrate(encoder: Encoder, conditions: dict[str, SpkToUtts], source: str) -> dict:
    """Measure thresholds over all conditions, and write them into the file that the encoder was loaded from."""
    config = settings.present(**encoder.settings)
    rng = np.random.default_rng(config.SEED)
    stores = [feature_store.open_store(data, config=config) for data in conditions.values()]
    measured = calibration.measure(calibration.embed_all(encoder, stores, rng, config), source, rng, encoder.cohort)
    calibration.save_calibration(encoder, measured)
    return measured


def warn_of_few_speakers(spk_to_utts: SpkToUtts, config: Config) -> None:
    """Say beforehand that there will be no threshold at the usual rate, if there are too few pairs of strangers."""
    sizes = collections.Counter(dataset.get_corpus(speaker, config.CORPORA) for speaker in spk_to_utts)
    if sum(size * (size - 1) // 2 for size in sizes.values()) * FALSE_ACCEPT_RATES[0] < 1:
        print(
            f"{len(spk_to_utts)} speakers are too few for a threshold at 1 %, which takes 15 of one corpus: with this "
            "model, speaker_id.py will need a higher --far. Ctrl+C leaves the model as it is.",
            flush=True,
        )


def main(options: argparse.Namespace, typed: Collection[str] = ()) -> None:
    """Print a Markdown table of a model's EER, and thresholds at the EER, FAR 1 % and 0.1 %, under every condition."""
    parallel.prepare_process()
    config = settings.present()
    encoder = load_encoder(config.SAVED_MODEL_PATH, typed)
    settings.report_overruled(encoder.settings)
    spk_to_utts = dataset.get_spk_to_utts("TEST", typed)
    if options.calibrate:
        warn_of_few_speakers(spk_to_utts, config)
    conditions = build_conditions(spk_to_utts, config)
    scored = score_conditions(encoder, conditions, config)
    scored["all of these"] = pool(scored)
    print(
        "| condition | speakers | trials: target, non-target | EER in % (95 % interval) | "
        "thresholds at EER, FAR 1 %, FAR 0.1 % |"
    )
    print("|---|---|---|---|---|")
    for name, trials in scored.items():
        labels, _, enrol, test = trials
        num_speakers, num_targets = len(np.union1d(enrol, test)), int(labels.sum())
        counts = f"{num_speakers} | {num_targets:,}, {len(labels) - num_targets:,}"
        print(f"| {name} | {counts} | {eer_with_interval(trials, config.SEED)} | {thresholds_in_words(trials)} |")
    if options.calibrate:
        measured = calibrate(encoder, conditions, options.calibrate)
        print(
            f"{encoder.path} now has thresholds for false-accept rates from {measured['false_accept_rates'][0]:g}, "
            f"and for up to {measured['counts'][-1]} recordings on either side."
        )


if __name__ == "__main__":
    script.run(lambda: main(options, typed))
