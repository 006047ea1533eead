"""The speaker encoder at work: new encoders, embeddings of utterances, and encoders on disk."""

import copy
import hashlib
import json
import math
import os
import re
from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import nn

import feature_extraction
import feature_store
from encoder_networks import LstmEncoder, NormalizedLstm, SpeakerEncoder, new_encoder
from foundation import parallel, safe_files, setting_tables, settings
from foundation.model_file import read_model, write_model
from foundation.model_path import find_model
from foundation.settings import Config
from saved_encoder import check_calibration, check_cohort, check_shapes, complete_settings

# Frames in a batch at inference, padding included.
INFERENCE_FRAMES = 4096

# Frames that are embedded in one piece at most: ten minutes of audio at 32 ms.
MOST_FRAMES = 20000

# Frames of a store that are held in memory at once.
CHUNK_FRAMES = 10**6


def get_speaker_encoder(load_from: str = "") -> SpeakerEncoder:
    """A new encoder of the settings' shape with weights from PyTorch's generator, or the saved one, on the device."""
    return load_encoder(load_from) if load_from else new_encoder().to(parallel.get_device(settings.present().DEVICE))


def join_encoders(encoders: Sequence[SpeakerEncoder]) -> SpeakerEncoder:
    """A new encoder to train: a copy of one, or one that has copies of the LSTMs of several.

    Raises ValueError if they differ in the settings that shape them, or are not of LSTMs alone.
    """
    paths = " and ".join(encoder.path for encoder in encoders)
    if len(encoders) == 1:
        joined = new_encoder(encoders[0].settings)
        joined.load_state_dict(encoders[0].state_dict())
    else:
        of_lstms = [encoder for encoder in encoders if isinstance(encoder, LstmEncoder)]
        if len(of_lstms) < len(encoders):
            raise ValueError(f"{paths} cannot be joined: only LSTMs form an ensemble, and a transformer is among them.")
        if any(encoder.tdnns for encoder in of_lstms):
            raise ValueError(f"{paths} cannot be joined: only models of LSTMs alone can, and a TDNN is among them.")
        joined = join_lstms(of_lstms, paths)
    joined.train_speakers = sorted({name for encoder in encoders for name in encoder.train_speakers})
    return joined.train()


def join_lstms(encoders: Sequence[LstmEncoder], paths: str) -> LstmEncoder:
    """One encoder with copies of the LSTMs of several. Raises ValueError if they differ in shape."""
    num_lstms = sum(len(encoder.lstms) for encoder in encoders)
    shapes = [encoder.settings | {"ENSEMBLE_SIZE": num_lstms} for encoder in encoders]
    in_use = setting_tables.settings_in_use(shapes[0])
    if differing := [name for name in in_use if any(shape[name] != shapes[0][name] for shape in shapes)]:
        raise ValueError(f"{paths} differ in {', '.join(differing)}, so they cannot be joined.")
    joined = LstmEncoder(shapes[0])
    # All LSTMs of an ensemble read the same features, so all get the normalisation of the first encoder.
    joined.feature_mean.copy_(encoders[0].feature_mean)
    joined.feature_std.copy_(encoders[0].feature_std)
    copies = [copy.deepcopy(encoder).cpu() for encoder in encoders]
    for encoder in copies:
        renormalise(encoder, joined)
    joined.lstms = nn.ModuleList(lstm for encoder in copies for lstm in encoder.lstms)
    return joined


@torch.no_grad()
def renormalise(encoder: LstmEncoder, other: SpeakerEncoder) -> None:
    """Change an encoder's LSTMs so that they give the same outputs for features normalised like those of `other`.

    With weights W, bias b, mean m and deviation s, and m' and s' of `other`, the first layer computes the same if
    W (x - m) / s + b = W' (x - m') / s' + b', so for W' = W s' / s and b' = b + W (m' - m) / s. For example, features
    with twice the deviation get weights twice as large. Deltas have no mean. Each of the stacked frames adds to b'.
    """
    shift = (other.feature_mean - encoder.feature_mean) / encoder.feature_std
    for lstm in encoder.lstms:
        first_layer = lstm.layers[0] if isinstance(lstm, NormalizedLstm) else lstm
        for name, weight in first_layer.named_parameters():
            if "weight_ih_l0" in name:
                # (4 x units, stacked frames, MFCCs and their deltas, N_MFCC)
                of_frames = weight.view(len(weight), encoder.settings["STACKED_FRAMES"], -1, len(shift))
                bias = first_layer.get_parameter(name.replace("weight", "bias"))
                bias.add_(of_frames[:, :, 0].sum(dim=1) @ shift)
                of_frames.mul_(other.feature_std / encoder.feature_std)


def embed_features(encoder: SpeakerEncoder, features: Sequence[np.ndarray], config: Config | None = None) -> np.ndarray:
    """Features of utterances, each (frames, N_MFCC) -> float32 (utterances, dimensions), L2-normalised, in order.

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
    pieces = [torch.from_numpy(piece) for pieces in pieces_of_utt for piece in pieces]
    lengths = torch.tensor([len(piece) for piece in pieces])
    outputs = torch.empty(len(pieces), encoder.dimensions)
    device = encoder.feature_mean.device

    @torch.no_grad()
    def embed(batch: torch.Tensor) -> None:
        padded = nn.utils.rnn.pad_sequence([pieces[number] for number in batch], batch_first=True)
        outputs[batch] = encoder(padded.to(device), lengths[batch]).cpu()

    longest_first = torch.argsort(lengths, descending=True, stable=True)
    batches = []
    while len(longest_first):
        batch_size = max(1, INFERENCE_FRAMES // int(lengths[longest_first[0]]))
        batches.append(longest_first[:batch_size])
        longest_first = longest_first[batch_size:]
    pool = parallel.thread_pool(config.NUM_PROCESSES if device.type == "cpu" else 1)
    list(pool.map(embed, batches))  # The list raises the errors of the threads.
    of_utt = outputs.split([len(pieces) for pieces in pieces_of_utt])
    return nn.functional.normalize(torch.stack([outputs.mean(dim=0) for outputs in of_utt])).numpy()


def embed_store(
    encoder: SpeakerEncoder,
    store: feature_store.FeatureStore,
    utts: np.ndarray | None = None,
    config: Config | None = None,
) -> np.ndarray:
    """Embed utterances of a feature store, by their numbers, or all -> float32 (utterances, dimensions), normalised.

    With several processes, each one embeds its share, and all get the full result.
    """
    utts = np.arange(len(store.files)) if utts is None else utts
    own_utts = parallel.own_share(utts)
    chunk_of_utt = np.cumsum(store.num_frames[own_utts]) // CHUNK_FRAMES
    chunks = np.split(own_utts, np.flatnonzero(np.diff(chunk_of_utt)) + 1)
    own = [embed_features(encoder, [store.read(utt) for utt in chunk], config) for chunk in chunks]
    embeddings = np.empty((len(utts), encoder.dimensions), np.float32)
    for rank, share in enumerate(parallel.gather_objects(np.concatenate(own))):
        embeddings[rank :: parallel.world_size()] = share
    return embeddings


# ----------------------------------- Encoders on disk ----------------------------------


def model_fingerprint(encoder: SpeakerEncoder) -> str:
    """A hash of everything in a model that affects embeddings: its weights and settings."""
    # Newer settings do not count if they have the value that was fixed before, and a single LSTM has no number, so that
    # older databases remain usable.
    in_use = {name: encoder.settings[name] for name in setting_tables.settings_in_use(encoder.settings)}
    shape = {name: value for name, value in in_use.items() if setting_tables.VALUES_BEFORE.get(name) != value}
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.replace("lstms.0.", "lstm.").encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def save_encoder(path: str, encoder: SpeakerEncoder, **more: object) -> None:
    """Save a model that `load_encoder` rebuilds without `myconfig.py`, with `more` plain values and tensors.

    The file is never half-written: see `safe_files`. Raises OSError if the disk is full or read-only.
    """
    model = {
        "encoder_state_dict": encoder.state_dict(),
        "settings": encoder.settings,
        "train_speakers": encoder.train_speakers,
        "calibration": encoder.calibration,
        **more,
    }
    write_model(path, model)


def load_encoder(path: str | os.PathLike, typed: Collection[str] = ()) -> SpeakerEncoder:
    """Load a saved or classic model as an encoder on the device, shaped by the settings saved with it.

    The pretrained models are found from any working directory. Raises ValueError if the file cannot be used, or if one
    of the settings that were `typed` on the command line contradicts it.
    """
    path = find_model(path)
    digest = safe_files.digest_of(path)
    model = read_model(path)
    try:
        # Classic models have one LSTM, and no number in its name; a transformer has the same names as here.
        weights = {re.sub(r"^lstm\.", "lstms.0.", name): tensor for name, tensor in model["encoder_state_dict"].items()}
        shape = complete_settings(model.get("settings"), weights)
        if unknown := shape.keys() - set(setting_tables.MODEL_SETTINGS):
            raise ValueError(f"it has settings that this version does not know: {', '.join(sorted(unknown))}.")
        settings.check_model(shape)
        if "settings" not in model:  # Classic models do not normalise features.
            weights = {
                "feature_mean": torch.zeros(shape["N_MFCC"]),
                "feature_std": torch.ones(shape["N_MFCC"]),
            } | weights
        with torch.device("meta"):  # Only shapes, which take no memory.
            expected = new_encoder(shape).state_dict()
        check_shapes(weights, expected, path)
        with torch.random.fork_rng(devices=[]):  # The weights before count for nobody.
            encoder = new_encoder(shape)
        encoder.load_state_dict(weights)
        encoder.train_speakers = list(model.get("train_speakers", []))
        encoder.calibration = check_calibration(model.get("calibration", {}))
        if "cohort" in model:
            encoder.cohort = check_cohort(model["cohort"], encoder.dimensions)
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not hold a speaker encoder of this project: {reason}") from None
    if not all(torch.isfinite(tensor).all() for tensor in encoder.state_dict().values()):
        raise ValueError(f"{path} has weights that are not finite numbers: its training went wrong.")
    if not (encoder.feature_std > 0).all():
        raise ValueError(f"{path} has deviations of features that are not positive: it is damaged.")
    settings.refuse_contradictions(shape, path, typed)
    encoder.path, encoder.file_digest = path, digest
    return encoder.to(parallel.get_device(settings.present().DEVICE)).eval()
