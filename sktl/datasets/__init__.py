"""Pictures and labels from folders and tables."""

from sktl.datasets._fashion_mnist import fetch_fashion_mnist
from sktl.datasets._folder import load_image_folder
from sktl.datasets._table import load_image_table

__all__ = ["fetch_fashion_mnist", "load_image_folder", "load_image_table"]
