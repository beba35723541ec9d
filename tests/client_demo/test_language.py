"""The terminal speaks the language of its environment."""

from __future__ import annotations

import pytest

from tests.client_demo.conftest import Cli, People, Terminals
from tidings_chat.i18n import chosen

SPANISH = {"LANGUAGE": "", "LC_ALL": "", "LC_MESSAGES": "", "LANG": "es_ES.UTF-8"}


async def test_in_spanish_one_signs_in_writes_reads_and_is_told_of_an_error(
    cli: Cli, terminals: Terminals, people: People
) -> None:
    await people.topic("noticias", "diego")
    await people.send("diego", "noticias", "hola a todos")
    omar = terminals.start(cli.command("omar"), {**cli.environment, **SPANISH})
    await omar.sees("Todavía no hay salas")
    await omar.sees("/help lista las órdenes, Tab completa.")
    omar.type("/join noticias")
    await omar.sees("#noticias: en línea, omar")
    await omar.sees(r"(lunes|martes|miércoles|jueves|viernes|sábado|domingo), \d+ de \w+ de \d{4}")
    await omar.sees("diego hola a todos")
    omar.type("buenas")
    await omar.sees("omar buenas")
    omar.type("/edit 9 nada")
    await omar.sees("aquí no hay ningún mensaje 9")
    omar.type("/edit 1 nada")
    await omar.sees(r"solo su autor puede editar un mensaje \(forbidden\)")
    omar.type("/title Nada")
    await omar.sees(r"No tienes permiso para hacer esto. \(forbidden\)")
    omar.type("/create mi-tema --private")
    await omar.sees("#mi-tema es tuyo: /invite invita a otros")
    omar.type("/link 2h 1")
    await omar.sees(r"vale hasta \d+ \w+ \d\d:\d\d, 1 vez;")
    omar.type("/link 2h 2")
    await omar.sees(r"vale hasta \d+ \w+ \d\d:\d\d, 2 veces;")
    omar.type("/help role")
    await omar.sees("/role USUARIO PAPEL +hace a alguien propietario")
    omar.type("/quit")
    assert await omar.ends() == 0


async def test_in_spanish_the_command_line_explains_itself(cli: Cli) -> None:
    status, out, err = await cli.execute(cli.command("omar", "--help"), **SPANISH)
    assert (status, err) == (0, "")
    assert out.startswith("uso: ")
    assert "muestra esta ayuda y sale" in out
    assert "envía un mensaje y espera la confirmación" in out
    status, _, err = await cli.execute(cli.command("omar", "send", "noticias"), **SPANISH)
    assert status == 2
    assert "faltan estos argumentos: TEXTO" in err
    status, _, err = await cli.execute(cli.command("omar", "--server", "http://127.0.0.1:9", "rooms"), **SPANISH)
    assert status == 1
    assert "no se puede conectar con http://127.0.0.1:9" in err


@pytest.mark.parametrize(
    ("environment", "locale"),
    [
        ({}, "en"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "es_MX.UTF-8"}, "es_MX"),
        ({"LANG": "es_ES@euro", "LC_ALL": ""}, "es_ES"),
        ({"LANG": "es_ES.UTF-8", "LC_MESSAGES": "en_GB.UTF-8"}, "en_GB"),
        ({"LC_MESSAGES": "en_GB.UTF-8", "LC_ALL": "es_ES.UTF-8"}, "es_ES"),
        ({"LC_ALL": "en_US.UTF-8", "LANGUAGE": "ca:es:en"}, "es"),
        ({"LANG": "es_XX.UTF-8"}, "es"),
    ],
)
def test_the_environment_chooses_the_language_as_for_gettext(environment: dict[str, str], locale: str) -> None:
    assert str(chosen(environment)) == locale
