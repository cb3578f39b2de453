"""Where the data of a phase come from: nothing frozen runs twice, wherever that can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sktl.backbones import Preprocessing
from sktl.engine import Network, Recipe, compute_features
from sktl.exceptions import ImageDecodeError
from sktl.training._data import Activations, NoRoomError, Pixels, fill_together, fits_on_disk
from sktl.training._net import BatchWork
from sktl.training._network import Cut, TransferNet
from sktl.training._phase import Phase
from sktl.training._settings import Labelled, Settings
from sktl.utils._devices import in_parts

__all__ = ["Source", "Sources"]

Source = Pixels | Activations

# How much larger pictures are made for random crops where the weights say nothing of a border:
# 256 for 224, the usual ratio.
_WITH_BORDER = 8 / 7
# Pictures on which a cut of the network is tried.
_N_TRIED = 2


class Sources:
    """Data of the training and the validation part, for one phase after the other.

    Parameters
    ----------
    module : TransferNet
        The network, which is cut where its frozen part ends.
    work : BatchWork
        What is done to each batch in the phase.
    preprocessing : Preprocessing
        What the network sees.
    train, valid : Labelled
        The pictures; `valid` may be None.
    settings : Settings
    stored : Network or None
        The backbone as it is in the feature store.
    pixels : sequence of Pixels
        The training pictures and those for validation, where they have been decoded already.
    """

    def __init__(
        self,
        module: TransferNet,
        work: BatchWork,
        preprocessing: Preprocessing,
        train: Labelled,
        valid: Labelled | None,
        settings: Settings,
        *,
        stored: Network | None = None,
        pixels: Sequence[Pixels] = (),
    ) -> None:
        self.module, self.work, self.preprocessing = module, work, preprocessing
        self.train, self.valid = train, valid
        self.settings, self.stored = settings, stored
        self._pixels: dict[tuple[str, int], Pixels] = {}
        self._looked_at: Pixels | None = None
        for part, decoded in zip(("train", "valid"), pixels, strict=False):
            self._pixels[part, preprocessing.size] = decoded

    def of(self, phase: Phase, *, has_learnt: bool) -> tuple[Source, Source | None]:
        """The data of a phase: what is frozen is computed once, wherever pictures stay the same.

        Parameters
        ----------
        phase : Phase
            For which `work` has been made ready.
        has_learnt : bool
            Whether the trunk differs from what is in the feature store.

        Returns
        -------
        train, valid : Pixels or Activations
            `valid` is None if there are no validation pictures.
        """
        settings = self.settings
        varies = self.work.augmentation is not None and settings.augment_copies is None
        is_mixed = self.work.mixes
        stays = not varies and not is_mixed
        if stays and not has_learnt and self._is_stored(phase):
            return self._stored_features(self.train), self._stored_features(self.valid)
        self._fill()
        cut = self._cut() if stays else None
        sources = None if cut is None else self._activations(cut)
        if sources is not None:
            self.module.cut = cut
            return sources
        return self._viewed("train"), None if self.valid is None else self._viewed("valid")

    def as_they_are(self) -> Pixels:
        """The training pictures, not augmented."""
        return self._source("train", self.preprocessing)

    def looked_at(self, chosen: npt.NDArray[np.intp]) -> tuple[Pixels, npt.NDArray[np.intp]]:
        """Some training pictures, always the same, not augmented: where they are kept."""
        whole = self.as_they_are()
        if whole.is_kept:
            return whole, chosen
        if self._looked_at is None:
            settings = self.settings
            self._looked_at = Pixels(
                self.train.images[chosen],
                self.preprocessing,
                settings.n_threads,
                settings.cache_bytes,
                number=lambda i: self.train.number(int(chosen[i])),
                n_all=self.train.n_all or len(self.train.images),
            )
            self._looked_at.fill()
        return self._looked_at, np.arange(len(chosen))

    def _is_stored(self, phase: Phase) -> bool:
        """Whether what is frozen can be had from the feature store."""
        return (
            self.stored is not None
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
            Recipe(
                (self.module.layer,),
                self.module.pooling,
                self.settings.image_size,
                precision=self.settings.precision,
            ),
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
        tried = self.as_they_are().read(range(min(_N_TRIED, len(self.train.labels))))
        cut = self.module.find_cut(self.work.normalised(tried.to(settings.device)))
        if cut is None:
            return None
        n = len(self.train.labels) * (settings.augment_copies or 1)
        n += 0 if self.valid is None else len(self.valid.labels)
        n_bytes = Activations.dtype(cut.shape).itemsize
        return cut if fits_on_disk((n, *cut.shape), n_bytes, settings.cache_bytes) else None

    def _activations(self, cut: Cut) -> tuple[Activations, Activations | None] | None:
        """What the frozen part makes of the pictures; None if its numbers cannot be kept."""
        settings, work = self.settings, self.work
        n_copies = settings.augment_copies if work.augmentation is not None else 1

        def run(x: torch.Tensor, copy: int) -> torch.Tensor:
            x = x.to(settings.device)
            if work.augmentation is not None and copy >= 0:
                x = work.augmentation(x.float(), rng, work.size)
            return in_parts(cut, work.normalised(x))

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
        except (OverflowError, NoRoomError):
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
