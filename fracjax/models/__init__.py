"""Networks, and the ways to fill them with weights."""

from fracjax.models.layers import PARTS
from fracjax.models.network import Network, Variables, create

__all__ = ["PARTS", "Network", "Variables", "create"]
