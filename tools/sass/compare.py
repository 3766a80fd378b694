"""Compares the machine code of two sets of CUDA kernels and ignores their names.

    ZIMAGE_CUBINS=before cargo test --test cuda every_kernel   # on one commit
    ZIMAGE_CUBINS=after cargo test --test cuda every_kernel    # on another
    python tools/sass/compare.py before after

Both folders have `<architecture>/<program>.cubin`. Kernels are paired by their code, so files,
programs and kernels may be renamed; kernels without a counterpart are listed. `cuobjdump -sass` of
the CUDA toolkit, or of the Python package `triton`, shows how two of them differ.
"""

import hashlib
import struct
import sys
from pathlib import Path


def sections(elf: bytes) -> list[tuple[str, int, bytes]]:
    """Name, info field and contents of every section of a 64-bit ELF file. The contents of an empty
    section are its size."""
    (start,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", elf, start + i * size) for i in range(count)]
    strings = headers[names][4]
    found = []
    for name, kind, _, _, offset, length, _, info, _, _ in headers:
        text = elf[strings + name : elf.index(b"\0", strings + name)].decode()
        no_bits = kind == 8
        found.append((text, info, str(length).encode() if no_bits else elf[offset : offset + length]))
    return found


def kernels(cubin: Path) -> dict[str, bytes]:
    """A hash by kernel name, of its code, registers, constants and shared memory."""
    parts = {}
    for section, info, contents in sections(cubin.read_bytes()):
        for kind in (".text.", ".nv.constant", ".nv.shared."):
            if not section.startswith(kind):
                continue
            bank, _, kernel = section.removeprefix(kind).rpartition(".")
            # The highest byte of a text section's info field is the number of registers; the rest
            # is the symbol's index. Bank 4 has addresses, which the loader fills in.
            registers = info >> 24 if kind == ".text." else 0
            parts.setdefault(kernel, []).append((kind + bank, registers, contents))
    coded = {kernel: part for kernel, part in parts.items() if any(kind == ".text." for kind, _, _ in part)}
    return {kernel: hashlib.sha256(repr(sorted(part)).encode()).digest() for kernel, part in coded.items()}


def read(folder: Path) -> dict[tuple[str, bytes], list[str]]:
    """The names of kernels, by architecture and code."""
    by_code = {}
    for cubin in sorted(folder.glob("*/*.cubin")):
        for kernel, code in kernels(cubin).items():
            label = f"{cubin.parent.name}: {cubin.stem}: {kernel}"
            by_code.setdefault((cubin.parent.name, code), []).append(label)
    return by_code


def main(before: str, after: str) -> int:
    old, new = read(Path(before)), read(Path(after))
    for title, one, other in (("only before", old, new), ("only after", new, old)):
        for label in sorted(label for code in one.keys() - other.keys() for label in one[code]):
            print(f"{title}: {label}")
    same = old.keys() & new.keys()
    print(f"{len(same)} are the same, {len(old) - len(same)} only before, {len(new) - len(same)} only after")
    return int(len(same) == 0 or len(same) != len(old) or len(same) != len(new))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
