"""A server that fetches link previews from this machine too: `tidings serve --app web.e2e.support.previews:app`."""

from tidings import create_app

app = create_app(previews={"private": True})
