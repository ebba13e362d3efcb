"""Generates ``mesh/v1`` from ``proto/mesh/v1``; with ``--check`` only says whether what is committed is up to date.

The generated code depends on the version of grpcio-tools, which constraints.txt pins.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("mesh/v1")
INIT = '"""Generated from ``proto/mesh/v1`` by ``make proto``; do not edit."""\n'


def generate(target: Path) -> dict[Path, bytes]:
    """Write the package under ``target`` and return its files, by their path below it."""
    protos = sorted((ROOT / "proto" / PACKAGE).glob("*.proto"))
    services = [path for path in protos if "\nservice " in path.read_text(encoding="utf-8")]
    include = [f"-I{ROOT / 'proto'}", f"-I{files('grpc_tools') / '_proto'}"]
    runs = (
        [f"--python_out={target}", f"--pyi_out={target}", *map(str, protos)],
        [f"--grpc_python_out={target}", *map(str, services)],
    )
    for arguments in runs:
        if protoc.main(["protoc", *include, *arguments]) != 0:
            sys.exit("genproto: protoc failed; its message stands above")
    (target / PACKAGE / "__init__.py").write_text(INIT, encoding="utf-8")
    return generated(target)


def generated(root: Path) -> dict[Path, bytes]:
    folder = root / PACKAGE
    return {path.relative_to(root): path.read_bytes() for path in sorted(folder.glob("*.py*")) if path.is_file()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where mesh/v1 is out of date")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        wanted = generate(Path(scratch))
    present = generated(ROOT)
    stale = sorted(str(path) for path in wanted.keys() | present.keys() if wanted.get(path) != present.get(path))
    if arguments.check:
        if stale:
            print(f"genproto: out of date: {', '.join(stale)}; run `make proto`", file=sys.stderr)
        return 1 if stale else 0
    for path in present.keys() - wanted.keys():
        (ROOT / path).unlink()
    for path, content in wanted.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
