"""Draw terminal.png: the tmux screens of two clients after a scripted chat of three, on a server of their own.

Needs tmux, DejaVu Sans Mono and Pillow, none of which the project needs:

    python -m venv /tmp/drawing && /tmp/drawing/bin/pip install pillow
    /tmp/drawing/bin/python docs/screenshot.py .venv/bin/python docs/terminal.png
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

COLUMNS, LINES, SIZE = 92, 22, 14
FONTS = Path("/usr/share/fonts/truetype/dejavu")
GROUND, GREY = "#0c0c0c", "#dee1e6"
COLOURS = ("#0c0c0c", "#c50f1f", "#2fa043", "#c19c00", "#3b78ff", "#a05fd0", "#3a96dd", "#cccccc")
BRIGHT = ("#767676", "#e74856", "#16c60c", "#f9f1a5", "#6f9bff", "#d670d6", "#61d6d6", "#f2f2f2")
STORY = (
    ("omar", "/create noticias", r"#noticias is yours"),
    ("diego", "/join noticias", r"omar online"),
    ("maria", "/join noticias", r"omar online"),
    ("omar", "@diego: the first edishun is ready, will you look?", r"will you look"),
    ("diego", "/reply 1 edition?", r"edition\?"),
    ("omar", "/edit . @diego: the first edition is ready, will you look?", r"✎"),
    ("diego", "/react 1 ♥", r"diego ♥"),
    ("maria", "/react 1 ♥", r"maria ♥"),
    ("diego", "the password of the press is", r"of the press"),
    ("diego", "/delete .", r"\(deleted\)"),
    ("diego", "/quit", ""),
    ("omar", "/react 2 ✓", r"omar ✓"),
    ("omar", "@diego: page two has changed since", r"page two"),
    ("maria", "/react . ✓", r"maria ✓"),
    ("diego", None, r"while you were away"),
    ("maria", "/quit", ""),
    ("diego", "read it all, good to print", r"good to print"),
    ("omar", "/search edition*", r"#noticias 1"),
    ("omar", "/members", r"maria +last seen"),
)


def main(python: str, picture: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        tmux = ["tmux", "-S", f"{directory}/tmux", "-f", "/dev/null"]
        environment = {
            "TIDINGS_DATA_DIR": f"{directory}/data",
            "TIDINGS_LOG_LEVEL": "warning",
            "PATH": "/bin:/usr/bin",
        }
        server = subprocess.Popen(
            [python, "-m", "tidings", "serve", "--port", "0"], env=environment, stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            address = re.search(r"http://\S+", server.stdout.readline())
            assert address
            play(tmux, python, address[0], directory)
            draw([(user, screen(tmux, user, "-e")) for user in ("omar", "diego")], picture)
        finally:
            subprocess.run([*tmux, "kill-server"], check=False, capture_output=True)
            server.terminate()
            server.wait()


def play(tmux: list[str], python: str, url: str, directory: str) -> None:
    started: set[str] = set()
    for user, line, pattern in STORY:
        if user not in started:
            client = f"{python} -m tidings_chat --server {url} --state {directory}/state --user {user} --register"
            size = ["-x", str(COLUMNS), "-y", str(LINES)]
            environment = ["-e", "TIDINGS_PASSWORD=correct horse", "-e", "LC_ALL=C.UTF-8"]
            subprocess.run([*tmux, "-u", "new-session", "-d", "-s", user, *size, *environment, client], check=True)
            started.add(user)
            wait(tmux, user, r"/help lists the commands, Tab")
        if line is not None:
            subprocess.run([*tmux, "send-keys", "-t", user, "-l", line], check=True)
            subprocess.run([*tmux, "send-keys", "-t", user, "Enter"], check=True)
        if pattern:
            wait(tmux, user, pattern)
        if line == "/quit":
            started.discard(user)
            wait(tmux, user, None)
    time.sleep(2)  # the receipts


def wait(tmux: list[str], user: str, pattern: str | None) -> None:
    """Wait until a screen matches the pattern; None: until its client has ended."""
    for _ in range(300):
        text = screen(tmux, user)
        if (not text) if pattern is None else re.search(pattern, re.sub(r"(?m)^.*› .*$", "", text)):
            return
        time.sleep(0.1)
    raise SystemExit(f"{user} does not see {pattern!r}:\n{screen(tmux, user)}")


def screen(tmux: list[str], user: str, *options: str) -> str:
    captured = subprocess.run(
        [*tmux, "capture-pane", "-p", *options, "-t", user], check=False, capture_output=True, text=True
    )
    return captured.stdout


def draw(screens: list[tuple[str, str]], picture: str) -> None:
    fonts = {
        (bold, italic): ImageFont.truetype(
            str(FONTS / f"DejaVuSansMono{'-' * (bold or italic)}{'Bold' * bold}{'Oblique' * italic}.ttf"), SIZE
        )
        for bold in (False, True)
        for italic in (False, True)
    }
    wide, high = fonts[False, False].getlength("m"), SIZE + 4
    frame = (round(COLUMNS * wide) + 24, 28 + LINES * high + 16)
    image = Image.new("RGB", (frame[0] + 32, len(screens) * (frame[1] + 16) + 16), GREY)
    pen = ImageDraw.Draw(image)
    for number, (user, text) in enumerate(screens):
        left, top = 16, 16 + number * (frame[1] + 16)
        pen.rounded_rectangle((left, top, left + frame[0], top + frame[1]), 8, GROUND)
        pen.rounded_rectangle(
            (left, top, left + frame[0], top + 28), 8, "#2b3036", corners=(True, True, False, False)
        )
        pen.text((left + 12, top + 6), f"tidings-chat --user {user}", "#dddddd", fonts[False, False])
        codes: dict[str, Any] = {}  # tmux writes only changes of style, also from line to line
        for row, line in enumerate(text.split("\n")):
            for column, letter, style in cells(line, codes):
                x, y = left + 12 + column * wide, top + 36 + row * high
                if style["ground"]:
                    pen.rectangle((x, y, x + wide, y + high - 1), style["ground"])
                pen.text((x, y + 1), letter, style["ink"], fonts[style["bold"], style["italic"]])
    image.quantize(64).save(picture, optimize=True)


def cells(line: str, codes: dict[str, Any]) -> list[tuple[int, str, dict[str, Any]]]:
    """The column, character and style (ECMA-48 SGR) of each cell in a line of tmux."""
    styled: list[tuple[int, str, dict[str, Any]]] = []
    for code, letter in re.findall(r"\x1b\[([0-9;]*)m|([^\x1b])", line):
        if letter:
            ink, ground = codes.get("ink", "#cccccc"), codes.get("ground")
            ink = "#7d7d7d" if codes.get("dim") and ink == "#cccccc" else ink
            style = {"ink": ink, "ground": ground, "bold": "bold" in codes, "italic": "italic" in codes}
            styled.append((len(styled), letter, style))
            continue
        for ground, parts in re.findall(r"([34])8;(2;\d+;\d+;\d+|5;\d+)", code):
            codes["ink" if ground == "3" else "ground"] = extended(parts)
        for number in [int(part or 0) for part in re.sub(r"[34]8;(?:2;\d+;\d+;\d+|5;\d+)", "1000", code).split(";")]:
            if number == 0:
                codes.clear()
            elif number in (1, 2, 3):
                codes[{1: "bold", 2: "dim", 3: "italic"}[number]] = True
            elif number in {39, 49}:
                codes.pop("ink" if number == 39 else "ground", None)
            for first, key, colours in (
                (30, "ink", COLOURS),
                (40, "ground", COLOURS),
                (90, "ink", BRIGHT),
                (100, "ground", BRIGHT),
            ):
                if first <= number < first + 8:
                    codes[key] = colours[number - first]
    return styled


def extended(parts: str) -> str:
    """A colour of 24 bits, or of xterm's 256, of which the first 16 are not used."""
    kind, *numbers = map(int, parts.split(";"))
    if kind == 2:
        return "#{:02x}{:02x}{:02x}".format(*numbers)
    if numbers[0] >= 232:
        return "#" + 3 * f"{8 + 10 * (numbers[0] - 232):02x}"
    levels = (0, 95, 135, 175, 215, 255)
    at = numbers[0] - 16
    return f"#{levels[at // 36]:02x}{levels[at // 6 % 6]:02x}{levels[at % 6]:02x}"


if __name__ == "__main__":
    main(*sys.argv[1:])
