"""What an import costs, and what it must not do. Each in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "timm", "matplotlib", "skorch", "optuna", "sklearn", "pandas"}


def run(code, folder):
    """What the code prints, in an interpreter that knows no other home and folder."""
    environment = {name: value for name, value in os.environ.items() if name != "SKTL_CACHE"}
    environment.update(
        HOME=str(folder), XDG_CACHE_HOME=str(folder / ".cache"), PYTHONDONTWRITEBYTECODE="1"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def loaded(code, folder):
    """Which of the heavy packages the code loads."""
    report = f"import json, sys; print(json.dumps(sorted({HEAVY} & set(sys.modules))))"
    return set(json.loads(run(f"{code}\n{report}", folder)))


@pytest.mark.parametrize(
    "code", ["import sktl; dir(sktl); sktl.__version__", "from sktl import exceptions"]
)
def test_the_package_alone_loads_nothing(tmp_path, code):
    assert loaded(code, tmp_path) == set()


def test_the_ground_floor_needs_no_torch(tmp_path):
    names = "load_image_folder, load_image_table, make_top_k_scorer, as_images"
    assert loaded(f"from sktl import {names}", tmp_path) == {"sklearn", "pandas"}


def test_extraction_loads_only_what_it_needs(tmp_path):
    found = loaded("from sktl import CNNFeatures; CNNFeatures()", tmp_path)
    assert found == {"torch", "sklearn", "pandas"}


def test_import_takes_no_longer_than_that_of_scikit_learn(tmp_path):
    """Far less, in fact; the least of several tries, so that a busy machine does not matter."""

    def seconds(package):
        clock = "time.perf_counter()"
        return float(
            run(f"import time; t = {clock}; import {package}; print({clock} - t)", tmp_path)
        )

    assert min(seconds("sktl") for _ in range(3)) < 1.2 * min(seconds("sklearn") for _ in range(2))


IMPORT_EVERYTHING = """
import os, random, signal, sys, logging, warnings
import joblib, numpy, pandas, PIL.Image, PIL.ImageFile, platformdirs, sklearn, torch, torchvision
import sklearn.calibration, sklearn.compose, sklearn.ensemble, sklearn.pipeline

def state():
    return {
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
        "logging": (logging.root.level, list(logging.root.handlers)),
        "Pillow": (PIL.Image.open, PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES),
        "random": (random.getstate(), str(numpy.random.get_state()), torch.initial_seed()),
        "numpy": (numpy.geterr(), numpy.get_printoptions()),
        "threads": torch.get_num_threads(),
        "torch": (torch.is_grad_enabled(), torch.get_default_dtype(),
                  torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark),
        "scikit-learn": sklearn.get_config(),
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
    }

acts = []
watched = {"socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.mkdir",
           "sqlite3.connect", "urllib.Request"}
sys.addaudithook(lambda event, _: acts.append(event) if event in watched else None)
warnings.simplefilter("error")
before = state()

def report():
    after = state()
    print([name for name in before if before[name] != after[name]], acts)

import sktl, sktl.utils.estimator_checks
for name in sktl.__all__:
    getattr(sktl, name)
report()

# It would be noticed.
os.environ["A"] = "b"; torch.manual_seed(3); os.mkdir("x"); os.rmdir("x")
report()
"""


def test_importing_everything_has_no_side_effects(tmp_path):
    imported, meddled = run(IMPORT_EVERYTHING, tmp_path).splitlines()
    assert imported == "[] []"
    assert meddled == "['environment', 'random'] ['os.mkdir']"
    assert list(tmp_path.rglob("*")) == []
