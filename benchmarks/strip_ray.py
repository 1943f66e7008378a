"""Pack a small Ray for machines with little room: a .tar.xz of its wheel without the parts that are not needed here.

python -m benchmarks.strip_ray ray.tar.xz
python -m benchmarks.strip_ray ray.tar.xz --wheel ray-2.60.0-cp311-cp311-manylinux2014_x86_64.whl

Without --wheel, pip downloads the tested version for this Python. On the other machine, which needs the same Python:

    mkdir ray && tar xJf ray.tar.xz -C ray && export PYTHONPATH=$PWD/ray

Ray's requirements are not packed. Without --serve-only, Ray Data is kept, which `visualglm batch --ray` needs.
"""

import argparse
import lzma
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from shutil import which

from benchmarks.parts.machine import ROOT
from model.command_line import ArgumentParser, print_text, run_program
from model.errors import SettingError

# Folders and files of the wheel, relative to its root.
UNUSED = (
    *("ray/jars", "ray/cpp", "ray/rllib", "ray/tune", "ray/train", "ray/llm", "ray/data/llm.py", "ray/serve/llm"),
    "ray/dashboard/client",  # the page of the dashboard; its HTTP interface stays
)
DATA = "ray/data"
PROGRAMS = ("ray/core/src/ray/gcs/gcs_server", "ray/core/src/ray/raylet/raylet")  # a wheel's zip may lose their modes
LIBRARY_SUFFIX = ".so"
# The dictionary is longer than the tree with --serve-only (102 MB), so that it finds what Ray's programs and libraries
# share.
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 2**27}]


def main() -> int:
    """Run the program; return its exit code."""
    return run_program(lambda: pack(parse_arguments()))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser("python -m benchmarks.strip_ray", description="Pack a small Ray as .tar.xz.")
    parser.add_argument("output", type=Path, help="the archive to write, .tar.xz")
    parser.add_argument("--wheel", type=Path, help="Ray's wheel (default: downloaded by pip)")
    parser.add_argument("--serve-only", action="store_true", help="also leave out Ray Data")
    return parser.parse_args(arguments)


def pack(options: argparse.Namespace) -> None:
    """Write the archive that the options describe."""
    if options.wheel is not None and not zipfile.is_zipfile(options.wheel):
        raise SettingError(f"{str(options.wheel)!a} is no wheel. Give a file *.whl, or leave out --wheel.")
    with tempfile.TemporaryDirectory() as folder:
        wheel = options.wheel or download_wheel(Path(folder, "wheel"))
        tree = Path(folder, "tree")
        extract(wheel, tree, (*UNUSED, DATA) if options.serve_only else UNUSED)
        strip_libraries(tree)
        with lzma.open(options.output, "wb", filters=FILTERS) as file, tarfile.open(fileobj=file, mode="w") as archive:
            for path in sorted(tree.iterdir()):
                archive.add(path, path.name)
    sizes = f"{wheel.name if options.wheel else 'the wheel'} -> {options.output}"
    print_text(f"{sizes}: {options.output.stat().st_size / 1e6:.1f} MB")


def pinned_version() -> str:
    """Return the version of Ray that constraints.txt names."""
    found = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


def download_wheel(folder: Path) -> Path:
    """Download Ray's wheel for this Python into `folder` with pip; return its path.

    Raises:
        SettingError: pip cannot download it.
    """
    requirement = f"ray=={pinned_version()}"
    command = ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), requirement]
    if subprocess.run([sys.executable, "-m", "pip", *command], check=False).returncode:
        raise SettingError(f"pip could not download {requirement}. Give the path of its wheel with --wheel.")
    (wheel,) = folder.glob("*.whl")
    return wheel


def is_unused(name: str, unused: tuple[str, ...]) -> bool:
    """Return whether a file of the wheel belongs to the parts that are left out."""
    return any(name == part or name.startswith(f"{part}/") for part in unused) or name.endswith(".js.map")


def extract(wheel: Path, folder: Path, unused: tuple[str, ...]) -> None:
    """Extract a wheel into `folder`, without the unused parts."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not is_unused(name, unused)]
        archive.extractall(folder, names)
    for name in PROGRAMS:
        if (folder / name).exists():
            (folder / name).chmod(0o755)


def strip_libraries(folder: Path) -> None:
    """Remove the symbols of libraries and programs that the loader does not need, if `strip` is installed."""
    if which("strip") is None:
        return
    libraries = [path for path in folder.rglob("*") if path.is_file() and LIBRARY_SUFFIX in path.suffixes]
    programs = [folder / name for name in PROGRAMS if (folder / name).exists()]
    for path in (*libraries, *programs):  # a file that is no library stays as it is
        subprocess.run(["strip", "--strip-unneeded", str(path)], check=False, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
