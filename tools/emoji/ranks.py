"""The processes of one training, one for each GPU, that torchrun starts; or a single process. Used
by training.py."""

import os

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks:
    """This process among all: `rank` of `count`, on `device`."""

    def __init__(self) -> None:
        self.rank, self.count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        on_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda", self.rank) if on_gpu else torch.device("cpu")
        if on_gpu:
            torch.cuda.set_device(self.device)
        if self.count > 1:
            dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")

    def print(self, text: str) -> None:
        if self.rank == 0:
            print(text, flush=True)

    def add(self, tensor: Tensor) -> None:
        """Replaces the tensor by the sum over all ranks."""
        if self.count > 1:
            dist.all_reduce(tensor)

    def share_first(self, tensors: list[Tensor]) -> None:
        """Replaces the tensors by those of rank 0."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def of_first(self, number: float) -> float:
        """The number of rank 0."""
        if self.count == 1:
            return number
        shared = torch.tensor(number, dtype=torch.float64)
        dist.broadcast(shared, 0)
        return shared.item()

    def wait(self) -> None:
        """Returns when all ranks have come here."""
        if self.count > 1:
            dist.barrier()

    def end(self) -> None:
        if self.count > 1:
            dist.destroy_process_group()
