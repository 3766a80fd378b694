"""A built `zimage`: the results of its stages, its pictures, and the files that it writes."""

from __future__ import annotations

import subprocess
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from safetensors.torch import load_file, save_file

from stages import Picture, Tensors, pixels

#: The parts whose matrices have a storage format, as `zimage quantize` names them.
PARTS = ("transformer", "text-encoder")


@dataclass(frozen=True)
class Engine:
    """The program, its backend, and the folder for inputs and outputs."""

    program: Path
    backend: str
    work: Path

    @staticmethod
    def add_flags(parser: ArgumentParser) -> None:
        parser.add_argument("--engine", type=Path, required=True, help="a built zimage")
        parser.add_argument("--work", type=Path, required=True, help="folder for the model (21 GB) and what is made from it")
        parser.add_argument("--backend", default="cuda", help="the engine's backend (default: cuda)")

    @classmethod
    def of(cls, options: Namespace) -> Engine:
        options.work.mkdir(parents=True, exist_ok=True)
        return cls(options.engine, options.backend, options.work)

    def run(self, *arguments: object) -> None:
        subprocess.run([str(part) for part in (self.program, *arguments)], check=True)

    def results(self, model: list[object], inputs: Tensors, pictures: dict[str, Picture]) -> Tensors:
        """The results of the stages for the inputs, and the pictures; `model` has a model's flags."""
        return self.stages(model, inputs) | self.pictures(model, pictures)

    def stages(self, model: list[object], inputs: Tensors) -> Tensors:
        """The results of the stages for the inputs."""
        files = [self.work / f"{what}.safetensors" for what in ("inputs", "outputs")]
        save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, files[0])
        self.run("stages", *model, "--backend", self.backend, "--inputs", files[0], "-o", files[1])
        return load_file(files[1])

    def pictures(self, model: list[object], pictures: dict[str, Picture]) -> Tensors:
        """RGB values of the pictures."""
        return {name: pixels(self.draw(model, picture)) for name, picture in pictures.items()}

    def draw(self, model: list[object], case: Picture) -> Image.Image:
        file = self.work / "picture.png"
        # Without guidance it is not read, about which `zimage` would warn.
        negative = ["--negative", case.negative] if case.sampling.guidance > 0 else []
        self.run(
            "generate", case.prompt, *negative, *model, "--backend", self.backend,
            "--height", case.size[0], "--width", case.size[1], "--steps", case.sampling.steps,
            "--guidance", case.sampling.guidance, "--seed", case.seed, "-o", file,
        )  # fmt: skip
        return Image.open(file)

    def quantize(self, model: Path, kind: str, folder: Path) -> dict[str, Path]:
        """GGUF files in `folder` of the model's parts in a format."""
        files = {part: folder / f"{part}-{kind}.gguf" for part in PARTS}
        for part, file in files.items():
            self.run("quantize", model, "--part", part, "--type", kind, "-o", file, "--quiet")
        return files
