"""Which network the settings name, the parts of several in one embedding, and several encoders joined in one."""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from encoder.lstm import LstmEncoder, NormalizedLstm
from encoder.speaker_encoder import SpeakerEncoder
from encoder.transformer import TransformerEncoder
from foundation import setting_table, settings
from foundation.settings import Config


def new_encoder(shape: dict | None = None) -> SpeakerEncoder:
    """A new encoder, untrained; `shape` has a value for each of MODEL_SETTINGS: else the present settings."""
    values = settings.all_settings() if shape is None else shape
    return (TransformerEncoder if values["USE_TRANSFORMER"] else LstmEncoder)(values)


def rebuild(content: dict) -> SpeakerEncoder:
    """The encoder of a file's content (see `encoder/model_files.py`), on the CPU, to embed with.

    Raises ValueError, KeyError or RuntimeError if its weights do not fit its settings, before it takes memory for them.
    """
    weights = {name: torch.from_numpy(array) for name, array in content["encoder_state_dict"].items()}
    with torch.device("meta"):  # Only shapes, which take no memory.
        expected = new_encoder(content["settings"]).state_dict()
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape:
            raise ValueError(
                f"{name} has shape {tuple(weights[name].shape)}, and by its settings {tuple(tensor.shape)}."
            )
    with torch.random.fork_rng(devices=[]):  # The weights before count for nobody.
        encoder = new_encoder(content["settings"])
    encoder.load_state_dict(weights)
    return encoder.eval()


def split_networks(embeddings: torch.Tensor, config: Config) -> Sequence[torch.Tensor]:
    """Split embeddings (..., dimensions) into one part for each network: the LSTMs, then the TDNN."""
    return embeddings.chunk(config.ENSEMBLE_SIZE + bool(config.TDNN_CHANNELS), dim=-1)


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
    in_use = setting_table.settings_in_use(shapes[0])
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

    With weights W, bias b, mean m and standard deviation s, and m' and s' of `other`, the first layer computes the same
    if W (x - m) / s + b = W' (x - m') / s' + b', so for W' = W s' / s and b' = b + W (m' - m) / s. For example,
    features with twice the standard deviation get weights twice as large. Deltas have no mean. Each of the stacked
    frames adds to b'.
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
