"""
Pictures, labels, a pretrained network, a classifier
====================================================

The main job of sktl, in a scikit-learn pipeline: a network trained on ImageNet turns pictures
into features, and logistic regression learns the classes from them. Run it on the digits that
ship with scikit-learn, or on a folder of your own with a sub-folder for each class::

    python examples/plot_demo.py
    python examples/plot_demo.py path/to/folder
"""

# %%
# The pictures
# ------------
# ``X`` is a collection of paths, or here of flattened rows; nothing is decoded yet.

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits, load_sample_images
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline

from sktl import CNNFeatures, ImageNetClassifier, as_images, load_image_folder
from sktl.inspection import ErrorGalleryDisplay
from sktl.metrics import top_k_accuracy

folder = next(iter(sys.argv[1:]), None)
if folder:
    X, y = load_image_folder(folder, return_X_y=True)
    if y is None:
        sys.exit(f"{folder} has no class sub-folders, so that there is nothing to learn")
    images, features, what = as_images(X), CNNFeatures(), f"pictures of {folder}"
else:
    digits = load_digits()
    X, y = digits.data, digits.target
    images = as_images(X, image_shape=(8, 8))
    features, what = CNNFeatures(image_shape=(8, 8), image_size=96), "scanned digits"

# %%
# The model, and how good it is
# -----------------------------
# Each picture is predicted by a model that has not seen it. The network sees each picture once:
# the folds, and later runs of this script, find its features in the store.

classes, counts = np.unique(y, return_counts=True)
if len(classes) < 2 or counts.min() < 2:
    sys.exit("at least two classes with two pictures each are needed")
n_folds = int(min(3, counts.min()))
model = Pipeline([("features", features), ("classifier", LogisticRegression(max_iter=1000))])
folds = StratifiedKFold(n_folds, shuffle=True, random_state=0)
probability = cross_val_predict(model, X, y, cv=folds, method="predict_proba")

print(f"{len(y)} {what}, {len(classes)} classes, {n_folds}-fold cross-validation")
for k in (1, 3):
    accuracy = top_k_accuracy(y, probability, k=k, classes=classes)
    print(f"top-{k} accuracy: {100 * accuracy:.2f} %")

# %%
# What went wrong
# ---------------
# The errors with the largest loss.

gallery = ErrorGalleryDisplay.from_predictions(images, y, probability, classes=classes)
target = Path("out/errors.png")
target.parent.mkdir(exist_ok=True)
gallery.figure_.savefig(target, dpi=100)
print(f"the worst errors: {target}")

# %%
# The network's own opinion
# -------------------------
# The head that came with the weights, on two photographs: what the network was trained to say, and
# a check that preprocessing and weights belong together.

photographs = load_sample_images()
head = ImageNetClassifier().fit(photographs.images)
named = zip(photographs.filenames, head.predict_proba(photographs.images), strict=True)
for name, scores in named:
    best = np.argsort(-scores)[:3]
    print(f"{Path(name).name}: {', '.join(head.classes_[best])}")
