"""Options of the published E2Former programs that have no option here, each with the reason.

Names that have one are an ``Alias`` of it (``option_fields.py``), and values with other words are
converted by ``published_words.py``. The rest is of two kinds:

    harmless    the result does not depend on it here, whatever its value, or with the values listed
    refused     the network would be another one; the reason says what to type instead

A command line or a file that names one of them gets the reason in the error. ``farfield
convert-config`` leaves harmless ones out and refuses the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

ANYTHING = "any value"


@dataclasses.dataclass(frozen=True)
class Absent:
    """A published name without an option here.

    why: one clause, why it is not needed or not built. harmless: values that change nothing here,
    or ``ANYTHING``. instead: what to type, where another value is meant.
    """

    why: str
    harmless: tuple[Any, ...] | str = ANYTHING
    instead: str = "leave it out"

    def is_harmless(self, value: Any) -> bool:
        """Whether ``value`` changes nothing here."""
        if self.harmless == ANYTHING:
            return True
        return any(type(value) is type(one) and value == one for one in self.harmless)


OFF = (False, None)
NO_DROPOUT = (0, 0.0, None)
OF_ESCAIP = "read by EScAIP, which shares the file, and not by E2Former"
OF_BATCHES = "graphs of any size lie end to end, without padding"
ALL_IMAGES = "the graph holds every periodic image inside the cutoff"
OF_ENCODER = "size of the encoder in front, which encoder: default leaves out"
OF_CLUSTERS = "it belongs to with_cluster"
OF_MEMORY = "it trades memory for time; numbers stay the same"

ABSENT: Mapping[str, Absent] = {
    # geometry and graphs
    "pbc_max_radius": Absent("max_radius is the cutoff of open and periodic structures alike"),
    "pbc_cutoff": Absent("max_radius is the cutoff of open and periodic structures alike"),
    "pbc_multigraph_cutoff": Absent("max_radius is the cutoff of all graphs"),
    "pbc_expanded_token_cutoff": Absent(ALL_IMAGES),
    "pbc_expanded_num_cell_per_direction": Absent(ALL_IMAGES),
    "pbc_use_local_attention": Absent(ALL_IMAGES),
    "use_pbc": Absent("each structure says in which directions it repeats"),
    "use_pbc_single": Absent("each structure says in which directions it repeats"),
    "otf_graph": Absent("graphs are made once, by preprocessing"),
    "enforce_max_neighbors_strictly": Absent("max_neighbors fades neighbours out smoothly"),
    "use_padding": Absent(OF_BATCHES),
    "max_num_nodes_per_batch": Absent(OF_BATCHES, instead="give --max-atoms-per-batch"),
    "flatten_atoms_threshold": Absent(OF_BATCHES),
    "max_num_elements": Absent("elements 1 to 118 are embedded"),
    "atom_type_cnt": Absent("elements 1 to 118 are embedded"),
    # attention
    "irreps_head": Absent(
        "a head has an equal share of the channels of every degree; other widths are refused"
    ),
    "attn_biastype": Absent("the edge invariants enter every score, shared by all layers"),
    "sparse_attn": Absent("attention runs over the edges of the graph, never over all pairs"),
    "dynamic_sparse_attn_threthod": Absent("attention runs over the edges of the graph"),
    "atten_name": Absent(OF_MEMORY, instead="give --near-kernel-implementation"),
    "edge_embedtype": Absent(
        "default and eqv2 are the same formula; the Gaussians of elec are not built",
        harmless=("default", "eqv2", "highorder"),
        instead="give default",
    ),
    "rescale_degree": Absent(
        "no message is multiplied by the number of neighbours; sums with a fixed divisor know it",
        harmless=OFF,
        instead="give --near-weights softplus",
    ),
    "nonlinear_message": Absent(
        "messages are linear in the values, which the cost of the sums rests on",
        harmless=OFF,
        instead="give --feed-forward sphere_grid for products of features",
    ),
    "proj_drop": Absent(
        "the sum of messages is not dropped", harmless=NO_DROPOUT, instead="give --near-dropout"
    ),
    "out_drop": Absent(
        "features are not dropped", harmless=NO_DROPOUT, instead="give --near-dropout"
    ),
    "add_rope": Absent(
        "rotary positions number the residues of a protein, which no network here reads",
        harmless=OFF,
    ),
    "time_embed": Absent(
        "the time of a noised structure belongs to another task",
        harmless=OFF,
        instead="train with train_diffusion",
    ),
    # far field
    "fmm_num_directions": Absent(
        "as many directions are taken as --far-tolerance needs, or none at all",
        instead="give --far-expansion planewave and --far-directions",
    ),
    "fmm_kappa_chunk_size": Absent(OF_MEMORY),
    "fmm_coupling_norm": Absent("each path from kernel and value to a message has learned weights"),
    "fmm_compute_dtype": Absent(
        "half precision breaks the equivariance of the far field: errors of 1 %",
        harmless=("auto", "fp32"),
        instead="give --precision float32 or float64",
    ),
    # encoder and clusters
    "encoder_embed_dim": Absent(OF_ENCODER),
    "ffn_embedding_dim": Absent(OF_ENCODER),
    "num_attention_heads": Absent(OF_ENCODER),
    "num_encoder_layers": Absent(OF_ENCODER),
    "dropout": Absent(OF_ENCODER),
    "use_rdkit": Absent("it finds fragments for with_cluster", harmless=OFF),
    "cluster_ckpt_path": Absent(OF_CLUSTERS, harmless=("", None)),
    "long_range_layers": Absent(OF_CLUSTERS),
    "long_cutoff_upper": Absent(OF_CLUSTERS),
    "long_cutoff_lower": Absent(OF_CLUSTERS),
    "short_max_radius": Absent(OF_CLUSTERS),
    # head and arithmetic
    "force_head": Absent(
        "direct forces are read from degree 1, linearly",
        harmless=(None,),
        instead="give --forces direct",
    ),
    "regress_forces": Absent(
        "a network without forces is another option",
        harmless=(True,),
        instead="give --forces none",
    ),
    "AutoGradForce": Absent(
        "forces that are no slope are another option",
        harmless=(True,),
        instead="give --forces direct",
    ),
    "decouple_EF": Absent("energy and forces are read from the same features", harmless=OFF),
    "use_fp16_backbone": Absent(
        "half precision rounds by 2e-4 (bfloat16: 3e-3), where equivariance holds to 1e-5",
        harmless=OFF,
        instead="give --precision float32 or float64",
    ),
    "use_compile": Absent(
        "compilation is a matter of the engine", instead="see farfield md --help"
    ),
    # of a file that describes other programs as well
    "model": Absent("the network is --model e2former"),
    "name": Absent("the network is --model e2former"),
    **dict.fromkeys(
        (
            "activation",
            "hidden_size",
            "embedding_dim",
            "batch_size",
            "distance_function",
            "atom_embedding_size",
            "node_direction_embedding_size",
            "node_direction_expansion_size",
            "edge_distance_expansion_size",
            "edge_distance_embedding_size",
            "atten_num_heads",
            "readout_hidden_layer_multiplier",
            "output_hidden_layer_multiplier",
            "ffn_hidden_layer_multiplier",
            "use_angle_embedding",
            "mlp_dropout",
            "atten_dropout",
            "stochastic_depth_prob",
            "normalization",
            "num_atom_features",
            "num_timesteps",
            "diffusion_time_step_encoder_type",
            "use_2d_bond_features",
            "use_2d_atom_features",
            "use_charge_embedding",
            "node_type_edge_method",
            "mlm_from_decoder_feature",
            "num_3d_bias_kernel",
            "num_edges",
            "edge_hidden_dim",
            "num_spatial",
            "multi_hop_max_dist",
        ),
        Absent(OF_ESCAIP),
    ),
}


def why_absent(name: str) -> str | None:
    """Why E2Former's option ``name`` has no option here and what to do; None for other names."""
    found = ABSENT.get(name.lstrip("-").removeprefix("no-").replace("-", "_"))
    if found is None:
        return None
    return f"the published E2Former has it, this one does not: {found.why}; {found.instead}"
