"""
A whole study: Caltech-101 from the report to the errors
========================================================

What the pictures are, how far the original head goes, which of three networks is best by paired
folds, which layer and C, what a stack adds, and what is still wrong::

    python examples/caltech101_study.py path/to/101_ObjectCategories [--split train.txt]
                                        [--per-class N] [--store FILE] [--out out]

Features are stored: the network of each backbone sees each picture once in all of it, which the
last table shows.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sktl import CNNFeatures, FeatureStore, ImageNetClassifier, error_table, load_image_folder
from sktl.datasets import image_report, near_duplicate_groups
from sktl.exceptions import ParameterError
from sktl.inspection import (
    ConfusedPairsDisplay,
    ErrorGalleryDisplay,
    confused_pairs,
    error_table_from_predictions,
)
from sktl.linear_model import LogisticProbe
from sktl.model_selection import OptunaSearch, per_class_split, rank_models

BACKBONES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


class Study:
    """The steps of the study, each timed."""

    def __init__(self, store, out):
        self.store, self.out = FeatureStore(store) if store else "default", Path(out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.seconds = {}

    def step(self, title, function, *arguments):
        print(f"\n== {title}")
        start = time.perf_counter()
        result = function(*arguments)
        self.seconds[title] = time.perf_counter() - start
        return result

    def model(self, backbone):
        return Pipeline(
            [
                ("feat", CNNFeatures(backbone, store=self.store)),
                ("scale", StandardScaler()),
                ("clf", LogisticProbe(C=0.01)),
            ]
        )

    def report(self, X, y):
        report = image_report(X, y)
        print(report)
        report.plot().figure_.savefig(self.out / "report.png", dpi=100)

    def original_head(self, X, y):
        """Those classes that ImageNet has under the same name."""
        known = []
        for label in np.unique(y):
            try:
                ImageNetClassifier(store=self.store).fit(X[y == label][:1], [label])
            except ParameterError:
                continue
            known.append(label)
        kept = np.isin(y, known)
        for restrict in (False, True):
            head = ImageNetClassifier(restrict=restrict, store=self.store).fit(X[kept], y[kept])
            accuracy = 100 * head.score(X[kept], y[kept])
            print(f"{len(known)} classes, {kept.sum()} pictures, {restrict=}: {accuracy:.1f} %")

    def ranking(self, X, y, groups):
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
        candidates = {name.rpartition("_")[2]: self.model(name) for name in BACKBONES}
        ranking = rank_models(candidates, X, y, folds, groups=groups)
        with_ensembles = ranking.with_vote(3).with_stack(3, LogisticRegression(C=10, max_iter=500))
        print(with_ensembles.table.round(4).to_string())
        best = ranking.best()[0]
        for name in ("vote of 3", "stack of 3"):
            compared = with_ensembles.compare(name, best)
            print(
                f"{name} against {best}: {100 * compared.difference:+.2f} points, corrected "
                f"standard error {100 * compared.corrected_se:.2f}, p = {compared.p_value:.3g}"
            )
        return with_ensembles

    def search(self, X, y, backbone):
        space = {"feat__layer": [-2, "bottleneck"], "clf__C": (1e-4, 1.0, "log")}
        model = self.model(backbone)
        found = OptunaSearch(model, space, n_trials=10, cv=3, random_state=0).fit(X, y)
        columns = [c for c in found.trials_ if "param" in c or c in ("mean_test_score", "state")]
        print(found.trials_[columns].to_string(index=False))
        print(f"best: {found.best_params_}, {100 * found.best_score_:.2f} %")
        return found.best_estimator_

    def errors(self, X, y, ranking):
        said = ranking.out_of_fold[ranking.best()[0]]
        classes = said.columns.to_numpy()
        table = error_table_from_predictions(X, y, said.to_numpy(), classes=classes)
        print(confused_pairs(table["truth"], table["prediction"]).head(10).to_string(index=False))
        gallery = ErrorGalleryDisplay.from_predictions(X, y, said.to_numpy(), classes=classes)
        gallery.figure_.savefig(self.out / "errors.png", dpi=100)
        pairs = ConfusedPairsDisplay.from_predictions(X, y, said.to_numpy(), classes=classes)
        pairs.figure_.savefig(self.out / "confused_pairs.png", dpi=100)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[2].partition("::")[0])
    parser.add_argument("folder")
    parser.add_argument("--split", help="a list of the pictures to use")
    parser.add_argument("--per-class", type=int, help="use only so many pictures a class")
    parser.add_argument("--store", help="file of the feature store")
    parser.add_argument("--out", default="out/caltech101")
    options = parser.parse_args()
    background = Path(options.folder, "BACKGROUND_Google")
    X, y = load_image_folder(
        options.folder,
        split_file=options.split,
        exclude=[background.name] if background.is_dir() else [],
        return_X_y=True,
    )
    if options.per_class:
        kept = np.flatnonzero(pd.Series(y).groupby(y).cumcount() < options.per_class)
        X, y = X[kept], y[kept]
    start = time.perf_counter()
    study = Study(options.store, options.out)
    print(f"{len(X)} pictures of {len(np.unique(y))} classes")
    study.step("report", study.report, X, y)
    study.step("original head", study.original_head, X, y)
    groups = study.step("near duplicates kept together", near_duplicate_groups, X)
    X_train, X_test, y_train, y_test, groups_train, _ = per_class_split(
        X, y, groups, n_valid=0, n_test=0.2, groups=groups, random_state=0
    )
    ranking = study.step(
        "three networks, a vote and a stack", study.ranking, X_train, y_train, groups_train
    )
    singles = [name for name in ranking.best(5) if name.startswith("lite")]
    best = f"efficientnet_{singles[0]}"
    tuned = study.step("search", study.search, X_train, y_train, best)
    study.step("errors", study.errors, X_train, y_train, ranking)

    def final():
        stack = ranking.stack(3, LogisticRegression(C=10, max_iter=500)).fit(X_train, y_train)
        for name, model in (("the single model of the search", tuned), ("the stack", stack)):
            wrong = (error_table(model, X_test, y_test)["rank"] > 1).mean()
            print(f"{name} on {len(y_test)} pictures kept back: {100 * (1 - wrong):.2f} %")

    study.step("test", final)
    print()
    print(pd.Series(study.seconds, name="seconds").round(1).to_string())
    print(f"in all {time.perf_counter() - start:.0f} s")
    store = FeatureStore(options.store) if options.store else FeatureStore()
    print(store.info()[["backbone", "layer", "rows", "bytes"]].to_string())


if __name__ == "__main__":
    main()
