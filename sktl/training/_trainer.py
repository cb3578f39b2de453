"""Training, phase by phase."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from tqdm.auto import tqdm

from sktl.backbones import Preprocessing
from sktl.engine import Network, Recipe, compute_features
from sktl.exceptions import DivergenceError, ImageDecodeError
from sktl.images import ImageCollection
from sktl.training._augmentation import Augmentation
from sktl.training._checkpoint import Checkpoint
from sktl.training._data import Activations, Batches, Pixels, fill_together, fits_on_disk
from sktl.training._net import BatchWork, Parts, StopPhase, TransferSkorchNet
from sktl.training._network import Cut, TransferNet
from sktl.training._phase import Phase, Schedule
from sktl.training._stopping import Patience, PrecheltUP
from sktl.training._team import Team

__all__ = ["Labelled", "Settings", "Trainer", "remember"]

# With mixing, at most this many training pictures are looked at unmixed after an epoch.
_MOST_LOOKED_AT = 1000
# What skorch records for itself.
_NOT_SHOWN = {
    "batches",
    "dur",
    *(f"{part}_{what}" for part in ("train", "valid") for what in ("batch_count", "loss_best")),
}
# How much larger pictures are made for random crops where the weights say nothing of a border:
# 256 for 224, the usual ratio.
_WITH_BORDER = 8 / 7
# Pictures on which a cut of the network is tried.
_N_TRIED = 2


@dataclass(frozen=True)
class Labelled:
    """Pictures with labels.

    Attributes
    ----------
    images : ImageCollection of length n
    labels : ndarray of shape (n,), int64
        Numbers of the classes.
    weights : ndarray of shape (n,), float32, or None
    positions : ndarray of shape (n,), int, or None
        Which pictures of those that the user gave; None for all.
    n_all : int or None
        How many those are.
    """

    images: ImageCollection
    labels: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32] | None = None
    positions: npt.NDArray[np.intp] | None = None
    n_all: int | None = None

    def number(self, i: int) -> int:
        """Position of a picture among those that the user gave."""
        return i if self.positions is None else int(self.positions[i])

    def pixels(self, preprocessing: Preprocessing, n_threads: int, cache_bytes: int) -> Pixels:
        """The pictures as a network sees them."""
        return Pixels(
            self.images,
            preprocessing,
            n_threads,
            cache_bytes,
            number=self.number,
            n_all=self.n_all,
        )


@dataclass(frozen=True)
class Settings:
    """How a network is trained, whatever the phase; as the parameters of `CNNClassifier`."""

    batch_size: int = 32
    augmentation: Augmentation | None = None
    augment_copies: int | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_off_epoch: int | None = None
    label_smoothing: float = 0.0
    l1: float = 0.0
    l2: float = 0.0
    stopping: Patience | PrecheltUP | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    bf16: bool = False
    n_threads: int = 1
    image_size: int | None = None
    cache_bytes: int = 8_000_000_000
    top_k: int = 5
    seed: int = 0
    progress: bool = False
    team: Team = field(default_factory=Team)


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
        self.net, self.preprocessing, self.settings = net, preprocessing, settings
        self.train, self.valid = train, valid
        self.stored, self.is_pretrained, self.checkpoint = stored, is_pretrained, checkpoint
        module: Any = net.module_
        self.module: TransferNet = getattr(module, "_orig_mod", module)
        self.n_classes = int(self.module.head[-1].out_features)
        mean, std = (
            torch.tensor(values, device=settings.device).view(3, 1, 1) * 255
            for values in (preprocessing.mean, preprocessing.std)
        )
        self.work = net.work = BatchWork(mean, std, preprocessing.size)
        for name in ("label_smoothing", "l1", "l2", "top_k"):
            setattr(self.work, name, getattr(settings, name))
        self.work.autocast, self.work.n_classes = settings.bf16, self.n_classes
        self.team = net.team = settings.team
        self.best: dict[str, Any] | None = None
        self._has_learnt = has_learnt
        self._pixels: dict[tuple[str, int], Pixels] = {}
        for part, decoded in zip(("train", "valid"), pixels, strict=False):
            self._pixels[part, preprocessing.size] = decoded

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
            _private_randomness(self.settings),
            tqdm(total=total, unit="epoch", disable=not self.settings.progress) as bar,
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
        train, valid = self._begin_phase(phase)
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
            is_last = not self._epoch(number, name, epoch, train, valid, schedule)
            is_last = is_last or epoch == limit - 1
            bar.update()
            bar.set_postfix(_shown(net.history[-1]))
            if self.checkpoint is not None and self.team.is_first:
                self.checkpoint.write(self._state(number, epoch + 1, is_last, schedule))
            if is_last:
                bar.total -= limit - 1 - epoch
                break
        net.notify("on_train_end", X=parts, y=None)

    def _begin_phase(self, phase: Phase) -> tuple[Pixels | Activations, Any]:
        """Freeze, find the data of the training and validation part, and make the optimizer."""
        self.module.cut = None
        self.module.zero_grad()  # also of what learns no longer, which clipping would count
        self.module.begin(phase, is_pretrained=self.is_pretrained)
        self._begin_work(phase)
        train, valid = self._sources(phase)
        self._note_learning(phase)
        optimizer = phase.make_optimizer(self.module.groups(phase.lr_decay))
        _carry_over(getattr(self.net, "optimizer_", None), optimizer)
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
            Of each batch, up to the first that is not a number or four times the least.
        """
        with _private_randomness(self.settings):
            self._seed(self.settings.seed, 4)
            train, _ = self._begin_phase(phase)
            rates = [group["lr"] for group in self.net.optimizer_.param_groups]
            batches = itertools.chain.from_iterable(
                self._parts(train, None, 0, epoch).train for epoch in itertools.count()
            )
            losses: list[float] = []
            for factor, batch in zip(factors, batches, strict=False):
                for group, rate in zip(self.net.optimizer_.param_groups, rates, strict=True):
                    group["lr"] = float(rate * factor)
                loss = self.net.train_step(batch)["loss"].item()
                if not math.isfinite(loss):
                    break
                losses.append(loss)
                if loss > 4 * min(losses):
                    break
        return losses

    def _epoch(
        self,
        number: int,
        name: str,
        epoch: int,
        train: Pixels | Activations,
        valid: Pixels | Activations | None,
        schedule: Schedule,
    ) -> bool:
        """One pass over the training data and one over the validation data; False to stop."""
        net, work, settings = self.net, self.work, self.settings
        start = time.perf_counter()
        lr = net.optimizer_.param_groups[0]["lr"]
        self._seed(settings.seed, number, epoch)
        if settings.mix_off_epoch is not None and self.n_epochs >= settings.mix_off_epoch:
            work.mixup = work.cutmix = 0.0
        work.right = {}
        parts = self._parts(train, valid, number, epoch, after_batch=schedule.after_batch)
        asked_to_stop = False
        try:
            net.fit_loop(parts, epochs=1)
        except StopPhase:
            asked_to_stop = True
        asked_to_stop = bool(self.team.sum(asked_to_stop))
        record = net.history.record
        row = net.history[-1]
        if asked_to_stop and "train_loss" not in row:  # in the midst of the epoch
            losses = [b["train_loss"] for b in row["batches"] if "train_loss" in b]
            record("train_loss", float(np.mean(losses)) if losses else 0.0)
        self._gather(parts)
        if work.mixes:
            record("train_loss", self._loss_unmixed(train))
        record("phase", name)
        record("epoch_in_phase", epoch + 1)
        record("lr", lr)
        net.record_accuracies()
        record("seconds", time.perf_counter() - start)
        self._check_finite(name, epoch, row)
        schedule.after_epoch(row.get("valid_loss", row.get("train_loss")))
        self._keep_best(number, epoch)
        return not asked_to_stop and not self._should_stop(name)

    def _seed(self, *key: int) -> None:
        """Begin the draws of augmentation, mixing and dropout: each process has its own."""
        own = [*key, 1000 + self.team.index] if self.team.index else [*key]
        self.work.rng = np.random.default_rng([*own, 1])
        torch.manual_seed(int(np.random.default_rng(own).integers(2**62)))

    def _gather(self, parts: Parts) -> None:
        """Make losses and counts those of all processes, which so decide alike."""
        if self.team.size == 1:
            return
        row, right = self.net.history[-1], self.work.right
        for part, batches in zip(("train", "valid"), parts, strict=True):
            if batches is None:
                continue
            n = batches.n_own
            total, n_all = self.team.sum([row.get(f"{part}_loss", 0.0) * n, n])
            self.net.history.record(f"{part}_loss", float(total / n_all))
            counts = self.team.sum(right.get(part, np.zeros(3)))
            if counts[-1]:
                right[part] = counts

    def _parts(
        self,
        train: Pixels | Activations,
        valid: Pixels | Activations | None,
        number: int,
        epoch: int,
        after_batch: Any = None,
    ) -> Parts:
        size, team = self.settings.batch_size, self.team
        rng = np.random.default_rng([self.settings.seed, number, epoch, 2])
        batches = Batches(
            train,
            self.train.labels,
            self.train.weights,
            size,
            rng,
            after_batch=after_batch,
            team=team,
        )
        if valid is None or self.valid is None:
            return Parts(batches, None)
        return Parts(batches, Batches(valid, self.valid.labels, None, 2 * size, team=team))

    def _begin_work(self, phase: Phase) -> None:
        settings, work = self.settings, self.work
        work.augmentation = settings.augmentation if phase.augment else None
        work.mixup = settings.mixup if phase.augment else 0.0
        work.cutmix = settings.cutmix if phase.augment else 0.0
        work.clip_norm = phase.clip_norm

    def _sources(self, phase: Phase) -> tuple[Pixels | Activations, Pixels | Activations | None]:
        """The data of a phase: what is frozen is computed once, wherever pictures stay the same."""
        settings = self.settings
        varies = self.work.augmentation is not None and settings.augment_copies is None
        is_mixed = self.work.mixes
        stays = not varies and not is_mixed
        if stays and self._may_use_store(phase):
            return self._stored_features(self.train), self._stored_features(self.valid)
        self._fill()
        cut = self._cut() if stays else None
        sources = None if cut is None else self._activations(cut)
        if sources is not None:
            self.module.cut = cut
            return sources
        return self._viewed("train"), None if self.valid is None else self._viewed("valid")

    def _may_use_store(self, phase: Phase) -> bool:
        return (
            self.stored is not None
            and not self._has_learnt
            and self.work.augmentation is None
            and not self.module.learning(phase.train)
        )

    def _stored_features(self, part: Labelled | None) -> Any:
        """Features of the untouched trunk, from the feature store."""
        if part is None or self.stored is None:
            return None
        layers, bad = compute_features(
            part.images,
            self.stored,
            Recipe((self.module.layer,), self.module.pooling, self.settings.image_size),
            self.stored.store,
            device=self.settings.device,
            progress=self.settings.progress,
        )
        if bad:
            raise ImageDecodeError(
                [replace(failure, index=part.number(failure.index)) for failure in bad],
                part.n_all or len(part.images),
            )
        self.module.cut = Cut(self.module.trunk, torch.nn.Identity(), layers[0].shape[1:])
        return Activations(layers[0][None])

    def _cut(self) -> Cut | None:
        """Where to cut the network for this phase, if what is handed on can be kept."""
        settings = self.settings
        tried = self._source("train", self.preprocessing).read(
            range(min(_N_TRIED, len(self.train.labels)))
        )
        cut = self.module.find_cut(self.work.normalised(tried.to(settings.device)))
        if cut is None:
            return None
        n = len(self.train.labels) * (settings.augment_copies or 1)
        n += 0 if self.valid is None else len(self.valid.labels)
        return cut if fits_on_disk((n, *cut.shape), 2, settings.cache_bytes) else None

    def _activations(self, cut: Cut) -> tuple[Activations, Activations | None] | None:
        """What the frozen part makes of the pictures; None if its numbers cannot be kept."""
        settings, work = self.settings, self.work
        n_copies = settings.augment_copies if work.augmentation is not None else 1

        def run(x: torch.Tensor, copy: int) -> torch.Tensor:
            x = x.to(settings.device)
            if work.augmentation is not None and copy >= 0:
                x = work.augmentation(x.float(), rng, work.size)
            return cut(work.normalised(x))

        rng = np.random.default_rng([settings.seed, 3])
        try:
            train = Activations.compute(
                self._viewed("train"),
                cut.shape,
                run,
                n_copies=n_copies or 1,
                progress=settings.progress,
            )
            if self.valid is None:
                return train, None
            valid = Activations.compute(
                self._viewed("valid"),
                cut.shape,
                lambda x, _: run(x, -1),
                progress=settings.progress,
            )
        except OverflowError:
            return None
        return train, valid

    def _fill(self) -> None:
        """Decode the pictures."""
        parts = ["train"] if self.valid is None else ["train", "valid"]
        fill_together([self._viewed(part) for part in parts], progress=self.settings.progress)

    def _viewed(self, part: str) -> Pixels:
        """Pictures as they are needed: those to be cut out of at random with a border."""
        preprocessing = self.preprocessing
        augmentation = self.work.augmentation
        if part == "train" and augmentation is not None and augmentation.random_crop:
            size = preprocessing.resize
            if size == preprocessing.size:  # there is none, as in networks made for small pictures
                size = round(size * _WITH_BORDER)
            preprocessing = replace(preprocessing, resize=size, size=size)
        return self._source(part, preprocessing)

    def _source(self, part: str, preprocessing: Preprocessing) -> Pixels:
        key = part, preprocessing.size
        if key not in self._pixels:
            data = self.train if part == "train" else self.valid
            assert data is not None
            self._pixels[key] = data.pixels(
                preprocessing, self.settings.n_threads, self.settings.cache_bytes
            )
        return self._pixels[key]

    def _loss_unmixed(self, train: Pixels | Activations) -> float:
        """Loss of training pictures as they are, in eval mode; counts what is right, too."""
        n = min(_MOST_LOOKED_AT, len(self.train.labels))
        chosen = np.random.default_rng(self.settings.seed).permutation(len(self.train.labels))[:n]
        source = self._source("train", self.preprocessing)
        total = 0.0
        self.work.right.pop("train", None)
        for start in range(0, n, 2 * self.settings.batch_size):
            some = chosen[start : start + 2 * self.settings.batch_size]
            labels = torch.from_numpy(self.train.labels[some])
            loss, _ = self.net.evaluate(({"x": source.read(some)}, labels), "train")
            total += loss.item() * len(some)
        return total / n

    def _check_finite(self, name: str, epoch: int, row: dict[str, Any]) -> None:
        for loss in ("train_loss", "valid_loss"):
            if not math.isfinite(row.get(loss, 0.0)):
                raise DivergenceError(
                    f"{loss} is {row[loss]} in epoch {epoch + 1} of phase {name!r}, with a "
                    f"learning rate of {row['lr']:g}. Pass a smaller lr to the phase, or "
                    "clip_norm=1.0"
                )

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

    def _note_learning(self, phase: Phase) -> None:
        if self.module.learning(phase.train):
            self._has_learnt = True

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors that training may have changed, in copies on the CPU."""
        tensors = self.module.head.state_dict(prefix="head.")
        if self._has_learnt:
            tensors.update(self.module.trunk.state_dict(prefix="trunk."))
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Put tensors of :meth:`state` back."""
        self.module.load_state_dict(state, strict=False)

    def _state(
        self, number: int, epoch: int, is_finished: bool, schedule: Schedule
    ) -> dict[str, Any]:
        rows = [
            {name: _plain(value) for name, value in row.items() if name != "batches"}
            for row in self.net.history
        ]
        return {
            "phase": number,
            "epoch": epoch,
            "is_finished": is_finished,
            "has_learnt": self._has_learnt,
            "tensors": self.state(),
            "optimizer": self.net.optimizer_.state_dict(),
            "schedule": schedule.state_dict(),
            "history": rows,
            "best": self.best,
        }

    def _restore(self, state: dict[str, Any]) -> int:
        """Take over a state; give the number of the phase to go on with."""
        self._has_learnt = state["has_learnt"]
        self.load(state["tensors"])
        self.best = state["best"]
        _record(self.net, state["history"])
        return int(state["phase"])

    def _restore_optimizer(self, phase: Phase, state: dict[str, Any]) -> None:
        """The optimizer of a phase that is over, whose state the next one takes over."""
        self.module.begin(phase, is_pretrained=self.is_pretrained)
        self.net.optimizer_ = phase.make_optimizer(self.module.groups(phase.lr_decay))
        self.net.optimizer_.load_state_dict(state["optimizer"])

    def history(self) -> pd.DataFrame:
        """What was recorded, one row an epoch; what callbacks recorded comes last."""
        frame = pd.DataFrame(
            [{k: v for k, v in row.items() if k not in _NOT_SHOWN} for row in self.net.history]
        )
        k = self.work.top_k
        first = ["phase", "epoch_in_phase", "epoch"]
        first += [
            f"{part}_{what}" for part in ("train", "valid") for what in ("loss", "top1", f"top{k}")
        ]
        first = [name for name in [*first, "lr", "seconds"] if name in frame]
        return frame[[*first, *(name for name in frame if name not in first)]]


def remember(net: TransferSkorchNet, history: pd.DataFrame) -> None:
    """Put what :meth:`Trainer.history` gave back into a new net, which goes on from there.

    Parameters
    ----------
    net : TransferSkorchNet
    history : DataFrame
    """
    rows = history.to_dict("records")
    _record(net, [{str(k): v for k, v in row.items() if not pd.isna(v)} for row in rows])


def _record(net: TransferSkorchNet, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        net.history.new_epoch()
        for name, value in row.items():
            net.history.record(name, value)


def _carry_over(old: torch.optim.Optimizer | None, new: torch.optim.Optimizer) -> None:
    """Hand on the state of parameters that both optimizers have, if they are of one kind."""
    if type(old) is not type(new) or old is None:
        return
    for group in new.param_groups:
        for parameter in group["params"]:
            if parameter in old.state:
                new.state[parameter] = old.state[parameter]


def _plain(value: Any) -> Any:
    """What a callback recorded, as what is read back without unpickling code."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    is_safe = isinstance(value, (bool, int, float, str, torch.Tensor, type(None)))
    return value if is_safe else str(value)


def _shown(row: dict[str, Any]) -> dict[str, str]:
    names = ("phase", "train_loss", "valid_loss", "valid_top1")
    return {
        name: value if isinstance(value, str) else f"{value:.3f}"
        for name, value in ((name, row.get(name)) for name in names)
        if value is not None
    }


@contextlib.contextmanager
def _private_randomness(settings: Settings) -> Iterator[None]:
    """Put torch's generators back at the end."""
    devices = [settings.device] if settings.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
