"""A certificate on paper: strict JSON with versions, tolerances and digests, arrays, and a picture."""

from __future__ import annotations

import hashlib

import matplotlib as mpl
import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra.proofs.certificate import digest
from tests.command import pixels, strict
from tests.twin_cases import case, random_case

mpl.use("Agg")
NET = ca.Network((3, 8, 8), [ca.Conv2d(2, 3, stride=2, padding=1), ca.ReLU(), ca.Flatten(), ca.Linear(4)])
CASE = case(NET, np.random.default_rng(0).random((3, 8, 8)))
FOUND = ca.certify(CASE.model, CASE.image, CASE.label)


def test_the_json_holds_what_a_reader_needs_to_check_it(tmp_path) -> None:
    paths = FOUND.save(tmp_path)
    assert [path.name for path in paths] == ["certificate.json", "certificate.npz", "certificate.png"]
    came = strict(tmp_path / "certificate.json")
    assert came["library"] == {"name": "constraint-algebra", "version": ca.__version__}
    assert came["tolerances"]["gradients_relative_to_largest"] == 1e-10
    assert came["tolerances"]["delta"] == FOUND.delta
    assert came["counts"] == FOUND.counts
    letters = np.array([list(row) for row in came["verdicts"]]).reshape(CASE.image.shape)
    np.testing.assert_array_equal(letters == "F", FOUND.fixed)
    np.testing.assert_array_equal(letters == "A", FOUND.ambiguous)
    assert set(came["parameters_sha256"]) == set(CASE.parameters)
    assert came["parameters_sha256"]["0.bias"] == digest(CASE.parameters["0.bias"])
    arrays = ca.load(tmp_path / "certificate.npz")
    for number, twin in enumerate(came["twins"]):
        image = arrays[f"twins/{number}"]
        assert twin["sha256"] == digest(image)
        assert twin["gradient_difference"] <= 1e-10
        assert CASE.verify(image).equal
    assert pixels(tmp_path / "certificate.png").std() > 10


def test_the_same_certificate_makes_the_same_bytes(tmp_path) -> None:
    for folder in ("a", "b"):
        FOUND.save(tmp_path / folder)
    for name in ("certificate.json", "certificate.npz", "certificate.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_nothing_is_overwritten_silently(tmp_path) -> None:
    FOUND.save(tmp_path)
    with pytest.raises(ca.OutputExistsError, match=r"already holds certificate\.json"):
        FOUND.save(tmp_path)
    FOUND.save(tmp_path, overwrite=True)


def test_what_is_fixed_in_its_region_has_its_own_letter_array_and_words(tmp_path) -> None:
    layers = [ca.Conv2d(24, 3, stride=2, padding=1), ca.LeakyReLU(0.2), ca.Conv2d(2, 1), ca.Flatten(), ca.Linear(10)]
    c = case(ca.Network((1, 8, 8), layers), np.random.default_rng(0).random((1, 8, 8)))
    found = ca.certify(c.model, c.image, c.label)
    found.save(tmp_path)
    came = strict(tmp_path / "certificate.json")
    assert came["verdicts"] == ["R" * 8] * 8
    assert came["counts"] == {"fixed": 0, "fixed_in_region": 64, "ambiguous": 0, "undecided": 0}
    assert came["largest_bound"] is None
    assert came["largest_bound_in_region"] == found.bound.max() < 1e-6
    assert came["beyond_the_region"] == found.obstacle
    assert "twins keep the side on which every activation of the network works for the sample" in came["assumptions"]
    assert ca.load(tmp_path / "certificate.npz")["fixed_in_region"].all()
    assert "64 fixed in region" in repr(found)
    assert "fixed in region to within" in repr(found)
    assert "(dotted: 64 in their region)" in found.plot()[1].get_title()
    mpl.pyplot.close("all")


def test_verdicts_in_words() -> None:
    assert "ambiguous: a verified twin changes it by" in FOUND.verdict(tuple(np.argwhere(FOUND.ambiguous)[0]))
    assert "Certificate for 192 values" in repr(FOUND)
    with pytest.raises(ca.ShapeError, match="a pixel is an index"):
        FOUND.verdict((0, 0))


def test_a_digest_changes_with_value_type_and_shape() -> None:
    values = np.arange(4.0)
    seen = {
        digest(values),
        digest(values.reshape(2, 2)),
        digest(values.astype(np.float32)),
        digest(values + 1e-16 * values),
    }
    assert len(seen) >= 3
    assert digest(values) == digest(values.astype(">f8"))
    assert digest(values) == hashlib.sha256(b"float64(4,)" + values.tobytes()).hexdigest()


def test_what_is_no_picture_has_no_picture(tmp_path) -> None:
    net = ca.Network((6,), [ca.Linear(4), ca.ReLU(), ca.Linear(2)])
    c = case(net, np.random.default_rng(0).random(6))
    found = ca.certify(c.model, c.image, c.label)
    assert [path.name for path in found.save(tmp_path)] == ["certificate.json", "certificate.npz"]
    with pytest.raises(ca.ShapeError, match="one or three channels"):
        found.plot()


@pytest.mark.slow
def test_the_picture_says_where_nothing_is_decided() -> None:
    c = random_case(43)
    found = ca.certify(c.model, c.image, c.label)
    if c.image.shape[0] in {1, 3}:
        axes = found.plot()
        assert "undecided" in axes[1].get_title()
    assert FOUND.plot()[1].get_title().startswith("Fixed")
    mpl.pyplot.close("all")
