"""The skorch net that trains: what becomes of one batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import skorch
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.base import ClassifierMixin
from skorch.callbacks import PassthroughScoring
from skorch.dataset import unpack_data
from skorch.utils import to_device
from torch import nn

from sktl.nn.mixing import Mixed, cutmix, mixup
from sktl.training._augmentation import Augmentation
from sktl.training._data import Batches
from sktl.training._interrupts import was_interrupted
from sktl.training._network import TransferNet
from sktl.training._team import Team

__all__ = ["TOP_K", "BatchWork", "Parts", "StopPhase", "TransferSkorchNet"]

TOP_K = 5  # guesses, one of which is to be right, beside the first alone


class StopPhase(Exception):  # noqa: N818 (nothing went wrong)
    """A callback asks for the end of the phase, as skorch's callbacks do."""


class Parts(NamedTuple):
    """The data of one epoch.

    Attributes
    ----------
    train : Batches
    valid : Batches or None
    """

    train: Batches
    valid: Batches | None

    def __len__(self) -> int:
        return len(self.train.labels)


class BatchWork:
    """What is done with the pictures of a batch, and with the network's answer.

    Attributes
    ----------
    mean, std : Tensor of shape (3, 1, 1)
        Of the normalisation, for values 0-255.
    augmentation : Augmentation or None
        Of training pictures.
    size : int
        Side of the square that the network sees, in pixels.
    mixup, cutmix : float
        Their alpha; 0 is off.
    label_smoothing : float
        Of the training loss.
    l1, l2 : float
        Penalties on the head's weights.
    clip_norm : float or None
        Largest norm of the gradients.
    autocast : bool
        Whether to compute in bfloat16 where that is safe.
    n_classes : int
        There is a top-5 accuracy where they are more than 5.
    rng : numpy.random.Generator
        Of augmentation and mixing.
    right : dict
        Part -> number of pictures whose first guess, and whose first k guesses, were right, and
        number of pictures.
    """

    def __init__(self, mean: torch.Tensor, std: torch.Tensor, size: int) -> None:
        self.mean, self.std, self.size = mean, std, size
        self.augmentation: Augmentation | None = None
        self.mixup = self.cutmix = self.label_smoothing = self.l1 = self.l2 = 0.0
        self.clip_norm: float | None = None
        self.autocast = False
        self.n_classes = 2
        self.rng = np.random.default_rng(0)
        self.right: dict[str, Any] = {}

    @property
    def mixes(self) -> bool:
        """Whether pictures are mixed."""
        return self.mixup > 0 or self.cutmix > 0

    def normalised(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) pixels, 0-255, to the input of the network."""
        return (x.float() - self.mean) / self.std

    def inputs(self, x: torch.Tensor, *, training: bool) -> tuple[torch.Tensor, Mixed | None]:
        """Input of the network, from pixels or from what its frozen part gave."""
        if x.dtype != torch.uint8:
            return x, None
        if not training:
            return self.normalised(x), None
        if self.augmentation is not None:
            x = self.augmentation(x.float(), self.rng, self.size)
        x = self.normalised(x)
        if not self.mixes:
            return x, None
        first = self.mixup > 0 and (self.cutmix == 0 or self.rng.random() < 0.5)
        mixed = mixup(x, self.mixup, self.rng) if first else cutmix(x, self.cutmix, self.rng)
        return mixed.x, mixed

    def loss(
        self,
        logits: torch.Tensor,
        y: torch.Tensor,
        weight: torch.Tensor | None,
        *,
        mixed: Mixed | None = None,
        training: bool,
    ) -> torch.Tensor:
        """Mean cross entropy, each times its weight where there are weights."""
        smoothing = self.label_smoothing if training else 0.0

        def mean(labels: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
            losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
            return (losses if weights is None else losses * weights).mean()

        if mixed is None:
            return mean(y, weight)
        of_other = mean(y[mixed.other], None if weight is None else weight[mixed.other])
        return mixed.share * mean(y, weight) + (1 - mixed.share) * of_other

    def penalty(self, head: nn.Module) -> torch.Tensor | float:
        """L1 and L2 penalty of the weights of the head's linear layers."""
        if not (self.l1 or self.l2):
            return 0.0
        weights = [m.weight for m in head.modules() if isinstance(m, nn.Linear)]
        return sum(self.l1 * w.abs().sum() + self.l2 * w.square().sum() for w in weights)

    def count(self, part: str, logits: torch.Tensor, y: torch.Tensor) -> None:
        """Count the pictures of a batch whose guesses were right."""
        guesses = logits.detach().topk(min(TOP_K, logits.shape[1])).indices == y[:, None]  # (N, k)
        counts = np.array([guesses[:, 0].sum().item(), guesses.any(1).sum().item(), len(y)])
        self.right[part] = self.right.get(part, 0) + counts


class EpochLoss(PassthroughScoring):
    """The loss of an epoch: of its batches, or what the net knows better."""

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Record it, before callbacks look at it."""
        self._known = net.losses.get(self.name)
        super().on_epoch_end(net, **kwargs)

    def get_avg_score(self, history: Any) -> float:
        """The loss."""
        known: float | None = self._known
        return float(super().get_avg_score(history)) if known is None else known


class TransferSkorchNet(ClassifierMixin, skorch.NeuralNet):
    """A skorch net around a TransferNet, whose data come as Parts.

    Its optimizer, freezing and data change from phase to phase, its module, history and callbacks
    stay.
    """

    work: BatchWork
    team: Team = Team()
    # Losses of the epoch that are not the mean of its batches, and what tells them at its end.
    losses: Mapping[str, float] = MappingProxyType({})
    find_losses: Callable[[], Mapping[str, float]] = dict

    @property
    def classes_(self) -> npt.NDArray[np.int64]:
        """Numbers of the classes, for callbacks that score."""
        return np.arange(self.work.n_classes)

    @property
    def _default_callbacks(self) -> list[tuple[str, Any]]:
        own = {"train_loss": EpochLoss("train_loss", on_train=True)}
        own["valid_loss"] = EpochLoss("valid_loss")
        return [(name, own.get(name, callback)) for name, callback in super()._default_callbacks]

    def get_split_datasets(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """The two parts as they are."""
        if isinstance(X, Parts):
            return X.train, X.valid
        return super().get_split_datasets(X, y, **fit_params)

    def get_dataset(self, X: Any, y: Any = None) -> Any:
        """Batches are their own data set."""
        return X if isinstance(X, Batches) else super().get_dataset(X, y)

    def get_iterator(self, dataset: Any, training: bool = False) -> Any:
        """Batches are their own iterator."""
        return dataset if isinstance(dataset, Batches) else super().get_iterator(dataset, training)

    def check_data(self, X: Any, y: Any = None) -> None:
        """Nothing: it was checked before."""

    def train_step_single(self, batch: Any, **fit_params: Any) -> dict[str, torch.Tensor]:
        """Loss and gradients of a batch."""
        work = self.work
        self._set_training(True)
        (X, y), device = unpack_data(batch), self.device
        y = to_device(y, device)
        weight = to_device(X["weight"], device) if "weight" in X else None
        x, mixed = work.inputs(_sent(X["x"], device), training=True)
        with self._arithmetic(), _gradients_channels_last(self.module_):
            logits = self.infer(self._in_order(x), **fit_params)
        logits = logits.float()
        loss = work.loss(logits, y, weight, mixed=mixed, training=True)
        part = X["share"][0].item() if "share" in X else 1.0
        penalty = work.penalty(self.module_.head) / self.team.size
        torch.autograd.backward(part * loss + penalty)
        loss = self.team.share_step(self.module_, part * loss)
        if work.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.module_.parameters(), work.clip_norm)
        if mixed is None:
            work.count("train", logits, y)
        return {"loss": loss, "y_pred": logits.detach()}

    def validation_step(self, batch: Any, **fit_params: Any) -> dict[str, torch.Tensor]:
        """Loss of a batch in eval mode."""
        loss, logits = self.evaluate(batch)
        return {"loss": loss, "y_pred": logits}

    def evaluation_step(self, batch: Any, training: bool = False) -> Any:
        """Logits of a batch, for callbacks that predict."""
        X, _ = unpack_data(batch)
        if not isinstance(X, dict):
            return super().evaluation_step(batch, training)
        self._set_training(training)
        with torch.set_grad_enabled(training), self._arithmetic():
            x, _ = self.work.inputs(_sent(X["x"], self.device), training=False)
            return self.infer(self._in_order(x)).float()

    def _in_order(self, x: torch.Tensor) -> torch.Tensor:
        """Maps in the order in memory that the network's convolutions have."""
        order = getattr(self.module_, "order", torch.channels_last)
        return x.contiguous(memory_format=order) if x.ndim == 4 else x

    def evaluate(self, batch: Any, part: str = "valid") -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and logits of a batch in eval mode."""
        logits = self.evaluation_step(batch)
        y = to_device(unpack_data(batch)[1], self.device)
        self.work.count(part, logits, y)
        return self.work.loss(logits, y, None, training=False), logits

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Find losses and accuracies before callbacks look at them."""
        super().on_epoch_end(net, **kwargs)
        self.losses = self.find_losses()
        self.record_accuracies()

    def record_accuracies(self) -> None:
        """What was counted in the epoch, as shares of the pictures."""
        for part, (first, top_k, n) in self.work.right.items():
            self.history.record(f"{part}_top1", float(first / n))
            if self.work.n_classes > TOP_K:
                self.history.record(f"{part}_top{TOP_K}", float(top_k / n))

    def predict(self, X: Any) -> Any:
        """Number of the most probable class, for callbacks that score."""
        return self.predict_proba(X).argmax(axis=1)

    def notify(self, method_name: str, **cb_kwargs: Any) -> None:
        """As skorch does, but for callbacks that stop training by a KeyboardInterrupt."""
        was_interrupted(self)  # what came before was caught
        try:
            super().notify(method_name, **cb_kwargs)
        except KeyboardInterrupt as error:
            if was_interrupted(self):
                raise
            raise StopPhase from error

    def _arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        if self.work.autocast:
            return torch.autocast(torch.device(self.device).type, torch.bfloat16)
        return contextlib.nullcontext()


def _sent(x: torch.Tensor, device: Any) -> torch.Tensor:
    """To a device, which fetches what is pinned itself."""
    return x.to(device, non_blocking=x.is_pinned())


@contextlib.contextmanager
def _gradients_channels_last(net: nn.Module) -> Iterator[None]:
    """In a forward pass, see to the gradients that batch normalisations will be handed.

    Those of maps that are averaged come in another order in memory, with which the normalisation of
    MobileNetV2's last maps takes twenty times as long on a CPU.
    """
    norms = []
    # What torch.compile makes of it orders its memory itself.
    if isinstance(net, TransferNet) and net.order == torch.channels_last:
        norms = [m for m in net.learner.modules() if isinstance(m, nn.BatchNorm2d)]
    handles = [norm.register_forward_hook(_order_gradient) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _order_gradient(norm: nn.Module, inputs: object, output: torch.Tensor) -> None:
    if output.requires_grad:
        output.register_hook(_channels_last)  # type: ignore[no-untyped-call]


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
