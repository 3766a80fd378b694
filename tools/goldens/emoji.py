"""Makes tests/goldens/emoji.{json,safetensors}: pictures that diffusers draws in float32 with the
embedded default.

    python tools/goldens/emoji.py

Run it again when models/emoji changes. The versions are those of requirements.txt. diffusers reads
the folder that `tools/emoji/export.py --f32` writes, which has the stored values.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import ZImagePipeline
from safetensors.torch import save_file

from make import ROOT, generator, load

#: Prompt, negative prompt, seed, steps, guidance, width, height. Tests draw only the first on the
#: slower shaders. The second one has the model's defaults.
CASES = [
    ("an owl, mint background", "a frog", 3, 8, 1.5, 192, 128),
    ("a red fox", "", 7, 4, 1.0, 256, 256),
    ("a moon on the left and a rocket on the right, night-blue background", "", 0, 8, 0.0, 256, 256),
    ("three apples on a night-blue background", "", 5, 8, 0.0, 384, 256),
]


def embedded() -> ZImagePipeline:
    """The embedded default in diffusers, with the values of its stored formats."""
    repository = ROOT.parents[1]
    with tempfile.TemporaryDirectory() as folder:
        export = [sys.executable, repository / "tools" / "emoji" / "export.py", "--f32"]
        subprocess.run([*export, "--model", repository / "models" / "emoji", "--out", folder], check=True)
        return load(Path(folder))


def main() -> None:
    pipe = embedded()
    cases, tensors = [], {}
    for i, (prompt, negative, seed, steps, guidance, width, height) in enumerate(CASES):
        latents: list[torch.Tensor] = []

        def keep(_pipe, _step, _t, values):
            latents.append(values["latents"].clone())
            return values

        pictures = pipe(
            prompt, negative_prompt=negative, width=width, height=height, num_inference_steps=steps,
            guidance_scale=guidance, generator=generator(seed), callback_on_step_end=keep, output_type="pil",
        ).images
        cases.append({"prompt": prompt, "negative": negative, "seed": seed, "guidance": guidance, "width": width,
                      "height": height, "steps": steps})
        tensors[f"{i}.latents"] = latents[-1].contiguous()
        tensors[f"{i}.rgb"] = torch.from_numpy(np.asarray(pictures[0]).copy())
    (ROOT / "emoji.json").write_text(json.dumps(cases, indent=1) + "\n")
    save_file(tensors, ROOT / "emoji.safetensors")


if __name__ == "__main__":
    main()
