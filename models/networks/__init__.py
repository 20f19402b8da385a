"""Networks: importing this package registers all of them in ``models.network.NETWORKS``."""

from farfield.models.networks import (
    e2former,
    nbody_transformer,
    property_networks,
    se3_transformer,
)

__all__ = ["e2former", "nbody_transformer", "property_networks", "se3_transformer"]
