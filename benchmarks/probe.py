"""
Ways to fit a logistic regression on features, at equal objective.

Every way minimises |W|^2 / 2 + C sum log-loss of the same features, so that objectives can be
compared; but for scaled features, which are another problem, with an accuracy of its own. Prints,
for each C: seconds (median of --repeats, the ways taking turns), iterations, how far the objective
is above the smallest that any way found, accuracy on a quarter of the samples put aside, and the
ratio of time to scikit-learn's default. A last way is LogisticProbe with the largest tol, of a few,
at which its objective is still at most that of scikit-learn: equal loss. At last, all C one after
the other, from scratch and from the last solution::

    python benchmarks/probe.py path/to/folder [--C 0.01 0.1 1] [--repeats 3] [--samples 10000]

With a folder the features are those of efficientnet_lite0, with a file (.npz) its X and y; without
either they are made up, clipped at zero like activations. Where more samples are asked for than
there are, features are drawn again with a little noise.
"""

import argparse
import statistics
import time
import warnings

import numpy as np
import pandas as pd
from scipy.special import logsumexp
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from sktl.linear_model import LogisticProbe

BASELINE = "scikit-learn lbfgs, float32"
SCALED = "StandardScaler first"


def features_of_folder(folder):
    from sktl import CNNFeatures, load_image_folder

    images, y = load_image_folder(folder, return_X_y=True)
    return CNNFeatures("efficientnet_lite0").fit_transform(images, y), y


def made_up_features(n_samples, n_features, n_classes):
    X, y = make_classification(
        n_samples,
        n_features,
        n_informative=n_features // 4,
        n_redundant=n_features // 2,
        n_classes=n_classes,
        n_clusters_per_class=1,
        random_state=0,
    )
    scale = np.random.default_rng(0).lognormal(-2, 0.5, n_features)
    return (np.clip(X / X.std(axis=0) + 1, 0, 6) * scale).astype(np.float32), y


def objective(model, X, y, C):
    Z = X.astype(np.float64) @ model.coef_.T + model.intercept_
    if Z.shape[1] == 1:
        Z = np.hstack([np.zeros_like(Z), Z])
    own = Z[np.arange(len(Z)), np.searchsorted(model.classes_, y)]
    penalty = 0.5 * (model.coef_.astype(np.float64) ** 2).sum()
    return penalty + C * (logsumexp(Z, axis=1) - own).sum()


def resampled(X, y, n):
    random = np.random.default_rng(0)
    drawn = random.integers(0, len(X), n - len(X))
    noise = random.normal(0, 0.1, (len(drawn), X.shape[1])) * X.std(axis=0)
    more = (X[drawn] + noise).astype(np.float32)
    return np.concatenate([X, np.maximum(more, 0)]), np.concatenate([y, y[drawn]])


def seconds_of(model, X, y):
    start = time.perf_counter()
    model.fit(X, y)
    return time.perf_counter() - start


def plain(C, **options):
    return LogisticRegression(C=C, max_iter=10_000, **options)


def probe_at_equal_loss(X, y, C, goal):
    for tol in (1e-2, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4, 8e-5, 5e-5, 2e-5, 1e-5):
        probe = LogisticProbe(C=C, tol=tol, max_iter=10_000).fit(X, y)
        if objective(probe, X, y, C) <= goal:
            return probe
    return None


def compare(X, y, C, repeats):
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=0.25, random_state=0, stratify=y
    )
    double = X_train.astype(np.float64)
    scaler = StandardScaler().fit(X_train)
    scaled = scaler.transform(X_train)
    ways = {
        BASELINE: (plain(C), X_train),
        "scikit-learn lbfgs, float64": (plain(C), double),
        "scikit-learn lbfgs, tol=1e-2": (plain(C, tol=1e-2), X_train),
        SCALED: (plain(C), scaled),
        "LogisticProbe, float32": (LogisticProbe(C=C, max_iter=10_000), X_train),
        "LogisticProbe, float64": (LogisticProbe(C=C, max_iter=10_000), double),
    }
    goal = objective(plain(C).fit(X_train, y_train), X_train, y_train, C)
    equal = probe_at_equal_loss(X_train, y_train, C, goal)
    if equal is not None:
        ways[f"LogisticProbe, tol={equal.tol:g}"] = equal, X_train
    times = {name: [] for name in ways}
    for _ in range(repeats):
        for name, (model, features) in ways.items():
            times[name].append(seconds_of(model, features, y_train))
    seconds = {name: statistics.median(some) for name, some in times.items()}
    values = {
        name: objective(model, X_train, y_train, C)
        for name, (model, _) in ways.items()
        if name != SCALED
    }
    best = min(values.values())
    rows = []
    for name, (model, _) in ways.items():
        test = scaler.transform(X_test) if name == SCALED else X_test
        rows.append(
            {
                "way": name,
                "seconds": f"{seconds[name]:.2f}",
                "ratio": f"{seconds[BASELINE] / seconds[name]:.2f}",
                "iterations": model.n_iter_[0],
                "above best": f"{values[name] / best - 1:.1e}" if name in values else "-",
                "accuracy": f"{model.score(test, y_test):.4f}",
            }
        )
    print(f"\nC = {C:g}, {X_train.shape[0]} x {X_train.shape[1]}, {len(np.unique(y))} classes")
    print(pd.DataFrame(rows).set_index("way").to_string(), flush=True)


def compare_paths(X, y, Cs):
    """Seconds for all C, strongest penalty first."""
    Cs = sorted(Cs)
    cold = sum(seconds_of(plain(C), X, y) for C in Cs)
    model = plain(1.0, warm_start=True)
    warm = sum(seconds_of(model.set_params(C=C), X, y) for C in Cs)
    probe = sum(seconds_of(LogisticProbe(C=C, max_iter=10_000), X, y) for C in Cs)
    print(
        f"\nall C: scikit-learn {cold:.1f} s, each from the solution before {warm:.1f} s, "
        f"LogisticProbe {probe:.1f} s"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("source", nargs="?", help="a folder of pictures, or .npz with X and y")
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--C", type=float, nargs="+", default=[1e-3, 1e-2, 1e-1, 1.0, 10.0])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    source, n = arguments.source, arguments.samples
    if source is None:
        X, y = made_up_features(n, arguments.features, arguments.classes)
    elif source.endswith(".npz"):
        with np.load(source) as stored:
            X, y = stored["X"], stored["y"]
    else:
        X, y = features_of_folder(source)
    if n > len(X):
        X, y = resampled(X, y, n)
    warnings.simplefilter("ignore", ConvergenceWarning)
    for C in arguments.C:
        compare(X, y, C, arguments.repeats)
    compare_paths(X, y, arguments.C)


if __name__ == "__main__":
    main()
