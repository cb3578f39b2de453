"""
Time of a training epoch, beside a plain PyTorch loop.

One run, the same network, pictures, batch size and optimizer, in turns::

    python benchmarks/training.py path/to/folder [--pictures 256] [--repeats 3]

For each network and each part that learns: seconds of an epoch of the plain loop (which is handed
the decoded pictures as `ToTensor` lays them out, and forwards everything in each epoch), of
`CNNClassifier`, and the ratio. "last:1" is the last stage, of several blocks.
What `CNNClassifier` does once before its first epoch is told beside them: decoding, and the pass
of the frozen part. Medians over the epochs behind the first, then over the repeats. Weights are
random: they take as long as pretrained ones.
"""

import argparse
import statistics
import time

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn
from torchvision import models

from sktl import CNNClassifier, Phase, load_image_folder

BATCH_SIZE = 32
# What of each network learns beside its head, for each part that learns.
LEARNING = {
    "mobilenet_v2": {
        "head": [],
        "last block": ["features.17", "features.18"],
        "last:1": [f"features.{i}" for i in range(14, 19)],
        "all": ["features"],
    },
    "resnet18": {
        "head": [],
        "last block": ["layer4.1"],
        "last:1": ["layer4"],
        "all": ["conv1", "bn1", *(f"layer{i}" for i in range(1, 5))],
    },
}


def decoded(paths, size):
    pixels = [np.asarray(Image.open(p).convert("RGB").resize((size, size))) for p in paths]
    return np.stack(pixels)


def plain_loop(name, train, pixels, labels, epochs):
    """Seconds of each epoch of the loop that people write."""
    torch.manual_seed(0)
    net = getattr(models, name)(weights=None)
    last = "fc" if hasattr(net, "fc") else "classifier.1"
    head = nn.Linear(net.get_submodule(last).in_features, int(labels.max()) + 1)
    net.set_submodule(last, head)
    net.requires_grad_(False)
    learns = nn.ModuleList([head, *map(net.get_submodule, LEARNING[name][train])])
    learns.requires_grad_(True)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    optimizer = torch.optim.SGD(learns.parameters(), lr=0.001, momentum=0.9)
    seconds = []
    for _ in range(epochs):
        start = time.perf_counter()
        net.train()
        for some in torch.randperm(len(x)).split(BATCH_SIZE):
            optimizer.zero_grad()
            logits = net((x[some].float() / 255 - mean) / std)
            nn.functional.cross_entropy(logits, labels[some]).backward()
            optimizer.step()
        seconds.append(time.perf_counter() - start)
    return seconds


def with_sktl(name, train, pixels, labels, epochs):
    """Seconds of each epoch of CNNClassifier, and of what it does before."""
    learns = LEARNING[name][train] if train == "last block" else train
    phase = Phase(learns, epochs, lr=0.001, batch_norm="train")
    model = CNNClassifier(
        name,
        weights=None,
        normalize="weights",
        phases=[("train", phase)],
        validation=None,
        batch_size=BATCH_SIZE,
        random_state=0,
        store=None,
    )
    start = time.perf_counter()
    model.fit(pixels, labels.numpy())
    total = time.perf_counter() - start
    seconds = model.history_["seconds"].tolist()
    return seconds, total - sum(seconds)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--backbones", nargs="+", choices=LEARNING, default=list(LEARNING))
    arguments = parser.parse_args()
    X, y = load_image_folder(arguments.folder, return_X_y=True)
    kept = np.random.default_rng(0).permutation(len(X))[: arguments.pictures]
    pixels = decoded(X[kept], 224)
    labels = torch.from_numpy(np.unique(y[kept], return_inverse=True)[1])
    records = []
    for name in arguments.backbones:
        for train in LEARNING[name]:
            plain, ours, before = [], [], []
            for _ in range(arguments.repeats):
                plain.append(
                    statistics.median(plain_loop(name, train, pixels, labels, arguments.epochs)[1:])
                )
                seconds, once = with_sktl(name, train, pixels, labels, arguments.epochs)
                ours.append(statistics.median(seconds[1:]))
                before.append(once)
            plain_s, ours_s = statistics.median(plain), statistics.median(ours)
            records.append(
                {
                    "network": name,
                    "learns": train,
                    "plain loop, s": round(plain_s, 3),
                    "sktl, s": round(ours_s, 3),
                    "times faster": round(plain_s / ours_s, 2),
                    "once, s": round(statistics.median(before), 1),
                }
            )
            print(records[-1], flush=True)
    print(f"{len(X[kept])} pictures of 224 x 224, batches of {BATCH_SIZE}, medians of "
          f"{arguments.repeats} runs")  # fmt: skip
    print(pd.DataFrame(records).to_string(index=False))


if __name__ == "__main__":
    main()
