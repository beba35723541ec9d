"""The terminal: an input line and a status bar at the bottom, and text printed above them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app_or_none
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import Input, create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.patch_stdout import patch_stdout
from prompt_toolkit.styles import Style
from rich.console import Console, RenderableType

_STYLE = Style.from_dict(
    {
        "bottom-toolbar": "noreverse bg:#000000 fg:#d0d0d0",
        "bar.good": "fg:#5fd787",
        "bar.bad": "fg:#ffd75f bold",
        "bar.quiet": "fg:#8a8a8a",
        "bar.current": "bold underline",
        "prompt": "bold",
    }
)


class Screen:
    def __init__(
        self,
        prompt: Callable[[], str],
        status: Callable[[], StyleAndTextTuples],
        suggest: Callable[[str], Iterable[str]],
        typed: Callable[[str], None],
        switch: Callable[[int], None] = lambda key: None,
    ) -> None:
        """
        Args:
            prompt, status: called at every redraw.
            suggest: returns the completions of the line so far.
            typed: gets the line at every change of it.
            switch: gets the digit that is pressed with Alt.
        """
        self._session: PromptSession[str] = PromptSession(
            message=lambda: [("class:prompt", f"{prompt()} › ")],
            bottom_toolbar=status,
            completer=_Suggestions(suggest),
            complete_while_typing=False,
            erase_when_done=True,  # a message is printed when it is in the room, not when it is typed
            history=InMemoryHistory(),  # private messages do not belong in a history file
            style=_STYLE,
            key_bindings=_digits(switch),
            refresh_interval=1.0,
            input=_silent_input(),
        )
        self._session.default_buffer.on_text_changed += lambda buffer: typed(buffer.text)
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Screen:
        self._open.enter_context(_no_echo())
        self._open.enter_context(patch_stdout(raw=True))
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._open.close()

    async def line(self, draft: str = "") -> str | None:
        """Read a line, which starts as `draft`; None if the user quits (Ctrl-D, or Ctrl-C on an empty line)."""
        while True:
            try:
                return await self._session.prompt_async(default=draft)
            except EOFError:
                return None
            except KeyboardInterrupt:
                if not self._session.default_buffer.text:
                    return None
                draft = ""

    async def secret(self, prompt: str) -> str:
        """Read a line that is neither shown nor put in the history; empty if the user cancels."""
        session: PromptSession[str] = PromptSession(
            is_password=True, erase_when_done=True, style=_STYLE, input=_silent_input()
        )
        try:
            return await session.prompt_async([("class:prompt", f"{prompt} › ")])
        except (EOFError, KeyboardInterrupt):
            return ""

    def print(self, *renderables: RenderableType) -> None:
        """Print above the input line."""
        # A new console each time: stdout and the width of the terminal may have changed.
        console = Console(file=sys.stdout, force_terminal=True, highlight=False, soft_wrap=False)
        for renderable in renderables:
            console.print(renderable)

    def bell(self) -> None:
        """Ring the terminal's bell."""
        self._session.app.output.bell()
        self._session.app.output.flush()

    def redraw(self) -> None:
        """Draw the prompt and the status bar again."""
        app = get_app_or_none()
        if app is not None:
            app.invalidate()
        self._session.app.invalidate()


def _digits(switch: Callable[[int], None]) -> KeyBindings:
    """Bind Alt and a digit, which terminals send as Escape and the digit."""
    bindings = KeyBindings()
    for digit in range(1, 10):

        @bindings.add("escape", str(digit))
        def _(_event: KeyPressEvent, digit: int = digit) -> None:
            switch(digit)

    return bindings


@contextlib.contextmanager
def _no_echo() -> Iterator[None]:
    """Keep the terminal from echoing keys between two prompts: they may belong to a password."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    import termios

    before = termios.tcgetattr(sys.stdin)
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(sys.stdin, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def _silent_input() -> Input:
    """Return the terminal's keys, without an echo while text is printed above a prompt.

    prompt_toolkit prints above a prompt in "cooked" mode, where the terminal echoes keys, even those of a password.
    """
    if sys.platform == "win32" or not sys.stdin.isatty():
        return create_input()
    from prompt_toolkit.input.vt100 import Vt100Input

    class SilentInput(Vt100Input):
        def cooked_mode(self) -> contextlib.AbstractContextManager[None]:
            return contextlib.nullcontext()  # printing needs no other mode; keys wait until the prompt is back

    return SilentInput(sys.stdin)


class _Suggestions(Completer):
    def __init__(self, suggest: Callable[[str], Iterable[str]]) -> None:
        self._suggest = suggest

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        line = document.text_before_cursor
        word = line.rpartition(" ")[2]
        for suggestion in self._suggest(line):
            end = "" if suggestion.endswith("/") else " "  # a folder goes on
            yield Completion(f"{suggestion}{end}", start_position=-len(word), display=suggestion)
