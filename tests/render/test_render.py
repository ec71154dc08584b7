"""What is drawn of events, read by programs that others wrote where there are such."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.sample_events import Maker
from tracelet_shim.backends.render import geometry, plotly, svg, tables
from tracelet_shim.backends.render.projection import principal_axes

MATRICES = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=12),
    elements=st.floats(allow_nan=True, allow_infinity=True),
)  # fmt: skip


@given(MATRICES, st.integers(1, 3), st.integers(1, 8))
@example(np.append(np.full((4, 3), 1.58895126e308), [[0, 0, 1.58895126e308]], axis=0), 1, 5)  # an axis of 2.2e308
def test_any_matrix_is_drawn(matrix: np.ndarray, axes: int, most: int) -> None:
    points, rows = principal_axes(matrix, axes, most)
    assert points.shape == (min(len(matrix), most), axes)
    assert np.isfinite(points).all()
    assert list(rows) == sorted(set(rows.tolist()))


def test_axes_are_those_of_the_largest_spread() -> None:
    """Compared with the singular values that numpy finds."""
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(200, 6)) * [9, 5, 2, 0.5, 0.1, 0.1]
    points, rows = principal_axes(matrix, 2, 1000)
    assert list(rows) == list(range(200))
    exact = np.linalg.svd(matrix - matrix.mean(0), compute_uv=False)[:2] ** 2
    assert np.sum(points**2) == pytest.approx(exact.sum(), rel=1e-3)
    matrix = rng.normal(size=(400, 300)) * np.concatenate([[9, 5], np.full(298, 0.1)])
    exact = np.linalg.svd(matrix - matrix.mean(0), compute_uv=False)[:2] ** 2
    assert np.sum(principal_axes(matrix, 2, 1000)[0] ** 2, axis=0) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("shape", [(9, 5), (300, 40), (40, 300), (2, 7)])
def test_axes_are_exact_where_that_is_cheap(shape: tuple[int, int]) -> None:
    """Of few points or few dimensions, each axis is the one that numpy finds, in its order."""
    matrix = np.random.default_rng(4).normal(size=shape)
    left, sizes, _ = np.linalg.svd(matrix - matrix.mean(0), full_matrices=False)
    points, _ = principal_axes(matrix, 3, 1000)
    expected = (left * sizes)[:, :3]
    np.testing.assert_allclose(np.abs(points[:, : expected.shape[1]]), np.abs(expected), atol=1e-9)


def test_of_many_points_some_are_taken_evenly() -> None:
    _, rows = principal_axes(np.arange(300.0).reshape(100, 3), 3, 5)
    assert list(rows) == [0, 24, 49, 74, 99]


@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=20))
def test_any_line_is_a_picture(points: list[tuple[float, float]]) -> None:
    picture = svg.line_chart(points, "a <b> & \0", "x", "y")
    if picture:
        assert ET.fromstring(picture).tag.endswith("svg")
    else:
        assert not [point for point in points if all(map(math.isfinite, point))]


def test_glb_has_its_numbers() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0]], np.float32)
    data = geometry.glb(vertices, np.array([[0, 1, 2]]), np.array([[255, 0, 0]] * 3))
    assert (data[:4], int.from_bytes(data[4:8], "little"), int.from_bytes(data[8:12], "little")) == (b"glTF", 2, len(data))
    length = int.from_bytes(data[12:16], "little")
    scene = json.loads(data[20 : 20 + length])
    body = data[28 + length :]
    view = scene["bufferViews"][0]
    stored = np.frombuffer(body[view["byteOffset"] : view["byteOffset"] + view["byteLength"]], "<f4").reshape(-1, 3)
    assert stored.tolist() == vertices.tolist()
    assert scene["accessors"][0]["max"] == [1, 2, 0]


def test_obj_and_ply_have_all_vertices_and_faces() -> None:
    vertices, faces = np.eye(3), np.array([[0, 1, 2]])
    text = geometry.obj(vertices, faces, np.array([[255, 0, 51]] * 3))
    assert text.splitlines() == [
        "v 1.0 0.0 0.0 1.0 0.0 0.2", "v 0.0 1.0 0.0 1.0 0.0 0.2", "v 0.0 0.0 1.0 1.0 0.0 0.2", "f 1 2 3",
    ]  # fmt: skip
    head, _, body = geometry.ply(vertices, faces, None).decode().partition("end_header\n")
    assert re.findall(r"element (\w+) (\d+)", head) == [("vertex", "3"), ("face", "1")]
    assert body.splitlines()[-1] == "3 0 1 2"


def test_a_pr_curve_has_its_thresholds_and_counts() -> None:
    event = Maker().pr_curve("pr")
    columns = tables.pr_curve_columns(event)
    assert list(columns) == ["threshold", *tables.COUNTS, "precision", "recall"]
    assert (columns["threshold"][0], columns["threshold"][-1]) == (0.0, 1.0)
    (curve,), _ = plotly.pr_curve(event)
    assert [row[0] for row in curve["customdata"]] == list(columns["threshold"])
    json.dumps(curve, allow_nan=False)


def test_an_embedding_may_have_fewer_labels_than_points() -> None:
    event = Maker().embedding()
    event = msgspec.structs.replace(event, metadata=event.metadata[:2])
    ((cloud,), _) = plotly.embedding(event, 1000)
    assert [bool(label) for label in cloud["text"]][:3] == [True, True, False]
    assert len(cloud["text"]) == len(cloud["x"])


def test_nodes_of_a_graph_are_listed_and_escaped() -> None:
    event = Maker().graph()
    nodes = list(tables.graph_nodes(event.graph_def))
    assert nodes
    page = tables.node_page(event.graph_def).decode()
    assert page.count("<tr>") == len(nodes) + 1
