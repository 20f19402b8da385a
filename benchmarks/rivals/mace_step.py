"""One training step of mace-torch after the other, on request; run by ``bench_training_step.py``
with the python of its environment.

    python benchmarks/rivals/mace_step.py geometry.npz --irreps 64x0e+64x1o+64x2e

Reads one line from standard input for each step (energy, forces, gradient of all weights, no
optimiser) and answers with its CPU milliseconds and the peak memory of the process in MB above the
loaded program. Imports nothing of this repository.
"""

import argparse
import os
import pathlib
import sys
import time
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault(
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1"
)  # e3nn 0.4 loads its constants with pickle
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from e3nn import o3  # noqa: E402
from mace import data, modules, tools  # noqa: E402
from mace.tools import torch_geometric  # noqa: E402


def peak_mb() -> float:
    """Largest resident memory of this process so far."""
    line = next(
        line
        for line in pathlib.Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1e3


def main():
    """Build the network, then answer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("geometry")
    parser.add_argument("--irreps", required=True)
    parser.add_argument("--cutoff", type=float, default=5.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with np.load(options.geometry, allow_pickle=False) as file:
        numbers, positions = file["numbers"], file["positions"]
    properties = {"energy": 0.0, "forces": np.zeros_like(positions)}
    molecule = data.Configuration(
        atomic_numbers=numbers,
        positions=positions,
        properties=properties,
        property_weights={"energy": 1.0, "forces": 1.0},
    )
    species = sorted(set(numbers.tolist()))
    atoms = data.AtomicData.from_config(
        molecule, z_table=tools.AtomicNumberTable(species), cutoff=options.cutoff
    )
    model = modules.ScaleShiftMACE(
        r_max=options.cutoff,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=modules.RealAgnosticResidualInteractionBlock,
        interaction_cls_first=modules.RealAgnosticResidualInteractionBlock,
        num_interactions=2,
        num_elements=len(species),
        hidden_irreps=o3.Irreps(options.irreps),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(species)),
        avg_num_neighbors=atoms.edge_index.shape[1] / len(numbers),
        atomic_numbers=species,
        correlation=3,
        gate=torch.nn.functional.silu,
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    batch = next(iter(torch_geometric.dataloader.DataLoader([atoms], batch_size=1))).to_dict()
    loaded = peak_mb()
    print(sum(w.numel() for w in model.parameters()), atoms.edge_index.shape[1], flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        out = model(batch, training=True)
        model.zero_grad(set_to_none=True)
        (out["energy"].square().mean() + out["forces"].square().mean()).backward()
        print(1e3 * (time.process_time() - start), peak_mb() - loaded, flush=True)


if __name__ == "__main__":
    main()
