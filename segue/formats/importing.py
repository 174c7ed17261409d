"""Import from other formats: a public model becomes a model directory, which all commands accept."""

from pathlib import Path

from segue.errors import UserError
from segue.formats import import_marian, import_nemo, imported


def import_model(source: Path, out: Path, nemo_version: str | None = None) -> None:
    """Writes the model directory `out` for a `.nemo` archive or a Hugging Face directory.

    `nemo_version` is that of the NeMo that trained an archive's model; None: as the archive says. Raises a UserError,
    and writes nothing, if `source` is not a model that can be imported as it is, or `out` exists.
    """
    imported.check_out(out)
    if source.is_dir():
        if not (source / import_marian.CONFIG).is_file():
            raise UserError(
                f"{source}: no {import_marian.CONFIG} in it, as a Hugging Face directory has; a .nemo archive is a file"
            )
        if nemo_version is not None:
            raise UserError(f"--nemo-version: {source} is a Hugging Face directory, not a .nemo archive")
        found = import_marian.read(source)
    elif source.is_file():
        found = import_nemo.read(source, nemo_version)
    else:
        raise UserError(f"{source}: no such file or folder; Segue imports models that are on this machine")
    imported.write(found, source, out)
