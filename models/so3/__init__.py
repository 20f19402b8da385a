"""Mathematics of rotations: layout of features, harmonics, Bessel functions, couplings."""
