"""How is a safetensors file written without a second copy of its tensors in memory? One tensor after the other.

The layout: the length of the header (8 bytes), the header (JSON: dtype, shape and position of each tensor), and the
tensors, without gaps (https://huggingface.co/docs/safetensors).
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8


def in_order(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they follow each other in a file: largest numbers first, so that all are aligned, then by name."""
    return dict(sorted(tensors.items(), key=lambda each: (-each[1].itemsize, each[0])))


def write(
    path: Path, tensors: Mapping[str, Tensor], values: Iterable[Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes `values`, which are like `tensors` (`in_order`); each is asked for when the one before it is written.

    Raises an OSError that names the file, for instance if the disk is full.
    """
    try:
        with path.open("wb") as file:
            file.write(_header(tensors, metadata))
            for tensor, value in zip(tensors.values(), values, strict=True):
                assert (value.shape, value.dtype) == (tensor.shape, tensor.dtype)
                file.write(_content(value))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> bytes:
    entries: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        first, end = end, end + tensor.numel() * tensor.itemsize
        entries[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [first, end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _content(tensor: Tensor) -> memoryview:
    """The numbers of a tensor as bytes; of a contiguous one in CPU memory they are not copied."""
    assert sys.byteorder == "little"  # as in the file
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
