"""A PostgreSQL server of its own for tests, from the binaries that are installed."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import free_port

PASSWORD = "s3cret"


def binary(name: str) -> str | None:
    """Where a program of the server is; Debian keeps them out of the path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


@contextmanager
def postgresql_server() -> Iterator[str]:
    """Runs a server that asks for a password; gives the URL of its database. It refuses to be run by root."""
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    try:
        (folder / "password").write_text(PASSWORD)
        if user is not None:
            for path in (folder, folder / "password"):
                shutil.chown(path, user)
        port, data = free_port(), folder / "data"
        run = {"user": user, "check": True, "stdout": subprocess.DEVNULL, "cwd": folder}
        login = ["--username", "genaf", "--auth", "scram-sha-256", "--pwfile", str(folder / "password")]
        subprocess.run([binary("initdb"), "-D", str(data), "--no-sync", *login], **run)
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        control = [binary("pg_ctl"), "-D", str(data), "-l", str(folder / "log"), "-w"]
        subprocess.run([*control, "-o", options, "start"], **run)
        try:
            yield f"postgresql+psycopg://genaf:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **run)
    finally:
        shutil.rmtree(folder)
