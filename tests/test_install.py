"""What `pip install segue` gives: an environment without torch, small, that runs exported models."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import segue

ROOT = Path(segue.__file__).parent.parent


@pytest.mark.slow
def test_exports_run_on_a_plain_installation(
    trained: Path, trained_translator: Path, corpus: Path, tmp_path: Path
) -> None:
    from segue import formats

    formats.export(trained, "onnx", tmp_path / "speech")
    formats.export(trained_translator, "ctranslate2", tmp_path / "text")
    source = tmp_path / "source"  # building writes into the folder
    for name in ("segue", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, source)
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", environment)
    python, command = environment / "bin" / "python", environment / "bin" / "segue"
    # What Python compiles beside the sources counts, but for translation, which would be 20 MB too large with it.
    for extra, left_out, megabytes in (("", (), 200), ("[translate]", (".pyc",), 350)):
        run(python, "-m", "pip", "install", "--quiet", f"{source}{extra}")
        [packages] = environment.glob("lib/python*/site-packages")
        size = sum(
            path.stat().st_size
            for path in packages.rglob("*")
            if path.is_file() and not is_pip(path.relative_to(packages)) and path.suffix not in left_out
        )
        print(f"segue{extra}: {size / 1e6:.0f} MB")
        assert size < megabytes * 1e6
        assert not (packages / "torch").exists()
    recording = corpus / "test_01.wav"
    heard = run(command, "transcribe", tmp_path / "speech", recording)
    assert heard.strip() == segue.load(trained).transcribe(recording).text
    (tmp_path / "film.srt").write_text("1\n00:00:01,000 --> 00:00:04,000\none two three four\n")
    written = Path(run(command, "translate", tmp_path / "text", tmp_path / "film.srt").strip())
    assert "four three two one" in written.read_text()


def is_pip(path: Path) -> bool:
    return path.parts[0].partition("-")[0] in ("pip", "setuptools", "pkg_resources", "_distutils_hack")


def run(*words: object) -> str:
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
