"""Shards computed by the workers of joblib's backends, one of which dies at its work."""

import importlib.util
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from sktl import as_images
from sktl.engine import Batch, Recipe, _extract
from sktl.exceptions import WorkerWarning

SCRIPT = '''
import glob, json, os, signal, sys, warnings
import joblib
import numpy as np
from torch import nn
from sktl import CNNFeatures, FeatureStore
from sktl.backbones import Backbone, Preprocessing

BACKEND, FLAG, STORE = sys.argv[1:]
CALLER = os.getpid()


class Mortal(nn.Module):
    """The first worker that runs it dies."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        nn.init.constant_(self.conv.weight, 0.01)
        nn.init.constant_(self.conv.bias, 0.01)
        self.caller, self.flag = CALLER, FLAG

    def forward(self, x):
        if x.device.type != "meta" and os.getpid() != self.caller:
            open(f"{self.flag}-{os.getpid()}", "w").close()
            try:
                os.close(os.open(self.flag, os.O_CREAT | os.O_EXCL))
                os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass
        return self.conv(x)


def extract(features, X):
    if BACKEND == "dask":
        from dask.distributed import Client, LocalCluster

        cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
        with cluster, Client(cluster), joblib.parallel_config("dask"):
            return features.fit_transform(X)
    if BACKEND == "ray":
        import ray
        from ray.util.joblib import register_ray

        register_ray()
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        with joblib.parallel_config("ray"):
            return features.fit_transform(X)
    return features.fit_transform(X)


if __name__ == "__main__":
    X = np.random.default_rng(0).integers(0, 256, (320, 30, 30, 3), dtype=np.uint8)
    backbone = Backbone(Mortal().eval(), preprocessing=Preprocessing(size=24, resize=28))
    expected = CNNFeatures(backbone, store=None).fit_transform(X)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = extract(CNNFeatures(backbone, store=STORE, batch_size=4, n_jobs=2), X)
    print(json.dumps({
        "same": bool(np.allclose(rows, expected, rtol=1e-5, atol=1e-6)),
        "stored": FeatureStore(STORE).info()["rows"].tolist(),
        "died": os.path.exists(FLAG),
        "processes": len(glob.glob(f"{FLAG}-*")),
        "warned": sum("a worker was lost" in str(w.message) for w in caught),
    }))
'''


@pytest.mark.parametrize("backend", ["loky", "dask", "ray"])
def test_a_lost_worker_costs_nothing_but_time(backend, tmp_path):
    if backend == "ray" and importlib.util.find_spec("ray") is None:
        pytest.skip("ray has no wheel for this version of Python yet")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    result = subprocess.run(
        [sys.executable, script, backend, tmp_path / "flag", tmp_path / "store"],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    report = json.loads(result.stdout.splitlines()[-1])
    # Dask gives the work of a lost worker to another by itself.
    warned = 0 if backend == "dask" else 1
    assert report.pop("processes") <= 4, "there are two at a time, before and after the loss"
    assert report == {"same": True, "stored": [320], "died": True, "warned": warned}


class KilledWorker(Exception):  # noqa: N818 (as it is called there)
    """What Dask raises, by name."""


def batches_of(lost_after, calls):
    """Stands in for the workers: loses one after some chunks of each attempt."""

    def in_workers(images, arguments, chunks, unfinished, n_jobs):
        calls.append([])
        for done, chunk in enumerate(chunks):
            unfinished.append(chunk)
            if done == lost_after(len(calls)):
                unfinished.append(next(chunks))  # sent, and never seen again
                raise KilledWorker
            calls[-1].append(chunk)
            yield [Batch(list(range(len(chunk))), [np.array(chunk, np.float32)], [])]

    return in_workers


@pytest.fixture
def run(monkeypatch):
    def run(lost_after):
        calls = []
        monkeypatch.setattr(_extract, "_in_workers", batches_of(lost_after, calls))
        images = as_images(np.zeros((20, 8, 8), np.uint8))
        chunks = [[i, i + 1] for i in range(0, 20, 2)]
        batches = _extract.extract(
            images, None, Recipe(), iter(chunks), n_images=20, batch_size=2, n_jobs=2
        )
        return [i for batch in batches for i in batch.positions], calls

    return run


def test_the_work_of_lost_workers_is_done_again_in_order(run):
    with pytest.warns(WorkerWarning, match="KilledWorker") as caught:
        positions, calls = run(lambda attempt: {1: 3, 2: 2}.get(attempt))
    assert positions == list(range(20))
    assert [len(call) for call in calls] == [3, 2, 5]
    assert len(caught) == 2


def test_what_always_kills_its_worker_is_an_error_in_the_end(run):
    with pytest.warns(WorkerWarning), pytest.raises(KilledWorker):
        run(lambda attempt: 0)


def test_workers_may_be_lost_often_if_work_is_finished_between(run):
    with pytest.warns(WorkerWarning) as caught:
        positions, _ = run(lambda attempt: 1 if attempt < 9 else None)
    assert positions == list(range(20))
    assert len(caught) == 8


def test_workers_share_out_the_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(d) for d in _extract._all_of(torch.device("cuda"))] == ["cuda:0", "cuda:1"]
    assert [str(d) for d in _extract._all_of(torch.device("cuda:1"))] == ["cuda:1"]
    assert [str(d) for d in _extract._all_of(torch.device("cpu"))] == ["cpu"]


def test_each_worker_keeps_to_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpus = _extract._all_of(torch.device("cuda"))
    workers = [ThreadPoolExecutor(1) for _ in range(4)]
    calls = []

    def own(worker, call):
        return worker.submit(_extract._own, gpus, call).result()

    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):  # who comes first differs from call to call
        with _extract._claims_of_workers() as call:
            found = {i: own(workers[i], call) for i in order}
            assert sorted(map(str, found.values())) == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]
            assert [own(workers[i], call) for i in range(4)] == [found[i] for i in range(4)]
        calls.append([found[i] for i in range(4)])
        assert not list(Path(tempfile.gettempdir()).glob(f"{call}*"))
    assert [one == other for one, other in zip(*calls, strict=True)].count(True) >= 2
    for worker in workers:
        worker.shutdown()


NESTED = """
import joblib
from dask.distributed import Client, LocalCluster
from sktl.engine._extract import n_workers

if __name__ == "__main__":
    cluster = LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None)
    with cluster, Client(cluster), joblib.parallel_config("dask"):
        inside = joblib.Parallel()(joblib.delayed(n_workers)(64, 4, None) for _ in range(2))
        print(n_workers(64, 4, None), *inside)
"""


def test_tasks_of_dask_send_no_tasks_of_their_own(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(NESTED)
    result = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True, timeout=120
    )
    assert result.stdout.splitlines()[-1] == "2 1 1"
