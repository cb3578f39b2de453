"""What went wrong: tables of errors, and displays of pictures, training and networks.

The tables need neither torch nor matplotlib; displays import matplotlib when they draw, and what
looks into networks imports torch when it is called.
"""

from sktl.inspection._adversarial import (
    AdversarialDisplay,
    adversarial_accuracy,
    adversarial_pictures,
)
from sktl.inspection._augmentation_grid import AugmentationDisplay
from sktl.inspection._class_activation import (
    ClassActivation,
    ClassActivationDisplay,
    class_activation,
)
from sktl.inspection._confused_pairs import confused_pairs
from sktl.inspection._curves import TopKCurveDisplay, TrainingCurvesDisplay
from sktl.inspection._error_table import (
    CleanlabInputs,
    cleanlab_inputs,
    error_table,
    error_table_from_predictions,
)
from sktl.inspection._feature_map import FeatureMapDisplay
from sktl.inspection._filters import FirstLayerFiltersDisplay
from sktl.inspection._gallery import ConfusedPairsDisplay, ErrorGalleryDisplay, ImageGridDisplay
from sktl.inspection._summary import ImageSetDisplay
from sktl.inspection._top_patches import (
    ReceptiveField,
    TopPatchesDisplay,
    receptive_field,
    top_patches,
)

__all__ = [
    "AdversarialDisplay",
    "AugmentationDisplay",
    "ClassActivation",
    "ClassActivationDisplay",
    "CleanlabInputs",
    "ConfusedPairsDisplay",
    "ErrorGalleryDisplay",
    "FeatureMapDisplay",
    "FirstLayerFiltersDisplay",
    "ImageGridDisplay",
    "ImageSetDisplay",
    "ReceptiveField",
    "TopKCurveDisplay",
    "TopPatchesDisplay",
    "TrainingCurvesDisplay",
    "adversarial_accuracy",
    "adversarial_pictures",
    "class_activation",
    "cleanlab_inputs",
    "confused_pairs",
    "error_table",
    "error_table_from_predictions",
    "receptive_field",
    "top_patches",
]
