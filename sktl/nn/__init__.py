"""Small pieces of networks in plain torch, one idea a file."""

from sktl.nn.cpc import CPCNetwork, PatchGrid, RowContext, cut_patches, small_encoder
from sktl.nn.heads import make_head
from sktl.nn.info_nce import Contrast, info_nce
from sktl.nn.mixing import Mixed, cutmix, mixup
from sktl.nn.pooling import POOLINGS, pool, pooled_shape
from sktl.nn.scratch import basic5, lenet, small3

__all__ = [
    "POOLINGS",
    "CPCNetwork",
    "Contrast",
    "Mixed",
    "PatchGrid",
    "RowContext",
    "basic5",
    "cut_patches",
    "cutmix",
    "info_nce",
    "lenet",
    "make_head",
    "mixup",
    "pool",
    "pooled_shape",
    "small3",
    "small_encoder",
]
