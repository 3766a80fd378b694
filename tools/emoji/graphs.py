"""Runs a step of training as one CUDA graph. Used by vae.py and training.py."""

from collections.abc import Callable

import torch


class Step:
    """A function of tensors at constant places, without arguments and result. On a GPU the first
    calls run it kernel by kernel, which also compiles its parts; then it is captured, and every
    call replays the graph."""

    WARM_UP = 3

    def __init__(self, function: Callable[[], None], device: torch.device):
        self.function, self.on_gpu = function, device.type == "cuda"
        self.calls, self.graph = 0, None
        self.stream = torch.cuda.Stream() if self.on_gpu else None

    def __call__(self) -> None:
        if not self.on_gpu:
            return self.function()
        if self.calls < self.WARM_UP:
            here = torch.cuda.current_stream()
            self.stream.wait_stream(here)
            with torch.cuda.stream(self.stream):
                self.function()
            here.wait_stream(self.stream)
        else:
            if self.graph is None:
                torch.cuda.synchronize()
                self.graph = torch.cuda.CUDAGraph()
                # Other threads, such as NCCL's, may query events meanwhile.
                with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
                    self.function()
            self.graph.replay()
        self.calls += 1


class Aside:
    """A second stream, whose small kernels go first: it prepares the next data during a step."""

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        self.stream = torch.cuda.Stream(priority=-1) if self.on_gpu else None
        self.loaded = torch.cuda.Event() if self.on_gpu else None

    def join(self) -> None:
        """Lets the current stream wait for what was prepared. At most one step waits behind the one
        that runs."""
        if self.on_gpu:
            self.loaded.synchronize()
            torch.cuda.current_stream().wait_stream(self.stream)

    def fork(self) -> None:
        """The prepared data has been copied: the second stream may go on."""
        if self.on_gpu:
            self.loaded.record()
            self.stream.wait_event(self.loaded)
