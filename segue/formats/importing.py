"""Import from other formats: a public model becomes a model directory, which all commands accept."""

from pathlib import Path

from segue.errors import UserError
from segue.formats import import_language, import_marian, import_nemo, imported, peft
from segue.formats.settings import read_json, shown


def import_model(source: Path, out: Path, nemo_version: str | None = None, base: Path | None = None) -> None:
    """Writes the model directory `out` for a `.nemo` archive, a Hugging Face directory, or an adapter of PEFT's.

    `nemo_version` is that of the NeMo that trained an archive's model; None: as the archive says. `base` is the model
    directory that an adapter belongs to. Raises a UserError,
    and writes nothing, if `source` is not a model that can be imported as it is, or `out` exists.
    """
    imported.check_out(out)
    if not (source.is_file() or source.is_dir()):
        raise UserError(f"{source}: no such file or folder; Segue imports models that are on this machine")
    is_adapter = (source / peft.CONFIG).is_file()
    if is_adapter != (base is not None):
        wanted = f"segue import {source} {out} --base MODEL, the model that it belongs to, imported"
        raise UserError(
            f"{source}: an adapter: {wanted}" if is_adapter else f"--base: {source} is no adapter of PEFT's"
        )
    if base is not None:
        found = peft.read(source, base)
    elif (source / "recipe.toml").is_file():
        raise UserError(f"{source}: a model of Segue already; all commands take it as it is")
    elif source.is_dir():
        if not (source / import_marian.CONFIG).is_file():
            raise UserError(
                f"{source}: no {import_marian.CONFIG} in it, as a Hugging Face directory has; a .nemo archive is a file"
            )
        if nemo_version is not None:
            raise UserError(f"--nemo-version: {source} is a Hugging Face directory, not a .nemo archive")
        kind = read_json(source / import_marian.CONFIG).get("model_type", str)
        known = (import_marian.KNOWN, *import_language.KINDS)
        if kind not in known:
            wanted = ", ".join(known)
            raise UserError(
                f"{source / import_marian.CONFIG}: model_type: {shown(kind)} cannot be imported, only {wanted}"
            )
        found = (import_language if kind in import_language.KINDS else import_marian).read(source)
    else:
        found = import_nemo.read(source, nemo_version)
    imported.write(found, source, out)
