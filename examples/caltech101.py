"""
Caltech-101 with three pretrained networks
==========================================

A study in a page of scikit-learn: cross-validation with top-1 and top-5 accuracy, a search over
layers and regularisation, a stack of three networks, and pictures beside a numeric column::

    python examples/caltech101.py path/to/101_ObjectCategories [--split train.txt]
                                  [--per-class N] [--n-jobs N]

Features are stored, so that each network sees each picture once in the whole study and never
again in a later run.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sktl import CNNFeatures, FeatureStore, load_image_folder, make_top_k_scorer

SCORING = {"top-1": make_top_k_scorer(1), "top-5": make_top_k_scorer(5)}


def pipeline(backbone="efficientnet_lite0"):
    return Pipeline([("feat", CNNFeatures(backbone)), ("clf", LogisticRegression(max_iter=1000))])


def report(title, model, X, y, folds, n_jobs):
    start = time.perf_counter()
    scores = cross_validate(model, X, y, cv=folds, scoring=SCORING, n_jobs=n_jobs)
    print(f"{title} ({time.perf_counter() - start:.0f} s)")
    for name in SCORING:
        values = 100 * scores[f"test_{name}"]
        print(f"  {name}: {values.mean():.2f} % +- {values.std():.2f} over {len(values)} folds")


def search(X, y, n_jobs):
    start = time.perf_counter()
    grid = {"feat__layer": [-2, "bottleneck"], "clf__C": [0.1, 1.0]}
    found = GridSearchCV(pipeline(), grid, cv=3, scoring=SCORING["top-1"], n_jobs=n_jobs).fit(X, y)
    print(f"grid search over layer and C ({time.perf_counter() - start:.0f} s)")
    columns = ["param_feat__layer", "param_clf__C", "mean_test_score", "rank_test_score"]
    print(pd.DataFrame(found.cv_results_)[columns].to_string(index=False))


def stack():
    backbones = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
    return StackingClassifier([(b, pipeline(b)) for b in backbones], LogisticRegression(), cv=3)


def beside_a_number():
    columns = ColumnTransformer(
        [("picture", CNNFeatures(), "path"), ("bytes", StandardScaler(), ["bytes"])]
    )
    return make_pipeline(columns, LogisticRegression(max_iter=1000))


def subset(y, per_class):
    """The first pictures of each class."""
    rank = pd.Series(y).groupby(y).cumcount()
    return np.flatnonzero(rank < per_class)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[2].partition("::")[0])
    parser.add_argument("folder")
    parser.add_argument("--split", help="a list of the pictures to use")
    parser.add_argument("--per-class", type=int, help="use only so many pictures a class")
    parser.add_argument("--n-jobs", type=int)
    arguments = parser.parse_args()

    X, y = load_image_folder(
        arguments.folder,
        split_file=arguments.split,
        exclude="BACKGROUND_Google",
        return_X_y=True,
    )
    if arguments.per_class:
        kept = subset(y, arguments.per_class)
        X, y = X[kept], y[kept]
    print(f"{len(X)} pictures of {len(np.unique(y))} classes")
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    report("efficientnet_lite0", pipeline(), X, y, folds, arguments.n_jobs)
    search(X, y, arguments.n_jobs)
    report("stack of lite0, lite1, lite2", stack(), X, y, folds, arguments.n_jobs)
    frame = pd.DataFrame({"path": X, "bytes": [Path(path).stat().st_size for path in X]})
    report("lite0 beside the file size", beside_a_number(), frame, y, folds, arguments.n_jobs)
    print(FeatureStore().info()[["backbone", "layer", "rows", "bytes", "hits"]].to_string())


if __name__ == "__main__":
    main()
