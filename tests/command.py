"""The command line as a user runs it: models of their own, a picture, and a strict reader of what comes out."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from constraint_algebra.commands.app import app

MODELS = '''
import torch
from torch import nn
import constraint_algebra as ca
from neighbour import SLOPE

def small():
    """A network that determines its input."""
    return ca.Network((3, 8, 8), [ca.Conv2d(6, 3, padding=1), ca.LeakyReLU(SLOPE), ca.Flatten(), ca.Linear(4)])

def module():
    """A model with weights of its own, a plain chain with a functional activation."""
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3, padding=1)
            self.head = nn.Linear(384, 4)
        def forward(self, x):
            return self.head(nn.functional.leaky_relu(self.conv(x), SLOPE).flatten(1))
    return Plain()

def blind():
    """A stride longer than the kernel: some pixels are never looked at."""
    return ca.Network((3, 8, 8), [ca.Conv2d(9, 2, stride=3), ca.LeakyReLU(SLOPE), ca.Flatten(), ca.Linear(4)])

def logistic():
    return ca.Network((3, 8, 8), [ca.Conv2d(6, 3, padding=1), ca.Tanh(), ca.Flatten(), ca.Linear(1)])

def scaled():
    """No bias anywhere: the gradient leaves the scale to the loss, and that may leave two."""
    layers = [ca.Conv2d(6, 3, padding=1, bias=False), ca.LeakyReLU(SLOPE), ca.Flatten(), ca.Linear(1, bias=False)]
    return ca.Network((3, 8, 8), layers)

def line():
    return ca.Network((2, 8), [ca.Conv1d(6, 3, padding=1), ca.Tanh(), ca.Flatten(), ca.Linear(3)])

def odd():
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.GELU(), nn.LPPool2d(2, 2), nn.Flatten(), nn.Linear(54, 4))

def number():
    return 7

def broken():
    raise RuntimeError("no such luck")
'''


def run(*words: object, code: int | None = 0):
    """Run the command and check its exit code (`None`: whether determined or not); a traceback is never an answer."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    assert result.exit_code in ({0, 1} if code is None else {code}), result.output
    return result


def strict(path) -> dict:
    """Read JSON and refuse NaN and Infinity, which are no JSON."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def pixels(path) -> np.ndarray:
    """The bytes of a picture."""
    with Image.open(path) as image:
        return np.asarray(image)


def truth(folder) -> np.ndarray:
    """The picture as the network sees it."""
    return np.moveaxis(pixels(folder / "picture.png") / 255, -1, 0)
