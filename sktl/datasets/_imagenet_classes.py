"""The classes of ImageNet-1k: WordNet ids and names, in the order of the class indices."""

from __future__ import annotations

import numbers
import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from sktl.exceptions import ParameterError
from sktl.utils._parameters import suggest

__all__ = ["choose_wnids", "imagenet_classes", "match_classes"]

# The ids are those of the ILSVRC 2012 development kit, and the synonyms those of WordNet 3.0, as
# timm has them in timm/data/_info/imagenet_synsets.txt and imagenet_synset_to_lemma.txt; the names
# are those that torchvision keeps beside its weights (torchvision/models/_meta.py), so that they
# agree with the outputs of the networks.
_TABLE = Path(__file__).with_name("imagenet_classes.tsv")
# The synsets below n02084071, "dog", are neighbours: Chihuahua to Mexican hairless.
_DOGS = slice(151, 269)
_WNID = re.compile(r"n\d{8}")


@cache
def _table() -> list[tuple[str, str, list[str]]]:
    """WordNet id, name and synonyms of the 1,000 classes."""
    lines = _TABLE.read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines)
    return [(wnid, name, synonyms.split(", ") if synonyms else []) for wnid, name, synonyms in rows]


@cache
def imagenet_classes() -> dict[str, str]:
    """WordNet id -> name, of the 1,000 classes in the order of their indices."""
    return {wnid: name for wnid, name, _ in _table()}


def choose_wnids(classes: str | Iterable[str] | None) -> list[str]:
    """The ids of all classes (None), of the dogs ("dogs"), or of the names and ids listed."""
    wnids = list(imagenet_classes())
    if classes is None:
        return wnids
    if isinstance(classes, str):
        if classes != "dogs":
            raise ParameterError(
                f'classes must be None, "dogs" or a list of names or WordNet ids; got {classes!r}'
            )
        return wnids[_DOGS]
    wanted = list(classes)
    if not wanted:
        raise ParameterError("classes is empty; None is for all of them")
    chosen = set(match_classes(wanted).values())
    return [wnid for wnid in wnids if wnid in chosen]


def match_classes(
    labels: Iterable[Any],
    label_map: Mapping[Any, Any] | None = None,
    *,
    among: Collection[str] | None = None,
) -> dict[Any, str]:
    """The WordNet id that each label means.

    Parameters
    ----------
    labels : iterable of str, or of what `label_map` has
        Names, synonyms, or WordNet ids, behind which a name may follow.
    label_map : dict, default=None
        Label -> name, id or index of the class.
    among : collection of str, default=None
        Ids of the classes that come into question where a name is that of several.

    Returns
    -------
    matched : dict of label -> str

    Raises
    ------
    ParameterError
        If labels match no class, or several; all of them are listed.
    """
    wnids = list(imagenet_classes())
    labels = list(labels)
    texts = {label for label in labels if isinstance(label, str)}
    matched: dict[Any, str] = {}
    problems = []
    for label in labels:
        meant = label if label_map is None else label_map.get(label, label)
        is_mapped = label_map is not None and label in label_map
        is_number = isinstance(meant, numbers.Integral) and not isinstance(meant, bool)
        if is_mapped and is_number and 0 <= int(meant) < len(wnids):
            found = [wnids[int(meant)]]
        elif isinstance(meant, str):
            found = _found(meant, among, texts)
        else:
            what = (
                "is mapped to no index from 0 to 999"
                if is_mapped and is_number
                else ("is neither a name nor a WordNet id; say what such labels mean in label_map")
            )
            problems.append(f"{label!r} {what}")
            continue
        if len(found) == 1:
            matched[label] = found[0]
        elif found:
            several = ", ".join(f"{wnid} ({imagenet_classes()[wnid]})" for wnid in found)
            problems.append(
                f"{meant!r} is a name of several classes: {several}, in brackets as predictions "
                "spell them; use an id, say in label_map which is meant, or name the subset that "
                "it is of in classes"
            )
        else:
            what = f"{meant!r}, to which label_map sends {label!r}," if is_mapped else repr(label)
            problems.append(f"{what} is none.{suggest(_plain(meant), _suggestions())}")
    if problems:
        shown = "\n  ".join(problems[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ParameterError(
            f"{len(problems)} labels cannot be matched to classes of ImageNet:\n  {shown}{more}"
        )
    return matched


def _found(label: str, among: Collection[str] | None, others: Collection[str]) -> list[str]:
    """Ids of the classes that a text may mean.

    Networks' own names are told apart by their spelling ("Cardigan" is a dog, "cardigan" a
    garment) only where the other labels spell out all that are alike.
    """
    id_in_front = _WNID.match(label)
    if id_in_front:
        return [id_in_front[0]] if id_in_front[0] in imagenet_classes() else []
    found = _names().get(_plain(label), [])
    if among is not None:
        found = [wnid for wnid in found if wnid in among] or found
    names = [imagenet_classes()[wnid] for wnid in found]
    if len(found) > 1 and set(names) <= {other.replace("_", " ") for other in others}:
        return [wnid for wnid in found if imagenet_classes()[wnid] == label.replace("_", " ")]
    return found


@cache
def _names() -> dict[str, list[str]]:
    """Ids by name or synonym, without regard to case and hyphens."""
    found: dict[str, list[str]] = {}
    for wnid, name, synonyms in _table():
        for text in {_plain(text): None for text in (name, *synonyms)}:
            found.setdefault(text, []).append(wnid)
    return found


@cache
def _suggestions() -> tuple[str, ...]:
    return tuple(_names())


def _plain(name: str) -> str:
    # Data sets and file names write underscores and hyphens for spaces.
    return re.sub(r"[\s_-]+", " ", str(name)).strip().casefold()
