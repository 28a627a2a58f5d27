"""ONNX: a graph of standard operators for other runtimes, read back with onnxruntime."""

from pathlib import Path

import torch
from torch import Tensor, nn

from snnrun.export.library import library
from snnrun.export.program import program


def write(net: nn.Module, x: Tensor, file: Path) -> Tensor:
    """Write ``net`` for as many steps as ``x`` [T, B, ...] has and any batch; the file's outputs.

    Raises:
        ConfigError: for a part that cannot be exported.
        UserError: a library is not installed.
    """
    plain = program(net, len(x))
    for needed in ("onnx", "onnxscript"):
        library(needed)
    runtime = library("onnxruntime")
    torch.onnx.export(
        plain,
        (torch.zeros_like(x[:, :1]).repeat_interleave(2, dim=1),),  # one sample would fix the batch
        file,
        dynamo=True,
        external_data=False,
        input_names=["input"],
        output_names=["outputs"],
        dynamic_shapes=({1: torch.export.Dim("batch")},),
        verbose=False,
    )
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["outputs"], {"input": x.numpy()})[0])
