"""The commands of docs/accounts.md, one after the other, on a gateway and a database of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

from gateway_runs import server_options, started_gateway
from support import ROOT, Server

SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_commands_run(server: Server, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "accounts.md").read_text(encoding="utf-8")
    script = "set -euo pipefail\n" + "\n".join(SHELL.findall(page))
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    with started_gateway(tmp_path, *server_options(server), database=url) as gateway:
        script = script.replace("127.0.0.1:8080", gateway.address).replace("make setup-load && ", "")
        script = script.replace(".venv/bin/", f"{Path(sys.executable).parent}/").replace(
            "--html ", f"--html {tmp_path}/"
        )
        environment = {**os.environ, "TRIREME_DATABASE": url}
        done = subprocess.run(
            ["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr
    assert '"content":"95"' in done.stdout
    assert re.search(r"^\w{10}  acme    app   active .* 600 requests/min$", done.stdout, re.MULTILINE)
    assert re.search(r"^\w{10} \(app\) +1 +0 ", done.stdout, re.MULTILINE)
    assert "1 entries, none missing and none changed." in done.stdout
    assert (tmp_path / "ledger.html").read_text().count("<svg") == 2
