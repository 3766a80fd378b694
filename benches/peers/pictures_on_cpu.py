"""Times pictures of the embedded model on the CPU: diffusers' ZImagePipeline against `zimage`, in
turns, with the models loaded, and prints medians and ratios.

    python benches/peers/pictures_on_cpu.py --engine target/release/zimage

A picture has 256×256 pixels, and the model's own steps and guidance. README.md in this folder has
the details.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "a red fox"
SIZE = 256
#: Pictures of a `zimage generate` whose processor time is compared with that of one picture.
COUNTED = 6


class Diffusers:
    """The pipeline of diffusers on the embedded model, in one type."""

    def __init__(self, threads: int, dtype: str) -> None:
        import torch
        from diffusers import ZImagePipeline

        warnings.filterwarnings("ignore")
        torch.set_num_threads(threads)
        with tempfile.TemporaryDirectory() as folder:
            export = [sys.executable, ROOT / "tools" / "emoji" / "export.py", "--model", ROOT / "models" / "emoji"]
            subprocess.run([*export, "--out", folder, "--f32"], check=True, stdout=subprocess.DEVNULL)
            defaults = json.loads((Path(folder) / "zimage.json").read_text())
            self.steps, self.guidance = defaults["steps"], defaults["guidance"]
            self.pipeline = ZImagePipeline.from_pretrained(folder, torch_dtype=getattr(torch, dtype))
        self.pipeline.set_progress_bar_config(disable=True)
        self.name = f"diffusers, {dtype}"

    def picture(self) -> tuple[float, float]:
        """Seconds of one picture: on the clock, and of the processors."""
        clock, processor = time.perf_counter(), time.process_time()
        self.pipeline(PROMPT, height=SIZE, width=SIZE, num_inference_steps=self.steps, guidance_scale=self.guidance)
        return time.perf_counter() - clock, time.process_time() - processor


def bench(engine: Path, tokens: int, runs: int, threads: int) -> float:
    """The median seconds of a picture by `zimage bench`, on the clock."""
    command = [engine, "bench", "--backend", "cpu", "--filter", "picture", "--json"]
    command += ["--tokens", str(tokens), "--runs", str(runs)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment(threads)).stdout
    rows = {row["name"]: row for row in json.loads(output)["rows"]}
    return rows["picture"]["ms"]["median"] / 1e3


def processor_time(engine: Path, threads: int) -> float:
    """Processor seconds of one more picture in a `zimage generate` of several."""

    def seconds(count: int) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with tempfile.TemporaryDirectory() as folder:
            command = [engine, "generate", PROMPT, "--backend", "cpu", "--count", str(count), "--seed", "7"]
            command += ["-o", Path(folder) / "picture.png"]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env=environment(threads))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return (seconds(1 + COUNTED) - seconds(1)) / COUNTED


def environment(threads: int) -> dict[str, str]:
    return os.environ | {"RAYON_NUM_THREADS": str(threads)}


def tokens_of_prompt(pipeline: object) -> int:
    """The tokens of the prompt with the chat template."""
    tokenizer = pipeline.tokenizer
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}], tokenize=False, add_generation_prompt=True, enable_thinking=True
    )
    return len(tokenizer(text)["input_ids"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, action="append", required=True, help="a built zimage; may be repeated")
    parser.add_argument("--threads", type=int, default=2, help="threads of each program (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every program (default: 5)")
    parser.add_argument("--pictures", type=int, default=3, help="pictures of a turn (default: 3)")
    parser.add_argument("--dtype", default="float32", help="the type of diffusers: float32 or bfloat16 (default: float32)")
    options = parser.parse_args()

    diffusers = Diffusers(options.threads, options.dtype)
    tokens = tokens_of_prompt(diffusers.pipeline)
    for _ in range(3):
        diffusers.picture()
    clock: dict[str, list[float]] = {}
    processor: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for _ in range(options.pictures):
            on_clock, of_processors = diffusers.picture()
            clock.setdefault(diffusers.name, []).append(on_clock)
            processor.setdefault(diffusers.name, []).append(of_processors)
        for engine in options.engine:
            name = str(engine)
            clock.setdefault(name, []).append(bench(engine, tokens, options.pictures, options.threads))
            processor.setdefault(name, []).append(processor_time(engine, options.threads))

    print(f"{options.threads} threads, a prompt of {tokens} tokens; seconds a picture, medians (least)")
    print(f"{'program':40} {'clock':>15} {'ratio':>6} {'processors':>15} {'ratio':>6}")
    peer = [statistics.median(times[diffusers.name]) for times in (clock, processor)]
    for name in clock:
        cells = []
        for times, reference in zip((clock[name], processor[name]), peer):
            median = statistics.median(times)
            cells += [f"{median:.3f} ({min(times):.3f})".rjust(15), f"{median / reference:.2f}".rjust(6)]
        print(f"{name[-40:]:40} {' '.join(cells)}")


if __name__ == "__main__":
    main()
