#!/usr/bin/env python3
"""Writes src/tensor/format/grids.rs: the grids of ggml's IQ formats, from the Python package `gguf`.

    pip install gguf==0.19.0
    tools/formats/grids.py | rustfmt --edition 2024 --config max_width=120 > src/tensor/format/grids.rs
"""

from gguf import quants

HEAD = """\
//! The grids of ggml's IQ formats: the vectors that an index selects, one packed into a word.
//!
//! Written by `tools/formats/grids.py` from the tables of the Python package `gguf`, which packs
//! them in the same way. Element `i` of a vector of 8 is in bits `2·i`, element `i` of a vector of
//! 4 in bits `4·i`.
"""

GRIDS = [
    ("IQ1", quants.IQ1_S, "The ternary vectors of IQ1_S and IQ1_M: a code is the element plus 1."),
    ("IQ2_XXS", quants.IQ2_XXS, "The vectors of IQ2_XXS: codes 0, 1 and 2 are elements 8, 25 and 43."),
    ("IQ2_XS", quants.IQ2_XS, "The vectors of IQ2_XS, with the codes of IQ2_XXS."),
    ("IQ2_S", quants.IQ2_S, "The vectors of IQ2_S, with the codes of IQ2_XXS."),
    ("IQ3_XXS", quants.IQ3_XXS, "The vectors of IQ3_XXS: codes 0 to 7 are elements 4, 12, 20, 28, 36, 44, 52 and 62."),
    ("IQ3_S", quants.IQ3_S, "The vectors of IQ3_S: code c is element 2·c + 1."),
]


def words(quant):
    """The vectors of a format's grid as words, packed from their values."""
    quant.init_grid()
    rows, length = quant.grid_shape
    codes = {float(value): code for code, value in enumerate(quant.grid_map)}
    bits = 16 // length
    grid = quant.grid.reshape(rows, length)
    return [sum(codes[float(value)] << bits * i for i, value in enumerate(vector)) for vector in grid]


print(HEAD)
for name, quant, text in GRIDS:
    packed = words(quant)
    print(f"/// {text}")
    print(f"pub(super) static {name}: [u16; {len(packed)}] = [")
    print(", ".join(f"0x{word:04x}" for word in packed) + ",")
    print("];\n")
