"""Training, phase by phase."""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sktl.backbones import Preprocessing
from sktl.engine import Network
from sktl.exceptions import DivergenceError
from sktl.training._checkpoint import Checkpoint
from sktl.training._data import Batches, Pixels
from sktl.training._history import as_rows, put_back
from sktl.training._interrupts import interrupts_of
from sktl.training._net import BatchWork, Parts, StopPhase, TransferSkorchNet
from sktl.training._network import TransferNet, put_tensors
from sktl.training._phase import Phase, Schedule, carry_over
from sktl.training._settings import Labelled, Settings
from sktl.training._sources import Source, Sources
from sktl.utils._devices import is_out_of_memory, private_randomness, seed_generators
from sktl.utils._progress import ProgressBar

__all__ = ["Trainer"]

# With mixing, at most this many training pictures are looked at unmixed after an epoch.
_MOST_LOOKED_AT = 1000
# How much a loss counts in the running mean beside the next, and how many a sweep needs to settle.
_FADING, _SETTLED = 0.9, 10


class Trainer:
    """Trains a network on some pictures, one phase after the other.

    Parameters
    ----------
    net : TransferSkorchNet
        Initialised; around a TransferNet.
    preprocessing : Preprocessing
        What the network sees.
    train, valid : Labelled
        The pictures; `valid` may be None.
    settings : Settings
    stored : Network or None
        The backbone as it is in the feature store, for phases that train the head alone on a trunk
        that has not learnt yet.
    is_pretrained : bool
        Whether the trunk had weights to begin with.
    has_learnt : bool
        Whether the trunk has been trained already.
    pixels : sequence of Pixels
        The training pictures and those for validation, where they have been decoded already.
    checkpoint : Checkpoint or None
        Where the state is kept after each epoch.

    Attributes
    ----------
    best : dict or None
        "epoch", "score" and "state" of the epoch with the best validation accuracy; among equals,
        of that with the lowest loss.
    """

    def __init__(
        self,
        net: TransferSkorchNet,
        preprocessing: Preprocessing,
        train: Labelled,
        valid: Labelled | None,
        settings: Settings,
        *,
        stored: Network | None = None,
        is_pretrained: bool = True,
        has_learnt: bool = False,
        pixels: Sequence[Pixels] = (),
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.net, self.settings, self.train, self.valid = net, settings, train, valid
        self.is_pretrained, self.checkpoint = is_pretrained, checkpoint
        module: Any = net.module_
        self.module: TransferNet = getattr(module, "_orig_mod", module)
        self.n_classes = int(self.module.head[-1].out_features)
        mean, std = (
            torch.tensor(values, device=settings.device).view(3, 1, 1) * 255
            for values in (preprocessing.mean, preprocessing.std)
        )
        self.work = net.work = BatchWork(mean, std, preprocessing.size)
        for name in ("label_smoothing", "l1", "l2"):
            setattr(self.work, name, getattr(settings, name))
        self.work.autocast, self.work.n_classes = settings.precision == "bf16", self.n_classes
        self.team = net.team = settings.team
        self.best: dict[str, Any] | None = None
        self._has_learnt = has_learnt
        self.sources = Sources(
            self.module,
            self.work,
            preprocessing,
            train,
            valid,
            settings,
            stored=stored,
            pixels=pixels,
        )

    @property
    def n_epochs(self) -> int:
        """Epochs trained so far, over all phases."""
        return len(self.net.history)

    def run(self, phases: Sequence[tuple[str, Phase]], epochs: Sequence[int] | None = None) -> None:
        """Train all phases, or what is left of them after the last checkpoint.

        Parameters
        ----------
        phases : sequence of (name, Phase)
        epochs : sequence of int, default=None
            How many of its epochs each phase is trained for; all by default.

        Raises
        ------
        DivergenceError
            If the loss becomes NaN or infinite.
        ImageDecodeError
            If some pictures cannot be read.
        """
        limits = [phase.epochs for _, phase in phases] if epochs is None else list(epochs)
        state = self.checkpoint.read() if self.checkpoint else None
        first = 0
        if state is not None:
            first = self._restore(state)
        total = sum(limits)
        with (
            interrupts_of(self.net),
            private_randomness(self.settings.device),
            ProgressBar(total=total, unit="epoch", disable=not self.settings.progress) as bar,
        ):
            bar.update(self.n_epochs)
            for number in range(first, len(phases)):
                done = state["epoch"] if state is not None and number == first else 0
                if state is not None and number == first and state["is_finished"]:
                    self._restore_optimizer(phases[number][1], state)
                    continue
                self._run_phase(number, *phases[number], limits[number], done, state, bar)
        self.module.cut = None
        self.module.eval()

    def _run_phase(
        self,
        number: int,
        name: str,
        phase: Phase,
        limit: int,
        done: int,
        state: dict[str, Any] | None,
        bar: Any,
    ) -> None:
        """One phase: freeze, find the data, train epoch by epoch."""
        if limit == 0:
            return
        net = self.net
        train, valid = self._begin_phase(phase, done)
        parts = self._parts(train, valid, number, 0)
        schedule = phase.make_schedule(net.optimizer_, len(parts.train))
        if done and state is not None:
            net.optimizer_.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
        try:
            net.notify("on_train_begin", X=parts, y=None)
        except StopPhase:
            return
        for epoch in range(done, limit):
            done = epoch + 1
            try:
                is_last = not self._epoch(number, name, epoch, train, valid, schedule)
                bar.update()
                bar.set_postfix(_shown(net.history[-1]))
            except StopPhase:  # before its first batch
                is_last, done = True, epoch
            is_last = is_last or done == limit
            if is_last and done and valid is None:
                self._check_outcome(name, done - 1, train)
            if self.checkpoint is not None and self.team.is_first:
                self.checkpoint.write(self._state(number, done, is_last, schedule))
            if is_last:
                bar.total -= limit - done
                break
        history = net.history
        net.notify("on_train_end", X=parts, y=None)
        net.history = history  # for which skorch's Checkpoint puts that of its best epoch

    def _begin_phase(self, phase: Phase, done: int = 0) -> tuple[Source, Source | None]:
        """Freeze, find the data of the training and validation part, and make the optimizer.

        `done` is how many of its epochs were trained before a checkpoint.
        """
        self.module.cut = None
        self.module.zero_grad()  # also of what learns no longer, which clipping would count
        self.module.begin(phase, is_pretrained=self.is_pretrained)
        self._begin_work(phase, self.n_epochs - done)
        train, valid = self.sources.of(phase, has_learnt=self._has_learnt)
        self._has_learnt = self._has_learnt or bool(self.module.learning(phase.train))
        optimizer = phase.make_optimizer(self.module.groups(phase.lr_decay))
        carry_over(getattr(self.net, "optimizer_", None), optimizer)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]  # for schedulers that go on from an earlier epoch
        self.net.optimizer_ = optimizer
        return train, valid

    def sweep(self, phase: Phase, factors: npt.NDArray[np.float64]) -> list[float]:
        """Train with another learning rate in each batch.

        Parameters
        ----------
        phase : Phase
            What learns.
        factors : ndarray of shape (n,)
            Of the learning rates of the phase.

        Returns
        -------
        losses : list of float
            Of each batch, up to the first that is not a number, or where their running mean is four
            times its least.
        """
        with private_randomness(self.settings.device):
            self._seed(self.settings.seed, 4)
            train, _ = self._begin_phase(phase)
            rates = [group["lr"] for group in self.net.optimizer_.param_groups]
            batches = itertools.chain.from_iterable(
                self._parts(train, None, 0, epoch).train for epoch in itertools.count()
            )
            losses: list[float] = []
            means: list[float] = []
            for factor, batch in zip(factors, batches, strict=False):
                for group, rate in zip(self.net.optimizer_.param_groups, rates, strict=True):
                    group["lr"] = float(rate * factor)
                loss = self.net.train_step(batch)["loss"].item()
                if not math.isfinite(loss):
                    break
                losses.append(loss)
                recent = _FADING ** np.arange(len(losses))[::-1]
                means.append(float(np.average(losses, weights=recent)))
                if len(losses) > _SETTLED and means[-1] > 4 * min(means[_SETTLED:]):
                    break
        return losses

    def _epoch(
        self,
        number: int,
        name: str,
        epoch: int,
        train: Source,
        valid: Source | None,
        schedule: Schedule,
    ) -> bool:
        """One pass over the training data and one over the validation data; False to stop."""
        net, work, settings = self.net, self.work, self.settings
        start = time.perf_counter()
        lr = net.optimizer_.param_groups[0]["lr"]
        self._seed(settings.seed, number, epoch)
        if self._is_past_mixing(self.n_epochs):
            if work.mixes and valid is None and self.n_epochs == settings.mix_off_epoch:
                schedule.forget()  # from here on, the loss is another one
            work.mixup = work.cutmix = 0.0
        work.right = {}
        parts = self._parts(train, valid, number, epoch, after_batch=schedule.after_batch)
        asked_to_stop = bool(self.team.sum(self._fit_loop(parts)))
        record, row = net.history.record, net.history[-1]
        record("phase", name)
        record("epoch_in_phase", epoch + 1)
        record("lr", lr)
        record("seconds", time.perf_counter() - start)
        self._check_finite(name, epoch, row)
        schedule.after_epoch(row.get("valid_loss", row.get("train_loss")))
        self._keep_best(number, epoch)
        return not asked_to_stop and not self._should_stop(name)

    def _fit_loop(self, parts: Parts) -> bool:
        """One pass; whether a callback has asked to stop."""
        net, history = self.net, self.net.history
        net.find_losses = functools.partial(self._losses, parts)
        try:
            net.fit_loop(parts, epochs=1)
        except StopPhase:
            if not any("train_loss" in batch for batch in history[-1]["batches"]):
                history.pop()  # there was no epoch
                raise
            if "train_loss" not in history[-1]:  # in the midst of the epoch
                losses = {f"{part}_loss": self._mean_loss(part) for part in ("train", "valid")}
                losses.update(self._losses(parts))
                if "valid" not in self.work.right:
                    del losses["valid_loss"]
                for which, loss in losses.items():
                    history.record(which, loss)
                net.record_accuracies()
            return True
        except RuntimeError as error:
            if is_out_of_memory(error):
                error.add_note(
                    f"A smaller batch_size than {self.settings.batch_size} needs less memory; so "
                    'does precision="bf16"'
                )
            raise
        finally:
            # The net outlives the data and this trainer.
            for attribute in ("find_losses", "losses"):
                net.__dict__.pop(attribute, None)
        return False

    def _seed(self, *key: int) -> None:
        """Begin the draws of augmentation, mixing and dropout: each process has its own."""
        own = [*key, 1000 + self.team.index] if self.team.index else [*key]
        self.work.rng = np.random.default_rng([*own, 1])
        seed = int(np.random.default_rng(own).integers(2**62))
        seed_generators(seed, self.settings.device)

    def _losses(self, parts: Parts) -> dict[str, float]:
        """Losses of the epoch that are not the mean of its batches; counts what is right, too."""
        losses = {} if self.team.size == 1 else self._gathered(parts)
        if self.work.mixes:
            losses["train_loss"] = self._loss_unmixed()
        return losses

    def _gathered(self, parts: Parts) -> dict[str, float]:
        """Losses of all processes, which so decide alike; makes counts those of all, too."""
        losses, right = {}, self.work.right
        for part, batches in zip(("train", "valid"), parts, strict=True):
            if batches is None:
                continue
            n = batches.n_own
            total, n_all = self.team.sum([self._mean_loss(part) * n, n])
            losses[f"{part}_loss"] = float(total / n_all)
            counts = self.team.sum(right.get(part, np.zeros(3)))
            if counts[-1]:
                right[part] = counts
        return losses

    def _mean_loss(self, part: str) -> float:
        """Of the batches of the epoch so far."""
        batches = [b for b in self.net.history[-1]["batches"] if f"{part}_loss" in b]
        if not batches:
            return 0.0
        sizes = [batch[f"{part}_batch_size"] for batch in batches]
        return float(np.average([batch[f"{part}_loss"] for batch in batches], weights=sizes))

    def _parts(
        self,
        train: Source,
        valid: Source | None,
        number: int,
        epoch: int,
        after_batch: Any = None,
    ) -> Parts:
        size, team = self.settings.batch_size, self.team
        pin = self.settings.device.type == "cuda"
        rng = np.random.default_rng([self.settings.seed, number, epoch, 2])
        batches = Batches(
            train,
            self.train.labels,
            self.train.weights,
            size,
            rng,
            after_batch=after_batch,
            team=team,
            pin=pin,
        )
        if valid is None or self.valid is None:
            return Parts(batches, None)
        return Parts(batches, Batches(valid, self.valid.labels, None, 2 * size, team=team, pin=pin))

    def _begin_work(self, phase: Phase, n_before: int) -> None:
        """What is done in a phase with so many epochs before it."""
        settings, work = self.settings, self.work
        is_mixed = phase.augment and not self._is_past_mixing(n_before)
        work.augmentation = settings.augmentation if phase.augment else None
        work.mixup = settings.mixup if is_mixed else 0.0
        work.cutmix = settings.cutmix if is_mixed else 0.0
        work.clip_norm = phase.clip_norm

    def _is_past_mixing(self, n_epochs: int) -> bool:
        last = self.settings.mix_off_epoch
        return last is not None and n_epochs >= last

    def _loss_unmixed(self) -> float:
        """Loss of training pictures as they are, in eval mode; counts what is right, too."""
        n = min(_MOST_LOOKED_AT, len(self.train.labels))
        chosen = np.random.default_rng(self.settings.seed).permutation(len(self.train.labels))[:n]
        source, places = self.sources.looked_at(chosen)
        total = 0.0
        self.work.right.pop("train", None)
        for start in range(0, n, 2 * self.settings.batch_size):
            some = slice(start, start + 2 * self.settings.batch_size)
            labels = torch.from_numpy(self.train.labels[chosen[some]])
            loss, _ = self.net.evaluate(({"x": source.read(places[some])}, labels), "train")
            total += loss.item() * len(labels)
        return total / n

    def _check_finite(self, name: str, epoch: int, row: dict[str, Any]) -> None:
        for loss in ("train_loss", "valid_loss"):
            if not math.isfinite(row.get(loss, 0.0)):
                raise DivergenceError(
                    f"{loss} is {row[loss]} in epoch {epoch + 1} of phase {name!r}, with a "
                    f"learning rate of {row['lr']:g}. Pass a smaller lr to the phase, or "
                    "clip_norm=1.0"
                )

    def _check_outcome(self, name: str, epoch: int, train: Source) -> None:
        """Whether the last step, which no validation pictures tell of, left numbers."""
        some = np.arange(min(len(self.train.labels), 2 * self.settings.batch_size))
        labels = torch.from_numpy(self.train.labels[some])
        right = dict(self.work.right)
        source = self.sources.as_they_are() if self.module.cut is None else train
        loss, _ = self.net.evaluate(({"x": source.read(some)}, labels), "train")
        self.work.right = right
        row = self.net.history[-1]
        self._check_finite(name, epoch, {"train_loss": loss.item(), "lr": row["lr"]})

    def _keep_best(self, number: int, epoch: int) -> None:
        row = self.net.history[-1]
        if "valid_top1" not in row:
            return
        score = (float(row["valid_top1"]), -float(row["valid_loss"]))
        if self.best is None or score > tuple(self.best["score"]):
            self.best = {
                "phase": number,
                "epoch_in_phase": epoch + 1,
                "epoch": self.n_epochs,
                "score": list(score),
                "state": self.state(),
            }

    def _should_stop(self, name: str) -> bool:
        if self.settings.stopping is None or self.valid is None:
            return False
        rows = [row for row in self.net.history if row.get("phase") == name]
        return self.settings.stopping.stops([row["valid_loss"] for row in rows])

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors that training may have changed, in copies on the CPU."""
        tensors = self.module.head.state_dict(prefix="head.")
        if self._has_learnt:
            tensors.update(self.module.trunk.state_dict(prefix="trunk."))
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Put tensors of :meth:`state` back."""
        put_tensors(self.module, state)

    def _state(
        self, number: int, epoch: int, is_finished: bool, schedule: Schedule
    ) -> dict[str, Any]:
        return {
            "phase": number,
            "epoch": epoch,
            "is_finished": is_finished,
            "has_learnt": self._has_learnt,
            "tensors": self.state(),
            "optimizer": self.net.optimizer_.state_dict(),
            "schedule": schedule.state_dict(),
            "history": as_rows(self.net),
            "best": self.best,
        }

    def _restore(self, state: dict[str, Any]) -> int:
        """Take over a state; give the number of the phase to go on with."""
        self._has_learnt = state["has_learnt"]
        self.load(state["tensors"])
        self.best = state["best"]
        put_back(self.net, state["history"])
        return int(state["phase"])

    def _restore_optimizer(self, phase: Phase, state: dict[str, Any]) -> None:
        """The optimizer of a phase that is over, whose state the next one takes over."""
        self.module.begin(phase, is_pretrained=self.is_pretrained)
        self.net.optimizer_ = phase.make_optimizer(self.module.groups(phase.lr_decay))
        self.net.optimizer_.load_state_dict(state["optimizer"])


def _shown(row: dict[str, Any]) -> dict[str, str]:
    names = ("phase", "train_loss", "valid_loss", "valid_top1")
    return {
        name: value if isinstance(value, str) else f"{value:.3f}"
        for name, value in ((name, row.get(name)) for name in names)
        if value is not None
    }
