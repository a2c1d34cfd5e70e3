"""What no line of the program may do: run code that came in a file, or hand a file name to a shell."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for top in ("spear", "spear_cli", "scripts") for path in (ROOT / top).rglob("*.py"))
FORBIDDEN = {
    "eval", "exec", "compile", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open", "dill.load",
    "joblib.load", "cloudpickle.load", "cloudpickle.loads", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "torch.jit.load", "torch.package.PackageImporter", "torch.hub.load",
}  # fmt: skip
NO_IMPORT = {"dill", "joblib", "cloudpickle", "marshal", "shelve", "yaml"}


def complaints(code: str) -> list[str]:
    """What is wrong with a module, with the number of the line."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"line {node.lineno}: import {n}" for n in names if n.split(".")[0] in NO_IMPORT]
            if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "os", "subprocess", "torch"):
                found += [
                    f"line {node.lineno}: from {node.module} import {alias.name}"
                    for alias in node.names
                    if f"{node.module}.{alias.name}" in FORBIDDEN or (node.module, alias.name) == ("torch", "load")
                ]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if name in FORBIDDEN:
            found.append(f"line {node.lineno}: {name}()")
        if name == "torch.load" and given.get("weights_only") != "True":
            found.append(f"line {node.lineno}: torch.load without weights_only=True")
        if given.get("allow_pickle", "False") != "False":
            found.append(f"line {node.lineno}: allow_pickle")
        if given.get("shell", "False") != "False":
            found.append(f"line {node.lineno}: shell=True")
        if given.get("trust_remote_code", "False") != "False":
            found.append(f"line {node.lineno}: trust_remote_code")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_runs_what_it_reads(path: Path) -> None:
    assert complaints(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("torch.load(p)", ["line 1: torch.load without weights_only=True"]),
        ("torch.load(p, weights_only=False)", ["line 1: torch.load without weights_only=True"]),
        ("torch.load(p, weights_only=True)", []),
        ("from torch import load", ["line 1: from torch import load"]),
        ("import pickle\npickle.load(f)", ["line 2: pickle.load()"]),
        ("from pickle import loads", ["line 1: from pickle import loads"]),
        ("np.load(p, allow_pickle=True)", ["line 1: allow_pickle"]),
        ("import yaml", ["line 1: import yaml"]),
        ("yaml.load(t)", ["line 1: yaml.load()"]),
        ("eval(t)", ["line 1: eval()"]),
        ("net.eval()", []),
        ("os.system(t)", ["line 1: os.system()"]),
        ("subprocess.run(t, shell=True)", ["line 1: shell=True"]),
        ("subprocess.run(['ls', name])", []),
    ],
)
def test_the_gate_sees_it(code: str, found: list[str]) -> None:
    assert complaints(code) == found
