"""The Python of the README runs as it stands."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

README = Path(__file__).parents[2] / "README.md"


def test_the_readmes_python_runs(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for kind in range(3):
        folder = tmp_path / "flowers" / f"kind{kind}"
        folder.mkdir(parents=True)
        for i in range(5):
            noise = rng.integers(0, 80, (40, 40, 3), dtype=np.uint8)
            noise[:, :, kind] += 150
            Image.fromarray(noise).save(folder / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names = {}
    exec(block, names)
    assert names["scores"]["test_top-1"].mean() == 1
    assert names["scores"]["test_top-3"].mean() == 1
