"""The throughput model agrees with what was measured."""

from __future__ import annotations

import pytest

from bench.model import checks, cluster, constants, largest, least_squares, split

ROWS = [[1.0, 10.0, 0.0], [2.0, 5.0, 7.0], [0.0, 3.0, 1.0], [4.0, 1.0, 2.0]]


def test_the_fit_finds_the_constants_of_exact_points() -> None:
    values = [3 * a + 0.5 * b + 2 * c for a, b, c in ROWS]
    assert least_squares(ROWS, values) == pytest.approx([3, 0.5, 2])


def test_no_constant_is_negative() -> None:
    values = [3 * a + 5 * b - 0.3 * c for a, b, c in ROWS]
    assert min(least_squares(ROWS, values)) == 0


def test_the_model_predicts_points_that_it_was_not_fitted_to() -> None:
    errors = [abs(check.error) for check in checks()]
    assert len(errors) > 15
    assert max(errors) < 0.65
    assert sorted(errors)[len(errors) // 2] < 0.15


def test_the_largest_cluster_is_at_a_limit() -> None:
    found = largest()
    assert found.fits
    count, one = split(found.connections * 1.1)
    assert count == 2
    assert one.fits
    assert not cluster(found.connections * 1.1, found.nodes).fits


def test_a_million_idle_connections_cost_heartbeats_only() -> None:
    heartbeats = 1e6 / 100 / 25 * constants().heartbeat / 1e6
    assert cluster(1e6, 100, per_minute=0).node == pytest.approx(heartbeats + constants().idle_node / 1e6)
