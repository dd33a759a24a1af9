"""Name the test files of what changed since the branch left main, as many as run in half a minute: ``make check``.

Files of tests that changed come first, then the mirrors of changed modules (``nbquant/a/b.py`` →
``tests/a/test_b.py``), then what imports a changed file. How long each takes is known from the last whole run.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUDGET = 30.0  # s of tests
UNKNOWN = 3.0  # s of a file that no whole run has seen
SECONDS = ROOT / ".pytest_cache" / "v" / "nbquant" / "seconds"


def changed() -> list[str]:
    """Python files that differ from where this branch left main, or from the last commit on main itself."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout

    base = git("merge-base", "HEAD", "main").strip() or "HEAD"
    listed = git("diff", "--name-only", base) + git("ls-files", "--others", "--exclude-standard")
    return sorted(name for name in set(listed.split()) if name.endswith(".py") and (ROOT / name).exists())


def imports(path: Path) -> set[str]:
    """Modules that a file imports, with and without the last part: a name may be a module or in one."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            above = path.relative_to(ROOT).with_suffix("").parts[: -node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def tests_of(names: list[str]) -> list[str]:
    """Files of tests, those nearest to the changed files first."""
    tests = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "tests").rglob("test_*.py"))}
    mirrors = [f"tests/{Path(name).parent.as_posix()}/test_{Path(name).name}".replace("/nbquant", "") for name in names]
    modules = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in names}
    importers = [name for name, path in tests.items() if imports(path) & modules]
    return list(dict.fromkeys(name for name in [*names, *mirrors, *importers] if name in tests))


def main() -> None:
    seconds = json.loads(SECONDS.read_text()) if SECONDS.exists() else {}
    left, chosen, late = BUDGET, [], []
    for name in tests_of(changed()):
        took = seconds.get(name, UNKNOWN)
        (chosen if took <= left else late).append(name)
        left -= took if took <= left else 0
    if late:
        print(f"left to make test, as they take longer: {' '.join(late)}", file=sys.stderr)
    print(" ".join(chosen))


if __name__ == "__main__":
    main()
