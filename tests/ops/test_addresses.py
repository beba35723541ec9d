"""Limits per address count an IPv6 customer once."""

from __future__ import annotations

import pytest

from tidings.transport.addresses import source_of


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::9", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("not:an:address", "not:an:address"),
    ],
)
def test_addresses_of_one_ipv6_customer_count_as_one_source(address: str, source: str) -> None:
    assert source_of(address) == source
