"""
A network from scratch, and what it learns epoch by epoch
=========================================================

LeNet learns the scanned digits that ship with scikit-learn. The curves of loss and accuracy come
from ``history_``, a DataFrame with one row an epoch.
"""

# %%
# Can it learn at all?
# --------------------
# Thirty-two pictures must be learnt by heart, or something is wrong.

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sktl import CNNClassifier, Phase
from sktl.inspection import AugmentationDisplay, TrainingCurvesDisplay
from sktl.neural_network import find_lr, overfit_check
from sktl.training import Augmentation

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
model = CNNClassifier(
    "lenet",
    weights=None,
    image_shape=(8, 8),
    phases=[("train", Phase(epochs=15, optimizer="adam", schedule="one_cycle"))],
    augment=Augmentation(width_shift=0.1, height_shift=0.1, rotation=10, fill_mode="nearest"),
    random_state=0,
)
print(overfit_check(model, X_train, y_train).diagnosis)

# %%
# How fast may it learn?
# ----------------------

found = find_lr(model, X_train, y_train).plot()
print(f"the loss falls fastest at a learning rate of {found.suggestion:.2g}")

# %%
# What the network sees
# ---------------------

AugmentationDisplay.from_estimator(model, X_train)

# %%
# Training
# --------

model.fit(X_train, y_train)
print(f"accuracy on {len(y_test)} digits kept back: {100 * model.score(X_test, y_test):.1f} %")

TrainingCurvesDisplay.from_estimator(model)
plt.show()
