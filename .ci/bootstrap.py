"""Make a virtual environment with uv in it, on a machine that has Python and nothing else.

Usage: python3 bootstrap.py DIRECTORY

Debian ships ``venv`` without ``ensurepip`` (it sits in the package python3-venv). There the wheel of
pip is fetched from the package index, checked against the index's hash and run from the wheel.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path


def newest_pip_wheel(index: str) -> "tuple[str, str]":
    """Address and sha256 of the newest released pip wheel on a PEP 503 index."""
    page_address = index.rstrip("/") + "/pip/"
    with urllib.request.urlopen(page_address, timeout=60) as page:
        links = re.findall(r'href="([^"]+)#sha256=([0-9a-f]{64})"', page.read().decode())
    releases = []
    for link, digest in links:
        match = re.search(r"/pip-(\d+(?:\.\d+)*)-py3-none-any\.whl$", link)
        if match:
            version = tuple(int(part) for part in match.group(1).split("."))
            releases.append((version, urllib.parse.urljoin(page_address, link), digest))
    if not releases:
        raise SystemExit(f"no pip wheel found at {page_address}; install the package python3-venv and try again")
    return max(releases)[1:]


def install_pip_from_index(python: Path) -> None:
    """Fetch pip's wheel, check its hash, and let it install itself."""
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple")
    try:
        address, digest = newest_pip_wheel(index)
        with urllib.request.urlopen(address, timeout=120) as download:
            wheel = download.read()
    except urllib.error.URLError as error:
        raise SystemExit(
            f"cannot reach the package index {index} ({error.reason}); check the network, or install the "
            "packages ca-certificates and python3-venv, and try again"
        ) from error
    if hashlib.sha256(wheel).hexdigest() != digest:
        raise SystemExit(f"{address}: the file does not match the hash given by the index; try again")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / address.rsplit("/", 1)[-1]
        path.write_bytes(wheel)
        subprocess.run([python, path / "pip", "install", "--quiet", "pip"], check=True)


def main(folder: Path) -> None:
    """Make ``folder`` an environment with pip and uv; what is there already stays."""
    python = folder / "bin" / "python"
    if not python.exists():
        has_ensurepip = subprocess.run([sys.executable, "-c", "import ensurepip"], capture_output=True).returncode == 0
        subprocess.run(
            [sys.executable, "-m", "venv", *([] if has_ensurepip else ["--without-pip"]), folder], check=True
        )
    if subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode != 0:
        install_pip_from_index(python)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "uv>=0.5"], check=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    if sys.version_info < (3, 11):  # noqa: UP036, whoever runs this may have an older one
        raise SystemExit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    main(Path(sys.argv[1]))
