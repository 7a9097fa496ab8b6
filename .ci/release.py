"""What a wheel and an sdist must hold, and what the wheel must do where no extra is installed; see `make release-check`."""

import importlib.util
import pkgutil
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

EXTRAS = ("accelerate", "datasets", "pyarrow", "transformers", "PIL", "soundfile", "av", "matplotlib", "sklearn", "pandas")
WHEEL = ("gramian/py.typed", "gramian/data/sets/stamps.safetensors", "gramian/data/sets/NOTICE", "licenses/LICENSE")
SDIST = ("src/gramian/__init__.py", "README.md", "LICENSE", "CHANGELOG.md", "tests/conftest.py", "docs/index.md", "Makefile")


def missing(names: list[str], wanted: tuple[str, ...]) -> list[str]:
    return [name for name in wanted if not any(one.endswith(name) for one in names)]


def main() -> None:
    wheel, sdist = map(Path, sys.argv[1:])
    names = zipfile.ZipFile(wheel).namelist()
    assert not missing(names, WHEEL), missing(names, WHEEL)
    assert all(name.startswith(("gramian/", "gramian-")) for name in names), names
    with tarfile.open(sdist) as archive:
        assert not missing(archive.getnames(), SDIST), missing(archive.getnames(), SDIST)
        size = sum(member.size for member in archive)
    there = [name for name in EXTRAS if importlib.util.find_spec(name)]
    assert not there, f"no extra was asked for, but these are installed: {there}"

    import gramian
    from gramian.cli import main as command

    assert "site-packages" in gramian.__file__, gramian.__file__
    assert wheel.name.startswith(f"gramian-{gramian.__version__}-"), (wheel.name, gramian.__version__)
    modules = [module.name for module in pkgutil.walk_packages(gramian.__path__, "gramian.")]
    script = "import importlib, sys\nfor name in sys.argv[1:]:\n    try:\n        importlib.import_module(name)\n"
    script += "    except ImportError as error:\n        print(name, error.name or error)\n"
    names = [
        name
        for name in modules
        if not re.search(r"__main__$|\.triton|\.integrations\.|benchmark\.frozen|index\.service$", name)
    ]
    done = subprocess.run([sys.executable, "-W", "error", "-c", script, *names], capture_output=True, text=True, check=True)
    assert not done.stdout, f"modules that need an extra to be imported:\n{done.stdout}"
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = ["--data", "stamps", "--columns", "text,image", "--method", "canonical", "--search.heads", "linear"]
        assert command(["--version"]) == command(["--help"]) == 0
        assert command(["train", *words, "--search.ridges", "1", "--search.powers", "1", "--output", str(run)]) == 0
        assert command(["evaluate", "--data", "stamps", "--model", str(run / "aligner")]) == 0
        (Path(folder) / "x.parquet").write_bytes(b"PAR1")
        assert command(["evaluate", "--data", str(Path(folder) / "x.parquet")]) == 2  # names the extra in one line
    print(f"{wheel.name}: {len(names)} modules import without extras; {sdist.name}: {size / 2**20:.1f} MB unpacked")


if __name__ == "__main__":
    main()
