"""mace-torch on the data of a preprocessed folder; run by ``compare_mace.py`` with the python of an
environment of its own.

    python benchmarks/rivals/mace_program.py FOLDER --minutes 30 --json mace.json

Imports nothing of this repository. The model and settings are those of MACE's own examples for a
small molecule: two layers, correlation 3, l <= 3 on edges, r_max 5, float32, batch 5, Adam
(amsgrad) at 0.01, average of the weights 0.99, force weight 100; in the second half of the CPU time
the energy weight goes from 1 to 1000 and the rate falls exponentially to 1e-4. Energies are learned
per molecule with reference energies of the training set. The clock counts training alone.
"""

import argparse
import json
import os
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
from tqdm import tqdm  # noqa: E402

MARKS = (
    1,
    2,
    3,
    5,
    7.5,
    10,
    15,
    20,
    25,
    30,
    45,
    60,
)  # CPU minutes at which the validation split is read


def read(path: str, references: dict[int, float] | None) -> tuple[list, dict[int, float]]:
    """Configurations of one split with energies above the references, and these (least squares,
    float64).
    """
    with np.load(path, allow_pickle=False) as file:
        counts, numbers, positions, energy, forces = (
            file[name] for name in ("counts", "atomic_numbers", "positions", "energy", "forces")
        )
    ends = np.cumsum(counts)
    species = np.unique(numbers)
    composition = np.stack(
        [np.add.reduceat(numbers == z, ends - counts) for z in species], 1
    ).astype(float)
    if references is None:
        references = dict(
            zip(
                species.tolist(),
                np.linalg.lstsq(composition, energy, rcond=None)[0].tolist(),
                strict=True,
            )
        )
    rest = energy - composition @ np.array([references[z] for z in species.tolist()])
    configurations = []
    for end, count, e in zip(ends, counts, rest, strict=True):
        own = slice(end - count, end)
        configurations.append(
            data.Configuration(
                atomic_numbers=numbers[own].astype(int),
                positions=positions[own],
                properties={"energy": float(e), "forces": forces[own]},
                property_weights={"energy": 1.0, "forces": 1.0},
            )
        )
    return configurations, references


def build(
    table, species: list[int], neighbours: float, force_rms: float, options
) -> torch.nn.Module:
    """The network, starting as MACE's scripts start it."""
    torch.manual_seed(options.seed)
    return modules.ScaleShiftMACE(
        r_max=5.0,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=options.max_ell,
        interaction_cls=modules.RealAgnosticResidualInteractionBlock,
        interaction_cls_first=modules.RealAgnosticResidualInteractionBlock,
        num_interactions=2,
        num_elements=len(table),
        hidden_irreps=o3.Irreps(options.irreps),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(species)),
        avg_num_neighbors=neighbours,
        atomic_numbers=species,
        correlation=3,
        gate=torch.nn.functional.silu,
        atomic_inter_scale=force_rms,
        atomic_inter_shift=0.0,
    )


def errors(model, loader) -> dict[str, float]:
    """Mean absolute errors, meV and meV / Angstrom."""
    energy, forces = [], []
    for batch in loader:
        out = model(batch.to_dict(), training=False)
        energy.append((out["energy"] - batch.energy).detach().abs())
        forces.append((out["forces"] - batch.forces).detach().abs().flatten())
    return {
        "energy": 1e3 * float(torch.cat(energy).mean()),
        "forces": 1e3 * float(torch.cat(forces).mean()),
    }


def main():
    """Train, and write the curve and the test errors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--irreps", default="32x0e+32x1o")
    parser.add_argument("--max-ell", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tools.set_seeds(options.seed)
    train, references = read(f"{options.folder}/train.npz", None)
    splits = {"train": train} | {
        name: read(f"{options.folder}/{name}.npz", references)[0] for name in ("val", "test")
    }
    species = sorted(references)
    table = tools.AtomicNumberTable(species)
    sets = {
        name: [data.AtomicData.from_config(one, z_table=table, cutoff=5.0) for one in part]
        for name, part in splits.items()
    }
    loaders = {
        name: torch_geometric.dataloader.DataLoader(
            part, batch_size=options.batch_size if name == "train" else 50, shuffle=name == "train"
        )
        for name, part in sets.items()
    }
    neighbours = float(
        np.mean([one.edge_index.shape[1] / one.positions.shape[0] for one in sets["train"]])
    )
    force_rms = float(
        np.sqrt(np.mean(np.concatenate([one.properties["forces"].ravel() for one in train]) ** 2))
    )
    model = build(table, species, neighbours, force_rms, options)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=False
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True)
    report = {
        "program": "mace-torch",
        "weights": sum(w.numel() for w in model.parameters()),
        "options": vars(options),
        "curve": [],
    }
    budget, spent, step, marks = (
        60 * options.minutes,
        0.0,
        0,
        [60 * mark for mark in MARKS if mark < options.minutes],
    )
    bar = tqdm(total=round(budget), unit="s", desc="mace")
    while spent < budget:
        for batch in loaders["train"]:
            start, progress = time.process_time(), spent / budget
            late = max(0.0, 2 * progress - 1)
            optimizer.param_groups[0]["lr"] = 0.01 * 0.01**late
            out = model(batch.to_dict(), training=True)
            energy = (
                ((out["energy"] - batch.energy) / (batch.ptr[1:] - batch.ptr[:-1])).square().mean()
            )
            loss = (1000 if late else 1) * energy + 100 * (
                out["forces"] - batch.forces
            ).square().mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            average.update_parameters(model)
            passed = time.process_time() - start
            spent, step = spent + passed, step + 1
            bar.update(round(spent) - bar.n)
            if (marks and spent >= marks[0]) or spent >= budget:
                marks = marks[1:]
                found = errors(average.module, loaders["val"])
                report["curve"].append({"minutes": spent / 60, "step": step, **found})
                bar.set_postfix_str(
                    f"validation {found['energy']:.1f} meV, {found['forces']:.1f} meV/A"
                )
            if spent >= budget:
                break
    bar.close()
    report |= {
        "steps": step,
        "minutes": spent / 60,
        "test": errors(average.module, loaders["test"]),
    }
    with open(options.json, "w") as file:
        json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
