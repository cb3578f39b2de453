"""A network that learns, phase by phase, as a classifier."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import joblib
import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from sktl.exceptions import ImageDecodeError, ParameterError
from sktl.images import ImageCollection, ImageEstimatorMixin
from sktl.neural_network._build import has_trunk, logits_of, preprocessing_of
from sktl.neural_network._checks import check_parameters
from sktl.neural_network._fitting import check_without_validation, make_trainer, without_validation
from sktl.neural_network._parts import classes_of, groups_of, sample_weights, split, weighted
from sktl.neural_network._phase_parameters import PhaseParametersMixin
from sktl.neural_network._trained_network import TrainedNetworkMixin
from sktl.training._data import OF_VALIDATION, Pixels, channel_statistics, fill_together
from sktl.training._history import as_frame
from sktl.training._settings import Labelled
from sktl.utils._sklearn import as_before_if_refused, check_sample_weight

if TYPE_CHECKING:
    import torch

    from sktl.backbones import Backbone
    from sktl.engine import FeatureStore
    from sktl.training._augmentation import Augmentation
    from sktl.training._phase import Phase
    from sktl.training._stopping import Patience, PrecheltUP
    from sktl.training._trainer import Trainer

__all__ = ["CNNClassifier"]


class CNNClassifier(
    TrainedNetworkMixin, PhaseParametersMixin, ImageEstimatorMixin, ClassifierMixin, BaseEstimator
):
    """A convolutional network, fine-tuned or trained from scratch, as a classifier of pictures.

    The network's last layer is replaced by a head for the classes of `y`. Training goes in
    phases, each of which says what learns beside the head. What is frozen in a phase is computed
    once for all its epochs, unless pictures are augmented anew each time.

    Parameters
    ----------
    backbone : str, nn.Module, Backbone or fitted estimator, default="efficientnet_lite0"
        The network, as of :class:`sktl.CNNFeatures`; also ``"basic5"``, ``"small3"`` and
        ``"lenet"``, which are small and trained from scratch. It is copied, not changed.
    weights : str, Path or None, default="default"
        As of :class:`sktl.CNNFeatures`. None is training from scratch.
    layer : {"penultimate", "bottleneck"}, default="penultimate"
        Where the head is attached: in place of the network's last linear layer, or behind its
        last feature maps, without any of its own fully connected layers.
    pooling : {"avg", "max", "avgmax", "gem", "flatten"}, default="avg"
        How feature maps become the input of the head, for layers that are maps.
    head : sequence of int, default=()
        Widths of hidden layers between the features and the output.
    dropout : float, default=0.0
        Dropout in the head.
    batch_norm : bool, default=False
        Batch normalisation in the head.
    l1, l2 : float, default=0.0
        Penalties of the head's weights: l1 times the sum of their magnitudes and l2 times that of
        their squares are added to the loss.
    phases : list of (str, Phase), default=None
        What is trained, one after the other. By default the head alone for 30 epochs ("warm_up"),
        then the last two stages with it for 8 epochs of momentum SGD at a low rate, in one cycle
        ("fine_tune");
        from scratch, everything for 40 epochs of Adam in one cycle ("train").
    augment : Augmentation, {"light", "trivial"} or None, default=None
        Random changes of the training pictures.
    augment_copies : int, default=None
        If given, each picture has this many changed copies that stay the same, of which every
        epoch takes one: so what is frozen can be computed once even so. Where nothing is frozen,
        or pictures are mixed, or there is no room for it, changes are drawn anew in each epoch.
    mixup, cutmix : float, default=0.0
        Alpha of Mixup and CutMix; 0 is without. With both, each batch is mixed one way or the
        other. The training loss and accuracy in `history_` are then those of up to 1,000 of the
        training pictures as they are, after the epoch.
    mix_off_epoch : int, default=None
        Number of epochs, counted over all phases, after which pictures are no longer mixed.
    label_smoothing : float, default=0.0
        Share of the label that is spread over all classes in the training loss.
    class_weight : dict, "balanced" or None, default=None
        Weight of each class in the training loss, times that of the picture. The loss of a batch is
        the mean over its pictures, whose weights are 1 on average over all training pictures (but
        in `partial_fit`, which does not know them all).
    normalize : {"auto", "weights", "dataset"}, default="auto"
        Whether pixels are normalised by the mean and deviation that belong to the weights, or by
        those of each channel of the training pictures. "auto" is "dataset" from scratch.
    image_size : int, default=None
        Side of the square that the network sees, in pixels.
    validation : float, splitter, (X, y) or None, default=0.2
        Pictures that training does not see: a share, stratified by class, or of the groups that
        `fit` is given; the first split of a scikit-learn splitter; a pair of pictures and labels;
        or none.
    early_stopping : int, Patience, PrecheltUP or None, default=None
        When a phase ends before its last epoch; an int is how many epochs the validation loss may
        go without falling.
    keep : {"best", "final"}, default="best"
        Which weights are kept: those of the epoch with the best validation accuracy, or the last.
        Without validation they are the last. See :meth:`with_weights`.
    refit : bool, default=False
        Whether to train anew at last, up to the best epoch, on all pictures: those of `X` and
        those of an explicit validation pair, which weigh as much as the others do on average.
    callbacks : list, default=None
        Callbacks of skorch, or pairs of a name and one. A phase is a run for them: they see its
        begin and end. Those that watch what only validation pictures tell have a rest where there
        are none, in refitting and in `partial_fit`. EpochScoring with ``use_caching=False`` gets
        batches and no labels, as skorch has it for data sets of one's own.
    crops : {"center", "ten"}, default="center"
        "ten" averages the logits of the four corners and the centre, each also mirrored. Where a
        picture is resized to just the size that the network sees, as those of the named small
        networks are, the five are the same, and only the mirror image adds to it.
    batch_size : int, default=32
        Pictures a training step. If a last batch of a single picture is left over, it waits for the
        next epoch.
    device : str or torch.device, default="auto"
        "auto" is CUDA where there is one, else the CPU. "accelerate", in a script that is started
        by ``accelerate launch``, is all its GPUs: each process trains on its share of each batch,
        and all of them end with the same network.
    precision : {"auto", "exact", "bf16"}, default="auto"
        "bf16" trains and predicts in mixed precision, and decodes large JPEG pictures for
        predicting at a part of their size. The others train in float32, on maps that are kept in
        16 bits where frozen stages gave them (see `cache_bytes`; 0 keeps none); for predicting see
        :class:`sktl.CNNFeatures`.
    compile : bool, default=False
        Whether training runs what torch.compile makes of the network.
    n_jobs : int, default=None
        Threads that decode training pictures (None: all cores), and shards of predicting.
    store : str, Path, FeatureStore or None, default="default"
        Feature store for phases that train the head alone; see :class:`sktl.CNNFeatures`.
    cache_bytes : int, default=8_000_000_000
        Most that a file in the folder for temporary files (`TMPDIR`) may have while fitting: there
        is one for the decoded pictures, and one for what the frozen part makes of them, of the
        training and of the validation part. What does not fit is computed again in each epoch.
    checkpoint_dir : str or Path, default=None
        Folder where the state is kept after each epoch. The same fit, killed and called again,
        goes on from there; callbacks begin anew, and others make it another fit. The file stays
        there: each candidate and fold of a search leaves one.
    random_state : int, RandomState instance or None, default=None
        Seed of the head, of random weights, and of everything drawn in training. With
        `checkpoint_dir`, and among the processes of "accelerate", None is 0.
    image_shape : tuple of 2 or 3 ints, default=None
        Shape of one picture, for flattened rows only; see :func:`sktl.as_images`.
    value_range : tuple of 2 floats, default=None
        Values of black and white in arrays; see :func:`sktl.as_images`.
    background : str or tuple of 3 ints, default="white"
        Colour behind transparent pixels.
    verbose : int, default=0
        If not 0, a progress bar over the epochs is shown.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels of the classes, sorted.
    net_ : skorch.NeuralNet
        The trained net.
    history_ : DataFrame
        One row an epoch: the phase, loss and accuracy of training and validation, the learning
        rate of the head, and seconds.
    best_epoch_ : int
        Number of the epoch, from 1 and over all phases, with the best validation accuracy; the
        last without validation.
    best_score_ : float
        Its validation accuracy; NaN without validation.
    final_score_ : float
        Validation accuracy after the last epoch, before callbacks put other weights back; NaN
        without validation.
    backbone_ : Backbone
        The trained network, usable as `backbone` of other estimators.
    value_range_ : tuple of 2 floats
        Values of black and white. Only defined for flattened rows.
    n_features_in_ : int
        Number of columns. Only defined when X is a table.
    feature_names_in_ : ndarray of str
        Names of the columns. Only defined when X is a DataFrame with column names.

    Raises
    ------
    DivergenceError
        If the loss becomes NaN or infinite. A search discards the candidate.
    ImageDecodeError
        If some pictures cannot be read; before training starts.
    ParameterError
        If parameters are wrong, or a phase names parts that the network does not have.

    Notes
    -----
    A pickle holds what training changed, not the pretrained weights of a network given by name.
    torch's global random generators are left as they were. Fits at once in several threads of one
    process share them, so that first weights and dropout do not follow `random_state` there; in
    several processes, such as joblib's workers, they do.

    Examples
    --------
    >>> import numpy as np
    >>> from sktl import CNNClassifier, Phase
    >>> dark, light = np.random.default_rng(0).integers(0, 128, (2, 20, 32, 32, 3), dtype=np.uint8)
    >>> X, y = np.concatenate([dark, light + 128]), ["dark"] * 20 + ["light"] * 20
    >>> model = CNNClassifier(
    ...     "lenet", weights=None, phases=[("train", Phase(epochs=10, lr=0.05))], random_state=0
    ... )
    >>> model.fit(X, y).predict(X[[0, 30]])
    array(['dark', 'light'], dtype='<U5')
    >>> model.set_params(phases__train__lr=0.02).phases
    [('train', Phase(lr=0.02))]
    """

    # Groups that a search gets for its folds are those of the validation part too.
    __metadata_request__fit: ClassVar[dict[str, bool]] = {"groups": True}

    def __init__(
        self,
        backbone: str | torch.nn.Module | Backbone = "efficientnet_lite0",
        *,
        weights: str | os.PathLike[str] | None = "default",
        layer: Literal["penultimate", "bottleneck"] = "penultimate",
        pooling: str = "avg",
        head: Sequence[int] = (),
        dropout: float = 0.0,
        batch_norm: bool = False,
        l1: float = 0.0,
        l2: float = 0.0,
        phases: Sequence[tuple[str, Phase]] | None = None,
        augment: Augmentation | str | None = None,
        augment_copies: int | None = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mix_off_epoch: int | None = None,
        label_smoothing: float = 0.0,
        class_weight: Mapping[Any, float] | str | None = None,
        normalize: Literal["auto", "weights", "dataset"] = "auto",
        image_size: int | None = None,
        validation: Any = 0.2,
        early_stopping: int | Patience | PrecheltUP | None = None,
        keep: Literal["best", "final"] = "best",
        refit: bool = False,
        callbacks: Sequence[Any] | None = None,
        crops: Literal["center", "ten"] = "center",
        batch_size: int = 32,
        device: str | torch.device = "auto",
        precision: Literal["auto", "exact", "bf16"] = "auto",
        compile: bool = False,
        n_jobs: int | None = None,
        store: str | os.PathLike[str] | FeatureStore | None = "default",
        cache_bytes: int = 8_000_000_000,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        random_state: int | np.random.RandomState | None = None,
        image_shape: tuple[int, ...] | None = None,
        value_range: tuple[float, float] | None = None,
        background: str | tuple[int, int, int] = "white",
        verbose: int = 0,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.layer = layer
        self.pooling = pooling
        self.head = head
        self.dropout = dropout
        self.batch_norm = batch_norm
        self.l1 = l1
        self.l2 = l2
        self.phases = phases
        self.augment = augment
        self.augment_copies = augment_copies
        self.mixup = mixup
        self.cutmix = cutmix
        self.mix_off_epoch = mix_off_epoch
        self.label_smoothing = label_smoothing
        self.class_weight = class_weight
        self.normalize = normalize
        self.image_size = image_size
        self.validation = validation
        self.early_stopping = early_stopping
        self.keep = keep
        self.refit = refit
        self.callbacks = callbacks
        self.crops = crops
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.compile = compile
        self.n_jobs = n_jobs
        self.store = store
        self.cache_bytes = cache_bytes
        self.checkpoint_dir = checkpoint_dir
        self.random_state = random_state
        self.image_shape = image_shape
        self.value_range = value_range
        self.background = background
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> Self:
        """Train the network.

        Parameters
        ----------
        X : array-like of n_images pictures
            Anything that :func:`sktl.images.as_images` takes.
        y : array-like of shape (n_images,)
            Labels: strings, numbers, truth values or dates.
        sample_weight : array-like of shape (n_images,), default=None
            Weights of the pictures in the training loss.
        groups : array-like of shape (n_images,), default=None
            Pictures that belong together, such as those of one patient: `validation` keeps whole
            groups back.

        Returns
        -------
        self : CNNClassifier
        """
        with as_before_if_refused(self):
            trainer, everything = self._prepare(X, y, sample_weight, groups)
        phases = self._phases()
        with self._all_or_nothing():
            trainer.run(phases)
        self.history_ = as_frame(trainer.net)
        self._note_scores(trainer)
        states = {"final": trainer.state()}
        self._made.has_learnt = has_trunk(states["final"])
        if trainer.best is not None:
            states["best"] = trainer.best["state"]
            if self.refit:
                with self._all_or_nothing():
                    states = {"final": self._refit(everything, trainer, phases)}
                self.__dict__.pop("_made")  # its history is of the second run alone
        self._states = states
        self._load(self.keep)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train one more epoch of the last phase, on these pictures.

        The optimizer's state, such as momentum, is kept from call to call, but not in a pickle.
        Pixels are normalised by the statistics of the first call's pictures, or of the fit's.

        Parameters
        ----------
        X : array-like of n_images pictures
            Anything that :func:`sktl.images.as_images` takes.
        y : array-like of shape (n_images,)
            Labels.
        classes : array-like of shape (n_classes,), default=None
            All labels there will be; needed at the first call only, and by default those of `y`.
        sample_weight : array-like of shape (n_images,), default=None
            Weights of the pictures in the training loss.

        Returns
        -------
        self : CNNClassifier
        """
        check_parameters(self, self._phases())
        if self.class_weight == "balanced":
            raise ParameterError(
                'class_weight must not be "balanced" in partial_fit, which does not know how many '
                "pictures of each class there will be; pass a dict"
            )
        is_first = not self.__sklearn_is_fitted__()
        images = self._read_images(X, reset=is_first)
        if is_first and classes is not None:
            self.classes_ = np.unique(classes)
            if len(self.classes_) < 2:
                raise ValueError(f"classes must be at least 2; got {self.classes_.tolist()}")
        elif classes is not None and not np.array_equal(self.classes_, np.unique(classes)):
            raise ValueError(
                f"classes must be those of the first call, {self.classes_.tolist()}; got "
                f"{np.unique(classes).tolist()}"
            )
        labels = self._read_labels(images, y, reset=is_first and classes is None)
        train = self._labelled(images, labels, sample_weight)
        self._check_pictures(images)
        seed = self._draw_seed()
        if is_first:
            self.__dict__.pop("history_", None)
            self._begin(train, seed)
        past = len(getattr(self, "history_", ()))
        trainer = make_trainer(self, self._built(), train, None, (seed + past) % 2**31)
        trainer.checkpoint = None
        name, phase = self._phases()[-1]
        phase = clone(phase).set_params(epochs=1, lr=phase.base_lr, schedule=None)
        with self._all_or_nothing():
            without_validation(trainer.net)
            trainer.run([(name, phase)])
        self.history_ = as_frame(trainer.net)
        self._note_scores(trainer)
        self._states = {"final": trainer.state()}
        self._load("final")
        return self

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Label of each picture.

        Parameters
        ----------
        X : array-like of n_images pictures
            Anything that :func:`sktl.images.as_images` takes.

        Returns
        -------
        labels : ndarray of shape (n_images,)
        """
        chosen = self._logits(X).argmax(axis=1)
        labels: npt.NDArray[Any] = self.classes_[chosen]
        return labels

    def predict_proba(self, X: Any) -> npt.NDArray[np.float32]:
        """Probability of each class.

        Parameters
        ----------
        X : array-like of n_images pictures
            Anything that :func:`sktl.images.as_images` takes.

        Returns
        -------
        probabilities : ndarray of shape (n_images, n_classes), dtype float32
            In the order of `classes_`.
        """
        probabilities: npt.NDArray[np.float32] = softmax(self._logits(X), axis=1)
        return probabilities

    def _prepare(
        self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None
    ) -> tuple[Trainer, Labelled]:
        """A trainer of a new network on the training part, and all pictures to learn from."""
        check_parameters(self, self._phases())
        images = self._read_images(X, reset=True)
        self._states = {}
        labels = self._read_labels(images, y, reset=True)
        everything = self._labelled(images, labels, sample_weight)
        groups = groups_of(groups, len(images))
        self._check_pictures(images)
        train, valid = self._split(everything, groups)
        train = weighted(train)
        if isinstance(self.validation, tuple) and valid is not None:
            try:
                self._check_pictures(valid.images)
            except ImageDecodeError as error:
                error.add_note(OF_VALIDATION)
                raise
        if isinstance(self.validation, tuple) and valid is not None and self.refit:
            if sample_weight is not None:
                sample_weight = check_sample_weight(sample_weight, labels)
                of_others = np.full(len(valid.labels), sample_weight.mean())
                sample_weight = np.concatenate([sample_weight, of_others])
            everything = self._labelled(
                images.joined(valid.images),
                np.concatenate([labels, valid.labels]),
                sample_weight,
            )
        seed = self._draw_seed()
        pixels = self._begin(train, seed, valid)
        trainer = make_trainer(self, self._built(), train, valid, seed, pixels=pixels)
        if valid is None:
            check_without_validation(trainer.net)
        return trainer, weighted(everything)

    def _read_labels(
        self, images: ImageCollection, y: Any, *, reset: bool
    ) -> npt.NDArray[np.int64]:
        """Numbers of the classes, which are those of `y` itself if `reset`."""
        known = None if reset else self.classes_
        self.classes_, numbers = classes_of(y, len(images), known, type(self).__name__)
        return numbers

    def _labelled(
        self, images: ImageCollection, labels: npt.NDArray[np.int64], sample_weight: Any
    ) -> Labelled:
        weights = sample_weights(labels, self.classes_, self.class_weight, sample_weight)
        return Labelled(images, labels, weights)

    def _split(self, everything: Labelled, groups: Any) -> tuple[Labelled, Labelled | None]:
        """The training and the validation part."""
        if self.validation is None:
            return everything, None
        if isinstance(self.validation, tuple):
            X_valid, y_valid = self.validation
            images = self._as_images(X_valid, getattr(self, "value_range_", self.value_range))
            if len(images) == 0:
                raise ParameterError("validation must have pictures; got a pair with none")
            _, numbers = classes_of(
                y_valid, len(images), self.classes_, type(self).__name__, "the labels of validation"
            )
            return everything, Labelled(images, numbers)
        return split(everything, self.validation, self._random_state(), groups)

    def _check_pictures(self, images: ImageCollection) -> None:
        bad = images.check()
        if bad:
            raise ImageDecodeError(bad, len(images))

    def _random_state(self) -> int | np.random.RandomState | None:
        # Every run of a fit, and every process of a team, must begin alike.
        is_shared = self.checkpoint_dir is not None or self.device == "accelerate"
        return 0 if self.random_state is None and is_shared else self.random_state

    def _draw_seed(self) -> int:
        return int(check_random_state(self._random_state()).randint(2**31))

    def _begin(self, train: Labelled, seed: int, valid: Labelled | None = None) -> list[Pixels]:
        """Make ready for an untrained network; give the decoded pictures if they were needed."""
        self._begin_untrained(seed)
        if self.normalize == "weights" or (self.normalize == "auto" and self.weights is not None):
            return []
        seen = preprocessing_of(self)
        parts = [train] if valid is None else [train, valid]
        pixels = [part.pixels(seen, self._n_threads(), self.cache_bytes) for part in parts]
        fill_together(pixels, progress=bool(self.verbose))
        self._statistics = channel_statistics(pixels[0])
        return pixels

    def _n_threads(self) -> int:
        return int(joblib.effective_n_jobs(-1 if self.n_jobs is None else self.n_jobs))

    def _refit(
        self, everything: Labelled, trainer: Trainer, phases: list[tuple[str, Phase]]
    ) -> Any:
        """Weights after training anew on all pictures, up to the best epoch."""
        best = trainer.best
        assert best is not None
        rows = self.history_["phase"].value_counts()
        phases = [(name, self._as_it_went(name, phase)) for name, phase in phases]
        epochs = [
            int(rows.get(name, 0)) if i < best["phase"]
            else best["epoch_in_phase"] if i == best["phase"]
            else 0
            for i, (name, _) in enumerate(phases)
        ]  # fmt: skip
        seed = trainer.settings.seed
        pixels = self._begin(everything, seed)
        again = make_trainer(
            self,
            self._built(),
            everything,
            None,
            seed,
            pixels=pixels,
            epochs=epochs,
            phases=phases,
        )
        without_validation(again.net)
        again.run(phases, epochs)
        return again.state()

    def _as_it_went(self, name: str, phase: Phase) -> Phase:
        """A phase with the learning rates of its first run, where validation pictures told them."""
        if phase.schedule != "plateau":
            return phase
        rates = self.history_.loc[self.history_["phase"] == name, "lr"]
        table = dict(enumerate(rates.tolist())) or None
        return clone(phase).set_params(schedule=table, lr=phase.base_lr)  # type: ignore[no-any-return]

    def _note_scores(self, trainer: Trainer) -> None:
        last: Any = {} if self.history_.empty else self.history_.iloc[-1]
        self.final_score_ = float(last.get("valid_top1", np.nan))
        best = trainer.best
        self.best_epoch_ = len(self.history_) if best is None else int(best["epoch"])
        self.best_score_ = float("nan") if best is None else float(best["score"][0])

    def _logits(self, X: Any) -> npt.NDArray[np.float32]:
        """(n_images, n_classes)."""
        check_is_fitted(self)
        images = self._read_images(X, reset=False)
        return logits_of(self._as_fitted(), self._built(), images)
