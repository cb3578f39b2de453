"""
One way of extracting features, in a process of its own.

``python ways.py WAY BACKBONE FOLDER N`` prints one line of JSON: what the way took for the first N
pictures in ``FOLDER/pictures``, or why it cannot. Its features go to
``FOLDER/features/WAY.npy``. The environments of the peers run this file too, so what not all of
them have is imported where it is needed. Every way gives the input of the network's last linear
layer, which all of them can name.
"""

import contextlib
import importlib.metadata
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
import torch
from weights import IN_TIMM, load_plain, make_weights, read_rgb, weights_of

# The modules whose output thingsvision is asked for.
MODULES = {
    "efficientnet_lite0": "global_pool",
    "mobilenet_v2": "classifier.0",
    "resnet50": "avgpool",
    "vgg19": "classifier.5",
}
BATCH_SIZE = 32
LAYER = "penultimate"


class CannotRunError(Exception):
    """This way does not have that network."""


def sktl(backbone, folder, **options):
    from sktl import CNNFeatures

    features = CNNFeatures(backbone, weights=weights_of(backbone, folder), layer=LAYER, **options)
    return features.fit_transform


def sktl_default(backbone, folder):
    return sktl(backbone, folder, store=Path(tempfile.mkdtemp(dir=folder), "features.sqlite"))


def sktl_exact(backbone, folder):
    return sktl(backbone, folder, precision="exact", store=None)


def sktl_bf16(backbone, folder):
    return sktl(backbone, folder, precision="bf16", store=None)


def plain_loop(backbone, folder):
    network, transform = load_plain(backbone, folder)

    def extract(paths):
        features = []
        with torch.no_grad():
            for some in split(paths, BATCH_SIZE):
                batch = torch.stack([transform(read_rgb(path)) for path in some])
                features.append(network(batch))
        return torch.cat(features).numpy()

    return extract


def data_loader(backbone, folder):
    network, transform = load_plain(backbone, folder)

    def extract(paths):
        features = []
        data = Pictures(paths, transform)
        with torch.no_grad():
            for batch in torch.utils.data.DataLoader(
                data, BATCH_SIZE, num_workers=joblib.cpu_count()
            ):
                features.append(network(batch))
                note_workers()
        return torch.cat(features).numpy()

    return extract


def thingsvision(backbone, folder):
    # Before TensorFlow: in the other order two copies of LLVM end the process.
    import timm  # noqa: F401
    from thingsvision import get_extractor
    from thingsvision.utils.data import DataLoader, ImageDataset

    if backbone == "efficientnet_lite0":
        source = {"model_name": IN_TIMM[backbone], "source": "timm", "pretrained": False}
        source["model_path"] = str(folder / "timm" / backbone / "pytorch_model.bin")
    else:
        source = {"model_name": backbone, "source": "torchvision", "pretrained": True}
    extractor = get_extractor(**source, device="cpu")
    backend = extractor.get_backend()

    def extract(paths):
        dataset = ImageDataset(
            root=str(paths[0].parent),
            out_path=tempfile.mkdtemp(dir=folder),
            backend=backend,
            file_names=[path.name for path in paths],
            transforms=extractor.get_transformations(),
        )
        loader = DataLoader(dataset=dataset, batch_size=BATCH_SIZE, backend=backend)
        return extractor.extract_features(
            batches=loader, module_name=MODULES[backbone], flatten_acts=True
        )

    return extract


def img2vec_pytorch(backbone, folder):
    from img2vec_pytorch import Img2Vec

    if backbone == "vgg19":
        raise CannotRunError("loads vgg19_bn under this name")
    if backbone != "resnet50":
        raise CannotRunError("does not have this network")
    network = Img2Vec(model=backbone)

    def extract(paths):
        # A list is forwarded as one batch: all the pictures at once would need gigabytes.
        some = split(paths, BATCH_SIZE)
        return np.concatenate([network.get_vec([read_rgb(p) for p in part]) for part in some])

    return extract


def embetter(backbone, folder):
    from embetter.vision import ImageLoader, TimmEncoder
    from sklearn.pipeline import make_pipeline

    encoder = TimmEncoder(f"local-dir:{folder / 'timm' / backbone}")
    return make_pipeline(ImageLoader(), encoder).fit_transform


def decode_alone(backbone, folder):
    """What sktl does to a picture before the network, on all cores."""
    from sktl import as_images, load_backbone
    from sktl.engine import prepare

    preprocessing = load_backbone(backbone, weights_of(backbone, folder)).preprocessing

    def extract(paths, keep=lambda pixels: pixels[0, 0, 0].copy()):
        images = as_images(paths)
        with sktl_threads() as threads:
            indices = range(len(images))
            kept = threads.map(lambda i: keep(prepare(images.read(i), preprocessing)), indices)
            return np.stack(list(kept))

    return extract


def forward_alone(backbone, folder):
    """sktl's network, made ready before, on pixels of pictures decoded before, on all cores."""
    from sktl import load_backbone
    from sktl.engine import Recipe
    from sktl.engine._forward import _CPU_STEP
    from sktl.engine._runtime import make_runner

    paths = [*(folder / "warm-up").iterdir(), *(folder / "pictures").iterdir()]
    decoded = decode_alone(backbone, folder)(paths, keep=lambda pixels: pixels)
    pixels = dict(zip(paths, decoded, strict=True))
    network, recipe = (
        load_backbone(backbone, weights_of(backbone, folder)),
        Recipe((LAYER,)),
    )
    cpu, sizes = torch.device("cpu"), {"n_images": len(paths), "step": _CPU_STEP}
    with sktl_threads() as threads:
        runner = threads.submit(make_runner, network, recipe, cpu, **sizes).result()
        threads.submit(runner.settle).result()

    def extract(paths):
        some = [np.stack([pixels[path] for path in part]) for part in split(paths, _CPU_STEP)]
        with sktl_threads() as threads:
            return np.concatenate([layers[0] for layers in threads.map(runner, some)])

    return extract


WAYS = {
    "sktl": sktl_default,
    "sktl, exact": sktl_exact,
    "sktl, bf16": sktl_bf16,
    "plain loop": plain_loop,
    "DataLoader": data_loader,
    "thingsvision": thingsvision,
    "img2vec_pytorch": img2vec_pytorch,
    "embetter": embetter,
    "decode alone": decode_alone,
    "forward alone": forward_alone,
}


class Pictures:
    """A data set for a DataLoader."""

    def __init__(self, paths, transform):
        self.paths, self.transform = paths, transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        return self.transform(read_rgb(self.paths[i]))


def split(paths, size):
    return [paths[i : i + size] for i in range(0, len(paths), size)]


def sktl_threads():
    from sktl.engine import _forward

    cores = torch.get_num_threads()
    n_threads = min(cores, _forward._MOST_REPLICAS)
    return _forward._threads(n_threads, cores // n_threads)


def cpu_seconds():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def mib(file, prefix):
    """Sum of the lines of a file in /proc that begin like this."""
    with contextlib.suppress(OSError):
        lines = Path(file).read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(prefix)) / 1024
    return 0


def note_workers(peak=[0]):  # noqa: B006 - the peak of all calls
    """Peak memory that worker processes do not share with this one."""
    files = [f"/proc/{p.pid}/smaps_rollup" for p in multiprocessing.active_children()]
    peak[0] = max(peak[0], sum(mib(file, "Private_") for file in files))
    return peak[0]


def measure(way, backbone, folder, n):
    extract = WAYS[way](backbone, folder)
    extract(sorted((folder / "warm-up").iterdir()))
    paths = sorted((folder / "pictures").iterdir())[-n:]
    cpu, start = cpu_seconds(), time.perf_counter()
    features = extract(paths)
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
    np.save(folder / "features" / f"{way}.npy", features)
    return {
        "images/s": len(paths) / seconds,
        "seconds": seconds,
        "CPU s per 1,000": 1000 * cpu / len(paths),
        # Unlike ru_maxrss, VmHWM does not begin with that of the process that started this one.
        "peak MiB": mib("/proc/self/status", "VmHWM:") + note_workers(),
    }


def main():
    way, backbone, folder, n = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    result = {}
    with contextlib.redirect_stdout(sys.stderr):
        try:
            if way == "weights":
                make_weights(backbone, folder)
            else:
                result = measure(way, backbone, folder, n)
                with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                    result["note"] = importlib.metadata.version(way)
        except CannotRunError as error:
            result["note"] = str(error)
        except Exception as error:  # noqa: BLE001 - whatever a peer raises belongs in the table
            result["note"] = f"{type(error).__name__}: {error}".splitlines()[0]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
