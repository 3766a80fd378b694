"""The optimizers of training.py: Muon for the matrices inside blocks, AdamW for the rest. Their
rates are tensors, so that a CUDA graph of a step can follow them."""

import math
from typing import Any

import torch
from torch import Tensor

from networks import TextToImage

MUON_RATE, ADAM_RATE, WEIGHT_DECAY = 3e-3, 1.5e-3, 0.01


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised by a Newton–Schulz iteration, and scaled to the size
    of AdamW's updates.

    Matrices of one shape are treated as one batch.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], lr: Tensor, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(parameters, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
        shapes = sorted({tuple(p.shape) for p in parameters})
        self.stacks = [[p for p in parameters if tuple(p.shape) == shape] for shape in shapes]
        self.velocities = [torch.zeros_like(torch.stack(list(stack))) for stack in self.stacks]

    def state_dict(self) -> dict[str, Any]:
        return dict(velocities=self.velocities)

    def load_state_dict(self, stored: dict[str, Any]) -> None:
        self.velocities = stored["velocities"]

    @staticmethod
    def orthogonal(matrices: Tensor) -> Tensor:
        tall = matrices.shape[-2] > matrices.shape[-1]
        x = (matrices.mT if tall else matrices).bfloat16()
        x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
        for _ in range(5):
            square = x @ x.mT
            x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
        return (x.mT if tall else x).float()

    @torch.no_grad()
    def step(self) -> None:
        options = self.param_groups[0]
        for stack, velocity in zip(self.stacks, self.velocities):
            gradient = torch.stack([p.grad for p in stack])
            velocity.mul_(options["momentum"]).add_(gradient)
            update = self.orthogonal(gradient + options["momentum"] * velocity)
            torch._foreach_mul_(stack, 1 - options["lr"] * options["weight_decay"])
            torch._foreach_add_(stack, list((update * (-0.2 * math.sqrt(max(update.shape[1:])) * options["lr"])).unbind()))


def optimizers(model: TextToImage, on_gpu: bool) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks, AdamW for the rest."""
    inner, outer = [], []
    for name, parameter in model.named_parameters():
        in_block = "layers." in name or "refiner." in name
        (inner if in_block and parameter.ndim == 2 and "adaLN" not in name else outer).append(parameter)
    device = inner[0].device
    adam_rate, muon_rate = torch.tensor(ADAM_RATE, device=device), torch.tensor(MUON_RATE, device=device)
    adam = torch.optim.AdamW(outer, lr=adam_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=on_gpu, capturable=on_gpu)
    return [adam, Muon(inner, lr=muon_rate, weight_decay=WEIGHT_DECAY)]


def set_rates(trained_by: list[torch.optim.Optimizer], factor: float) -> None:
    """Sets the rates to this share of their peaks, in place."""
    for optimizer, peak in zip(trained_by, (ADAM_RATE, MUON_RATE)):
        optimizer.param_groups[0]["lr"].fill_(peak * factor)
