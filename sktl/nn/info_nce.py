"""InfoNCE: telling what follows from what does not."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812

__all__ = ["Contrast", "info_nce"]


# Of cosines, in float32.
_ROUNDING = 1e-6


class Contrast(NamedTuple):
    """What came of one contrastive task.

    Attributes
    ----------
    loss : Tensor of shape ()
        InfoNCE, in nats.
    accuracy : Tensor of shape ()
        Share of the predictions that score their own target highest; where n targets share the
        highest score, each has 1/n of it.
    n_candidates : int
        Targets that each prediction chooses from, its own among them. Chance is 1 in so many, and
        ``log(n_candidates) - loss`` is a lower bound of the mutual information, in nats.
    """

    loss: torch.Tensor
    accuracy: torch.Tensor
    n_candidates: int


def info_nce(
    predictions: torch.Tensor,
    targets: torch.Tensor,
    *,
    temperature: float = 0.1,
    n_negatives: int | None = None,
    generator: torch.Generator | None = None,
) -> Contrast:
    """Cross entropy of choosing, for each prediction, its own target among those of others.

    Scores are cosines divided by the temperature, in float32 under autocast as well: of two that
    bfloat16 rounds to one, it could not tell which is higher.

    Parameters
    ----------
    predictions : Tensor of shape (N, D)
        Predictions.
    targets : Tensor of shape (N, D)
        What each of them should predict; the others' targets are its negatives.
    temperature : float, default=0.1
        Smaller is more sure.
    n_negatives : int, default=None
        Negatives for each prediction, the same for all but for their own target; all by default.
    generator : torch.Generator, default=None
        Chooses the negatives.

    Returns
    -------
    contrast : Contrast

    References
    ----------
    A. van den Oord, Y. Li, O. Vinyals, "Representation Learning with Contrastive Predictive
    Coding", arXiv:1807.03748, equations 4 and 5.

    Examples
    --------
    >>> import torch
    >>> from sktl.nn import info_nce
    >>> z = torch.eye(4)
    >>> info_nce(z, z, temperature=0.01).accuracy
    tensor(1.)
    """
    with torch.autocast(predictions.device.type, enabled=False):
        predictions, targets = map(_at_least_float32, (predictions, targets))
        return _info_nce(predictions, targets, temperature, n_negatives, generator)


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _info_nce(
    predictions: torch.Tensor,
    targets: torch.Tensor,
    temperature: float,
    n_negatives: int | None,
    generator: torch.Generator | None,
) -> Contrast:
    n = len(predictions)
    predictions, targets = F.normalize(predictions, dim=1), F.normalize(targets, dim=1)
    if n_negatives is None or n_negatives >= n - 1:
        logits = predictions @ targets.T / temperature  # (N, N)
        own = torch.arange(n, device=logits.device)
    else:
        # One more than asked for: a prediction whose own target is drawn does without it.
        drawn = torch.randperm(n, generator=generator)[: n_negatives + 1].to(targets.device)
        others = predictions @ targets[drawn].T / temperature  # (N, n_negatives + 1)
        is_own = drawn == torch.arange(n, device=drawn.device)[:, None]
        spare = torch.zeros_like(is_own)
        spare[:, -1] = ~is_own.any(1)
        others = others.masked_fill(is_own | spare, -torch.inf)
        right = (predictions * targets).sum(1, keepdim=True) / temperature
        logits = torch.cat([right, others], dim=1)
        own = torch.zeros(n, dtype=torch.long, device=logits.device)
    # Equal patches have equal scores, but for rounding.
    lead = logits - logits.gather(1, own[:, None])
    is_highest = (lead <= _ROUNDING / temperature).all(1)
    n_equal = (lead.abs() <= _ROUNDING / temperature).sum(1)
    accuracy = (is_highest / n_equal).mean()
    n_candidates = n if n_negatives is None else min(n, n_negatives + 1)
    return Contrast(F.cross_entropy(logits, own), accuracy.detach(), n_candidates)
