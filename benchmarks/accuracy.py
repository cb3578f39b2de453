"""
Accuracy of networks from scratch, of frozen features and of fine-tuned networks.

On the pictures of a folder with a subfolder for each class, a quarter of which is kept back by a
stratified draw and looked at once::

    python benchmarks/accuracy.py flowers path/to/flowers
    python benchmarks/accuracy.py dogs_vs_cats path/to/train
    python benchmarks/accuracy.py caltech101 path/to/101_ObjectCategories [--list train.txt]

Prints, for each way, accuracy and top-5 accuracy on the pictures kept back, the mean accuracy per
class and the minutes that fitting took. --ways chooses some of them, --backbone another network
than EfficientNet-Lite0. Several networks learn one beside the other, and vote with their
probabilities; each of them is printed as well.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktl import CNNClassifier, CNNFeatures, Phase, load_image_folder
from sktl.metrics import top_k_accuracy
from sktl.training import Augmentation

STRONG = Augmentation(
    horizontal_flip=True, width_shift=0.15, height_shift=0.15, zoom=0.35, rotation=20,
    color_jitter=0.2,
)  # fmt: skip


def scratch(name, size, phase, **parameters):
    return CNNClassifier(
        name,
        weights=None,
        image_size=size,
        phases=[("train", phase)],
        random_state=0,
        **parameters,
    )


def plain(name, size, epochs):
    phase = Phase("all", epochs, optimizer="adam", lr=2e-3, schedule="one_cycle")
    return scratch(name, size, phase)


def regularised(name, size, epochs):
    phase = Phase(
        "all", epochs, optimizer="adamw", lr=3e-3, weight_decay=0.05, schedule="one_cycle"
    )
    return scratch(
        name, size, phase, augment=STRONG, label_smoothing=0.1, validation=None, keep="final"
    )


def frozen(backbone):
    features = CNNFeatures(backbone)
    return make_pipeline(features, StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))


def head_only(backbone):
    phases = [("warm_up", Phase("head", 60, optimizer="adam", lr=1e-3))]
    return CNNClassifier(backbone, phases=phases, random_state=0)


def fine_tuned(backbone, phase, **parameters):
    warm_up = Phase("head", 30, optimizer="adam", lr=1e-3, augment=False)
    return CNNClassifier(
        backbone,
        phases=[("warm_up", warm_up), ("fine_tune", phase)],
        label_smoothing=0.1,
        validation=None,
        keep="final",
        random_state=0,
        **parameters,
    )


def last_stages(backbone, epochs, lr=0.01):
    phase = Phase("last:2", epochs, lr=lr, nesterov=True, schedule="one_cycle")
    return fine_tuned(backbone, phase, augment="light", augment_copies=4)


def whole_network(backbone, epochs):
    phase = Phase(
        "all", epochs, optimizer="adamw", lr=3e-4, weight_decay=0.05, schedule="one_cycle"
    )
    augment = Augmentation(
        horizontal_flip=True, width_shift=0.1, height_shift=0.1, zoom=0.3, rotation=20,
        color_jitter=0.2,
    )  # fmt: skip
    return fine_tuned(backbone, phase, augment=augment)


STUDIES = {
    "flowers": {
        "basic5 from scratch": lambda _: plain("basic5", 128, 30),
        "basic5, augmented": lambda _: regularised("basic5", 96, 100),
        "frozen, logistic regression": frozen,
        "head only": head_only,
        "fine-tuned, last stages": lambda backbone: last_stages(backbone, 10),
        "fine-tuned, whole network": lambda backbone: whole_network(backbone, 15),
    },
    "dogs_vs_cats": {
        "small3 from scratch": lambda _: plain("small3", 128, 20),
        "small3, augmented": lambda _: regularised("small3", 96, 300),
        "frozen, logistic regression": frozen,
        "head only": head_only,
        "fine-tuned, last stages": lambda backbone: last_stages(backbone, 5),
        "fine-tuned, last stages, gently": lambda backbone: last_stages(backbone, 5, lr=0.001),
    },
    "caltech101": {
        "frozen, logistic regression": frozen,
        "head only": head_only,
        "fine-tuned, last stages": lambda backbone: last_stages(backbone, 10),
    },
}


def vote(make, backbones):
    if len(backbones) == 1:
        return make(backbones[0])
    members = [(backbone, make(backbone)) for backbone in backbones]
    return VotingClassifier(members, voting="soft", n_jobs=-1)


def score(way, probabilities, y, classes):
    predicted = classes[probabilities.argmax(axis=1)]
    top5 = top_k_accuracy(y, probabilities, classes=classes, k=5)
    return {
        "way": way,
        "accuracy": 100 * np.mean(predicted == y),
        "per class": 100 * balanced_accuracy_score(y, predicted),
        "top-5": 100 * top5 if len(classes) > 5 else np.nan,
    }


def load(arguments):
    if arguments.study == "dogs_vs_cats":  # one folder of cat.0.jpg, dog.0.jpg, ...
        X = np.array(sorted(str(path) for path in Path(arguments.folder).glob("*.jpg")))
        return X, np.array([Path(path).name.split(".")[0] for path in X])
    if arguments.list is None:
        return load_image_folder(arguments.folder, return_X_y=True)
    lines = Path(arguments.list).read_text().split()
    lines = [line for line in lines if not line.startswith("BACKGROUND_")]
    X = np.array([str(Path(arguments.folder, line)) for line in lines])
    return X, np.array([line.split("/")[0] for line in lines])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("folder")
    parser.add_argument("--list", help="file that lists the pictures, as class/file.jpg")
    parser.add_argument(
        "--backbone", nargs="+", default=["efficientnet_lite0"], help="where it is pretrained"
    )
    parser.add_argument("--ways", nargs="+", help="parts of the names of ways")
    arguments = parser.parse_args()
    X, y = load(arguments)
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=0.25, stratify=y, random_state=0
    )
    print(f"{arguments.study}: {len(X_train)} pictures, {len(X_test)} kept back", flush=True)
    records = []
    for way, make in STUDIES[arguments.study].items():
        if arguments.ways and not any(part in way for part in arguments.ways):
            continue
        start = time.perf_counter()
        model = vote(make, arguments.backbone).fit(X_train, y_train)
        minutes = (time.perf_counter() - start) / 60
        if isinstance(model, VotingClassifier):
            for name, member in model.named_estimators_.items():
                alone = score(
                    f"{way}, {name}", member.predict_proba(X_test), y_test, model.classes_
                )
                print(pd.DataFrame([alone]).round(2).to_string(index=False), flush=True)
        record = score(way, model.predict_proba(X_test), y_test, model.classes_)
        record["minutes"] = minutes
        records.append(record)
        print(pd.DataFrame([record]).round(2).to_string(index=False, header=len(records) == 1),
              flush=True)  # fmt: skip
    print(pd.DataFrame(records).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
