"""Compares `zimage` and diffusers in bf16 with diffusers in float32, stage by stage, at the real
size.

    python tools/fidelity/compare.py --engine target/release/zimage --work /tmp/fidelity [--outliers]
    python tools/fidelity/compare.py --engine target/release/zimage --work /tmp/fidelity --small --backend cpu

Each stage has the same inputs on all three; the final picture is drawn from the prompt and the
seed. A distance is ‖out − float32‖ / ‖float32‖. Exits with 1 if any distance of ours is larger than
that of diffusers. README.md in this folder has the details.
"""

from __future__ import annotations

import argparse

from engine import Engine
from reference import Comparison, distance, tell
from stages import Tensors


def table(ours: Tensors, rounded: Tensors, exact: Tensors) -> bool:
    """Prints a row per stage; returns true if ours is nowhere further away."""
    width = max(map(len, exact))
    print(f"\n{'stage':{width}}  {'ours':>9}  {'diffusers':>9}  ratio")
    passed = True
    for name, reference in exact.items():
        near, far = distance(ours[name], reference), distance(rounded[name], reference)
        good = near <= far  # false for NaN
        passed &= good
        ratio = near / far if far > 0 else float("nan")
        print(f"{name:{width}}  {near:9.2e}  {far:9.2e}  {ratio:5.2f}  {'ok' if good else 'FURTHER AWAY'}")
    return passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    Engine.add_flags(parser)
    Comparison.add_flags(parser)
    options = parser.parse_args()
    engine, comparison = Engine.of(options), Comparison.of(options)
    ours = engine.results(["--model", comparison.folder], comparison.engine_inputs(), comparison.cases.pictures)
    tell("zimage is done")
    rounded = comparison.rounded()
    tell("diffusers in bf16 is done")
    exact = comparison.exact()
    if not table(*map(comparison.without_outliers, (ours, rounded, exact))):
        raise SystemExit("zimage is further from float32 than diffusers in bf16")


if __name__ == "__main__":
    main()
