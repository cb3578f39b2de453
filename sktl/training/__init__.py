"""What every network that learns shares: phases, augmentation, early stopping."""

from sktl.training._augmentation import Augmentation
from sktl.training._phase import Phase
from sktl.training._stopping import Patience, PrecheltUP

__all__ = ["Augmentation", "Patience", "Phase", "PrecheltUP"]
