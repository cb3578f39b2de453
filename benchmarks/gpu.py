"""
Feature extraction on a GPU, beside what forwarding and decoding alone allow.

One run, the same network, in turns::

    python benchmarks/gpu.py [path/to/folder] [--backbone resnet50] [--precision bf16]

- forward alone: a plain PyTorch loop over pixels that lie on the device as the network sees them
  (channels last; autocast with "bf16");
- sktl, decoded pictures: `CNNFeatures` on a uint8 array, larger than what the network sees, so that
  each is cropped and uploaded;
- decode alone: every core decodes files to RGB and does nothing else;
- decode alone, nvJPEG: the GPU does, where TorchCodec is installed;
- sktl, files: `CNNFeatures` on the same files.

Printed are images/s, medians over the turns behind the first, and the ratios to what bounds them.
Without a folder, pictures are cut out of scikit-learn's two sample images. Weights are random: they
take as long as pretrained ones. With --device cpu it shows that it runs, and nothing of interest.
"""

import argparse
import contextlib
import importlib.util
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch
from extraction import SUFFIXES, describe_machine, make_pictures
from PIL import Image

from sktl import CNNFeatures
from sktl.backbones import load_backbone

N_FILES = 512  # distinct ones, which are read again and again


def forward_alone(backbone, size, arguments):
    """Seconds for all pictures."""
    device, n = torch.device(arguments.device), arguments.batch_size
    network = backbone.feature_network(["bottleneck"], device=device, channels_last=True)
    x = torch.rand(n, 3, size, size).to(device, memory_format=torch.channels_last)
    rough = contextlib.nullcontext()
    if arguments.precision == "bf16":
        rough = torch.autocast(device.type, torch.bfloat16)
    n_batches = -(-arguments.pictures // n)

    def work():
        with torch.inference_mode(), rough:
            rows = [network(x)[0].float().mean((2, 3)) for _ in range(n_batches)]
            torch.cat(rows).cpu()  # waits for the device

    return work


def decode_alone(paths):
    def decode(path):
        with Image.open(path) as image:
            image.convert("RGB").load()

    def work():
        with ThreadPoolExecutor(joblib.cpu_count()) as threads:
            list(threads.map(decode, paths))

    return work


def decode_on_gpu(paths, device, n=64):
    decode_jpeg = importlib.import_module("torchcodec.decoders").decode_jpeg

    def work():
        for start in range(0, len(paths), n):
            decode_jpeg(
                [Path(path).read_bytes() for path in paths[start : start + n]], device=device
            )
        if device != "cpu":
            torch.cuda.synchronize(device)

    return work


def measure(works, n, repeats):
    """Images/s of each, medians."""
    seconds = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return {name: n / np.median(times[1:]) for name, times in seconds.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", help="pictures, in any subfolders")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--precision", default="bf16", choices=["auto", "bf16"])
    parser.add_argument("--pictures", type=int, default=8192)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    n = arguments.pictures
    backbone = load_backbone(arguments.backbone, None)
    seen = backbone.preprocessing
    print(describe_machine())
    if arguments.device.startswith("cuda"):
        print(torch.cuda.get_device_name(arguments.device))
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder
        if folder is None:
            folder = Path(name, "made")
            make_pictures(folder, min(n, N_FILES))
        found = sorted(str(p) for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES)
        files = np.resize(found, n)
        random = np.random.default_rng(0)
        arrays = random.integers(0, 256, (n, seen.resize, seen.resize, 3), dtype=np.uint8)
        features = CNNFeatures(
            arguments.backbone,
            weights=None,
            precision=arguments.precision,
            device=arguments.device,
            batch_size=arguments.batch_size,
            store=None,
        )
        works = {
            "forward alone": forward_alone(backbone, seen.size, arguments),
            "sktl, decoded pictures": lambda: features.fit_transform(arrays),
            "decode alone": decode_alone(files),
            "sktl, files": lambda: features.fit_transform(files),
        }
        if importlib.util.find_spec("torchcodec") is not None:
            works["decode alone, nvJPEG"] = decode_on_gpu(files, arguments.device)
        speeds = measure(works, n, arguments.repeats)
    decoding = max(speed for name, speed in speeds.items() if name.startswith("decode"))
    bounds = {
        "sktl, decoded pictures": speeds["forward alone"],
        "sktl, files": min(speeds["forward alone"], decoding),
    }
    table = pd.DataFrame({"images/s": speeds})
    table["of the bound"] = table["images/s"] / pd.Series(bounds)
    print(
        f"{arguments.backbone}, {arguments.precision}, {n} pictures, batches of "
        f"{arguments.batch_size}, {arguments.repeats} turns"
    )
    print(table.round(2).to_string(na_rep="-"))


if __name__ == "__main__":
    main()
