"""
What pretraining without labels is worth
========================================

A network learns from all training pictures without labels, by Contrastive Predictive Coding. Then
few labels are uncovered, and the pretrained network is compared with doing without it::

    python examples/label_efficiency.py [FOLDER] [--epochs N] [--fractions 0.01 0.1 1] ...

FOLDER has the four IDX files of FashionMNIST (which are downloaded by default; its own test part
is used), or one sub-folder of pictures a class (of which a quarter is kept back). With --draws N,
labels are uncovered N times, and means are shown. The curve is drawn into
out/label_efficiency.png.
"""

import argparse
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import train_test_split

from sktl import CPCFeatures, load_image_folder
from sktl.datasets import fetch_fashion_mnist
from sktl.model_selection import label_efficiency_curve


class Timed(CPCFeatures):
    """Says how pretraining went."""

    def fit(self, X, y=None):
        super().fit(X)
        columns = ["epoch", "loss", "accuracy", "chance", "mi_bound", "effective_rank"]
        print(self.history_[columns].round(4).to_string(index=False))
        minutes = self.history_["seconds"].sum() / 60
        print(f"pretrained on {len(X)} pictures in {minutes:.1f} min")
        return self


def pictures(folder):
    """Pictures, labels and one fold."""
    if folder is None or any(Path(folder).glob("*idx3-ubyte*")):
        X, y = fetch_fashion_mnist(subset="all", source=folder, return_X_y=True)
        return X, y, [(np.arange(60000), np.arange(60000, 70000))]
    X, y = load_image_folder(folder, return_X_y=True)
    fold = train_test_split(np.arange(len(y)), test_size=0.25, stratify=y, random_state=0)
    return X, y, [fold]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.01, 0.1, 1.0])
    parser.add_argument("--directions", type=int, default=2)
    parser.add_argument("--image-size", type=int, help="in pixels; smaller is faster")
    parser.add_argument("--draws", type=int, default=1, help="how often labels are drawn anew")
    parser.add_argument("--checkpoints", help="folder that a killed run goes on from")
    parser.add_argument("--out", default="out/label_efficiency.png")
    options = parser.parse_args()
    X, y, folds = pictures(options.folder)
    # One fold is pretrained on once: the others go on from the checkpoint of its end.
    temporary = tempfile.TemporaryDirectory()
    encoder = Timed(
        epochs=options.epochs,
        directions=options.directions,
        image_size=options.image_size,
        n_negatives=255,
        pooling="flatten",  # clothes and flowers are framed alike
        checkpoint_dir=options.checkpoints or temporary.name,
        random_state=0,
    )
    curve = label_efficiency_curve(
        encoder,
        X,
        y,
        fractions=options.fractions,
        cv=folds * options.draws,
        fine_tuned="same",
        random_state=0,
    )
    print((100 * curve.summary.drop(columns="n_labels")).round(2).to_string())
    if options.draws > 1:
        spread = curve.table.pivot_table("accuracy", "fraction", "way", aggfunc="std")
        print("standard deviation over the draws", (100 * spread).round(2).to_string(), sep="\n")
    print(curve.verdict)
    curve.plot()
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(options.out, dpi=120)


if __name__ == "__main__":
    main()
