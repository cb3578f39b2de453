"""Progress bars that leave nothing behind."""

import subprocess
import sys

SCRIPT = """
import threading
import numpy as np
from sktl import CNNFeatures

for verbose in (0, 1):
    model = CNNFeatures("resnet18", weights=None, image_size=32, store=None, verbose=verbose)
    model.fit_transform(np.zeros((4, 32, 32), np.uint8))
print([thread.name for thread in threading.enumerate()])
"""


def test_no_thread_is_left():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert run.stdout == "['MainThread']\n"
