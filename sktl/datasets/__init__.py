"""Pictures and labels from folders and tables."""

from sktl.datasets._folder import load_image_folder
from sktl.datasets._table import load_image_table

__all__ = ["load_image_folder", "load_image_table"]
