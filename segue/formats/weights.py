"""How are weights read that a stranger may have made? Without executing anything, and only as large as their file.

`torch.load(weights_only=True)` builds tensors and containers of them, and refuses all other objects.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from segue.errors import UserError
from segue.formats.settings import read_json

Tensors = dict[str, Tensor]
INDEX = ".index.json"
"""End of the name of a list of files."""


def of_torch(content: bytes, origin: str) -> Tensors:
    """The tensors of a file that torch saved. Raises a UserError that begins with `origin`."""
    _refuse_compressed(content, origin)
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as problem:  # torch raises RuntimeError, EOFError, KeyError and others for damaged files
        if type(problem).__name__ == "UnpicklingError":
            raise UserError(
                f"{origin}: contains other objects than tensors, which are not loaded, since loading could run code"
            ) from None
        raise UserError(f"{origin}: torch cannot read it: {_first_line(problem)}; download it again") from None
    if not isinstance(found, Mapping) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise UserError(f"{origin}: not a state dict (the names of tensors and their values)")
    # A tensor can be a view that is larger than what the file stores for it, with strides of 0.
    if any(tensor.nbytes > tensor.untyped_storage().nbytes() for tensor in found.values()):
        raise UserError(f"{origin}: its tensors are larger than the file: not weights to be trusted")
    return {str(name): tensor for name, tensor in found.items()}


def of_folder(folder: Path, names: Sequence[str]) -> tuple[Path, Tensors]:
    """The first of these files that a folder has, and its tensors. Raises a UserError if none is there or readable."""
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise UserError(f"{folder}: neither {' nor '.join(names)} is in it")
    if file.name.endswith(INDEX):
        return file, _of_index(file)
    is_safe = file.suffix == ".safetensors"
    return file, of_safetensors(file) if is_safe else of_torch(file.read_bytes(), str(file))


def _of_index(path: Path) -> Tensors:
    """The tensors of several safetensors files, which an index lists. Raises a UserError if it is not their index."""
    places = read_json(path).get("weight_map", dict)
    files = sorted({str(name) for name in places.values()})
    strange = next((name for name in files if Path(name).name != name or not name.endswith(".safetensors")), None)
    if strange is not None:
        raise UserError(f"{path}: weight_map: {strange!r} is no safetensors file beside it")
    found = Tensors()
    for name in files:
        if not (path.parent / name).is_file():
            raise UserError(f"{path.parent / name}: missing; {path.name} lists it: download it, too")
        found |= of_safetensors(path.parent / name)
    missing = [name for name in places if name not in found]
    if missing:
        raise UserError(f"{path}: weight_map: {missing[0]} is in none of its files")
    return found


def of_safetensors(path: Path) -> Tensors:
    """The tensors of a safetensors file. Raises a UserError if it is damaged."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as problem:
        raise UserError(f"{path}: not a safetensors file: {_first_line(problem)}; download it again") from None


def check(found: Mapping[str, Tensor], wanted: Mapping[str, Sequence[int]], origin: str, described: str) -> None:
    """Raises a UserError that names a tensor of `wanted` (name -> shape) that is missing or has another shape.

    `described` is what the shapes follow from.
    """
    wrong = [
        f"{name}: is missing"
        if name not in found
        else f"{name}: has shape {_shown(found[name].shape)}, {described} says {_shown(shape)}"
        for name, shape in wanted.items()
        if name not in found or tuple(found[name].shape) != tuple(shape)
    ]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise UserError(f"{origin}: {wrong[0]}{more}")


def _shown(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))})"


def _refuse_compressed(content: bytes, origin: str) -> None:
    """Raises a UserError if parts of a zip file, torch's format, are compressed: torch stores them as they are."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return  # the format of torch before 1.6; or damaged, which torch says
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, ValueError) as problem:
        raise UserError(f"{origin}: torch cannot read it: {problem}; download it again") from None
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts) or sum(p.file_size for p in parts) > len(
        content
    ):
        raise UserError(f"{origin}: compressed, unlike files that torch writes: not weights to be trusted")


def _first_line(problem: Exception) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0]
