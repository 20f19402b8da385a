"""Training steps of mace-torch on request; run by ``bench_training_step.py``.

    .venv-mace/bin/python benchmarks/rivals/mace_step.py geometry.npz --irreps 64x0e+64x1o+64x2e

Says first how many weights and edges there are. Then reads one line from standard input for each
step (energy, forces, gradient of all weights, no optimiser), and answers with its CPU milliseconds
and the peak memory of the process in MB above the loaded program. All answers are lines of JSON.
Imports nothing of this repository, because its python has mace-torch alone.
"""

import argparse
import json
import os
import pathlib
import sys
import time
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # libraries read it once, when they are loaded
# e3nn 0.4 loads its constants with pickle.
os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from e3nn import o3  # noqa: E402
from mace import data, modules, tools  # noqa: E402
from mace.tools import torch_geometric  # noqa: E402


def peak_mb() -> float:
    """Largest resident memory of this process so far."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1e3
    raise SystemExit("the kernel reports no VmHWM: memory is measured on Linux only")


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("geometry", help="npz file with numbers (atoms,) and positions (atoms, 3)")
    parser.add_argument("--irreps", required=True, help="hidden features, as e3nn writes them")
    parser.add_argument("--cutoff", type=float, default=5.0, help="reach of the edges, Angstrom")
    return parser.parse_args()


def build(options: argparse.Namespace) -> tuple[torch.nn.Module, data.AtomicData]:
    """The network and the structure, with labels that are all zero."""
    torch.manual_seed(0)
    with np.load(options.geometry, allow_pickle=False) as file:
        numbers, positions = file["numbers"], file["positions"]

    # The step needs labels to be of the right shape; their values do not matter.
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
    return model, atoms


def main():
    """Build the network, then answer."""
    options = read_options()
    torch.set_num_threads(1)
    model, atoms = build(options)
    batch = next(iter(torch_geometric.dataloader.DataLoader([atoms], batch_size=1))).to_dict()
    loaded = peak_mb()
    weights = sum(weight.numel() for weight in model.parameters())
    print(json.dumps({"weights": weights, "edges": atoms.edge_index.shape[1]}), flush=True)

    for _ in sys.stdin:
        start = time.process_time()
        out = model(batch, training=True)
        model.zero_grad(set_to_none=True)
        (out["energy"].square().mean() + out["forces"].square().mean()).backward()
        milliseconds = 1e3 * (time.process_time() - start)
        answer = {"milliseconds": milliseconds, "memory": peak_mb() - loaded}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
