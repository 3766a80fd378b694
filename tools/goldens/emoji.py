"""Makes tests/goldens/emoji.{json,safetensors}: pictures that diffusers draws in float32 with the
embedded default.

    python tools/goldens/emoji.py

Run it again when models/emoji changes. The versions are those of requirements.txt.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from safetensors.torch import save_file

from make import ROOT, generator, load

#: Prompt, negative prompt, seed, guidance, width, height; 8 steps each.
CASES = [
    ("a red fox", "", 7, 0.0, 256, 256),
    ("a moon on the left and a rocket on the right, night-blue background", "", 0, 0.0, 256, 256),
    ("an owl, mint background", "a frog", 3, 1.5, 192, 128),
]
STEPS = 8


def main() -> None:
    pipe = load(ROOT.parents[1] / "models" / "emoji")
    cases, tensors = [], {}
    for i, (prompt, negative, seed, guidance, width, height) in enumerate(CASES):
        latents: list[torch.Tensor] = []

        def keep(_pipe, _step, _t, values):
            latents.append(values["latents"].clone())
            return values

        pictures = pipe(
            prompt, negative_prompt=negative, width=width, height=height, num_inference_steps=STEPS,
            guidance_scale=guidance, generator=generator(seed), callback_on_step_end=keep, output_type="pil",
        ).images
        cases.append({"prompt": prompt, "negative": negative, "seed": seed, "guidance": guidance, "width": width,
                      "height": height, "steps": STEPS})
        tensors[f"{i}.latents"] = latents[-1].contiguous()
        tensors[f"{i}.rgb"] = torch.from_numpy(np.asarray(pictures[0]).copy())
    (ROOT / "emoji.json").write_text(json.dumps(cases, indent=1) + "\n")
    save_file(tensors, ROOT / "emoji.safetensors")


if __name__ == "__main__":
    main()
