"""Small pieces of networks in plain torch, one idea a file."""

from sktl.nn.pooling import POOLINGS, n_pooled, pool

__all__ = ["POOLINGS", "n_pooled", "pool"]
