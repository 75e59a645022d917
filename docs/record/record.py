#!/usr/bin/env python3
"""Records a terminal session of bottle as an SVG.

    docs/record/record.py PROGRAM [--check] [SVG]

It runs the commands of SESSION one after the other, in a shell of their own on a terminal of this script's, in a home folder that is made
for it and removed again. What is drawn is what the program printed there, with its colours. `--check` draws nothing: it
plays the session again and compares it with the SVG that is there, but for times, commits and ids.
"""

import argparse
import html
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time

COLUMNS = 84
HERE = os.path.dirname(os.path.abspath(__file__))

# Done before anything is recorded.
SETUP = r"""
set -e
git config --global user.name 'A. Person'
git config --global user.email person@example.com
git config --global init.defaultBranch main
mkdir -p ~/code/site ~/agents/bottles ~/agents/agents
git init --quiet ~/code/site && cd ~/code/site
echo '# Site' >README.md && git add . && git commit --quiet --message 'A site'
cat >~/agents/bottle.yaml <<'END'
name: @NAME@
END
cat >~/agents/bottles/desk.md <<'END'
---
backend: native
workspace: {path: ~/code/site}
egress: {allowlist: [files.example.com]}
env: {GIT_AUTHOR_NAME: Ada, GIT_AUTHOR_EMAIL: ada@example.com, GIT_COMMITTER_NAME: Ada, GIT_COMMITTER_EMAIL: ada@example.com}
---
END
printf -- '---\nbottle: desk\nrun: [sh]\n---\nYou are Ada, a developer.\n' >~/agents/agents/ada.md
"""

# What is typed, one line a command. An agent's own program needs a vendor, so here its work is done by a shell.
SESSION = [
    "bottle apply --yes",
    "bottle exec ada -- sh -c 'echo MIT > LICENSE; git add .; git commit -qm \"Add a license\"'",
    "bottle diff ada --stat",
    "bottle policy check ada https://evil.example/",
    "echo 'Work in small commits.' >> ~/agents/agents/ada.md; bottle apply --yes",
    "bottle sync ada",
]

# The eight colours, as this page shows them.
COLOURS = ["#444c56", "#f47067", "#57ab5a", "#c69026", "#539bf5", "#b083f0", "#39c5cf", "#cdd9e5"]
TEXT, GROUND, PROMPT = "#cdd9e5", "#1c2128", "#8ddb8c"
LINE, CELL, PAD = 18, 7.83, 14


def environment(home, program):
    links = os.path.join(home, "bin")
    os.makedirs(links)
    os.symlink(os.path.abspath(program), os.path.join(links, "bottle"))
    return {
        "HOME": home,
        "PATH": links + ":" + os.environ.get("PATH", "/usr/bin:/bin"),
        "TERM": "xterm-256color",
        "LC_ALL": "C.UTF-8",
        "COLUMNS": str(COLUMNS),
        "BOTTLE_TREE": os.path.join(home, "agents"),
        "BOTTLE_STATE_DIR": os.path.join(home, "state"),
    }


def played(command, env):
    """What a command prints on a terminal; what it says of its progress on stderr goes again there, and is left out."""
    ours, theirs = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    child = subprocess.Popen(
        ["sh", "-c", command], env=env, cwd=env["HOME"], stdin=subprocess.DEVNULL, stdout=theirs,
        stderr=subprocess.PIPE, close_fds=True,
    )
    os.close(theirs)
    seen, until = b"", time.monotonic() + 120
    while time.monotonic() < until:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                part = os.read(ours, 65536)
            except OSError:  # The other side is closed.
                break
            if not part:
                break
            seen += part
        elif child.poll() is not None:
            break
    said = child.stderr.read().decode()
    code = child.wait()
    os.close(ours)
    if code not in (0, 1):
        sys.exit(f"`{command}` ended with {code}\n{seen.decode()}{said}")
    return seen.decode().replace("\r\n", "\n").replace(env["HOME"], "/home/me")


def session(program):
    home = tempfile.mkdtemp(prefix="bottle-record-")
    env = environment(home, program)
    try:
        setup = SETUP.replace("@NAME@", "site-" + os.path.basename(home)[-8:].lower().replace("_", "0"))
        subprocess.run(["bash", "-c", setup], env=env, check=True, stdout=subprocess.DEVNULL)
        name = re.search(r"name: (\S+)", open(home + "/agents/bottle.yaml").read()).group(1)
        return [(command, played(command, env).replace(name, "site")) for command in SESSION]
    finally:
        down = ["bottle", "down", "--yes", "--allow-teardown", "all", "--discard", "all", "-q"]
        subprocess.run(down, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(home, ignore_errors=True)


def spans(line):
    """The pieces of a line that have one look, each with its colour and whether it is bold or dim."""
    colour, bold, dim, at = TEXT, False, False, 0
    for found in re.finditer(r"\x1b\[([0-9;]*)m", line):
        if found.start() > at:
            yield line[at:found.start()], colour, bold, dim
        at = found.end()
        for code in (found.group(1) or "0").split(";"):
            code = int(code or 0)
            if code == 0:
                colour, bold, dim = TEXT, False, False
            elif code == 1:
                bold = True
            elif code == 2:
                dim = True
            elif code == 22:
                bold, dim = False, False
            elif code == 39:
                colour = TEXT
            elif 30 <= code <= 37:
                colour = COLOURS[code - 30]
            elif 90 <= code <= 97:
                colour = COLOURS[code - 90]
    if at < len(line):
        yield line[at:], colour, bold, dim


def lines(recorded):
    for command, printed in recorded:
        words = command.replace("$HOME", "~")
        yield f"\x1b[32m$\x1b[0m {words}", True
        for line in printed.rstrip("\n").split("\n"):
            if printed.strip():
                yield line, False
        yield "", False


def drawn(recorded):
    all_lines = list(lines(recorded))[:-1]
    wide = max([COLUMNS] + [len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line, _ in all_lines])
    width, height = int(wide * CELL + 2 * PAD), len(all_lines) * LINE + 2 * PAD
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" aria-label="A terminal session of bottle">',
        f'<rect width="100%" height="100%" rx="8" fill="{GROUND}"/>',
        '<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="13" xml:space="preserve">',
    ]
    for number, (line, _) in enumerate(all_lines):
        if not line.strip():
            continue
        y = PAD + number * LINE + 13
        pieces = []
        for text, colour, bold, dim in spans(line):
            look = f' fill="{colour}"' + (' font-weight="bold"' if bold else "") + (' opacity="0.6"' if dim else "")
            pieces.append(f"<tspan{look}>{html.escape(text, quote=False)}</tspan>")
        out.append(f'<text x="{PAD}" y="{y}">{"".join(pieces)}</text>')
    return "\n".join(out + ["</g>", "</svg>", ""])


def masked(svg):
    """The text of a drawing without what differs from run to run, and without how wide that is."""
    text = html.unescape(re.sub(r"<[^>]*>", "", svg))
    text = re.sub(r"\b[0-9a-f]{7,}\b", "#", text)
    text = re.sub(r"\b\d+\.\d+ s\b", "# s", text)
    return [" ".join(line.split()) for line in text.split("\n") if line.strip()]


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("program")
    arguments.add_argument("--check", action="store_true")
    arguments.add_argument("svg", nargs="?", default=os.path.join(HERE, "session.svg"))
    given = arguments.parse_args()
    now = drawn(session(given.program))
    if not given.check:
        with open(given.svg, "w") as file:
            file.write(now)
        return
    with open(given.svg) as file:
        was = file.read()
    if masked(now) != masked(was):
        import difflib

        sys.stdout.writelines(f"{line}\n" for line in difflib.unified_diff(masked(was), masked(now), "drawn", "now", lineterm=""))
        sys.exit(f"{given.svg} is not what the program prints: draw it again with {os.path.relpath(__file__)} PROGRAM")


if __name__ == "__main__":
    main()
