"""Kernels of far messages by name, and their learned coefficients.

    screened         ends at a range: pieces of a system that are far apart do not hear each other
    coulomb          keeps a tail ``1 / r^(l + 1)``: an energy depends on atoms at any distance
    standing_waves   the published sum of a few fixed waves, which revives at large distances

The first two are functions of the wave number (``spectral_shapes.py``), the last is a table at
fixed wave numbers (``spectrum.py``). All give ``forward() -> coefficients`` and ``sum_by(expansion,
options)``, the module that sums them over all atoms.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import torch
from torch import Tensor, nn

from farfield.models.choices import Registry, check_at_least, check_choices, check_positive
from farfield.models.far_field.expansion import Expansion, ExpansionOptions
from farfield.models.far_field.extent_sum import ExtentSum
from farfield.models.far_field.spectral_shapes import (
    MAX_TERMS,
    CoulombShape,
    ScreenedShape,
    SpectralShape,
)
from farfield.models.far_field.spectrum import MODES, RadialSpectrum, SpectrumOptions

KERNELS: Registry[type[nn.Module]] = Registry("kernel")
KERNELS.register("standing_waves")(RadialSpectrum)


SMALLEST_RANGE = 2.0  # Angstrom

# options that no other kernel reads
STANDING_WAVES_ALONE = ("num_kappa", "kappa_min", "kappa_max", "kappa_grid", "low_kappa_bias")


@dataclasses.dataclass(frozen=True)
class KernelOptions(SpectrumOptions):
    """Choices of the kernel of far messages.

    kernel: name in ``KERNELS``. range, radial_terms: of "screened" and "coulomb"; the options of
    :class:`SpectrumOptions` that speak of wave numbers belong to "standing_waves". Raises
    ValueError in one line for values out of range.
    """

    kernel: Annotated[
        str,
        "kernel of far messages: screened ends at the range; coulomb (tail 1 / r) and "
        "standing_waves (a few fixed waves, as published) let atoms at any distance change an "
        "energy",
        KERNELS,
    ] = "screened"
    range: Annotated[
        float,
        "distance at which the terms of a screened kernel have fallen to a hundredth, Angstrom; a "
        "longer range makes the kernel coulomb smoother",
    ] = 15.0
    radial_terms: Annotated[int, "learned terms in a radial function of the far field"] = 3

    def __post_init__(self):
        SpectrumOptions.__post_init__(self)
        of = "of the far field"
        check_choices(self, {"kernel": KERNELS}, of)
        check_positive(self, ["range"], of)
        check_at_least(self, 1, ["radial_terms"], of)

        if self.range < SMALLEST_RANGE:
            raise ValueError(
                f"range {of} must be at least {SMALLEST_RANGE:g} Angstrom, got {self.range:g}: "
                "shorter kernels belong to the near field"
            )
        if self.radial_terms > MAX_TERMS:
            raise ValueError(
                f"radial_terms {of} must be in 1 .. {MAX_TERMS}, got {self.radial_terms}"
            )
        self._check_standing_waves()

    def _check_standing_waves(self) -> None:
        """Raise ValueError for a changed wave number where the kernel reads none."""
        if self.kernel == "standing_waves":
            return
        for name in STANDING_WAVES_ALONE:
            default = getattr(KernelOptions, name)
            if getattr(self, name) != default:
                raise ValueError(
                    f"{name} of the far field belongs to the kernel 'standing_waves', got "
                    f"{getattr(self, name)} with the kernel {self.kernel!r}; choose far_kernel "
                    "'standing_waves', or give far_range and far_radial_terms instead"
                )


class SpectralKernel(nn.Module):
    """A shape with learned coefficients: ``forward() -> c`` (lmax + 1, heads, terms).

    ``c = radial_scale gain_h (start + change)``: the learned change, of which ``radial_mode`` says
    what degrees and heads share, starts at zero.
    """

    def __init__(self, lmax: int, heads: int, options: KernelOptions, shape: type[SpectralShape]):
        super().__init__()
        self.shape = shape(lmax, options.radial_terms, options.range)
        start = torch.from_numpy(options.radial_scale * self.shape.start())
        start = start.to(torch.get_default_dtype()).unsqueeze(1)
        self.register_buffer("start", start, persistent=False)  # (degrees, 1, terms)

        mode = MODES[options.radial_mode]
        degrees = lmax + 1 if mode.per_degree else 1
        change = torch.zeros(degrees, heads if mode.per_head else 1, options.radial_terms)
        self.gain = nn.Parameter(torch.ones(heads))
        if options.learnable_radial:
            self.change = nn.Parameter(change)
        else:
            self.register_buffer("change", change)
        self.radial_scale = options.radial_scale

    def forward(self) -> Tensor:
        """Coefficients of the Laguerre polynomials, (lmax + 1, heads, terms)."""
        whole = torch.add(self.start, self.change, alpha=self.radial_scale)
        return whole * self.gain.unsqueeze(1)

    def sum_by(self, make: type[Expansion], options: ExpansionOptions) -> nn.Module:
        """The expansion's own sum for functions, or one in standing waves by extent."""
        own = make.of_shape(self.shape, options)
        return own or ExtentSum(make, self.shape, options)

    def extra_repr(self) -> str:
        shape = self.shape
        return f"lmax={shape.lmax}, range={shape.range:g}, kappa_max={shape.kappa_max:.3g}"


@KERNELS.register("screened")
class ScreenedKernel(SpectralKernel):
    """The kernel that ends at ``options.range``."""

    def __init__(self, lmax: int, heads: int, options: KernelOptions):
        super().__init__(lmax, heads, options, ScreenedShape)


@KERNELS.register("coulomb")
class CoulombKernel(SpectralKernel):
    """The kernel with the tail of a charge."""

    def __init__(self, lmax: int, heads: int, options: KernelOptions):
        super().__init__(lmax, heads, options, CoulombShape)
