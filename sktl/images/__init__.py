"""What a picture is: anything users hold, as one lazily decoded :class:`ImageCollection`."""

from sktl.images._collection import ImageCollection
from sktl.images._decode import decode_image
from sktl.images._estimator import ImageEstimatorMixin
from sktl.images._recognise import as_images

__all__ = ["ImageCollection", "ImageEstimatorMixin", "as_images", "decode_image"]
