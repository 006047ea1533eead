"""How training is shown while it runs: progress bar, warnings, and the curves of loss and EER."""

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from foundation import pictures, processes, script
from foundation.settings import Config

# The last steps over which the loss is averaged and judged.
WINDOW_STEPS = 100

COLLAPSE_REMEDY = "Lower LEARNING_RATE, or set TRIPLET_MINING=smooth_batch_hard, and train with START_OVER=true."


class TrainingProgress:
    """The history of a training: the loss of every step, the validation EERs, and the seconds it took."""

    def __init__(self, num_steps: int, config: Config) -> None:
        self.num_steps, self.config = num_steps, config
        self.losses: list[float] = []
        self.validation: list[tuple[int, float]] = []
        self.seconds_before = 0.0  # In the processes that were stopped.
        self.start = time.perf_counter()
        self.active = math.nan
        self.has_warned = False

    @property
    def seconds(self) -> float:
        """How long the training has taken so far, from the first step on, with validation and saving."""
        return self.seconds_before + time.perf_counter() - self.start

    def state(self) -> dict:
        """The history as plain values, to be saved in a model."""
        return {"losses": self.losses, "validation_eers": self.validation, "training_time": self.seconds}

    def load_state(self, model: dict) -> None:
        """Take over the history of a saved model."""
        self.losses, self.validation = list(model["losses"]), list(model["validation_eers"])
        self.seconds_before = float(model["training_time"])

    def steps(self) -> Iterator[int]:
        """The numbers of the remaining steps, with a progress bar on a terminal."""
        first = len(self.losses)
        if first >= self.num_steps:
            print(f"Already trained for {first} steps. Raise TRAINING_STEPS, or start over with START_OVER=true.")
            return
        if first:
            print(f"Continuing after step {first}.", flush=True)
        is_silent = True if processes.rank() else None  # None shows the bar on a terminal only.
        with tqdm(initial=first, total=self.num_steps, desc="Training", unit="step", disable=is_silent) as self.bar:
            self.start = time.perf_counter()
            for step in range(first, self.num_steps):
                script.raise_if_interrupted()
                yield step
                self.bar.update()

    def update(self, loss: float, active: float, embeddings: Sequence[torch.Tensor]) -> None:
        """Record a step's loss and share of active triplets; warn when training collapses. Raises ValueError on NaN.

        Each network has embeddings (..., dimensions) of its own.
        """
        if not math.isfinite(loss):
            raise ValueError(f"the loss is {loss} at step {len(self.losses) + 1}. {COLLAPSE_REMEDY}")
        self.losses.append(loss)
        self.active = active
        if len(self.losses) % WINDOW_STEPS == 0 and not self.has_warned:
            self.warn_of_collapse([own.flatten(0, -2).float() for own in embeddings])
        self.bar.set_postfix_str(self.describe(), refresh=False)

    def warn_of_collapse(self, embeddings: Sequence[torch.Tensor]) -> None:
        """Warn when all embeddings of a network point the same way, or the loss has stood at the margin for a while."""
        of_networks = [torch.nn.functional.normalize(own) for own in embeddings]
        mean_similarity = max(float(own.mean(dim=0).square().sum()) for own in of_networks)
        recent = torch.tensor(self.losses[-WINDOW_STEPS:])
        is_at_margin = (recent - self.config.TRIPLET_ALPHA).abs().max() < 0.01 * self.config.TRIPLET_ALPHA
        if mean_similarity > 0.999:
            symptom = "all embeddings are nearly equal"
        elif is_at_margin and self.config.TRIPLET_MINING != "smooth_batch_hard":
            symptom = f"the loss has stood at the margin for {WINDOW_STEPS} steps"
        else:
            return
        self.has_warned = True
        tqdm.write(f"Warning: training has collapsed: {symptom}. {COLLAPSE_REMEDY}")

    def validate(self, eer: float) -> None:
        """Record a validation EER, and print a line if there is no progress bar."""
        self.validation.append((len(self.losses), eer))
        if self.bar.disable:
            steps_left = self.num_steps - len(self.losses)
            minutes_left = steps_left * self.seconds / len(self.losses) / 60
            print(f"Step {len(self.losses)}: {self.describe()}, {minutes_left:.1f} min left", flush=True)

    def is_best(self) -> bool:
        """Whether the model of the last step is the best so far; always true without validation."""
        best = self.best()
        return best is None or best[0] == len(self.losses)

    def best(self) -> tuple[int, float] | None:
        """The step with the lowest validation EER, of equal ones the last, and that EER; None without validation."""
        measured = [(step, eer) for step, eer in self.validation if not math.isnan(eer)]
        return min(measured, key=lambda of_step: (of_step[1], -of_step[0]), default=None)

    def describe_best(self) -> str:
        """Which step's model is the best, in words."""
        if not (best := self.best()):
            return f"the model of the last step, {len(self.losses)}"
        return f"the best model, of step {best[0]}, with a validation EER of {best[1]:.1%}"

    def describe(self) -> str:
        """Recent loss, share of active triplets, and the last validation EER."""
        recent = self.losses[-WINDOW_STEPS:]
        text = f"loss {sum(recent) / len(recent):.4f}, active {self.active:.0%}"
        if self.validation and not math.isnan(self.validation[-1][1]):
            text += f", validation EER {self.validation[-1][1]:.1%}"
        return text

    def plot(self, path: Path) -> None:
        """Draw loss and validation EER against the step into a PNG."""
        with pictures.style():
            figure = pictures.new_figure(figsize=(7, 4))
            axes = figure.subplots()
            axes.plot(range(1, len(self.losses) + 1), self.losses, color="0.75", label="loss of the step")
            width = min(WINDOW_STEPS, math.ceil(len(self.losses) / 5))
            smooth = torch.tensor(self.losses).unfold(0, width, 1).mean(dim=1)
            steps = torch.arange(len(smooth)) + (width + 1) / 2
            axes.plot(steps, smooth, color="C0", label=f"mean of {width} steps")
            if self.config.TRIPLET_MINING != "smooth_batch_hard":
                axes.axhline(self.config.TRIPLET_ALPHA, color="0.5", linestyle=":", label="margin")
            axes.set(xlabel="training step", ylabel="triplet loss", ylim=(0, None))
            handles, labels = axes.get_legend_handles_labels()
            if best := self.best():
                right = axes.twinx()
                measured, eers = zip(*self.validation, strict=True)
                right.plot(measured, [100 * eer for eer in eers], "o-", color="C1", label="validation EER")
                right.plot(best[0], 100 * best[1], "*", color="0.2", markersize=12, label="best")
                right.set(ylabel="validation EER (%)", ylim=(0, None))
                right.grid(False)
                handles += right.get_legend_handles_labels()[0]
                labels += right.get_legend_handles_labels()[1]
            figure.legend(handles, labels, loc="outside upper center", ncols=4)
            pictures.save_or_warn(path, figure)
