"""Processes that `accelerate launch` or `torchrun` start train one network together."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = """
import json, sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from sktl import CNNClassifier, Phase
from sktl.neural_network import find_lr
from sktl.training import Augmentation

out, device = Path(sys.argv[1]), sys.argv[2]
X, y = load_digits(n_class=3, return_X_y=True)
X = X[:132].reshape(-1, 8, 8).repeat(4, 1).repeat(4, 2)
X, y = (X * 15).astype(np.uint8), y[:132]


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 8, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )


def fitted(batch_norm, random_state=0, **parameters):
    phase = Phase("all", 4, lr=0.1, batch_norm=batch_norm, clip_norm=1.0)
    model = CNNClassifier(
        network(), phases=[("train", phase)], random_state=random_state, image_size=32,
        device=device, validation=0.2, l2=0.01, store=None, **parameters,
    )
    return model.fit(X, y, sample_weight=np.linspace(0.5, 2, len(y)))


same = fitted("frozen", checkpoint_dir=out / "checkpoints", verbose=1)
other = fitted("train", None, augment=Augmentation(rotation=20), mixup=0.2, early_stopping=2)
rates = find_lr(same, X, y, n_steps=10).loss
team = 0
if device == "accelerate":
    from accelerate import PartialState

    team = PartialState().process_index
np.savez(
    out / f"{device}-{team}.npz",
    **{f"same {k}": v for k, v in same._states["final"].items()},
    **{f"other {k}": v for k, v in other._states["final"].items()},
    probabilities=same.predict_proba(X[:20]),
)
columns = ["train_loss", "valid_loss", "train_top1", "valid_top1"]
facts = {
    "same": same.history_[columns].to_numpy().tolist(),
    "other": other.history_[columns].to_numpy().tolist(),
    "rates": np.asarray(rates).tolist(),
}
(out / f"{device}-{team}.json").write_text(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What one process finds, and each of two that work together."""
    folder = tmp_path_factory.mktemp("together")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    env["ACCELERATE_USE_CPU"] = "1"
    # What `accelerate launch` does for GPUs; for processors, it leaves starting them to MPI.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    runs = [
        [sys.executable, str(script), str(folder), "cpu"],
        [*launch, str(script), str(folder), "accelerate"],
    ]
    for command in runs:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
    return {
        name: (np.load(folder / f"{name}.npz"), json.loads((folder / f"{name}.json").read_text()))
        for name in ("cpu-0", "accelerate-0", "accelerate-1")
    }


def test_two_processes_train_as_one(results):
    alone, _ = results["cpu-0"]
    for name in ("accelerate-0", "accelerate-1"):
        arrays, facts = results[name]
        for key in alone:
            if not key.startswith("other"):
                np.testing.assert_allclose(arrays[key], alone[key], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(facts["same"], results["cpu-0"][1]["same"], rtol=1e-3)
        np.testing.assert_allclose(facts["rates"], results["cpu-0"][1]["rates"], rtol=1e-3)


def test_all_processes_end_with_the_same(results):
    (first, facts), (second, others) = results["accelerate-0"], results["accelerate-1"]
    assert facts == others
    for key in first:
        np.testing.assert_array_equal(first[key], second[key])
