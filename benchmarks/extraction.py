"""
Feature extraction on the CPU: sktl, what people write by hand, and other libraries.

Same network, same weights, same picture files, in one run. Every way runs in a process of its own,
so that memory (which includes that of the libraries) and CPU time are its own; loading and the
first pictures are not timed; the ways take turns. Printed are medians over the turns, the distance
of each way's features from those of the plain loop, and how near sktl comes to decoding alone and
forwarding alone. As each of these takes all cores, one after the other is what to compare with::

    python benchmarks/extraction.py [path/to/folder] [--pictures 1024] [--few 96] [--repeats 3]

sktl, whose time has in it what is done once, such as finding the fastest runtime, its bf16 mode and
both limits are timed on --pictures, all others on the last --few of them, with which sktl has long
found its runtime: their images/s do not depend on how many there are, and they would take an hour.
Without a folder, pictures are cut out of scikit-learn's two sample images. Networks that no package
contains have random weights.

Each of the other libraries gets a virtual environment of its own (--peers-env), which sees the
packages of this one, so that only what is missing or must differ is installed: about 1.6 GB, nearly
all of it the TensorFlow that thingsvision imports. They are used the way their documentation says,
with their own defaults:

- plain loop: timm or torchvision, Pillow, ``torch.no_grad``, batches of 32;
- DataLoader: the same with as many worker processes as there are cores;
- thingsvision: ``extract_features`` with its own data set and loader, batches of 32;
- img2vec_pytorch: ``get_vec`` with lists of 32 pictures. It squashes pictures to 224 x 224;
- embetter: a pipeline of ``ImageLoader`` and ``TimmEncoder``, which forwards one picture at a time
  through a network in training mode, so that batch normalisation makes other features of them.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_sample_images

HERE = Path(__file__).resolve().parent
BACKBONES = ["efficientnet_lite0", "mobilenet_v2", "resnet50", "vgg19"]
OWN_WAYS = ["sktl", "sktl, exact", "sktl, bf16", "plain loop", "DataLoader"]
LIMITS = ["decode alone", "forward alone"]
WITH_ALL_PICTURES = ["sktl", "sktl, bf16", *LIMITS]
# What to install, one call of pip a line. thingsvision demands packages of 2023 but runs with
# today's, except for NumPy.
PEERS = {
    "thingsvision": [
        ["--no-deps", "thingsvision"],
        ["numpy<2", "tensorflow-cpu", "torchtyping", "h5py", "requests"],
    ],
    "img2vec_pytorch": [["--no-deps", "img2vec_pytorch"]],
    "embetter": [["--no-deps", "embetter"]],
}
SUFFIXES = {".jpg", ".jpeg", ".png"}
N_WARM_UP = 8
COLUMNS = ["images/s", "seconds", "CPU s per 1,000", "peak MiB"]
FORMATS = {
    "images/s": "{:.1f}",
    "x plain": "{:.2f}",
    "seconds": "{:.1f}",
    "CPU s per 1,000": "{:.1f}",
    "peak MiB": "{:.0f}",
    "distance": "{:.1e}",
}


def collect_pictures(source, folder, n):
    """Copy pictures into ``folder/warm-up`` and ``folder/pictures``."""
    random = np.random.default_rng(0)
    found = sorted(p for p in Path(source).rglob("*") if p.suffix.lower() in SUFFIXES)
    chosen = [found[i] for i in random.permutation(len(found))[: n + N_WARM_UP]]
    if len(chosen) <= N_WARM_UP:
        sys.exit(f"{source} must contain more than {N_WARM_UP} pictures; got {len(chosen)}")
    for i, path in enumerate(chosen):
        part = folder / ("warm-up" if i < N_WARM_UP else "pictures")
        part.mkdir(exist_ok=True)
        shutil.copyfile(path, part / f"{i:06}{path.suffix.lower()}")


def make_pictures(folder, n):
    """JPEG files of 500 x 375 pixels and about 100 kB: parts of the sample images."""
    random = np.random.default_rng(0)
    images = [Image.fromarray(array) for array in load_sample_images().images]
    folder.mkdir()
    for i in range(n):
        image = images[i % len(images)]
        width = random.uniform(0.7, 0.88) * image.width
        height = width * 375 / 500
        left = random.uniform(0, image.width - width)
        top = random.uniform(0, image.height - height)
        box = (left, top, left + width, top + height)
        part = image.resize((500, 375), Image.Resampling.BICUBIC, box)
        part.save(folder / f"{i:06}.jpg", quality=97)


def environment(peer, folder):
    """The interpreter of a peer's environment and None, or None and why there is none."""
    home = folder.absolute() / peer
    python, stamp = home / "bin" / "python", home / "stamp"
    state = repr((sys.prefix, sys.version, PEERS[peer]))
    if stamp.exists() and stamp.read_text() == state:
        return python, None
    print(f"installing {peer} into {home}", file=sys.stderr)
    venv.create(home, clear=True, symlinks=True, with_pip=True)
    # Behind the environment's own packages come those of this interpreter.
    link = next(home.glob("lib/python*/site-packages")) / "host.pth"
    link.write_text("\n".join({sysconfig.get_path(kind) for kind in ("purelib", "platlib")}))
    for line in PEERS[peer]:
        command = [python, "-m", "pip", "install", "--disable-pip-version-check", *line]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return None, "cannot be installed: " + last_line(done.stderr)
    stamp.write_text(state)
    return python, None


def last_line(text):
    return (text.strip().splitlines() or ["no message"])[-1]


def run(python, way, backbone, folder, n):
    """What ways.py prints of one way, for the first n pictures."""
    variables = {
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TORCH_HOME": str(folder / "torch"),
    }
    done = subprocess.run(
        [python, HERE / "peers" / "ways.py", way, backbone, folder, str(n)],
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
    )
    try:
        return json.loads(last_line(done.stdout))
    except ValueError:
        return {"note": f"ended with code {done.returncode}: {last_line(done.stderr)}"}


def measure(backbone, folder, pythons, repeats, n, n_few):
    """One row a way: medians over the repeats."""
    failed = run(sys.executable, "weights", backbone, folder, 0).get("note")
    if failed:
        sys.exit(f"no weights for {backbone}: {failed}")
    results = {way: [] for way in pythons}
    for _ in range(repeats):
        for way, (python, reason) in pythons.items():
            done = results[way]
            if not done or "seconds" in done[-1]:  # what failed once is not tried again
                count = n if way in WITH_ALL_PICTURES else n_few
                done.append(
                    run(python, way, backbone, folder, count) if python else {"note": reason}
                )
    rows = {}
    for way, done in results.items():
        medians = pd.DataFrame(done).reindex(columns=COLUMNS).median()
        note = done[-1].get("note", "")
        rows[way] = {**medians, "distance": distance(way, folder), "note": note}
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.insert(1, "x plain", table["images/s"] / table.loc["plain loop", "images/s"])
    return table


def distance(way, folder):
    """Relative L2 distance of the features from those of the plain loop, median over pictures."""
    files = [folder / "features" / f"{name}.npy" for name in (way, "plain loop")]
    if not all(file.exists() for file in files):
        return np.nan
    features, plain = (np.load(file).astype(np.float64) for file in files)
    features = features[-len(plain) :]
    if features.shape != plain.shape:
        return np.nan
    return np.median(np.linalg.norm(features - plain, axis=1) / np.linalg.norm(plain, axis=1))


def compare_with_limits(table):
    """How near sktl comes to what decoding alone and forwarding alone allow."""
    *alone, both = (table.loc[way, "images/s"] for way in (*LIMITS, "sktl"))
    bound = 1 / sum(1 / speed for speed in alone)
    *parts, used = (table.loc[way, "CPU s per 1,000"] for way in (*LIMITS, "sktl"))
    return (
        f"sktl: {both / min(alone):.2f} of the slower of decoding and forwarding alone, "
        f"{both / bound:.2f} of both one after the other ({bound:.1f} images/s); "
        f"{used / sum(parts):.2f} of their CPU time"
    )


def describe_machine():
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((x.partition(": ")[2] for x in lines if x.startswith("model name")), cpu)
    names = ["sktl", "torch", "torchvision", "timm", "numpy", "pillow", "scikit-learn"]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return f"{cpu}, {joblib.cpu_count()} cores, Python {platform.python_version()}\n{versions}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", help="pictures, in any subfolders")
    parser.add_argument("--pictures", type=int, default=1024)
    parser.add_argument("--few", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=BACKBONES)
    parser.add_argument("--peers-env", type=Path, default=HERE.parent / ".bench")
    arguments = parser.parse_args()
    own = dict.fromkeys(OWN_WAYS, (sys.executable, None))
    peers = {peer: environment(peer, arguments.peers_env) for peer in PEERS}
    pythons = {**own, **peers, **dict.fromkeys(LIMITS, (sys.executable, None))}
    print(describe_machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = arguments.folder
        if source is None:
            source = folder / "made"
            make_pictures(source, arguments.pictures + N_WARM_UP)
        collect_pictures(source, folder, arguments.pictures)
        n = len(list((folder / "pictures").iterdir()))
        n_few = min(n, arguments.few)
        for backbone in arguments.backbones:
            (folder / "features").mkdir()
            table = measure(backbone, folder, pythons, arguments.repeats, n, n_few)
            shutil.rmtree(folder / "features")
            print(f"\n{backbone}, {n} and {n_few} pictures, medians of {arguments.repeats} runs")
            formats = {column: text.format for column, text in FORMATS.items()}
            print(table.to_string(formatters=formats, na_rep="-"))
            print(compare_with_limits(table))


if __name__ == "__main__":
    main()
