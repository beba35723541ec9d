"""The terminal: an input line and a status bar at the bottom, which stay whole while things are printed above."""

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
from prompt_toolkit.patch_stdout import patch_stdout
from prompt_toolkit.styles import Style
from rich.console import Console, RenderableType

_STYLE = Style.from_dict(
    {
        "bottom-toolbar": "noreverse bg:ansiblack fg:ansiwhite",
        "bar.good": "fg:ansigreen",
        "bar.bad": "fg:ansiyellow bold",
        "bar.quiet": "fg:ansibrightblack",
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
    ) -> None:
        """
        `prompt` and `status` are asked at every redraw; `suggest` completes the line so far; `typed` is told the
        line at every change of it.
        """
        self._session: PromptSession[str] = PromptSession(
            message=lambda: [("class:prompt", f"{prompt()} › ")],
            bottom_toolbar=status,
            completer=_Suggestions(suggest),
            complete_while_typing=False,
            erase_when_done=True,  # a message is shown when it is in the room, not when it is typed
            history=InMemoryHistory(),  # what people write is not left lying about on disk
            style=_STYLE,
            refresh_interval=1.0,
        )
        self._session.default_buffer.on_text_changed += lambda buffer: typed(buffer.text)
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Screen:
        self._open.enter_context(_no_echo())
        self._open.enter_context(patch_stdout(raw=True))
        return self

    def __exit__(self, *why: Any) -> None:
        self._open.close()

    async def line(self) -> str | None:
        """The next line; None when the user wants to leave (Ctrl-D, or Ctrl-C on an empty line)."""
        while True:
            try:
                return await self._session.prompt_async()
            except EOFError:
                return None
            except KeyboardInterrupt:
                if not self._session.default_buffer.text:
                    return None

    async def secret(self, prompt: str) -> str:
        """Something typed that is neither shown nor remembered; empty when the user wants none of it."""
        session: PromptSession[str] = PromptSession(is_password=True, erase_when_done=True, style=_STYLE)
        try:
            return await session.prompt_async([("class:prompt", f"{prompt} › ")])
        except (EOFError, KeyboardInterrupt):
            return ""

    def print(self, *renderables: RenderableType) -> None:
        """Print above the input line."""
        # Made anew each time, so that it knows the present stdout, and the present width of the terminal.
        console = Console(file=sys.stdout, force_terminal=True, highlight=False, soft_wrap=False)
        for renderable in renderables:
            console.print(renderable)

    def redraw(self) -> None:
        """Something that the prompt or the status bar shows has changed."""
        app = get_app_or_none()
        if app is not None:
            app.invalidate()
        self._session.app.invalidate()


@contextlib.contextmanager
def _no_echo() -> Iterator[None]:
    """Between two prompts, too, the terminal does not show what is typed: it may be a password."""
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


class _Suggestions(Completer):
    def __init__(self, suggest: Callable[[str], Iterable[str]]) -> None:
        self._suggest = suggest

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        line = document.text_before_cursor
        word = line.rpartition(" ")[2]
        for suggestion in self._suggest(line):
            yield Completion(suggestion, start_position=-len(word))
