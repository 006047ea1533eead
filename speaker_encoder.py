"""The speaker encoder: from features to an embedding, and encoders on disk."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

import feature_extraction
import feature_store
import myconfig
from foundation import parallel, setting_tables, settings
from foundation.model_file import read_model, write_model
from saved_encoder import check_calibration, check_cohort, check_shapes, classic_settings

# Frames in a batch at inference, padding included.
INFERENCE_FRAMES = 16384

# Frames of a store that are held in memory at once.
CHUNK_FRAMES = 10**6


class SpeakerEncoder(nn.Module):
    """Features (batch, frames, N_MFCC) -> embeddings (batch, dimensions), not normalised.

    Each LSTM of the ensemble reads the frames, normalised with the mean and deviation of the training data, and with
    DELTAS also their changes; its outputs are aggregated: their mean, or the last one. The results of several LSTMs are
    concatenated, each with length 1, so that the cosine similarity of two embeddings is the mean over the LSTMs.
    `settings` are those that shaped the encoder, `calibration` has the decision thresholds measured by `conditions.py`,
    `cohort` (speakers, dimensions) has the embeddings of some training speakers, with which scores can be normalised,
    and `path` is the file that the encoder was loaded from.
    """

    feature_mean: torch.Tensor
    feature_std: torch.Tensor

    def __init__(self, shape: dict | None = None) -> None:
        """An encoder of this shape, a value for each of MODEL_SETTINGS, or of that of the present settings."""
        super().__init__()
        values = settings.all_settings() if shape is None else shape
        self.settings = {name: values[name] for name in setting_tables.MODEL_SETTINGS}
        self.train_speakers: list[str] = []
        self.calibration: dict = {}
        self.cohort = np.zeros((0, self.dimensions), np.float32)
        self.path = ""
        self.register_buffer("feature_mean", torch.zeros(values["N_MFCC"]))
        self.register_buffer("feature_std", torch.ones(values["N_MFCC"]))
        self.lstms = nn.ModuleList(
            nn.LSTM(
                input_size=(2 if values["DELTAS"] else 1) * values["N_MFCC"],
                hidden_size=values["LSTM_HIDDEN_SIZE"],
                num_layers=values["LSTM_NUM_LAYERS"],
                bidirectional=values["BI_LSTM"],
                batch_first=True,
            )
            for _ in range(values["ENSEMBLE_SIZE"])
        )

    @property
    def feature_settings(self) -> feature_extraction.FeatureSettings:
        """The settings of the features that this encoder reads."""
        return feature_extraction.feature_settings(self.settings)

    @property
    def dimensions(self) -> int:
        """Length of an embedding."""
        directions = 2 if self.settings["BI_LSTM"] else 1
        return self.settings["ENSEMBLE_SIZE"] * directions * self.settings["LSTM_HIDDEN_SIZE"]

    def forward(self, features: torch.Tensor, num_frames: torch.Tensor | None = None) -> torch.Tensor:
        """Embed a batch; if rows are padded, `num_frames` (batch,) gives the frames of each row without padding."""
        normalised = (features - self.feature_mean) / self.feature_std
        if self.settings["DELTAS"]:
            normalised = append_deltas(normalised, num_frames)
        if num_frames is None:
            of_lstms = [self.aggregate(lstm(normalised)[0]) for lstm in self.lstms]
        else:
            packed = nn.utils.rnn.pack_padded_sequence(
                normalised, num_frames.cpu(), batch_first=True, enforce_sorted=False
            )
            padded = [nn.utils.rnn.pad_packed_sequence(lstm(packed)[0], batch_first=True)[0] for lstm in self.lstms]
            of_lstms = [self.aggregate(outputs, num_frames) for outputs in padded]
        if len(of_lstms) == 1:
            return of_lstms[0]
        return torch.cat([nn.functional.normalize(own, dim=1) for own in of_lstms], dim=1)

    def aggregate(self, outputs: torch.Tensor, num_frames: torch.Tensor | None = None) -> torch.Tensor:
        """The mean of an LSTM's outputs (batch, frames, units) or the last one -> (batch, units)."""
        if num_frames is None:
            return outputs.mean(dim=1) if self.settings["FRAME_AGGREGATION_MEAN"] else outputs[:, -1]
        if self.settings["FRAME_AGGREGATION_MEAN"]:  # The outputs of padding are zero.
            return outputs.sum(dim=1) / num_frames[:, None].to(outputs.device)
        return outputs[torch.arange(len(outputs)), num_frames - 1]


def append_deltas(frames: torch.Tensor, num_frames: torch.Tensor | None = None) -> torch.Tensor:
    """Append to each frame (batch, frames, N) the one after it minus the one before it -> (batch, frames, 2 N).

    The first and the last frame get zeros; if rows are padded, `num_frames` (batch,) tells which one is last. Source of
    deltas: Furui 1986; these are plain differences, not his slopes of lines fitted to several frames.
    """
    deltas = torch.zeros_like(frames)
    deltas[:, 1:-1] = frames[:, 2:] - frames[:, :-2]
    if num_frames is not None:
        deltas[torch.arange(len(frames)), num_frames - 1] = 0
    return torch.cat([frames, deltas], dim=2)


def get_speaker_encoder(load_from: str = "") -> SpeakerEncoder:
    """A new encoder of the settings' shape with weights drawn from SEED, or the saved one, on the device."""
    if load_from:
        return load_encoder(load_from)
    torch.manual_seed(myconfig.SEED)
    return SpeakerEncoder().to(parallel.get_device())


def join_encoders(encoders: Sequence[SpeakerEncoder]) -> SpeakerEncoder:
    """A new encoder to train, which takes over the LSTMs of all these (unusable afterwards) and joins their embeddings.

    Raises ValueError if they differ in the settings that shape them.
    """
    lstms = [lstm for encoder in encoders for lstm in encoder.lstms]
    shapes = [encoder.settings | {"ENSEMBLE_SIZE": len(lstms)} for encoder in encoders]
    if differing := [name for name in shapes[0] if any(shape[name] != shapes[0][name] for shape in shapes)]:
        paths = " and ".join(encoder.path for encoder in encoders)
        raise ValueError(f"{paths} differ in {', '.join(differing)}, so they cannot be joined.")
    joined = SpeakerEncoder(shapes[0]).to(parallel.get_device())
    joined.feature_mean, joined.feature_std = encoders[0].feature_mean, encoders[0].feature_std
    for encoder in encoders:
        renormalise(encoder, joined)
    joined.lstms = nn.ModuleList(lstms)
    joined.train_speakers = sorted({name for encoder in encoders for name in encoder.train_speakers})
    return joined.train()


@torch.no_grad()
def renormalise(encoder: SpeakerEncoder, other: SpeakerEncoder) -> None:
    """Change an encoder's LSTMs so that they give the same outputs for features normalised like those of `other`.

    W (x - m) / s + b = W' (x - m') / s' + b' for W' = W s' / s and b' = b + W (m' - m) / s; deltas have no mean.
    """
    for name, weight in encoder.lstms.named_parameters():
        if "weight_ih_l0" in name:
            bias = encoder.lstms.get_parameter(name.replace("weight", "bias"))
            num_mfcc = len(encoder.feature_mean)
            bias.add_(weight[:, :num_mfcc] @ ((other.feature_mean - encoder.feature_mean) / encoder.feature_std))
            weight.view(len(weight), -1, num_mfcc).mul_(other.feature_std / encoder.feature_std)


def embed_features(
    encoder: SpeakerEncoder, features: Sequence[np.ndarray], in_one_piece: bool | None = None
) -> np.ndarray:
    """Features of utterances, each (frames, N_MFCC) -> float32 (utterances, dimensions), L2-normalised, in order.

    Batches hold utterances of similar length. `in_one_piece` takes the place of USE_FULL_SEQUENCE_INFERENCE. An
    utterance shorter than SEQ_LEN is embedded in one piece anyway.
    """
    in_one_piece = myconfig.USE_FULL_SEQUENCE_INFERENCE if in_one_piece is None else in_one_piece
    if not len(features):
        return np.zeros((0, encoder.dimensions), np.float32)
    if in_one_piece:
        pieces_of_utt = [[utt] for utt in features]
    else:
        pieces_of_utt = [feature_extraction.extract_sliding_windows(utt) or [utt] for utt in features]
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
    pool = parallel.thread_pool(myconfig.NUM_PROCESSES if device.type == "cpu" else 1)
    list(pool.map(embed, batches))  # The list raises the errors of the threads.
    of_utt = outputs.split([len(pieces) for pieces in pieces_of_utt])
    return nn.functional.normalize(torch.stack([outputs.mean(dim=0) for outputs in of_utt])).numpy()


def embed_store(
    encoder: SpeakerEncoder, store: feature_store.FeatureStore, utts: np.ndarray | None = None
) -> np.ndarray:
    """Embed utterances of a feature store, by their numbers, or all -> float32 (utterances, dimensions), normalised.

    With several processes, each one embeds its share, and all get the full result.
    """
    utts = np.arange(len(store.files)) if utts is None else utts
    own_utts = parallel.own_share(utts)
    chunk_of_utt = np.cumsum(store.num_frames[own_utts]) // CHUNK_FRAMES
    chunks = np.split(own_utts, np.flatnonzero(np.diff(chunk_of_utt)) + 1)
    own = [embed_features(encoder, [store.read(utt) for utt in chunk]) for chunk in chunks]
    embeddings = np.empty((len(utts), encoder.dimensions), np.float32)
    for rank, share in enumerate(parallel.gather_objects(np.concatenate(own))):
        embeddings[rank :: parallel.world_size()] = share
    return embeddings


# ----------------------------------- Encoders on disk ----------------------------------


def model_fingerprint(encoder: SpeakerEncoder) -> str:
    """A hash of everything in a model that affects embeddings: its weights and settings."""
    # Newer settings do not count if they have the value that was fixed before, and a single LSTM has no number, so that
    # older databases remain usable.
    later = {"ENSEMBLE_SIZE": 1, "DELTAS": False}
    shape = {name: value for name, value in encoder.settings.items() if later.get(name) != value}
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


def find_model(path: str | os.PathLike) -> str:
    """The path of a model; that of a pretrained one, where there is none, counts from the project's folder."""
    shipped = Path(__file__).with_name("saved_model") / "pretrained" / Path(path).name
    is_shipped = Path(path).parts[-3:-1] == shipped.parts[-3:-1] and shipped.exists()
    return str(shipped) if is_shipped and not Path(path).exists() else os.fspath(path)


def load_encoder(path: str | os.PathLike) -> SpeakerEncoder:
    """Load a saved or classic model as an encoder on the device, shaped by the settings saved with it.

    The pretrained models are found from any working directory. Raises ValueError if the file cannot be used, or if a
    setting typed on the command line contradicts it.
    """
    path = find_model(path)
    model = read_model(path)
    try:
        # Classic models have one LSTM, and no number in its name.
        weights = {name.replace("lstm.", "lstms.0."): tensor for name, tensor in model["encoder_state_dict"].items()}
        shape = {**classic_settings(weights), **model.get("settings", {})}
        if unknown := shape.keys() - set(setting_tables.MODEL_SETTINGS):
            raise ValueError(f"it has settings that this version does not know: {', '.join(sorted(unknown))}.")
        settings.check_model(shape)
        if "settings" not in model:  # Classic models do not normalise features.
            weights = {
                "feature_mean": torch.zeros(shape["N_MFCC"]),
                "feature_std": torch.ones(shape["N_MFCC"]),
            } | weights
        with torch.device("meta"):  # Only shapes, which take no memory.
            expected = SpeakerEncoder(shape).state_dict()
        check_shapes(weights, expected, path)
        encoder = SpeakerEncoder(shape)
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
    for name in settings.typed_names & shape.keys():
        if getattr(myconfig, name) != shape[name]:
            raise ValueError(
                f"{name}={getattr(myconfig, name)} contradicts {path}, which was trained with {shape[name]}."
            )
    encoder.path = path
    return encoder.to(parallel.get_device()).eval()
