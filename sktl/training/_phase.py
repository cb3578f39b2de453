"""One phase of training: which part of the network learns, how fast and for how long."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from sklearn.base import BaseEstimator

from sktl.utils._parameters import ParameterChecks

__all__ = ["OPTIMIZERS", "Phase", "Schedule", "carry_over"]

# Name -> class, and the learning rate that usually works.
OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], float]] = {
    "sgd": (torch.optim.SGD, 0.01),
    "momentum": (torch.optim.SGD, 0.01),
    "nesterov": (torch.optim.SGD, 0.01),
    "rmsprop": (torch.optim.RMSprop, 1e-3),
    "adam": (torch.optim.Adam, 1e-3),
    "adamw": (torch.optim.AdamW, 1e-3),
    "adagrad": (torch.optim.Adagrad, 0.01),
    "adadelta": (torch.optim.Adadelta, 1.0),
    "nadam": (torch.optim.NAdam, 1e-3),
}
_WITH_MOMENTUM = ("sgd", "momentum", "nesterov", "rmsprop")
# How far one cycle moves the momentum down and up.
_MOMENTUM_SPAN = 0.05
_SCHEDULES = ("step", "cosine", "one_cycle", "plateau")
# More overflows in 32 bits.
_MOST = 1e30


class Phase(BaseEstimator):
    """One phase of training a network.

    Its parameters are searched like those of a step of a pipeline:
    ``set_params(phases__fine_tune__lr=0.001)``.

    Parameters
    ----------
    train : str or list of str, default="all"
        What learns, beside the head, which always does: ``"head"``: nothing else; ``"last:k"``:
        the last k stages of the network that have weights (or all, if there are fewer), and what
        follows them; a normalisation behind the last block counts with it; ``"conv"``:
        all up to the bottleneck; ``"fc"``: all behind it, which may be the head alone; ``"all"``;
        or a list of module paths (``"layer4"``) and patterns of parameter names
        (``"layer?.*.conv2.*"``). What does not learn is in eval mode: its batch normalisation and
        the dropout in front of it too.
    epochs : int, default=10
        Largest number of passes over the training pictures.
    optimizer : str, default="sgd"
        "sgd", "momentum" (the same), "nesterov" (the same with ``nesterov=True``), "rmsprop",
        "adam", "adamw", "adagrad", "adadelta" or "nadam". Parameters that learnt in the phase
        before, with the same one, keep its state; the others start with a clean one.
    lr : float, default=None
        Learning rate. None is 0.01 for "sgd" and "adagrad", 1 for "adadelta", else 0.001.
    momentum : float, default=0.9
        Of "sgd" and "rmsprop". The "one_cycle" schedule moves it by 0.05, against the rate.
    nesterov : bool, default=False
        Whether the momentum of "sgd" is Nesterov's.
    weight_decay : float, default=0.0
        Of the optimizer.
    schedule : {"step", "cosine", "one_cycle", "plateau"}, dict or None, default=None
        Course of the learning rate: times `gamma` every `step_size` epochs; down to 0 along half
        a cosine; up to `lr` and down again, batch by batch (one cycle, whose lowest rate lies
        behind the last batch); times `gamma` whenever the validation loss, or without validation
        the training loss, has not fallen for `step_size` epochs; a table of epoch, from 0 on, and
        rate such as ``{0: 0.004, 25: 0.001}``; or constant.
    step_size : int, default=10
        Epochs, for "step" and "plateau".
    gamma : float, default=0.1
        Factor, for "step" and "plateau".
    lr_decay : float, default=1.0
        Factor of the learning rate from one stage to the stage before it: smaller than 1, early
        stages learn more slowly (layer-wise learning rate decay).
    clip_norm : float, default=None
        Gradients with a larger norm are scaled down to it.
    batch_norm : {"auto", "train", "frozen"}, default="auto"
        Whether batch normalisation in the network uses, and learns, the statistics of the batch.
        "auto" is "frozen" for pretrained weights, whose statistics are better than those of a
        small data set, and "train" for random ones. The head's is always "train".
    augment : bool, default=True
        Whether pictures are augmented and mixed in this phase, if the classifier does so at all.
        Without, what is frozen is computed once.

    Examples
    --------
    >>> from sktl import Phase
    >>> Phase(train="last:1", epochs=5, lr=0.001)
    Phase(epochs=5, lr=0.001, train='last:1')
    """

    def __init__(
        self,
        train: str | Sequence[str] = "all",
        epochs: int = 10,
        *,
        optimizer: str = "sgd",
        lr: float | None = None,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        schedule: str | Mapping[int, float] | None = None,
        step_size: int = 10,
        gamma: float = 0.1,
        lr_decay: float = 1.0,
        clip_norm: float | None = None,
        batch_norm: str = "auto",
        augment: bool = True,
    ) -> None:
        self.train = train
        self.epochs = epochs
        self.optimizer = optimizer
        self.lr = lr
        self.momentum = momentum
        self.nesterov = nesterov
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.step_size = step_size
        self.gamma = gamma
        self.lr_decay = lr_decay
        self.clip_norm = clip_norm
        self.batch_norm = batch_norm
        self.augment = augment

    @property
    def base_lr(self) -> float:
        """The learning rate that the phase begins with, or that a cycle rises to."""
        if isinstance(self.schedule, Mapping) and 0 in self.schedule:
            return float(self.schedule[0])
        return OPTIMIZERS[self.optimizer][1] if self.lr is None else self.lr

    @property
    def _is_nesterov(self) -> bool:
        named = self.optimizer == "nesterov"
        return named or (bool(self.nesterov) and self.optimizer in ("sgd", "momentum"))

    def check(self, checks: ParameterChecks, name: str) -> None:
        """Note what is wrong with the parameters, under the name of the phase.

        Parameters
        ----------
        checks : ParameterChecks
            Where to.
        name : str
            Of the phase.
        """

        def number(parameter: str, **limits: Any) -> None:
            limits = {"most": _MOST, **limits}
            checks.number(f"{name}__{parameter}", getattr(self, parameter), **limits)

        train: Any = self.train
        if isinstance(train, str):
            named = train in ("head", "conv", "fc", "all")
            fine = named or bool(re.fullmatch("last:0*[1-9][0-9]*", train))
        else:
            several = isinstance(train, Sequence) and len(train) > 0
            fine = several and all(isinstance(path, str) for path in train)
        checks.that(
            f"{name}__train",
            train,
            fine,
            '"head", "last:k" with a number k, "conv", "fc", "all" or a list of module paths',
        )
        checks.truth(f"{name}__augment", self.augment)
        checks.truth(f"{name}__nesterov", self.nesterov)
        checks.integer(f"{name}__epochs", self.epochs, minimum=1)
        checks.choice(f"{name}__optimizer", self.optimizer, tuple(OPTIMIZERS))
        checks.choice(f"{name}__batch_norm", self.batch_norm, ("auto", "train", "frozen"))
        if self.lr is not None:
            number("lr", above=0)
        number(
            "momentum",
            above=0 if self._is_nesterov else None,
            below=1 if self.optimizer in _WITH_MOMENTUM else math.inf,
        )
        number("weight_decay")
        if isinstance(self.schedule, str) and self.schedule == "plateau":
            number("gamma", above=0, below=1, when='with schedule="plateau"')
        else:
            number("gamma", above=0)
        number("lr_decay", above=0)
        if self.clip_norm is not None:
            number("clip_norm", above=0)
        checks.integer(f"{name}__step_size", self.step_size, minimum=1)
        schedule: Any = self.schedule
        if isinstance(schedule, Mapping):
            checks.that(
                f"{name}__schedule",
                schedule,
                len(schedule) > 0
                and all(
                    isinstance(epoch, numbers.Integral) and int(epoch) >= 0 for epoch in schedule
                )
                and all(
                    isinstance(lr, numbers.Real) and 0 < float(lr) <= _MOST
                    for lr in schedule.values()
                ),
                f"a table {{epoch, from 0: learning rate above 0, to {_MOST:g}}}",
            )
        elif self.schedule is not None:
            rule = f"one of {_SCHEDULES}, a table {{epoch: learning rate}} or None"
            fine = isinstance(schedule, str) and schedule in _SCHEDULES
            checks.that(f"{name}__schedule", schedule, fine, rule)

    def make_optimizer(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer, for groups of parameters.

        Parameters
        ----------
        groups : sequence of dicts
            Each has "params" and "scale", the factor of its learning rate.

        Returns
        -------
        optimizer : torch.optim.Optimizer
        """
        make, _ = OPTIMIZERS[self.optimizer]
        options: dict[str, Any] = {"weight_decay": self.weight_decay}
        if self.optimizer in _WITH_MOMENTUM:
            options["momentum"] = self.momentum
        if self._is_nesterov:
            options["nesterov"] = True
        scaled = [
            {"params": group["params"], "lr": self.base_lr * group["scale"]} for group in groups
        ]
        return make(scaled, lr=self.base_lr, **options)

    def make_schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> Schedule:
        """The course of the learning rate.

        Parameters
        ----------
        optimizer : torch.optim.Optimizer
            Whose rates it sets.
        steps : int
            Batches an epoch.

        Returns
        -------
        schedule : Schedule
        """
        return Schedule(self, optimizer, steps)


def carry_over(old: torch.optim.Optimizer | None, new: torch.optim.Optimizer) -> None:
    """Hand on the state of parameters that both optimizers have, if they are of one kind.

    Momentum does not outlive a phase without it, and RMSprop only makes room for it at the start.
    """
    if type(old) is not type(new) or old is None:
        return
    for group in new.param_groups:
        for parameter in group["params"]:
            if parameter not in old.state:
                continue
            new.state[parameter] = state = dict(old.state[parameter])
            if not group.get("momentum", True):
                state.pop("momentum_buffer", None)
            elif isinstance(new, torch.optim.RMSprop):
                state.setdefault("momentum_buffer", torch.zeros_like(parameter))


class Schedule:
    """Sets the learning rates of an optimizer, batch by batch and epoch by epoch.

    Parameters
    ----------
    phase : Phase
        Says how.
    optimizer : torch.optim.Optimizer
        Whose rates are set.
    steps : int
        Batches an epoch.
    """

    def __init__(self, phase: Phase, optimizer: torch.optim.Optimizer, steps: int) -> None:
        from torch.optim import lr_scheduler

        self.by_batch = phase.schedule == "one_cycle"
        self.by_loss = phase.schedule == "plateau"
        self.torch: Any = None
        if phase.schedule == "step":
            self.torch = lr_scheduler.StepLR(optimizer, phase.step_size, phase.gamma)
        elif phase.schedule == "cosine":
            self.torch = lr_scheduler.CosineAnnealingLR(optimizer, phase.epochs)
        elif phase.schedule == "one_cycle":
            momentum = phase.momentum if "momentum" in optimizer.defaults else 0.0
            span = min(_MOMENTUM_SPAN, momentum, (1 - momentum) / 2)
            self.torch = lr_scheduler.OneCycleLR(
                optimizer,
                [group["lr"] for group in optimizer.param_groups],
                total_steps=max(2, phase.epochs * steps + 1),
                cycle_momentum=span > 0,
                base_momentum=momentum - span,
                max_momentum=momentum + span,
            )
        elif self.by_loss:
            self.torch = lr_scheduler.ReduceLROnPlateau(
                # One epoch more would pass if it were `step_size`.
                optimizer,
                factor=phase.gamma,
                patience=phase.step_size - 1,
                threshold=0.0,
                eps=0.0,
            )
        elif isinstance(phase.schedule, Mapping):
            self.torch = lr_scheduler.LambdaLR(optimizer, _Table(phase.schedule, phase.base_lr))

    def after_batch(self) -> None:
        """Go on by one batch."""
        if self.by_batch:
            self.torch.step()

    def after_epoch(self, loss: float) -> None:
        """Go on by one epoch, which had this validation loss."""
        if self.by_loss:
            self.torch.step(loss)
        elif self.torch is not None and not self.by_batch:
            self.torch.step()

    def forget(self) -> None:
        """Compare no loss to come with those so far."""
        if self.by_loss:
            self.torch.best = math.inf

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on."""
        if self.torch is None or isinstance(self.torch, torch.optim.lr_scheduler.LambdaLR):
            return {} if self.torch is None else {"last_epoch": self.torch.last_epoch}
        return dict(self.torch.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        if self.torch is not None:
            self.torch.load_state_dict({**self.torch.state_dict(), **state})


class _Table:
    """Factor of the first learning rate at an epoch."""

    def __init__(self, table: Mapping[int, float], base: float) -> None:
        self.table, self.base = dict(sorted(table.items())), base

    def __call__(self, epoch: int) -> float:
        past = [lr for start, lr in self.table.items() if start <= epoch]
        return (past[-1] if past else self.base) / self.base
