"""Linear algebra modulo a prime against FLINT, which shares no code with it."""

import flint
import numpy as np
import pytest
import scipy.sparse as sp
import sympy

from constraint_algebra.numerics.modular import BLOCK, PRIME, Echelon, echelon, multiply, residues


def flint_matrix(A):
    return flint.nmod_mat(*A.shape, [int(v) % PRIME for v in A.ravel()], PRIME)


def random_matrix(rng, m, n, rank, density=1.0):
    """A product of two random factors, some rows struck out: ranks below full on purpose."""
    A = multiply(residues((m, rank), rng), residues((rank, n), rng)) if rank else np.zeros((m, n))
    return A * (rng.random((m, 1)) < 0.9) * (rng.random((m, n)) < density)


def test_the_prime_is_one_and_blocks_stay_exact():
    assert sympy.prevprime(2**23) == PRIME
    assert BLOCK * (PRIME - 1) ** 2 + PRIME <= 2**53


def test_the_largest_residues_multiply_without_rounding():
    A = np.full((3, 5 * BLOCK + 1), PRIME - 1.0)
    exact = sum((PRIME - 1) ** 2 for _ in range(A.shape[1])) % PRIME
    assert (multiply(A, A.T) % PRIME == exact).all()


def test_rank_agrees_with_flint():
    rng = np.random.default_rng(0)
    for _ in range(120):
        m, n, rank = rng.integers(1, 50, size=3)
        A = random_matrix(rng, m, n, rank, density=rng.choice([0.1, 0.5, 1.0]))
        assert Echelon(n).absorb(A).rank == echelon(sp.csr_array(A)).rank == flint_matrix(A).rank()


@pytest.mark.parametrize("shape", [(300, 200, 170), (200, 300, 200), (400, 150, 150)], ids=str)
def test_several_blocks_agree_with_flint(shape):
    m, n, rank = shape
    A = random_matrix(np.random.default_rng(1), m, n, rank)
    assert Echelon(n).absorb(A).rank == flint_matrix(A).rank()


def test_a_banded_matrix_agrees_with_flint():
    rng = np.random.default_rng(2)
    i, j = np.indices((350, 300))
    A = residues((350, 300), rng) * (abs(i - j) < 9) * (i % 7 > 0)
    assert echelon(sp.csr_array(A)).rank == flint_matrix(A).rank()


def test_null_space_and_free_columns():
    rng = np.random.default_rng(3)
    for m, n, rank in [(5, 8, 3), (40, 30, 25), (200, 310, 180), (1, 1, 0), (0, 4, 0)]:
        A = random_matrix(rng, m, n, rank)
        form = Echelon(n).absorb(A)
        N = form.null_space()
        assert N.shape == (n, n - form.rank)
        assert (N[form.free] == np.eye(len(form.free))).all()
        assert not multiply(A, N).any()


def test_rows_in_pieces_are_the_rows_at_once():
    rng = np.random.default_rng(4)
    A = random_matrix(rng, 90, 120, 60)
    whole, pieces = Echelon(120).absorb(A), Echelon(120)
    for start in range(0, 90, 7):
        pieces.absorb(A[start : start + 7])
    assert whole.rank == pieces.rank
    assert not whole.reduce(pieces.reduce(A)).any()


def test_determined_columns_are_the_unit_vectors_in_the_row_space():
    rng = np.random.default_rng(5)
    mixed = 0
    for _ in range(80):
        m, n = rng.integers(2, 15, size=2)
        A = residues((m, n), rng) * (rng.random((m, n)) < 0.2)
        rank = flint_matrix(A).rank()
        expected = [flint_matrix(np.vstack([A, row])).rank() == rank for row in np.eye(n)]
        assert Echelon(n).absorb(A).determined(rng).tolist() == expected
        mixed += 0 < sum(expected) < n
    assert mixed > 20
