"""Networks, and the ways to fill them with weights."""

from fracjax.models.import_weights import load_keras_resnet
from fracjax.models.network import Network, Variables, create

__all__ = ["Network", "Variables", "create", "load_keras_resnet"]
