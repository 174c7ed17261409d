import ast
import subprocess
import sys
from pathlib import Path

import segue

PACKAGE = Path(segue.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted(Path(__file__).parent.rglob("*.py"))


def test_serving_imports_no_torch() -> None:
    modules = (
        "segue",
        "segue.cli",
        "segue.data.audio",
        "segue.data.corpora",
        "segue.data.examples",
        "segue.data.manifest",
        "segue.data.subtitles.cues",
        "segue.data.subtitles.translation",
        "segue.data.tokenizer",
        "segue.decoding.ctc",
        "segue.metrics",
        "segue.recipe",
        "segue.report",
        "segue.runtime.recognizer",
        "segue.runtime.translator",
        "segue.translate_files",
    )
    program = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_the_public_interface_is_exactly_this() -> None:
    assert segue.__all__ == ["load", "train"]
    defined_here = {name for name, value in vars(segue).items() if getattr(value, "__module__", None) == "segue"}
    assert defined_here == set(segue.__all__)


def test_a_file_has_fewer_than_700_lines() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (*SOURCES, *TESTS)}
    assert {path: length for path, length in lengths.items() if length >= 700} == {}


def test_no_source_writes_or_reads_a_pickle() -> None:
    forbidden = {"pickle", "dill", "joblib", "cloudpickle", "shelve", "torch.load", "torch.save", "torch.jit"}
    # Import reads what others wrote, and torch builds nothing but tensors then.
    reader = PACKAGE / "formats" / "weights.py"
    assert {path: found for path in SOURCES if (found := forbidden & names_in(path))} == {reader: {"torch.load"}}
    calls = [node for node in ast.walk(ast.parse(reader.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    loads = [ast.unparse(call) for call in calls if ast.unparse(call.func) == "torch.load"]
    assert len(loads) == 1
    assert "weights_only=True" in loads[0]


def names_in(path: Path) -> set[str]:
    """Modules that a source imports, and dotted names that it uses."""
    names = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            names.add(ast.unparse(node))
    return names
