"""Changes of files, as damage and hostile writers make them: bytes, words, headers, nested values.

    mutated(generator, content, others) -> content

Every change is drawn from one generator, so that a seed repeats it.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Sequence

import numpy as np

from farfield.dataloader.storage.files import DAMAGE

Generator = np.random.Generator
WORD = re.compile(rb"[-+.\w]+")
ODD_WORDS = (
    b"nan",
    b"inf",
    b"-1",
    b"0",
    b"",
    b"1e400",
    b"-1e-400",
    b"999999999999",
    b"9" * 5000,
    b"0x10",
    b"1_000",
    b"None",
    b"true",
    b"\xff\xfe",
    b"\x00",
    "\u0663\u202e".encode(),
    b"%s%n",
    b"../../x",
    b'"',
    b"[",
    b"{",
    b"&a *a",
    b"!!python/object/apply:os.system",
    b"1 2 3",
)
PROMISES = ((10**12,), (10**12, 3), (2**62,), (2**40, 2**40), (-5, 3), (0,), (1, 1, 1, 1, 1))


# ---- bytes


def flip_bits(generator: Generator, content: bytes) -> bytes:
    """One to four bits are wrong."""
    found = bytearray(content)
    for _ in range(int(generator.integers(1, 5))):
        found[int(generator.integers(len(found)))] ^= 1 << int(generator.integers(8))
    return bytes(found)


def truncate(generator: Generator, content: bytes) -> bytes:
    """The end is missing."""
    return content[: int(generator.integers(len(content)))]


def overwrite(generator: Generator, content: bytes) -> bytes:
    """Some bytes in a row are others."""
    begin = int(generator.integers(len(content)))
    count = int(generator.integers(1, 17))
    return content[:begin] + generator.bytes(count) + content[begin + count :]


def cut_out(generator: Generator, content: bytes) -> bytes:
    """A piece is missing."""
    begin, end = np.sort(generator.integers(len(content) + 1, size=2)).tolist()
    return content[:begin] + content[end:]


def repeat_piece(generator: Generator, content: bytes) -> bytes:
    """A piece comes twice."""
    begin = int(generator.integers(len(content)))
    end = min(len(content), begin + int(generator.integers(1, 400)))
    return content[:end] + content[begin:end] + content[end:]


def zero_out(generator: Generator, content: bytes) -> bytes:
    """A piece is zero, as a disk leaves what it lost."""
    begin, end = np.sort(generator.integers(len(content) + 1, size=2)).tolist()
    return content[:begin] + bytes(end - begin) + content[end:]


# ---- words and lines


def odd_word(generator: Generator, content: bytes) -> bytes:
    """A word is one that no program writes."""
    words = list(WORD.finditer(content[:200_000]))
    if not words:
        return flip_bits(generator, content)
    chosen = words[int(generator.integers(len(words)))]
    odd = ODD_WORDS[int(generator.integers(len(ODD_WORDS)))]
    return content[: chosen.start()] + odd + content[chosen.end() :]


def move_lines(generator: Generator, content: bytes) -> bytes:
    """A line is lost, comes twice, or stands elsewhere."""
    lines = content.split(b"\n")
    one, other = (int(place) for place in generator.integers(len(lines), size=2))
    how = int(generator.integers(3))
    if how == 0:
        del lines[one]
    elif how == 1:
        lines.insert(other, lines[one])
    else:
        lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


BYTES: tuple[Callable[[Generator, bytes], bytes], ...] = (
    flip_bits,
    truncate,
    overwrite,
    cut_out,
    repeat_piece,
    zero_out,
)
TEXT = (*BYTES, odd_word, odd_word, odd_word, move_lines, move_lines)


def spliced(generator: Generator, one: bytes, other: bytes) -> bytes:
    """The beginning of a file and the end of another."""
    return (
        one[: int(generator.integers(len(one) + 1))] + other[int(generator.integers(len(other))) :]
    )


# ---- arrays of an npz


def odd_array(generator: Generator, values: np.ndarray) -> bytes:
    """The npy bytes of an array with another type, shape, header or odd values."""
    makers = (_promise, _objects, _retyped, _reshaped, _odd_values, _odd_values)
    return makers[int(generator.integers(len(makers)))](generator, np.asarray(values))


def _npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, values, allow_pickle=True)
    return file.getvalue()


def _promise(generator: Generator, values: np.ndarray) -> bytes:
    """A header that promises another shape than there are numbers."""
    shape = PROMISES[int(generator.integers(len(PROMISES)))]
    file = io.BytesIO()
    header = {"descr": values.dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + values.tobytes()[:4096]


def _objects(generator: Generator, values: np.ndarray) -> bytes:
    """Python objects, whose pickle calls the canary."""
    from benchmarks.reliability.hostile_pickles import Hostile

    return _npy(np.array([Hostile(), None], dtype=object))


def _retyped(generator: Generator, values: np.ndarray) -> bytes:
    kinds = ("c16", "U8", "S3", "?", "i1", "f2", "u8", "M8[s]", [("a", "f8"), ("b", "i4")], ">f8")
    kind = np.dtype(kinds[int(generator.integers(len(kinds)))])
    return _npy(np.zeros(values.shape, kind))


def _reshaped(generator: Generator, values: np.ndarray) -> bytes:
    shapes = (values.ravel(), values[..., None], values[:0] if values.ndim else values, values.T)
    one_less = values[1:] if values.ndim else values
    chosen = (*shapes, one_less, np.array(3.0))[int(generator.integers(6))]
    return _npy(np.ascontiguousarray(chosen))


def _odd_values(generator: Generator, values: np.ndarray) -> bytes:
    found = np.array(values)
    if found.size and found.dtype.kind in "fiu":
        odd = (np.nan, np.inf, 1e300, -1, 0, 2**31, -(2**63), 1e6)
        place = int(generator.integers(found.size))
        with np.errstate(all="ignore"):
            value = np.array(odd[int(generator.integers(len(odd)))])
            found.reshape(-1)[place] = value.astype(found.dtype)
    elif found.dtype.kind in "US":
        words = ("", "x" * 3000, "\u202e", "{", "[[[[", '{"a": 1e999}', "null", "../x")
        found = np.array(words[int(generator.integers(len(words)))])
    return _npy(found)


def changed_npz(generator: Generator, content: bytes) -> bytes:
    """A whole npz in which one array is odd, missing or too many."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    # lost, twice or odd
    name = list(members)[int(generator.integers(len(members)))]
    how = int(generator.integers(8))
    if how == 0:
        del members[name]
    elif how == 1:
        members["further.npy"] = members[name]
    else:
        values = np.load(io.BytesIO(members[name]), allow_pickle=False)
        members[name] = odd_array(generator, values)

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return file.getvalue()


# ---- nested values


def odd_value(generator: Generator) -> object:
    """A value that a configuration seldom has."""
    deep: object = 0
    for _ in range(int(generator.integers(1, 2000))):
        deep = [deep]
    odd = (None, -1, 0, 1e308, 10**30, "", "x" * 5000, [], {}, [[]], True, {"a": {"b": {}}}, deep)
    return odd[int(generator.integers(len(odd)))]


def changed_value(generator: Generator, value: object) -> object:
    """A nested value in which one entry is odd, missing or has another name."""
    if isinstance(value, dict) and value and generator.random() < 0.9:
        found = dict(value)
        key = list(found)[int(generator.integers(len(found)))]
        how = generator.random()
        if how < 0.15:
            del found[key]
        elif how < 0.25:
            found[f"{key}x"] = found.pop(key)
        else:
            found[key] = changed_value(generator, found[key])
        return found

    # a list keeps its length
    if isinstance(value, list) and value and generator.random() < 0.8:
        found = list(value)
        place = int(generator.integers(len(found)))
        found[place] = changed_value(generator, found[place])
        return found
    return odd_value(generator)


def changed_json(generator: Generator, content: bytes) -> bytes:
    """A whole json file in which one entry is odd."""
    found = changed_value(generator, json.loads(content))
    try:
        return json.dumps(found).encode()
    except RecursionError:
        return b"[" * 100_000


def mutated(
    generator: Generator,
    content: bytes,
    others: Sequence[bytes] = (),
    changes: Sequence[Callable[[Generator, bytes], bytes]] = BYTES,
) -> bytes:
    """One to three changes, one after the other; sometimes the end of another file."""
    if others and generator.random() < 0.05:
        content = spliced(generator, content, others[int(generator.integers(len(others)))])
    for _ in range(1 + int(generator.integers(3)) * (generator.random() < 0.4)):
        if not content:
            break
        change = changes[int(generator.integers(len(changes)))]
        try:
            content = change(generator, content)
        except (*DAMAGE, RecursionError):
            # a change of the content of a file that an earlier change has damaged
            content = flip_bits(generator, content)
    return content
