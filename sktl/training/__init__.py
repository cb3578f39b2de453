"""What every network that learns shares: phases, augmentation, early stopping."""

from sktl.training.augmentation import Augmentation
from sktl.training.phase import Phase
from sktl.training.stopping import Patience, PrecheltUP

__all__ = ["Augmentation", "Patience", "Phase", "PrecheltUP"]
