"""Autocast, loss, fused Adam and training step of the PyTorch programs."""

import contextlib
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from peers.job import BETAS, EPSILON, LABEL_SMOOTHING, LEARNING_RATE, Arrays, Job

Logits = Callable[[Tensor, Tensor | None, Tensor], Tensor]  # source, source mask (None: no padding), target input
Loss = Callable[[Tensor, Tensor | None, Tensor, Tensor], Tensor]  # source, source mask, target input, labels


class TorchTraining:
    """Trains a model with float32 parameters.

    The loss is a mean over the labels that are not IGNORED.

    bfloat16 means torch.autocast, which like ours combines float32 parameters with bfloat16 products. On a CPU it may
    be slower than float32. So the worker runs `is_faster_in_bfloat16` in another process, whose memory is not counted.
    """

    packages: tuple[str, ...] = ("torch",)

    def __init__(self, job: Job, model: nn.Module, loss: Loss, compiled: str | None = None) -> None:
        """Moves the model to the device and, optionally, compiles its loss.

        Args:
            job: The task of the program.
            model: The model, whose parameters are trained.
            loss: The loss of the model.
            compiled: None does not compile. `dynamic` compiles once for all shapes, `static` once for each shape.
        """
        self._device = torch.device("cuda" if job.device == "gpu" else "cpu")
        self._model = model.to(self._device).train()
        # `parameters()` yields shared parameters once.
        self.num_parameters = sum(
            parameter.numel() for parameter in self._model.parameters() if parameter.requires_grad
        )
        self.bfloat16 = job.dtype == "bfloat16"
        if compiled is not None:
            torch._dynamo.config.cache_size_limit = 2 * len(job.warm_up) + 8  # every shape in both dtypes
            loss = torch.compile(loss, dynamic=compiled == "dynamic")
        self._loss = loss
        self._optimizer = torch.optim.Adam(
            self._model.parameters(), LEARNING_RATE, betas=BETAS, eps=EPSILON, fused=True
        )

    @property
    def note(self) -> str:
        return "bfloat16 autocast" if self.bfloat16 else "float32"

    def is_faster_in_bfloat16(self, batch: Arrays) -> bool:
        """Whether a step is faster in bfloat16 than in float32.

        The fastest of three steps of each dtype counts, after one unmeasured step.
        """
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(4):
            for self.bfloat16 in seconds:
                start = time.perf_counter()
                self.step(batch)
                self.wait()
                seconds[self.bfloat16].append(time.perf_counter() - start)
        return min(seconds[True][1:]) <= min(seconds[False][1:])

    def step(self, batch: Arrays) -> None:
        """Makes one update. A source mask of None stands for sources without padding."""
        source_mask = None if batch.source_mask is None else self._copy(batch.source_mask)
        tensors = map(self._copy, (batch.source, batch.target_input, batch.target_output, batch.target_mask))
        source, target_input, target_output, target_mask = tensors
        labels = target_output.long().masked_fill(~target_mask, IGNORED)
        autocast = torch.autocast(self._device.type, torch.bfloat16) if self.bfloat16 else contextlib.nullcontext()
        with autocast:
            loss = self._loss(source.long(), source_mask, target_input.long(), labels)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._last = loss.detach()

    def _copy(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)

    def wait(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return float(self._last)

    def device_bytes(self) -> int | None:
        return torch.cuda.max_memory_allocated() if self._device.type == "cuda" else None


IGNORED = -100


def cross_entropy(logits: Logits) -> Loss:
    """Makes a loss from logits, the label-smoothed mean over the labels.

    It is computed in float32 on every device, as autocast does on a GPU.
    """

    def loss(source: Tensor, source_mask: Tensor | None, target: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(
            logits(source, source_mask, target).flatten(0, 1).float(),
            labels.flatten(),
            ignore_index=IGNORED,
            label_smoothing=LABEL_SMOOTHING,
        )

    return loss
