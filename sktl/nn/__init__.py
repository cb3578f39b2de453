"""Small pieces of networks in plain torch, one idea a file."""

from sktl.nn.heads import make_head
from sktl.nn.mixing import Mixed, cutmix, mixup
from sktl.nn.pooling import POOLINGS, pool, pooled_shape
from sktl.nn.scratch import basic5, lenet, small3

__all__ = [
    "POOLINGS",
    "Mixed",
    "basic5",
    "cutmix",
    "lenet",
    "make_head",
    "mixup",
    "pool",
    "pooled_shape",
    "small3",
]
