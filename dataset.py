"""Which speaker said which audio file, and how triplets and batches are drawn from them.

A data set is a dict `spk_to_utts`: speaker's name -> sorted list of the paths of this speaker's utterances.
"""

import functools
import multiprocessing
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

import demo_data
import myconfig
from audio.recording_lists import find_audio_files, read_csv, same_letters
from foundation import setting_table, settings
from foundation.settings import Config

SpkToUtts = dict[str, list[str]]

# A speaker's utterances: their paths, or their numbers in a feature store.
Utts = list[str] | np.ndarray

# What a folder is called that has speakers in it, rather than being one of them.
PART_NAME = re.compile(r"(train|dev|test|val|valid|validation|eval)([-_](clean|other)([-_]\d+)?)?", re.IGNORECASE)

# What the recordings count as that lie in a folder of noise, but in no folder of a kind.
LOOSE = "loose files"


def get_spk_to_utts(part: str, typed: Collection[str] = ()) -> SpkToUtts:
    """The training or test data that the settings name; `part` is "TRAIN" or "TEST". Raises ValueError.

    The demonstration corpus is built first if the settings name it and it does not exist yet. `typed` are the settings
    of the command line.
    """
    values = settings.all_settings()
    csv_path, data_dir = values[f"{part}_DATA_CSV"], values[f"{part}_DATA_DIR"]
    if csv_path:
        if f"{part}_DATA_DIR" in typed and f"{part}_DATA_CSV" not in typed:
            raise ValueError(
                f"{part}_DATA_CSV={csv_path} is used instead of the folder: add {part}_DATA_CSV= to use the folder."
            )
        return get_csv_spk_to_utts(csv_path, check_files=True)  # Before hours of work.
    if Path(data_dir) in (demo_data.TRAIN_DIR, demo_data.TEST_DIR):
        demo_data.build_if_missing()
    if not Path(data_dir).is_dir():
        raise ValueError(f"{part}_DATA_DIR={data_dir} is not a folder: correct the path.")
    return get_librispeech_spk_to_utts(data_dir)


def get_noises(noise_dir: str) -> SpkToUtts:
    """The recordings of a folder of noise, <kind>/**/<file>, by kind; none for "".

    Recordings in no folder of a kind are a kind, too. Raises ValueError if it is not a folder, or has no recordings.
    """
    if not noise_dir:
        return {}
    if not Path(noise_dir).is_dir():
        raise ValueError(f"{noise_dir}, the folder of noise, is not a folder: correct the path.")
    noises = find_by_folder(noise_dir)
    if loose := find_audio_files(noise_dir, go_deeper=False):
        noises[LOOSE] = loose
    if not noises:
        raise ValueError(f"{noise_dir}, the folder of noise, has no audio files laid out as <kind>/**/<file>.")
    return noises


def find_by_folder(data_dir: str) -> SpkToUtts:
    """The audio files below each folder in `data_dir`, by the folder's name; hidden and empty folders do not count.

    Two spellings of the same letters are one name.
    """
    found: SpkToUtts = {}
    for folder in sorted(path for path in Path(data_dir).iterdir() if path.is_dir() and path.name[0] != "."):
        if utts := find_audio_files(folder, above=data_dir):
            found[same_letters(folder.name)] = sorted(found.get(same_letters(folder.name), []) + utts)
    return found


def get_librispeech_spk_to_utts(data_dir: str) -> SpkToUtts:
    """Collect the audio files of a folder <speaker>/**/<file>, LibriSpeech's layout.

    Raises ValueError if there are none, or if the folder seems to be above or below the one that holds the speakers.
    """
    spk_to_utts = find_by_folder(data_dir)
    if not spk_to_utts:
        raise ValueError(f"{data_dir} has no audio files laid out as <speaker>/**/<file>.")
    check_level(data_dir, spk_to_utts)
    if loose := find_audio_files(data_dir, go_deeper=False):
        print(f"Not used: {len(loose)} recordings in {data_dir} itself, in no folder of a speaker.", flush=True)
    return spk_to_utts


def check_level(data_dir: str, spk_to_utts: SpkToUtts) -> None:
    """Raise ValueError if a folder's folders are not speakers, but parts of a corpus, or chapters of one speaker."""
    name = next(iter(spk_to_utts))
    first = next(path for path in sorted(Path(data_dir).iterdir()) if same_letters(path.name) == name)
    is_one_with_many = len(spk_to_utts) == 1 and len(find_by_folder(str(first))) > 1
    if all(map(PART_NAME.fullmatch, spk_to_utts)) or is_one_with_many:
        raise ValueError(
            f"{data_dir} seems to be one level too high: its folders, such as {first.name}, are taken for speakers. "
            f"Name {first} instead."
        )
    speaker = Path(data_dir).absolute().name
    utts_of_chapters = [(chapter, Path(utt).name) for chapter, utts in spk_to_utts.items() for utt in utts]
    if all(name.startswith(f"{speaker}-{chapter}-") for chapter, name in utts_of_chapters):
        raise ValueError(f"{data_dir} seems to be one level too low: its folders are chapters of one speaker.")


def get_csv_spk_to_utts(csv_path: str, check_files: bool = False) -> SpkToUtts:
    """Read rows `speaker,path` or `speaker,path,group`; a header is optional, paths are relative to the CSV's folder.

    Raises ValueError as `read_csv` does. A file listed twice under one speaker counts once.
    """
    spk_to_utts: SpkToUtts = {}
    for speaker, utt, _ in read_csv(csv_path, check_files):
        spk_to_utts.setdefault(speaker, []).append(utt)
    return {speaker: sorted(set(utts)) for speaker, utts in sorted(spk_to_utts.items())}


def get_groups(part: str) -> dict[str, str]:
    """Speaker -> group of the training or test data, for the speakers whose group is known.

    The group is the third column of a CSV file. For a part of LibriSpeech it is the sex, from SPEAKERS.TXT beside it.
    """
    values = settings.all_settings()
    if csv_path := values[f"{part}_DATA_CSV"]:
        return {speaker: group for speaker, _, group in read_csv(csv_path) if group}
    speakers_file = Path(values[f"{part}_DATA_DIR"]).parent / "SPEAKERS.TXT"
    if not speakers_file.is_file():
        return {}
    lines = speakers_file.read_text(encoding="utf-8", errors="replace").splitlines()
    fields = [[field.strip() for field in line.split("|")] for line in lines if not line.startswith(";")]
    return {row[0]: row[1] for row in fields if len(row) > 2 and row[1]}


def get_corpus(speaker: str, corpora: str) -> str:
    """The longest of the `corpora`, prefixes with commas between them, with which a name begins, or "".

    Of the prefixes "ls-,so-", the corpus of "ls-1088" is "ls-".
    """
    return max(
        (prefix for prefix in setting_table.split_list(corpora) if speaker.startswith(prefix)), key=len, default=""
    )


def split_by_corpus(spk_to_utts: SpkToUtts, corpora: str) -> dict[str, SpkToUtts]:
    """The data set of each corpus, by the corpus; those of none are one, too. Raises as `describe_corpora` does."""
    describe_corpora(spk_to_utts, corpora)
    data_of_corpus: dict[str, SpkToUtts] = {}
    for speaker, utts in spk_to_utts.items():
        data_of_corpus.setdefault(get_corpus(speaker, corpora), {})[speaker] = utts
    return data_of_corpus


def describe_corpora(speakers: Collection[str], corpora: str) -> None:
    """Print how many speakers each of the corpora has, or which there may be. Raises ValueError if one has none.

    Several speakers whose names are the same up to the first hyphen may be of one source.
    """
    counts = Counter(get_corpus(speaker, corpora) for speaker in speakers)
    if missing := [prefix for prefix in setting_table.split_list(corpora) if not counts[prefix]]:
        raise ValueError(f"CORPORA: no speaker's name begins with {missing[0]!r}.")
    if corpora:
        in_words = ", ".join(f"{counts[corpus]} in {corpus or 'none'}" for corpus in sorted(counts))
        print(f"Speakers of each corpus: {in_words}.", flush=True)
        return
    prefixes = Counter(speaker[: speaker.index("-") + 1] for speaker in speakers if "-" in speaker)
    if several := sorted(prefix for prefix, number in prefixes.items() if number > 1):
        shown = ",".join(several[:5]) + (",..." if len(several) > 5 else "")
        print(f"Many names begin alike: if that tells the source of recordings, set CORPORA={shown}", flush=True)


@functools.cache
def shared_generator(seed: int) -> np.random.Generator:
    """The generator that the functions of the lecture use when they are given none; each process has its own."""
    return np.random.default_rng([seed, *multiprocessing.current_process()._identity])


if hasattr(os, "register_at_fork"):  # A forked process would go on with the numbers of its parent.
    os.register_at_fork(after_in_child=shared_generator.cache_clear)


def get_triplet(spk_to_utts: SpkToUtts, rng: np.random.Generator | None = None) -> tuple[str, str, str]:
    """Draw an anchor, a positive (same speaker) and a negative (another speaker) utterance.

    The positive differs from the anchor unless the speaker has only one utterance. Raises ValueError if there is
    only one speaker.
    """
    if len(spk_to_utts) < 2:
        raise ValueError(f"a triplet needs two speakers or more, and the data set has {len(spk_to_utts)}.")
    anchor, pos, neg = draw_triplet(list(spk_to_utts.values()), rng or shared_generator(myconfig.SEED))
    return str(anchor), str(pos), str(neg)


def draw_triplet(utts_of_speaker: Sequence[Utts], rng: np.random.Generator, num_anchors: int = 1) -> list:
    """Draw anchors, a positive and a negative from each speaker's utterances, paths or numbers."""
    speaker, other = rng.choice(len(utts_of_speaker), 2, replace=False)
    return [*draw_utterances(utts_of_speaker[speaker], num_anchors + 1, rng), rng.choice(utts_of_speaker[other])]


def draw_triplets(
    utts_of_speaker: Sequence[Utts], num_triplets: int, rng: np.random.Generator, num_anchors: int = 1
) -> np.ndarray:
    """Draw random triplets of utterance numbers -> (num_triplets, num_anchors + 2): anchors, positive, negative."""
    return np.array([draw_triplet(utts_of_speaker, rng, num_anchors) for _ in range(num_triplets)])


def draw_speaker_weights(
    speech_seconds: np.ndarray, corpus_of_speaker: np.ndarray, rng: np.random.Generator, config: Config
) -> np.ndarray:
    """The weight of each speaker when a batch is drawn -> (speakers,).

    The weight is the speaker's seconds of speech, at most MAX_SPEECH_SECONDS, divided by the sum of them in the corpus
    to the power of CORPUS_BALANCE. In a share ONE_CORPUS_BATCHES of the batches, speakers outside one corpus weigh
    almost zero: they are drawn only if this corpus is too small.
    """
    weights = np.ones(len(speech_seconds))
    if config.MAX_SPEECH_SECONDS:
        weights = speech_seconds.clip(max=config.MAX_SPEECH_SECONDS)
    _, corpus = np.unique(corpus_of_speaker, return_inverse=True)
    weights = weights / (np.bincount(corpus, weights) ** config.CORPUS_BALANCE)[corpus]
    if rng.random() < config.ONE_CORPUS_BATCHES:
        speaker = rng.choice(len(weights), p=weights / weights.sum())
        weights = np.where(corpus_of_speaker == corpus_of_speaker[speaker], weights, 1e-9 * weights)
    return weights


def draw_speaker_batch(
    utts_of_speaker: Sequence[Utts],
    num_speakers: int,
    utts_per_speaker: int,
    rng: np.random.Generator,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Draw a batch of P speakers x K utterances -> (P, K) utterance numbers; all speakers if there are fewer than P.

    `weights` (speakers,) say how often each is drawn.
    """
    chance = None if weights is None else weights / weights.sum()
    speakers = rng.choice(len(utts_of_speaker), min(num_speakers, len(utts_of_speaker)), replace=False, p=chance)
    return np.stack([draw_utterances(utts_of_speaker[speaker], utts_per_speaker, rng) for speaker in speakers])


def draw_utterances(utts: Utts, number: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `number` of a speaker's utterances; none is drawn again before all others have been drawn."""
    rounds = [rng.permutation(utts) for _ in range(number // len(utts))]
    return np.concatenate([*rounds, rng.choice(utts, number % len(utts), replace=False)])
