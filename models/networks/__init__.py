"""Networks: every module of this folder registers its own in ``models.network.NETWORKS``."""
