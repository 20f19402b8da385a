"""Options that the preprocess scripts for structures share, and what they choose: a source, a split
protocol and its options.
"""

from __future__ import annotations

import dataclasses

from easydict import EasyDict

from farfield.common.command_line import OptionParser, Section
from farfield.dataloader.label_checks import MODES, SAMPLE
from farfield.dataloader.reference_energies import (
    AVERAGE,
    REFERENCE_WORDS,
    parse_references,
)
from farfield.dataloader.sources.own_files import OwnFiles
from farfield.dataloader.sources.source_registry import Source
from farfield.dataloader.split_protocols import (
    FOR_STRUCTURES,
    PROTOCOLS,
    SPLITS,
    USUAL_SIZES,
    SplitOptions,
    protocols_for,
)
from farfield.models.networks.e2former_options import E2FormerOptions
from farfield.preprocess.structure_folder import FolderPlan

# how preprocess_md17 and preprocess_md22 divide files of the user, for their help
USUAL_FOR_OWN_FILES = (
    f"files of your own: random, {' / '.join(map(str, USUAL_SIZES))} / rest, up to "
    f"{sum(USUAL_SIZES)} structures 80 / 10 / 10 %"
)

OUT_HELP = "folder to write to, or one LMDB file for large sets (a name that ends in .lmdb)"

# field of SplitOptions -> option
SPLIT_FLAGS = {
    "train": "--train",
    "val": "--val",
    "test": "--test",
    "seed": "--split-seed",
    "sample": "--sample-size",
    "gap": "--gap",
    "number": "--split-number",
    "path": "--split-path",
}


def add_data_options(parser: OptionParser, out: str) -> Section:
    """The options of the section data that do not depend on the source."""
    data = parser.section("data", "where the structures come from, where the folder is written")
    data.add("--out", str, out, help=OUT_HELP)
    data.add("--rebuild", bool, False, help="replace what is in the folder")
    labels = (
        "frames whose energies are compared with the work of the forces: off, sample (up to 1000) "
        "or all; what cannot be right is refused, what is likely wrong is a note"
    )
    data.add("--check-labels", str, SAMPLE, choices=MODES, help=labels)
    return data


def add_split_options(parser: OptionParser, usual: str, divided: str = "structures") -> None:
    """The options of the sections split, references and graphs.

    usual: what divides the structures when the user chooses nothing, divided: what the sizes
    count; both for the help.
    """
    split = parser.section("split", "which structures train, validate and test")
    split.add(
        "--split",
        str,
        None,
        key="name",
        choices=protocols_for(FOR_STRUCTURES),
        help=f"split protocol (default: {usual})",
    )
    for name in SPLITS:
        words = f"number of {divided} of the {name} split (default: as the protocol says)"
        split.add(SPLIT_FLAGS[name], int, None, low=1, help=words)

    # options of single protocols
    split.add("--split-seed", int, None, low=0, high=2**32 - 1, help="seed of the random order")
    split.add(
        "--sample-size",
        int,
        None,
        low=2,
        help="structures in the sample of --split lsr-mp (default: as published for the molecule)",
    )
    split.add(
        "--gap", int, None, low=0, help="frames left out between splits of --split time (default 0)"
    )
    split.add(
        "--split-number",
        int,
        None,
        low=1,
        high=5,
        help="which of the five published splits of --split rmd17 (default 1)",
    )
    split.add(
        "--split-path",
        str,
        None,
        help="npz file with index lists (--split file) or folder with index files (--split rmd17)",
    )

    split.add(
        "--leave-out-new-elements",
        bool,
        False,
        help="leave out structures of val and test with elements that no training structure has",
    )

    references = parser.section("references", "energies of the elements before training")
    references.add("--E0s", str, AVERAGE, key="energies", help=REFERENCE_WORDS)
    add_graph_options(parser)


def add_graph_options(parser: OptionParser) -> None:
    """The options of the section graphs."""
    graphs = parser.section("graphs", "which atoms are neighbours")
    graphs.add(
        "--cutoff",
        float,
        E2FormerOptions.cutoff,
        above=0,
        help="largest distance of two neighbours, Angstrom",
    )


def source_from(options: EasyDict, kind: type[Source]) -> Source:
    """The source ``kind`` with the values of its options; ``ValueError`` or ``FileNotFoundError``
    for values that it refuses.
    """
    source = kind(**{field.name: options[field.name] for field in dataclasses.fields(kind)})
    source.check()
    return source


def own_files_or_none(options: EasyDict) -> OwnFiles | None:
    """The files of the user, or None if no --file is given; ``ValueError`` for options that then
    have no effect.
    """
    if options.file:
        return source_from(options, OwnFiles)

    # what describes files is of no use without them
    for field in dataclasses.fields(OwnFiles):
        value = options[field.name]
        if value == field.default:
            continue
        flag = "--" + field.name.replace("_", "-")
        if field.name in ("val_file", "test_file"):
            raise ValueError(f"{flag} {value} needs --file for the structures to train on")
        raise ValueError(
            f"{flag} {value} describes a --file of your own, but no --file is given; leave it out"
        )
    return None


def planned(config: EasyDict, source: Source, usual: str | None = None) -> FolderPlan:
    """The folder that the options ask for.

    usual: split protocol when the user chose none (None: as the source says). ``ValueError`` for an
    option that has no effect.
    """
    protocol = config.split.name or usual or source.protocol
    options = _split_options(config.split, source, protocol)
    return FolderPlan(
        source,
        protocol,
        options,
        config.graphs.cutoff,
        parse_references(config.references.energies),
        config.split.leave_out_new_elements,
        config.data.check_labels,
    )


def _split_options(split: EasyDict, source: Source, protocol: str) -> SplitOptions:
    """What the user gave, else what the source says, as far as the protocol reads it."""
    fields = {name: flag.removeprefix("--").replace("-", "_") for name, flag in SPLIT_FLAGS.items()}
    given = {name: split[key] for name, key in fields.items() if split[key] is not None}
    if source.val_paths and (given or split.name):
        raise ValueError(
            "--val-file and --test-file are the splits already; leave out --split and its options"
        )

    reads = PROTOCOLS[protocol].reads
    for name in given:
        if name not in reads:
            known = ", ".join(SPLIT_FLAGS[field] for field in reads)
            raise ValueError(
                f"{SPLIT_FLAGS[name]} changes nothing in --split {protocol}, which reads {known}; "
                "leave it out"
            )
    defaults = source.split_defaults(protocol)
    read_defaults = {name: value for name, value in defaults.items() if name in reads}
    return SplitOptions(**read_defaults | given)
