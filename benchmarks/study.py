"""
A cross-validated search, with and without the feature store.

Five folds times the candidates of a grid over C, on the same pictures with the same network, in
one run: the plain pipeline (every fit forwards its pictures), the plain pipeline with
scikit-learn's ``Pipeline(memory=)``, and sktl with an empty and with a full store. Prints seconds,
pictures forwarded and the ratio to the plain way::

    python benchmarks/study.py path/to/folder [--pictures 500] [--candidates 20] [--repeats 3]

The plain way is timed on one candidate and multiplied, unless --all is given: its candidates
differ only in C. At last, one pass over the pictures is timed without a store and with an empty
one, in turns.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from sktl import CNNFeatures, load_backbone, load_image_folder
from sktl.engine import _features

BACKBONE = "efficientnet_lite0"
forwarded = 0


class PlainFeatures(TransformerMixin, BaseEstimator):
    """What people write by hand: the library's transform and network, batches of 32."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        global forwarded
        from timm.data import create_transform, resolve_model_data_config

        network = load_backbone(BACKBONE).module
        transform = create_transform(**resolve_model_data_config(network), is_training=False)
        features = []
        with torch.no_grad():
            for start in range(0, len(X), 32):
                batch = [transform(Image.open(p).convert("RGB")) for p in X[start : start + 32]]
                maps = network.forward_features(torch.stack(batch))
                features.append(network.forward_head(maps, pre_logits=True).numpy())
        forwarded += len(X)
        return np.concatenate(features)

    def __sklearn_is_fitted__(self):
        return True


def count_forwarded():
    extract = _features.extract

    def count(*args, **options):
        global forwarded
        for batch in extract(*args, **options):
            forwarded += len(batch.positions)
            yield batch

    _features.extract = count


def study(features, X, y, candidates, memory=None):
    """Seconds and pictures forwarded of one grid search."""
    global forwarded
    forwarded = 0
    model = Pipeline(
        [("feat", features), ("clf", LogisticRegression(max_iter=100, tol=1e-2))], memory=memory
    )
    grid = {"clf__C": np.logspace(-4, 2, candidates)}
    start = time.perf_counter()
    GridSearchCV(model, grid, cv=5, refit=False).fit(X, y)
    return time.perf_counter() - start, forwarded


def overhead(X, folder, repeats):
    """Share of time, and of processor time, that an empty store adds to one pass."""
    shares = []
    for turn in range(repeats):
        spent = {}
        ways = [("none", None), ("store", Path(folder, f"{turn}.sqlite"))]
        for name, store in ways if turn % 2 else reversed(ways):
            start = np.array([time.perf_counter(), time.process_time()])
            CNNFeatures(BACKBONE, store=store).fit_transform(X)
            spent[name] = np.array([time.perf_counter(), time.process_time()]) - start
        shares.append(spent["store"] / spent["none"] - 1)
    return np.median(shares, axis=0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--all", action="store_true", help="time every candidate of the plain way")
    parser.add_argument("--no-memory", action="store_true", help="without Pipeline(memory=)")
    arguments = parser.parse_args()
    count_forwarded()
    X, y = load_image_folder(arguments.folder, return_X_y=True)
    kept = np.random.default_rng(0).permutation(len(X))[: arguments.pictures]
    X, y = X[kept], y[kept]
    n = arguments.candidates
    load_backbone(BACKBONE)
    records = []
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            if arguments.all:
                seconds, count = study(PlainFeatures(), X, y, n)
            else:
                one = study(PlainFeatures(), X, y, 1)
                seconds, count = one[0] * n, one[1] * n
            records.append(("plain pipeline", seconds, count))
            if not arguments.no_memory:
                records.append(("Pipeline(memory=)", *study(PlainFeatures(), X, y, n, folder)))
            stored = CNNFeatures(BACKBONE, store=Path(folder, "features.sqlite"))
            records.append(("sktl, empty store", *study(stored, X, y, n)))
            records.append(("sktl, full store", *study(stored, X, y, n)))
    frame = pd.DataFrame(records, columns=["way", "seconds", "forwarded"])
    table = frame.groupby("way", sort=False).agg(statistics.median)
    table["times faster"] = table["seconds"].iloc[0] / table["seconds"]
    print(f"{len(X)} pictures, 5 folds x {n} candidates, {BACKBONE}, medians of "
          f"{arguments.repeats} runs")  # fmt: skip
    print(table.round({"seconds": 1, "times faster": 1}).to_string())
    with tempfile.TemporaryDirectory() as folder:
        share, of_processor = overhead(X, folder, 2 * arguments.repeats + 1)
    print(f"an empty store adds {share:.1%} to one pass, {of_processor:.1%} of processor time")


if __name__ == "__main__":
    main()
