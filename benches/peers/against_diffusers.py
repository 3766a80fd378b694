"""Times diffusers, eager and compiled, against `zimage` on the same GPU, and prints the time
ratios.

    python benches/peers/against_diffusers.py --engine target/release/zimage
    python benches/peers/against_diffusers.py --engine target/release/zimage --rows vae,text_encoder --modes compiled

The weights are random, in bf16 and of the real configuration. The picture has 1024×1024 pixels and
the caption 128 tokens. README.md in this folder has the details.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from diffusers import ZImageTransformer2DModel  # noqa: E402
from transformers import Qwen3Config, Qwen3Model  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tools" / "goldens"))

from full_width import TEXT_ENCODER, TRANSFORMER, VAE, autoencoder, randomised  # noqa: E402

SIZE, CAPTION = 1024, 128
WARM_UP = 3
#: The rows of `zimage bench` and the work of diffusers that each is compared with.
ROWS = {
    "transformer-1": "stage/transformer/batch-1",
    "transformer-2": "stage/transformer/batch-2",
    "text_encoder": "stage/text_encoder",
    "vae": "stage/vae",
}
MODES = ("eager", "compiled")
Call = Callable[[], Any]


def built(make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """A network with random weights, initialised on the GPU in bf16."""
    torch.manual_seed(0)
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        network = randomised(make())
    torch.set_default_dtype(kept)
    return network.eval().requires_grad_(False)


def transformer_call(network: torch.nn.Module, batch: int, compiled: bool) -> Call:
    """One forward pass of `batch` pictures, each with its caption."""
    run = torch.compile(network, dynamic=False) if compiled else network
    latents = [normal(network.config.in_channels, 1, SIZE // 8, SIZE // 8) for _ in range(batch)]
    captions = [normal(CAPTION, network.config.cap_feat_dim) for _ in range(batch)]
    times = torch.full((batch,), 0.5, device="cuda")
    return lambda: run(latents, times, captions, return_dict=False)


def text_encoder_call(network: torch.nn.Module, compiled: bool) -> Call:
    """The hidden states of one prompt before the last block, without padding. For the compiler the
    last block is removed and the KV cache is off, so that it sees one graph without unused work."""
    ids = torch.arange(CAPTION, device="cuda")[None] * 7919 % network.config.vocab_size
    if not compiled:
        return lambda: network(input_ids=ids, output_hidden_states=True).hidden_states[-2]
    cut = copy.copy(network)
    cut._modules = network._modules | {"layers": network.layers[:-1], "norm": torch.nn.Identity()}
    run = torch.compile(cut, dynamic=False)
    return lambda: run(input_ids=ids, use_cache=False).last_hidden_state


def vae_call(network: torch.nn.Module, compiled: bool) -> Call:
    """Latents to pixels between -1 and 1; channels last if compiled, which is the fastest
    layout."""
    network.to(memory_format=torch.channels_last if compiled else torch.contiguous_format)
    run = torch.compile(network.decode, dynamic=False) if compiled else network.decode
    latents = normal(1, network.config.latent_channels, SIZE // 8, SIZE // 8)
    return lambda: run(latents, return_dict=False)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


#: The network and the call of each row.
NETWORKS: dict[str, tuple[Callable[[], torch.nn.Module], Callable[[torch.nn.Module, bool], Call]]] = {
    "transformer-1": (lambda: ZImageTransformer2DModel(**TRANSFORMER), lambda n, c: transformer_call(n, 1, c)),
    "transformer-2": (lambda: ZImageTransformer2DModel(**TRANSFORMER), lambda n, c: transformer_call(n, 2, c)),
    "text_encoder": (lambda: Qwen3Model(Qwen3Config(**TEXT_ENCODER)), text_encoder_call),
    "vae": (lambda: autoencoder(VAE), vae_call),
}


@torch.no_grad()
def median_ms(call: Call, runs: int) -> float:
    """The median over `runs` calls, between events on the GPU."""
    for _ in range(WARM_UP):
        call()
    times = []
    for _ in range(runs):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def measure(rows: list[str], modes: list[str], runs: int) -> dict[tuple[str, str], float]:
    """Milliseconds by row and mode, printed as they are measured."""
    found: dict[tuple[str, str], float] = {}
    for row in rows:
        make, call = NETWORKS[row]
        network = built(make)
        for mode in modes:
            torch.compiler.reset()
            start = time.monotonic()
            found[row, mode] = median_ms(call(network, mode == "compiled"), runs)
            took = time.monotonic() - start
            print(f"{row}, {mode}: {found[row, mode]:.2f} ms ({took:.0f} s with warm-up)", file=sys.stderr, flush=True)
        del network
        gc.collect()
        torch.cuda.empty_cache()
    return found


def ours(engine: Path, backend: str, rows: list[str]) -> dict[str, float]:
    """The medians of `zimage bench`, by row name."""
    # A single row is filtered by its own name, so that only its networks are loaded.
    pattern = ROWS[rows[0]] if len(rows) == 1 else "stage/"
    command = [engine, "bench", "--backend", backend, "--random", "turbo", "--json", "--filter", pattern]
    sizes = ["--width", str(SIZE), "--height", str(SIZE), "--tokens", str(CAPTION)]
    output = subprocess.run([*command, *sizes], check=True, stdout=subprocess.PIPE).stdout
    return {row["name"]: row["ms"]["median"] for row in json.loads(output)["rows"] if row["ms"]}


def table(rows: list[str], modes: list[str], peer: dict[tuple[str, str], float], own: dict[str, float]) -> None:
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; milliseconds, medians")
    print(f"{'row':14} {'mode':9} {'diffusers':>10} {'zimage':>10} {'zimage / diffusers':>19}")
    for row in rows:
        time_of_ours = own.get(ROWS[row])
        for mode in modes:
            mine = "-" if time_of_ours is None else f"{time_of_ours:.2f}"
            ratio = "-" if time_of_ours is None else f"{time_of_ours / peer[row, mode]:.2f}"
            print(f"{row:14} {mode:9} {peer[row, mode]:10.2f} {mine:>10} {ratio:>19}")


def chosen(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Parses a comma-separated list of names."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}; there are: {', '.join(known)}")
        return names

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, help="a built zimage (default: only diffusers is measured)")
    parser.add_argument("--backend", default="cuda", help="the engine's backend (default: cuda)")
    parser.add_argument("--rows", type=chosen(tuple(ROWS)), default=list(ROWS), help=f"some of {','.join(ROWS)}")
    parser.add_argument("--modes", type=chosen(MODES), default=list(MODES), help=f"some of {','.join(MODES)}")
    parser.add_argument("--runs", type=int, default=10, help="calls of diffusers that count (default: 10)")
    options = parser.parse_args()
    peer = measure(options.rows, options.modes, options.runs)
    own = ours(options.engine, options.backend, options.rows) if options.engine else {}
    table(options.rows, options.modes, peer, own)


if __name__ == "__main__":
    main()
