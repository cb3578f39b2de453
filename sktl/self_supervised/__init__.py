"""Features learnt without labels, and what labels add to them."""

from sktl.self_supervised._cpc_features import CPCFeatures
from sktl.self_supervised._linear_probe import LinearProbe

__all__ = ["CPCFeatures", "LinearProbe"]
