#!/usr/bin/env python3
"""Makes the pictures of the dashboard's page from the real program, a real request and Chromium.

page.py BOTTLE FOLDER: FOLDER is what tests/support/browser.sh prints. Writes dashboard-WIDTH-SCHEME.png beside itself,
from two native sandboxes in a state folder of their own, which are gone afterwards.
"""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
BOTTLE = """---
backend: native
image: host
supervise: true
egress:
  allowlist:
    - packages.example.org # our mirror
resources:
  memory: 1G
---
Where ada and grace work.
"""
REASON = "pip install requests fails"
CALL = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {
        "name": "pipelock-block",
        "arguments": {
            "failed_url": "https://index.example.org/simple/requests/",
            "reason": REASON,
            "wait_seconds": 0,
        },
    },
}


def main(bottle, folder):
    work = Path(tempfile.mkdtemp())
    tree = work / "team"
    env = dict(os.environ, BOTTLE_STATE_DIR=str(work / "state"), HOME=str(work), NO_COLOR="1", USER="op")

    def run(*args):
        done = subprocess.run(args, env=env, cwd=work, stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout

    (tree / "bottles").mkdir(parents=True)
    (tree / "agents").mkdir()
    (tree / "bottle.yaml").write_text("name: team\n")
    (tree / "bottles" / "dev.md").write_text(BOTTLE)
    for name in ("ada", "grace"):
        (tree / "agents" / f"{name}.md").write_text(f"---\nbottle: dev\n---\nYou are {name}.\n")
    for args in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "Two agents"]):
        run("git", "-C", str(tree), "-c", "user.name=Op", "-c", "user.email=op@example.org", *args)
    run("git", "-C", str(tree), "config", "user.name", "Op")
    run("git", "-C", str(tree), "config", "user.email", "op@example.org")
    own = [bottle, "--tree", str(tree)]
    try:
        run(*own, "apply", "--yes")
        refused = "for i in 1 2 3; do curl -s -o /dev/null https://index.example.org/simple/requests/; done; "
        heads = "-H 'Content-Type: application/json' -H 'Accept: application/json' -H 'MCP-Protocol-Version: 2025-06-18'"
        ask = f"curl -s --noproxy '*' {heads} -d '{json.dumps(CALL)}' $http_proxy/.bottle/mcp"
        said = run(*own, "exec", "ada", "--", "sh", "-c", refused + ask)
        request = re.search(r"r-[a-z2-7]{8}", said).group(0)
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(work)
            os.execve(bottle, [bottle, "dashboard", "--web", str(tree)], env)
        seen = b""
        while not (link := re.search(rb"http://127\.0\.0\.1:\d+/\?t=[0-9a-f]{64}", seen)):
            seen += os.read(terminal, 4096)
        threading.Thread(target=drain, args=(terminal,), daemon=True).start()
        driver = HERE.parent.parent / "tests" / "it" / "requests" / "web" / "page.mjs"
        asked = dict(env, LINK=link.group(0).decode(), FOLDER=folder, ID=request, REASON=REASON, SHOTS=str(HERE))
        subprocess.run(["node", str(driver)], env=asked, check=True)
        os.write(terminal, b"\x03")
        os.waitpid(pid, 0)
    finally:
        run(*own, "down", "--yes", "--allow-teardown", "all", "--discard", "all")
        shutil.rmtree(work)


def drain(terminal):
    try:
        while os.read(terminal, 4096):
            pass
    except OSError:
        pass  # the program has ended


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(str(Path(sys.argv[1]).resolve()), str(Path(sys.argv[2]).resolve()))
