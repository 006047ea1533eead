"""The triplet losses, and the training loop that makes a speaker encoder with them.

`python3 neural_net.py` trains on the training data that the settings name. If it is killed at any moment, the same
command continues, and ends with the same weights as an uninterrupted run.
"""

from foundation import script, setting_checks, setting_table, settings

if __name__ == "__main__":
    script.begin()
    typed = settings.read_command_line(__doc__, setting_checks.check_training)

import contextlib
import math
import time
from collections.abc import Collection, Sequence

import torch
from torch import nn

import dataset
import myconfig
from encoder.networks import join_encoders, new_encoder, split_networks
from encoder.saved_models import (
    get_speaker_encoder,  # noqa: F401 - a name of the lecture.
    load_encoder,
    read_model,
    save_encoder,
    write_model,
)
from encoder.speaker_encoder import SpeakerEncoder
from foundation import parallel, processes, safe_files
from foundation.settings import Config
from scoring.score_normalization import kept_speakers
from training.batches import draw_batches, embed_batch
from training.checkpoint import add_cohort, continue_from, find_checkpoint, find_origin, remove_models, save_models
from training.data import open_stores, set_normalisation, set_validation_speakers_aside
from training.progress import TrainingProgress
from training.validation import validation_eer

WARMUP_FRACTION = 0.05
MAX_GRADIENT_NORM = 3.0

# With fewer steps of random triplets, hardly anything is learnt.
FEW_RANDOM_STEPS = 2000

# ------------------------------------ Triplet losses -----------------------------------


def get_triplet_loss(
    anchor: torch.Tensor, pos: torch.Tensor, neg: torch.Tensor, config: Config | None = None
) -> torch.Tensor:
    """Hinge loss of each triplet of embeddings (..., dimensions) -> (...,); the margin is TRIPLET_ALPHA.

    max(0, cos(anchor, neg) - cos(anchor, pos) + TRIPLET_ALPHA); Schroff et al. 2015, "FaceNet", section 3.1, with the
    cosine similarity in place of the squared distance.
    """
    cosine = nn.functional.cosine_similarity
    alpha = (config or myconfig).TRIPLET_ALPHA
    return torch.relu(cosine(anchor, neg, dim=-1) - cosine(anchor, pos, dim=-1) + alpha)


def get_triplet_loss_from_batch_output(batch_output: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Mean loss of embeddings (3 * batch_size, dimensions) in rows a, p, n, a, p, n ..."""
    anchor, pos, neg = batch_output.reshape(batch_size, 3, -1).unbind(dim=1)
    return get_triplet_loss(anchor, pos, neg).mean()


def get_random_triplet_losses(embeddings: torch.Tensor, config: Config) -> torch.Tensor:
    """Loss of each triplet of embeddings (triplets, 3, dimensions) -> (triplets,)."""
    anchor, pos, neg = embeddings.unbind(dim=1)
    return get_triplet_loss(anchor, pos, neg, config)


def get_batch_hard_losses(embeddings: torch.Tensor, config: Config) -> torch.Tensor:
    """Loss of each embedding (speakers, utterances, dimensions) as an anchor -> (speakers * utterances,).

    The positive is the least similar embedding of the anchor's speaker, the negative the most similar one of all
    others. The anchor itself is among the positives, but never the least similar. Source: Hermans et al. 2017, "In
    defense of the triplet loss", equation 5.
    """
    similarity, same_speaker = get_batch_similarities(embeddings)
    hardest_pos = similarity.masked_fill(~same_speaker, math.inf).amin(dim=1)
    hardest_neg = similarity.masked_fill(same_speaker, -math.inf).amax(dim=1)
    return torch.relu(hardest_neg - hardest_pos + config.TRIPLET_ALPHA)


def get_smooth_batch_hard_losses(embeddings: torch.Tensor, config: Config) -> torch.Tensor:
    """Like get_batch_hard_losses, but all triplets of an anchor count, harder ones more -> the same shape.

    With an anchor a: log(1 + sum over positives p and negatives n of exp(s (cos(a, n) - cos(a, p) + TRIPLET_ALPHA))) /
    s; s is MINING_SHARPNESS, and as it grows, this becomes get_batch_hard_losses. The sum over both is a product of two
    sums, and log(1 + exp(x)) is softplus(x). All triplets give gradients, so training does not collapse if the hardest
    one is too hard. The anchor must not be among its own positives here. Sources: Hermans et al. 2017, section 2 (soft
    margin); Oh Song et al. 2016, "Deep metric learning via lifted structured feature embedding" (smooth maximum).
    """
    sharpness = config.MINING_SHARPNESS
    similarity, same_speaker = get_batch_similarities(embeddings)
    itself = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    scaled_neg = smooth_maximum(sharpness * similarity, ~same_speaker)
    scaled_pos = -smooth_maximum(-sharpness * similarity, same_speaker & ~itself)  # A smooth minimum.
    return nn.functional.softplus(scaled_neg - scaled_pos + sharpness * config.TRIPLET_ALPHA) / sharpness


def smooth_maximum(values: torch.Tensor, is_counted: torch.Tensor) -> torch.Tensor:
    """log-sum-exp of the values of each row that count, both (rows, columns) -> (rows,): just above the largest."""
    return values.masked_fill(~is_counted, -math.inf).logsumexp(dim=1)


def get_batch_similarities(embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine similarity of all pairs of embeddings (speakers, utterances, dimensions), and which share a speaker."""
    num_speakers, num_utts, _ = embeddings.shape
    unit = nn.functional.normalize(embeddings.flatten(0, 1), dim=-1)
    speaker = torch.arange(num_speakers, device=unit.device).repeat_interleave(num_utts)
    return unit @ unit.T, speaker[:, None] == speaker[None, :]


LOSSES = {
    "random": get_random_triplet_losses,
    "batch_hard": get_batch_hard_losses,
    "smooth_batch_hard": get_smooth_batch_hard_losses,
}


def get_triplet_losses(embeddings: torch.Tensor, config: Config) -> torch.Tensor:
    """The losses that TRIPLET_MINING names, of embeddings (speakers or triplets, utterances, dimensions).

    Each network of an ensemble has its own losses, from its part of the dimensions; they are concatenated.
    """
    find_losses = LOSSES[config.TRIPLET_MINING]
    return torch.cat([find_losses(part, config) for part in split_networks(embeddings, config)])


def active_share(losses: torch.Tensor, config: Config) -> float:
    """Share of the losses above the hinge, whose positive is not yet nearer than the negative by the margin.

    With smooth_batch_hard, the hinge is at softplus(0) / MINING_SHARPNESS, softplus(0) being log 2, and a loss is that
    of all triplets of an anchor together.
    """
    at_hinge = math.log(2) / config.MINING_SHARPNESS if config.TRIPLET_MINING == "smooth_batch_hard" else 0.0
    return float((losses > at_hinge).float().mean())


# --------------------------------------- Training --------------------------------------


def train_encoder(
    encoder: SpeakerEncoder, spk_to_utts: dataset.SpkToUtts, num_steps: int, saved_model: str | None, config: Config
) -> list[float]:
    """Train this encoder, whose shape is that of the settings; see `train_network`."""
    train_data, validation_data = set_validation_speakers_aside(spk_to_utts, encoder.train_speakers, config)
    dataset.describe_corpora(spk_to_utts, config.CORPORA)
    encoder.train_speakers = sorted({*encoder.train_speakers, *train_data})
    kept_speakers(encoder.train_speakers, config)  # A mistake in NO_COHORT_CORPORA would be found only at the end.
    checkpoint = find_checkpoint(saved_model, encoder.train_speakers, config)
    stores = open_stores(train_data, validation_data, config)
    if not config.INITIAL_MODELS:
        set_normalisation(encoder, stores.train, config.SEED)
    optimizer = torch.optim.Adam(encoder.parameters())  # Each step sets the learning rate.
    progress = TrainingProgress(num_steps, config)
    origin = find_origin(encoder, stores, bool(config.INITIAL_MODELS))
    if checkpoint and saved_model:
        continue_from(checkpoint, saved_model, encoder, optimizer, progress, origin, config)
    elif saved_model:
        remove_models(saved_model)  # There are some if START_OVER is set.
    network = parallel.replicate(encoder)

    batches = draw_batches(encoder, stores, range(len(progress.losses), num_steps), config)
    for step, crops in zip(progress.steps(), batches, strict=False):
        embeddings = parallel.gather(embed_batch(network, crops, config))
        losses = get_triplet_losses(embeddings, config)
        loss = losses.mean()
        optimizer.zero_grad()
        (loss * processes.world_size()).backward()  # Several processes average their gradients, which should add up.
        nn.utils.clip_grad_norm_(encoder.parameters(), MAX_GRADIENT_NORM)
        optimizer.param_groups[0]["lr"] = learning_rate(step, num_steps, config)
        optimizer.step()
        progress.update(loss.item(), active_share(losses, config), split_networks(embeddings.detach(), config))
        if (step + 1) % config.SAVE_MODEL_FREQUENCY == 0 or step + 1 == num_steps:
            progress.validate(validation_eer(encoder, stores, config))
            if saved_model:
                save_models(saved_model, encoder, optimizer, progress, origin, config)
    if saved_model:
        add_cohort(saved_model, encoder, stores.train, config)
        print(f"{saved_model} is {progress.describe_best()}.", flush=True)
    return progress.losses


def learning_rate(step: int, num_steps: int, config: Config) -> float:
    """Step size of the optimiser at a step: linear warm-up, then a cosine down to zero (Loshchilov and Hutter 2017)."""
    if config.LEARNING_RATE_SCHEDULE == "constant":
        return config.LEARNING_RATE
    warmup_steps = math.ceil(WARMUP_FRACTION * num_steps)
    if step < warmup_steps:
        return config.LEARNING_RATE * (step + 1) / warmup_steps
    return config.LEARNING_RATE * (1 + math.cos(math.pi * (step - warmup_steps) / (num_steps - warmup_steps))) / 2


def train_network(
    spk_to_utts: dataset.SpkToUtts,
    num_steps: int,
    saved_model: str | None = None,
    pool: object = None,
    config: Config | None = None,
    typed: Collection[str] = (),
) -> list[float]:
    """Train an encoder, new or made of INITIAL_MODELS, for `num_steps` steps; returns the loss of every step.

    With `saved_model`, its checkpoint is continued if there is one, and the best and the last model are saved. The
    settings are the present ones, unless `config` is given; no initial model may contradict those that were `typed` on
    the command line. Raises ValueError if the data cannot be trained on, a model cannot be used or has other settings,
    or the loss is not finite.
    """
    if pool is not None:
        print("A pool of processes is not needed: threads extract the features, once.", flush=True)
    config = config or settings.present()
    initial_models = [load_encoder(path, typed) for path in setting_table.split_list(config.INITIAL_MODELS)]
    with torch.random.fork_rng(devices=[]):  # Whoever calls this keeps the state of PyTorch's generator.
        torch.default_generator.manual_seed(config.SEED)
        encoder = join_encoders(initial_models) if initial_models else new_encoder(vars(config))
    encoder = encoder.to(parallel.get_device(config.DEVICE))
    config = config.but(**encoder.settings)
    setting_checks.check(vars(config))
    setting_checks.check_training(vars(config), typed)
    with contextlib.ExitStack() as locks:
        if saved_model and processes.rank() == 0:
            locks.enter_context(safe_files.only_one_process(saved_model))
        return train_encoder(encoder, spk_to_utts, num_steps, saved_model, config)


def run_training(typed: Collection[str] = ()) -> None:
    """Train on the training data of the settings and draw the curves; `typed` are settings of the command line."""
    parallel.prepare_process()
    config = settings.present()
    spk_to_utts = dataset.get_spk_to_utts("TRAIN", typed)
    # The names show whether it is the right folder.
    names = ", ".join([*list(spk_to_utts)[:2], "..."][: len(spk_to_utts)])
    num_utts = sum(map(len, spk_to_utts.values()))
    print(f"Training data: {len(spk_to_utts)} speakers ({names}), {num_utts} utterances.", flush=True)
    with parallel.process_group(config.DEVICE):
        losses = train_network(spk_to_utts, config.TRAINING_STEPS, config.SAVED_MODEL_PATH, typed=typed)
    if config.TRIPLET_MINING == "random" and len(losses) < FEW_RANDOM_STEPS:
        print(f"{len(losses)} steps of random triplets are too few to tell voices apart: the course takes 100,000.")


# ----------------------------------- Names of the course -------------------------------


class BaseSpeakerEncoder(nn.Module):
    """The course's base of networks of your own, which define layers in `__init__`, and `forward`.

    `forward` takes features (rows, frames, N_MFCC) and returns embeddings (rows, dimensions).
    """

    def _load_from(self, saved_model: str) -> None:
        """Take the weights of a saved model. Raises ValueError if the file is no model, RuntimeError if others."""
        self.load_state_dict(read_model(saved_model)["encoder_state_dict"])


def save_model(saved_model_path: str, encoder: nn.Module, losses: Sequence[float], start_time: float) -> None:
    """The course's name for saving a network, also one of your own; ".pt" is added to the path if it is missing."""
    history = {"losses": list(losses), "training_time": time.time() - start_time}
    path = f"{saved_model_path.removesuffix('.pt')}.pt"
    if isinstance(encoder, SpeakerEncoder):
        save_encoder(path, encoder, **history)
    else:
        write_model(path, {"encoder_state_dict": encoder.state_dict(), **history})


def LstmSpeakerEncoder(saved_model: str = "") -> SpeakerEncoder:
    """The course's name for a new LSTM of the settings' shape, or a saved one. Raises ValueError for another kind."""
    return encoder_of_kind(saved_model, False)


def TransformerSpeakerEncoder(saved_model: str = "") -> SpeakerEncoder:
    """The same for a transformer."""
    return encoder_of_kind(saved_model, True)


def encoder_of_kind(saved_model: str, use_transformer: bool) -> SpeakerEncoder:
    """A new or a saved encoder that is a transformer, or not one. Raises ValueError for a saved one of another kind."""
    if saved_model:
        encoder = load_encoder(saved_model)
        if encoder.settings["USE_TRANSFORMER"] != use_transformer:
            raise ValueError(f"{saved_model} is {'an LSTM' if use_transformer else 'a transformer'}.")
        return encoder
    config = settings.present(USE_TRANSFORMER=use_transformer)
    setting_checks.check(vars(config))
    return new_encoder(vars(config)).to(parallel.get_device(config.DEVICE))


if __name__ == "__main__":
    script.run(lambda: run_training(typed))
