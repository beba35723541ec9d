"""Usernames: PRECIS UsernameCasePreserved (RFC 8265), and the one namespace that users and topics share."""

from __future__ import annotations

import asyncio
import unicodedata

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from precis_i18n import get_profile

from tests.support.client import connected
from tests.support.node import PASSWORD, RunningNode
from tidings.auth import names
from tidings.contract.errors import ActionError, ErrorCode

_case_mapped = get_profile("UsernameCaseMapped")


async def _register(http: httpx.AsyncClient, username: str, password: str = PASSWORD) -> httpx.Response:
    return await http.post("/api/register", json={"username": username, "password": password})


@pytest.mark.parametrize(
    ("typed", "kept", "key"),
    [
        ("BrianYork", "BrianYork", "brianyork"),
        ("ＯＭＡＲ", "OMAR", "omar"),  # fullwidth
        ("ÉLODIE", "ÉLODIE", "élodie"),
        ("e\u0301lodie", "élodie", "élodie"),  # decomposed
        ("ВЛАДИМИР", "ВЛАДИМИР", "владимир"),
        ("ﾀﾞｲｺﾞ", "ダイゴ", "ダイゴ"),  # halfwidth
        ("山田", "山田", "山田"),
        ("سارة", "سارة", "سارة"),
        ("a.b-c_d", "a.b-c_d", "a.b-c_d"),
        ("x", "x", "x"),
        ("x" * 32, "x" * 32, "x" * 32),
        ("é" * 32, "é" * 32, "é" * 32),
        ("e\u0301" * 32, "é" * 32, "é" * 32),  # 32 characters once composed
    ],
)
def test_a_username_keeps_its_spelling_and_is_compared_in_its_mapped_form(typed: str, kept: str, key: str) -> None:
    assert names.username(typed) == kept
    assert names.username_key(typed) == names.username_key(kept) == key


@pytest.mark.parametrize(
    "typed",
    [
        "",
        " ",
        "two words",
        " omar",
        "omar\n",
        "tab\tbed",
        "nul\0",
        "del\x7f",
        "\u202eevil",  # right-to-left override
        "a\u200eb",  # left-to-right mark
        "a\u2066b",
        "zero\u200bwidth",
        "join\u200dher",
        "soft\u00adhyphen",
        "no\u00a0break",
        "wide\u3000space",
        "line\u2028end",
        "henry\u2163",  # a number form that NFKC would take apart
        "ﬁne",  # a ligature
        "omar😀",
        "♥",
        "a\u0661سb",  # letters of both directions (RFC 5893)
        "1سارة",
        "\ue000",
        "\ud800",
        "x" * 33,
    ],
)
def test_a_username_that_the_profile_refuses_is_invalid(typed: str) -> None:
    with pytest.raises(ActionError) as refused:
        names.username(typed)
    assert refused.value.code is ErrorCode.INVALID
    assert refused.value.error.details["fields"].keys() == {"username"}


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_invalid_or_a_username_that_maps_to_itself(typed: str) -> None:
    try:
        kept = names.username(typed)
    except ActionError as error:
        if error.code is not ErrorCode.INVALID:
            raise
        return
    assert 1 <= len(kept) <= 32
    assert names.username(kept) == kept
    assert unicodedata.is_normalized("NFC", kept)
    assert not any(char.isspace() or unicodedata.category(char)[0] in "CZ" for char in kept)


def _kept(typed: str) -> str | None:
    try:
        return names.username(typed)
    except ActionError:
        return None


def _mapped(typed: str) -> str | None:
    """The name as UsernameCaseMapped maps it, if that is a username."""
    try:
        return _kept(_case_mapped.enforce(typed))
    except UnicodeEncodeError:
        return None


@settings(deadline=None)
@given(st.text(max_size=40) | st.text("aAéÉｱﾞＡİΣσς.'e\u0301\u212a", max_size=40))
def test_a_valid_name_finds_its_user_and_a_refused_name_finds_nobody(typed: str) -> None:
    looked_up, mapped = names.try_username_key(typed), _mapped(typed)
    if (kept := _kept(typed)) is not None:
        assert looked_up == names.username_key(kept) == mapped
    elif mapped is not None:
        assert looked_up == mapped
    else:
        assert looked_up is None or _mapped(looked_up) != looked_up, "a user with this key could exist"


@settings(deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_invalid_or_a_topic_name_that_maps_to_itself(typed: str) -> None:
    try:
        kept = names.topic_name(typed)
    except ActionError as error:
        if error.code is not ErrorCode.INVALID:
            raise
        return
    assert names.topic_name(kept) == kept
    assert names.name_key(kept) == names.name_key(names.name_key(kept))


async def test_a_name_in_any_case_or_width_refers_to_the_same_account(http: httpx.AsyncClient) -> None:
    registered = await _register(http, "OMAR")
    assert registered.status_code == 201
    assert registered.json()["user"]["username"] == "OMAR"
    for typed in ("omar", "Omar", "ＯＭＡＲ"):
        repeated = await _register(http, typed)
        assert repeated.status_code == 409
        assert repeated.json()["code"] == "conflict"
        login = await http.post("/api/login", json={"username": typed, "password": PASSWORD})
        assert login.status_code == 200
        assert login.json()["user"]["username"] == "OMAR"
        headers = {"Authorization": f"Bearer {login.json()['token']}"}
        profile = await http.get(f"/api/users/{typed}", headers=headers)
        assert profile.json()["username"] == "OMAR"


async def test_users_and_topics_cannot_take_each_others_names(server: RunningNode, http: httpx.AsyncClient) -> None:
    async with connected(server.url, await server.register("omar")) as omar:
        await omar.ask("create", topic_name="Noticias")
        await omar.ask("create", topic_name="Straße")
    headers = {"Authorization": f"Bearer {await server.login('omar')}"}
    for name in ("noticias", "NOTICIAS", "ｎｏｔｉｃｉａｓ", "strasse"):
        taken = await _register(http, name)
        assert (taken.status_code, taken.json()["code"]) == (409, "conflict"), name
    for name in ("omar", "OMAR", " Omar ", "ｏｍａｒ"):
        taken = await http.post("/api/topics", json={"topic_name": name}, headers=headers)
        assert (taken.status_code, taken.json()["code"]) == (409, "conflict"), name
    assert (await _register(http, "noticia")).status_code == 201


async def test_one_of_several_concurrent_claims_to_a_name_succeeds(
    server: RunningNode, http: httpx.AsyncClient
) -> None:
    headers = {"Authorization": f"Bearer {await server.register('omar')}"}

    async def create(name: str) -> httpx.Response:
        return await http.post("/api/topics", json={"topic_name": name}, headers=headers)

    for turn in range(6):
        name = f"name{turn}"
        claims = [_register(http, name), create(name.title()), _register(http, name.upper()), create(name)]
        answers = await asyncio.gather(*(claims if turn % 2 else reversed(claims)))
        assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
        # The name belongs to a user or to a topic, never to both or neither.
        is_user = (await http.get(f"/api/users/{name}", headers=headers)).status_code == 200
        rooms = (await http.get("/api/rooms", headers=headers)).json()["rooms"]
        is_topic = any((room["topic_name"] or "").lower() == name for room in rooms)
        assert is_user != is_topic
