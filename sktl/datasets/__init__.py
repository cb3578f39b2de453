"""Pictures and labels: from folders and tables, and of data sets known by name.

`fetch_*` downloads a data set once, checks it against its published digest and unpacks it, or takes
it from a local archive or folder (`source=`).
"""

from sktl.datasets._caltech101 import fetch_caltech101
from sktl.datasets._dog_breed import fetch_dog_breed, write_dog_breed_submission
from sktl.datasets._dogs_vs_cats import fetch_dogs_vs_cats
from sktl.datasets._duplicates import check_leakage, near_duplicate_groups
from sktl.datasets._fashion_mnist import fetch_fashion_mnist
from sktl.datasets._flowers import fetch_flowers
from sktl.datasets._folder import load_image_folder
from sktl.datasets._imagenet_v2 import fetch_imagenet_v2
from sktl.datasets._oxford_flowers import fetch_flowers17, fetch_flowers102
from sktl.datasets._report import ImageReport, image_report
from sktl.datasets._report_display import ImageReportDisplay
from sktl.datasets._stanford_dogs import fetch_stanford_dogs
from sktl.datasets._table import load_image_table
from sktl.datasets._tiny_imagenet import fetch_tiny_imagenet

__all__ = [
    "ImageReport",
    "ImageReportDisplay",
    "check_leakage",
    "fetch_caltech101",
    "fetch_dog_breed",
    "fetch_dogs_vs_cats",
    "fetch_fashion_mnist",
    "fetch_flowers",
    "fetch_flowers17",
    "fetch_flowers102",
    "fetch_imagenet_v2",
    "fetch_stanford_dogs",
    "fetch_tiny_imagenet",
    "image_report",
    "load_image_folder",
    "load_image_table",
    "near_duplicate_groups",
    "write_dog_breed_submission",
]
