"""Networks, and the ways to fill them with weights."""

from fracjax.models.import_weights import load_keras_resnet
from fracjax.models.network import Network, Variables, create
from fracjax.models.resnet import FEATURE_STAGE, FEATURES

__all__ = ["FEATURES", "FEATURE_STAGE", "Network", "Variables", "create", "load_keras_resnet"]
