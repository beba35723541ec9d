"""Guessing a password is slow from any number of addresses, and cannot lock the owner out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from pathlib import Path

import httpx
import pytest

from tests.accounts.gate import Gate
from tests.accounts.guesses import CROWD, ELSEWHERE, HOME, ask, guess
from tests.support.client import Refused, connected
from tests.support.node import NO_TLS, PASSWORD, RunningNode, running_node
from tidings.auth.attempts import Attempts, MemoryStore, attempt_rates
from tidings.auth.passwords import HASHES_WAITING, THREADS
from tidings.contract.errors import ActionError

LIMITED = {"rate_limits": "on", "rates": "logins=8/hour"}


@pytest.fixture
async def node(database_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    """A node with the account omar, registered from HOME."""
    async with running_node(database_url, tmp_path, **LIMITED) as node:
        assert await ask(node.url, HOME, "register", "omar", PASSWORD) == 201
        yield node


async def _guess_from_one_address(url: str) -> None:
    answers = [await guess(url, CROWD[0]) for _ in range(20)]
    assert answers.count(401) == 1 + 4, "the first attempt, and then half the rate"
    assert answers[-1] == 429


async def test_the_owner_signs_in_at_home_and_elsewhere_while_one_address_guesses(node: RunningNode) -> None:
    await _guess_from_one_address(node.url)
    assert await ask(node.url, HOME, "login", "omar", PASSWORD) == 200
    assert await ask(node.url, ELSEWHERE, "login", "omar", PASSWORD) == 200
    assert await guess(node.url, CROWD[0]) == 429


async def test_the_owner_signs_in_at_home_while_many_addresses_guess_also_after_a_restart(node: RunningNode) -> None:
    for start in range(2):
        answers = [await guess(node.url, source) for source in CROWD for _ in range(2)]
        is_forgotten = node.node.database.is_sqlite  # in memory
        assert answers.count(401) == (8 if start == 0 or is_forgotten else 0), "all addresses together"
        assert answers[-1] == 429
        for _ in range(4):
            assert await ask(node.url, HOME, "login", "omar", PASSWORD) == 200
        await node.stop()
        await node.start()


async def test_an_address_is_known_after_the_owner_has_signed_in_there(node: RunningNode) -> None:
    assert await ask(node.url, ELSEWHERE, "login", "omar", PASSWORD) == 200
    for source in CROWD:
        await guess(node.url, source)
    assert await ask(node.url, ELSEWHERE, "login", "omar", PASSWORD) == 200
    assert await ask(node.url, "127.5.5.6", "login", "omar", PASSWORD) == 429


async def test_a_known_address_is_limited_when_it_guesses(node: RunningNode) -> None:
    answers = [await guess(node.url, HOME) for _ in range(10)]
    assert answers == [401] * 8 + [429] * 2
    assert await ask(node.url, HOME, "login", "omar", PASSWORD) == 429
    assert await ask(node.url, ELSEWHERE, "login", "omar", PASSWORD) == 200


async def test_unknown_accounts_are_limited_like_existing_ones(node: RunningNode) -> None:
    """Otherwise the limits would reveal which accounts exist."""
    for username in ("omar", "nobody"):
        answers = [await guess(node.url, source, username) for source in CROWD[:10] for _ in range(2)]
        assert answers == [401, 401] * 4 + [429, 429] * 6, username


async def test_guessing_does_not_stop_the_owner_from_changing_the_password(node: RunningNode) -> None:
    transport = httpx.AsyncHTTPTransport(local_address=HOME, verify=NO_TLS)
    async with httpx.AsyncClient(base_url=node.url, transport=transport, timeout=60) as http:
        account = {"username": "omar", "password": PASSWORD}
        token = (await http.post("/api/login", json=account)).json()["token"]
    for source in (HOME, *CROWD):
        for _ in range(10):
            await guess(node.url, source)
    assert await ask(node.url, HOME, "login", "omar", PASSWORD) == 429
    async with connected(node.url, token) as omar:
        assert await omar.ask("change_password", password=PASSWORD, new_password="another password") == {}
        with pytest.raises(Refused) as refused:
            await omar.ask("deactivate", password=PASSWORD)
        assert refused.value.code == "forbidden"
        assert await omar.ask("deactivate", password="another password") == {}


async def test_one_address_cannot_fill_the_login_queue_for_others(
    database_url: str, tmp_path: Path, gate: Gate
) -> None:
    """A full queue makes room for other addresses, and their passwords are among the next to be checked."""
    async with running_node(database_url, tmp_path) as node:
        assert await ask(node.url, HOME, "register", "omar", PASSWORD) == 201
        flood = {asyncio.create_task(guess(node.url, CROWD[0])) for _ in range(HASHES_WAITING + THREADS + 3)}
        refused = await _answered(flood, 3)
        elsewhere = asyncio.create_task(ask(node.url, ELSEWHERE, "login", "omar", PASSWORD))
        refused |= await _answered(flood - refused, 1)
        assert {task.result() for task in refused} == {503}
        home = asyncio.create_task(ask(node.url, HOME, "login", "omar", PASSWORD))
        async with httpx.AsyncClient(base_url=node.url, verify=NO_TLS, timeout=30) as http, asyncio.timeout(60):
            waiting = f"tidings_bcrypt_waiting {HASHES_WAITING + THREADS + 1}"
            while waiting not in (await http.get("/metrics")).text:
                pass  # each check is a round trip
        gate.open()
        assert await asyncio.gather(home, elsewhere) == [200, 200]
        assert set(await asyncio.gather(*(flood - refused))) == {401}
        order = [password == PASSWORD.encode() for password in gate.checked]
        assert order.count(True) == 2
        assert sum(order[: THREADS + 6]) == 2


async def _answered(tasks: set[asyncio.Task[int]], number: int) -> set[asyncio.Task[int]]:
    done: set[asyncio.Task[int]] = set()
    while len(done) < number:
        answered, _ = await asyncio.wait(tasks - done, return_when=asyncio.FIRST_COMPLETED, timeout=60)
        assert answered, "no task was answered"
        done |= answered
    return done


# -- without a server ------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def _attempts(logins: str, clock: Clock) -> Attempts:
    return Attempts(MemoryStore(attempt_rates(logins, "20/minute", "60/hour"), clock))


async def _is_allowed(attempts: Attempts, address: str, *, known: bool = False) -> bool:
    try:
        await attempts.sign_in("omar", address, known=known)
    except ActionError:
        return False
    return True


async def test_all_unknown_addresses_share_one_rate_in_every_hour() -> None:
    clock = Clock()
    attempts = _attempts("10/minute", clock)
    attempted: list[float] = []
    for minute in range(600):
        for n in range(200):
            clock.now += 0.3
            if await _is_allowed(attempts, f"10.{minute % 250}.{n % 20}.{n}"):
                attempted.append(clock.now)
    in_an_hour = max(sum(begin <= at < begin + 3600 for at in attempted) for begin in attempted[::7])
    assert 400 <= in_an_hour <= 600 + 10


async def test_an_owner_at_a_new_address_gets_a_turn_once_each_guessing_address_had_one() -> None:
    clock = Clock()
    attempts = _attempts("10/minute", clock)
    crowd = [f"10.0.{n}.1" for n in range(100)]
    for _ in range(30):  # five a minute, minus those that the previous window still counts
        for address in crowd * 3:
            await _is_allowed(attempts, address)
        clock.now += 60
        for address in crowd * 3:
            await _is_allowed(attempts, address)
    assert await _is_allowed(attempts, "203.0.113.9")


async def test_an_ipv6_site_gets_one_first_attempt() -> None:
    attempts = _attempts("10/hour", Clock())
    allowed = sum([await _is_allowed(attempts, f"2001:db8:7:{n:x}::1") for n in range(500)])
    assert allowed == 1 + 5
    assert await _is_allowed(attempts, "2001:db8:8::1")


async def test_successful_logins_do_not_use_up_the_rate_of_unknown_addresses() -> None:
    attempts = _attempts("10/hour", Clock())
    for n in range(50):
        await (await attempts.sign_in("omar", f"10.0.0.{n}", known=False)).succeeded()
    assert sum([await _is_allowed(attempts, f"10.0.1.{n}") for n in range(50)]) == 5


async def test_the_memory_of_first_attempts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.auth.attempts.FIRST_TRIES_KEPT", 10)
    clock = Clock()
    store = MemoryStore(attempt_rates("10/minute", "20/minute", "60/hour"), clock)
    attempts = Attempts(store)
    for n in range(100):
        clock.now += 60
        assert await _is_allowed(attempts, f"10.0.0.{n}")
    assert len(store._first_tried_at) == 10


@pytest.mark.parametrize("crowd", [1, 5, HASHES_WAITING])
def test_a_full_queue_displaces_from_the_longest_lane(crowd: int) -> None:
    from tidings.auth.lanes import Lanes

    queue: Lanes[tuple[Hashable, int]] = Lanes(HASHES_WAITING)
    for n in range(2 * HASHES_WAITING):
        queue.put(n % crowd, (n % crowd, n))
    displaced = queue.put("owner", ("owner", 0))
    assert len(queue) == HASHES_WAITING
    if crowd == HASHES_WAITING:
        assert displaced == ("owner", 0), "no lane is longer than its own"
        return
    assert displaced is not None
    assert displaced[0] != "owner"
    served = [queue.get() for _ in range(crowd + 1)]
    assert ("owner", 0) in served
    rest = [queue.get() for _ in range(HASHES_WAITING)]
    assert rest.count(None) == crowd + 1
    assert len(queue) == 0
