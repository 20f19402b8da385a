"""Values of published options in the words of this house.

An option with another name is an ``Alias`` of the option here; where the values have other words
too, the alias converts them by one of these functions, ``(value, value so far) -> value``. Words of
this house pass unchanged, so an alias accepts both. What a published program has and this house has
not is refused in one line with the reason: see also ``published_names.py``.

``tp_type`` and ``attn_type`` of E2Former are chains of words:

    tp_type    [score of the near field][@far field][+switch]...    QK_alpha@fmm-node+tp_cueq
    attn_type  a schedule (``networks/blocks.py``)                  hybrid-first-order
"""

from __future__ import annotations

import re

BASES = {"gaussiansmear": "gaussian"}
NORMS = {"rms_norm_sh_BL": "rms_norm_sh"}
FEED_FORWARDS = {
    "default": "sphere_grid",
    "s2": "sphere_grid",
    "eqv2ffn": "sphere_grid",
    "s3": "gate",
    "2body": "two_body",
}
FEED_FORWARDS_ABSENT = ("s2+s3", "grid_nonlinear", "3body", "edge_attn")
ATTENTIONS = {"so2-first-order": "first-order", "so2-second-order": "second-order"}
ATTENTIONS_ABSENT = ("escn", "eqv2")

# switches of tp_type that choose an implementation: numbers stay the same
IMPLEMENTATIONS = {
    "tp_cueq": "torch computes the tensor products, cuEquivariance is not used",
    "triton": "torch computes the attention, Triton is not used",
    "triton2": "torch computes the attention, Triton is not used",
}
SMOOTH_WEIGHTS = {"use_smooth_softmax": "softmax", "use_smooth_softplus": "softplus"}
FAR_PARTS = ("fmm-node",)


def published_basis(value: str, now: str) -> str:
    """Radial basis of ``basis_type``: gaussiansmear -> gaussian."""
    return BASES.get(value, value)


def published_norm(value: str, now: str) -> str:
    """Norm of ``norm_layer``: rms_norm_sh_BL -> rms_norm_sh, which is the same formula."""
    return NORMS.get(value, value)


def published_feed_forward(value: str, now: str) -> str:
    """Feed-forward network of ``ffn_type``; ValueError for those that this house has not."""
    if value in FEED_FORWARDS_ABSENT:
        raise ValueError(
            f"ffn_type {value!r} does not exist here; give s2 (sphere_grid), s3 (gate) or 2body "
            "(two_body)"
        )
    return FEED_FORWARDS.get(value, value)


def published_schedule(value: str, now: str) -> str:
    """Schedule of ``attn_type``: so2-first-order4+fmm-node2 -> first-order4+fmm-node2.

    ValueError for the attentions of other networks, which E2Former holds for comparison.
    """
    parts = []
    for part in value.split("+"):
        name, count = re.fullmatch(r"(.*?)(\d*)", part.strip(), re.DOTALL).groups()
        hybrid, bare = ("hybrid-", name[7:]) if name.startswith("hybrid-") else ("", name)
        if value.strip() in ATTENTIONS_ABSENT or bare in ATTENTIONS_ABSENT:
            raise ValueError(
                f"attn_type {value!r} is the attention of another network, which does not exist "
                "here; give first-order, or train --model equiformer"
            )
        parts.append(f"{hybrid}{ATTENTIONS.get(bare, bare)}{count}")
    return "+".join(parts)


def published_forces(value: bool, now: str) -> str:
    """Forces of ``direct_force``: read from the features, or the slope of the energy."""
    return "direct" if value else "conservative"


def published_score(value: str, now: str) -> str:
    """Score of ``tp_type``; the present one where the chain names none (``fmm-node+tp_cueq``).

    ValueError for an unknown far field or switch, and for switches that choose the weights.
    """
    chain, *switches = value.split("+")
    score, *far = chain.split("@")
    if score in FAR_PARTS and not far:
        score, far = "", [score]

    for part in far:
        if part not in FAR_PARTS:
            raise ValueError(
                f"tp_type {value!r} names the unknown far field {part!r}; known: "
                f"{', '.join(FAR_PARTS)}"
            )
    for switch in switches:
        if switch in SMOOTH_WEIGHTS:
            raise ValueError(
                f"tp_type {value!r}: {switch} is an option of its own here; leave it out and give "
                f"near_weights {SMOOTH_WEIGHTS[switch]}"
            )
        if switch not in IMPLEMENTATIONS:
            known = ", ".join([*IMPLEMENTATIONS, *SMOOTH_WEIGHTS])
            raise ValueError(f"tp_type {value!r} has the unknown switch {switch!r}; known: {known}")
    return score or now


def published_implementation(value: str) -> str:
    """What computes where ``tp_type`` asks for an implementation; "" where it does not."""
    _, *switches = value.split("+")
    return ", ".join(IMPLEMENTATIONS[one] for one in switches if one in IMPLEMENTATIONS)
