"""
How far the faster modes are from the exact one.

For each precision and runtime: relative L2 distance of the features of a picture to those of
``precision="exact"``, the median and the largest, and how many first guesses of the network's own
head change; for pictures in sub-folders of their classes also the accuracy of a logistic regression
in five folds, in per cent::

    python benchmarks/precision.py path/to/folder
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktl import CNNFeatures, load_backbone

BACKBONE = "efficientnet_lite0"
SUFFIXES = {".jpg", ".jpeg", ".png"}
MODES = [
    ("auto", "torch"),
    ("auto", "onnxruntime"),
    ("auto", "openvino"),
    ("bf16", "torch"),
    ("bf16", "openvino"),
]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    weight, bias = (t.detach().numpy() for t in load_backbone(BACKBONE).head.parameters())

    def features(precision, runtime):
        model = CNNFeatures(BACKBONE, precision=precision, runtime=runtime, store=None)
        return model.fit_transform(paths)

    def guesses(rows):
        return (rows @ weight.T + bias).argmax(axis=1)

    labels = [path.parent.name for path in paths]

    def accuracy(rows):
        counts = np.unique(labels, return_counts=True)[1]
        if len(counts) < 2 or counts.min() < 5:
            return np.nan
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        return 100 * cross_val_score(model, rows, labels, cv=folds).mean()

    exact = features("exact", "torch")
    records = []
    for precision, runtime in [("exact", "torch"), *MODES]:
        rows = exact if precision == "exact" else features(precision, runtime)
        distance = np.linalg.norm(rows - exact, axis=1) / np.linalg.norm(exact, axis=1)
        flips = int((guesses(rows) != guesses(exact)).sum())
        distances = [f"{number:.1e}" for number in (np.median(distance), distance.max())]
        records.append((precision, runtime, *distances, flips, round(accuracy(rows), 2)))
    columns = ["precision", "runtime", "median", "largest", "flips", "accuracy"]
    print(f"{BACKBONE}, {len(paths)} pictures")
    print(pd.DataFrame(records, columns=columns).to_string(index=False, na_rep="-"))


if __name__ == "__main__":
    main()
