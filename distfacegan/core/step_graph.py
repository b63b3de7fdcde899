"""One launch for all the small operations of a step on a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class StepGraph:
    """A function of tensors of fixed shapes on a GPU, captured once as a CUDA graph and replayed.

    One launch replaces hundreds, so that a small step does not wait for the host.
    """

    WARM_UP = 3  # calls before the capture, which choose algorithms, compile and allocate

    def __init__(self, function: Callable[..., None]) -> None:
        self._function, self._calls = function, 0
        self._inputs: tuple[Tensor, ...] = ()

    def __call__(self, *inputs: Tensor) -> None:
        """Call the function, which returns nothing, on copies of the inputs."""
        with torch.cuda.device(inputs[0].device):
            self._call(*inputs)

    def _call(self, *inputs: Tensor) -> None:
        if not self._inputs:
            self._inputs = tuple(torch.empty_like(tensor) for tensor in inputs)
            self._graph, self._stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._calls += 1
        if self._calls > self.WARM_UP:
            if self._calls == self.WARM_UP + 1:
                with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                    self._function(*self._inputs)
            self._graph.replay()
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._function(*self._inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
