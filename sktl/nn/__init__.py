"""Small pieces of networks in plain torch, one idea a file."""

from sktl.nn.pooling import POOLINGS, pool, pooled_shape

__all__ = ["POOLINGS", "pool", "pooled_shape"]
