"""Training of a CPC network, epoch by epoch."""

from __future__ import annotations

import contextlib
import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from sktl.exceptions import DivergenceError
from sktl.nn.cpc import CPCNetwork, cut_patches
from sktl.training._augmentation import Augmentation
from sktl.training._data import Batches, Pixels
from sktl.utils._devices import private_randomness, seed_generators
from sktl.utils._progress import ProgressBar

if TYPE_CHECKING:
    from sktl.training._checkpoint import Checkpoint

__all__ = ["Pretraining", "effective_rank"]

# Pictures whose features tell the effective rank.
_N_RANKED = 1000


class Pretraining:
    """Trains a CPC network on pictures.

    Parameters
    ----------
    network : CPCNetwork
        On its device.
    mean, std : tuples of 3 floats
        Of the normalisation, for values 0-1.
    options : dict
        "temperature", "n_negatives", "lr", "epochs", "batch_size", "bf16", "seed".
    augmentation : Augmentation or None
        Of each patch by itself.
    device : torch.device

    Attributes
    ----------
    history : list of dicts
        One an epoch.
    """

    def __init__(
        self,
        network: CPCNetwork,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        options: dict[str, Any],
        augmentation: Augmentation | None,
        device: torch.device,
    ) -> None:
        self.network, self.options, self.augmentation = network, options, augmentation
        self.device = device
        self.mean = torch.tensor(mean, device=device).view(3, 1, 1) * 255
        self.std = torch.tensor(std, device=device).view(3, 1, 1) * 255
        self.optimizer = torch.optim.AdamW(network.parameters(), options["lr"], weight_decay=1e-4)
        self.history: list[dict[str, float]] = []

    def run(
        self,
        pixels: Pixels,
        epochs: int,
        checkpoint: Checkpoint | None,
        *,
        constant: bool = False,
        progress: bool = False,
    ) -> None:
        """Train up to an epoch, or what is left of it after the last checkpoint.

        The rate is constant, or rises and falls over all of the epochs.

        Raises
        ------
        DivergenceError
            If the loss or the features are no longer numbers.
        """
        state = checkpoint.read() if checkpoint else None
        if state is not None:
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.history = state["history"]
        total = (epochs - len(self.history)) * -(-len(pixels) // self.options["batch_size"])
        with (
            private_randomness(self.device),
            ProgressBar(total=total, unit="batch", delay=3, disable=not progress) as bar,
        ):
            for epoch in range(len(self.history), epochs):
                self._epoch(pixels, epoch, None if constant else epochs, bar)
                if checkpoint is not None:
                    checkpoint.write(
                        {
                            "network": self.network.state_dict(),
                            "optimizer": self.optimizer.state_dict(),
                            "history": self.history,
                        }
                    )
        self.network.eval()

    def _epoch(self, pixels: Pixels, epoch: int, epochs: int | None, bar: Any) -> None:
        options, start = self.options, time.perf_counter()
        seed = options["seed"]
        rng = np.random.default_rng([seed, epoch, 1])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        seed_generators(int(rng.integers(2**62)), self.device)
        batches = Batches(
            pixels, np.zeros(len(pixels), np.int64), None, options["batch_size"],
            np.random.default_rng([seed, epoch, 2]),
        )  # fmt: skip
        self.network.train()
        sums = np.zeros(4)
        for number, (X, _) in enumerate(batches):
            # Half a cosine down to zero, behind a twentieth of the way up.
            lr = options["lr"]
            if epochs is not None:
                done = (epoch + number / len(batches)) / epochs
                lr *= min(1.0, done / 0.05 + 0.02) * (1 + math.cos(math.pi * done)) / 2
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            loss, accuracy, chance, bound = self._step(X["x"].to(self.device), rng, generator)
            sums += (loss, accuracy, chance, bound)
            bar.update()
            bar.set_postfix(epoch=epoch + 1, loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}")
        means = sums / len(batches)
        features = self._features(pixels)
        if not (np.isfinite(means[0]) and np.isfinite(features).all()):
            what = f"the loss is {means[0]}" if not np.isfinite(means[0]) else "features are NaN"
            raise DivergenceError(
                f"{what} in epoch {epoch + 1}; pass a smaller lr than {options['lr']:g}"
            )
        self.history.append(
            {
                "epoch": epoch + 1,
                "loss": float(means[0]),
                "accuracy": float(means[1]),
                "chance": float(means[2]),
                "mi_bound": float(means[3]),
                "effective_rank": effective_rank(features),
                "lr": float(lr),
                "seconds": time.perf_counter() - start,
            }
        )

    def _step(
        self, x: torch.Tensor, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[float, float, float, float]:
        """One batch: (loss, accuracy, chance, bound of the mutual information), means of tasks."""
        options = self.options
        with self._arithmetic():
            contrasts = self.network.contrasts(
                self._patches(x.float(), rng),
                temperature=options["temperature"],
                n_negatives=options["n_negatives"],
                generator=generator,
            )
            losses = torch.stack([contrast.loss for contrast in contrasts])
            loss = losses.mean()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        chances = [1 / contrast.n_candidates for contrast in contrasts]
        bounds = [math.log(c.n_candidates) - c.loss.item() for c in contrasts]
        accuracy = float(torch.stack([contrast.accuracy for contrast in contrasts]).mean())
        return loss.item(), accuracy, float(np.mean(chances)), float(np.mean(bounds))

    def _patches(self, x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """(N, 3, H, W) pixels to normalised patches, each augmented by itself."""
        grid = self.network.grid
        patches = cut_patches(x, grid.size, grid.stride)
        if self.augmentation is not None:
            flat = self.augmentation(patches.flatten(0, 2), rng)
            patches = flat.view(patches.shape)
        return (patches - self.mean) / self.std

    def _features(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Mean latents of some pictures, in eval mode."""
        self.network.eval()
        found = []
        with torch.inference_mode():
            n = min(len(pixels), _N_RANKED)
            for start in range(0, n, 100):
                x = pixels.read(range(start, min(start + 100, n))).to(self.device)
                found.append(self.network.grid((x.float() - self.mean) / self.std).mean((2, 3)))
        features: npt.NDArray[np.float32] = torch.cat(found).float().cpu().numpy()
        return features

    def _arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        if self.options["bf16"]:
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()


def effective_rank(features: npt.NDArray[Any]) -> float:
    """How many directions features really use: exp of the entropy of their singular values.

    Parameters
    ----------
    features : ndarray of shape (n, n_features)
        Centred here.

    Returns
    -------
    rank : float
        From 1, when all lie on a line, to n_features; 0 if all are the same.

    References
    ----------
    O. Roy, M. Vetterli, "The effective rank: A measure of effective dimensionality", EUSIPCO
    2007, section 2.
    """
    values = np.linalg.svd(features - features.mean(axis=0), compute_uv=False).astype(float)
    if values.sum() < 1e-9 * max(1.0, float(np.abs(features).max())):
        return 0.0
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))
