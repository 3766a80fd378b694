"""Makes tests/goldens/schedules.json with diffusers: the noise levels and model times of every kind
of scheduler config.

    python tools/goldens/schedules.py

The functions are those called by ZImagePipeline. Configs that diffusers rejects are recorded with
its exception.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.z_image.pipeline_z_image import (
    calculate_shift,
    get_default_z_image_sigmas,
    retrieve_timesteps,
)

ROOT = Path(__file__).resolve().parents[2] / "tests" / "goldens"
Config = dict[str, Any]

BASE: Config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
DYNAMIC: Config = {"use_dynamic_shifting": True}

#: The additions of each config to BASE. None removes a key, and the text NULL becomes null in the
#: file.
CONFIGS: dict[str, Config] = {
    "fixed": {},
    "fixed by default": {"shift": None},
    "fixed below one": {"shift": 0.7},
    "dynamic": DYNAMIC,
    "dynamic linear": {**DYNAMIC, "time_shift_type": "linear"},
    "dynamic with own ends": {
        **DYNAMIC, "base_shift": 0.3, "max_shift": 0.9, "base_image_seq_len": 64, "max_image_seq_len": 8192,
    },
    "dynamic falling": {**DYNAMIC, "base_shift": 1.5, "max_shift": 0.25},
    "dynamic without a shift": {**DYNAMIC, "shift": "NULL"},
    "terminal": {"shift_terminal": 0.02},
    "terminal dynamic": {**DYNAMIC, "shift_terminal": 0.1},
    "terminal of zero is none": {"shift_terminal": 0.0},
    "terminal below zero": {"shift_terminal": -0.25},
    "karras": {"use_karras_sigmas": True},
    "karras dynamic": {**DYNAMIC, "use_karras_sigmas": True},
    "karras terminal": {"use_karras_sigmas": True, "shift_terminal": 0.05},
    "karras with own range": {"use_karras_sigmas": True, "sigma_min": 0.03, "sigma_max": 0.97},
    "exponential": {"use_exponential_sigmas": True},
    "exponential dynamic": {**DYNAMIC, "use_exponential_sigmas": True, "shift_terminal": 0.05},
    "exponential with own minimum": {"use_exponential_sigmas": True, "sigma_min": 0.01},
    "beta": {"use_beta_sigmas": True},
    "beta dynamic": {**DYNAMIC, "use_beta_sigmas": True},
    "beta terminal": {"use_beta_sigmas": True, "shift_terminal": 0.08},
    "beta with own maximum": {"use_beta_sigmas": True, "sigma_max": 0.9},
    "own range without a spacing": {"sigma_min": 0.03, "sigma_max": 0.97},
    "inverted": {"invert_sigmas": True},
    "inverted karras dynamic": {**DYNAMIC, "use_karras_sigmas": True, "invert_sigmas": True},
    "500 train timesteps": {"num_train_timesteps": 500},
    "2000 train timesteps": {"num_train_timesteps": 2000, "use_beta_sigmas": True},
    "unknown keys": {"base_image": 7, "rho": 3.0, "algorithm_type": "dpmsolver++"},
}

#: Like CONFIGS; diffusers raises for these.
REFUSED: dict[str, Config] = {
    "null shift": {"shift": "NULL"},
    "two spacings": {"use_karras_sigmas": True, "use_beta_sigmas": True},
    "three spacings": {"use_karras_sigmas": True, "use_beta_sigmas": True, "use_exponential_sigmas": True},
    "unknown shift type": {**DYNAMIC, "time_shift_type": "cubic"},
    "unknown shift type without dynamic shifting": {"time_shift_type": "cubic"},
    "null shift type": {"time_shift_type": "NULL"},
    "null base shift": {"base_shift": "NULL"},
    "null maximum shift": {**DYNAMIC, "max_shift": "NULL"},
    "null base length": {"base_image_seq_len": "NULL"},
    "null maximum length": {**DYNAMIC, "max_image_seq_len": "NULL"},
    "equal lengths": {**DYNAMIC, "base_image_seq_len": 4096},
    "equal lengths without dynamic shifting": {"base_image_seq_len": 4096},
    "null spacing": {"use_exponential_sigmas": "NULL"},
    "null train timesteps": {"num_train_timesteps": "NULL"},
    "text for shift": {"shift": "three"},
}

#: Width, height, steps.
RUNS = [(1024, 1024, 8), (1024, 1024, 1), (256, 256, 9), (512, 1536, 28), (2048, 1040, 50)]


def scheduler(change: Config) -> tuple[Config, FlowMatchEulerDiscreteScheduler]:
    """The config file and the scheduler that diffusers makes from it."""
    config = {key: value for key, value in {**BASE, **change}.items() if value is not None}
    config = {key: None if value == "NULL" else value for key, value in config.items()}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "scheduler_config.json").write_text(json.dumps(config))
        return config, FlowMatchEulerDiscreteScheduler.from_pretrained(folder)


def run(scheduler: FlowMatchEulerDiscreteScheduler, width: int, height: int, steps: int) -> Config:
    """Noise levels and model times, computed as in ZImagePipeline.__call__."""
    config = scheduler.config
    mu = calculate_shift(
        (height // 16) * (width // 16),
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", 1.15),
    )
    sigmas = get_default_z_image_sigmas(steps)
    timesteps, _ = retrieve_timesteps(scheduler, steps, "cpu", sigmas=sigmas, mu=mu)
    times = (1000 - timesteps) / 1000
    return {"width": width, "height": height, "steps": steps, "sigmas": shortest(scheduler.sigmas),
            "times": shortest(times)}


def shortest(values: torch.Tensor) -> list[float]:
    """Each float32 as the shortest decimal number that rounds to it."""
    return [float(str(value)) for value in values.numpy()]


def main() -> None:
    cases, refused = [], []
    for name, change in CONFIGS.items():
        config, made = scheduler(change)
        runs = []
        for size in RUNS:
            found = run(made, *size)
            # Null means that diffusers computes NaN, which JSON cannot represent.
            finite = all(value == value for value in found["sigmas"])
            runs.append(found if finite else {**found, "sigmas": None, "times": None})
        cases.append({"name": name, "config": config, "runs": runs})
    for name, change in REFUSED.items():
        try:
            _, made = scheduler(change)
            run(made, *RUNS[0])
        except Exception as error:
            config = {key: None if value == "NULL" else value for key, value in {**BASE, **change}.items()}
            refused.append({"name": name, "config": config, "error": f"{type(error).__name__}: {error}"})
        else:
            raise AssertionError(f"diffusers accepts {name}")
    lines = json.dumps({"cases": cases, "refused": refused}, indent=None, allow_nan=False)
    (ROOT / "schedules.json").write_text(lines.replace('{"name"', '\n{"name"').replace('{"width"', '\n {"width"') + "\n")


if __name__ == "__main__":
    main()
