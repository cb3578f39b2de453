"""
How far the faster modes are from the exact one.

For each precision and runtime: relative L2 distance of the features of a picture to those of
``precision="exact"``, the median and the largest, and how many first guesses of the network's own
head change::

    python benchmarks/precision.py path/to/folder
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

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

    exact = features("exact", "torch")
    records = []
    for precision, runtime in MODES:
        rows = features(precision, runtime)
        distance = np.linalg.norm(rows - exact, axis=1) / np.linalg.norm(exact, axis=1)
        flips = int((guesses(rows) != guesses(exact)).sum())
        records.append((precision, runtime, np.median(distance), distance.max(), flips))
    columns = ["precision", "runtime", "median", "largest", "flips"]
    print(f"{BACKBONE}, {len(paths)} pictures")
    print(
        pd.DataFrame(records, columns=columns).to_string(index=False, float_format="{:.1e}".format)
    )


if __name__ == "__main__":
    main()
