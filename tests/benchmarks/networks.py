"""Large networks as plain chains of convolutions: what a layer is, not how the layers are wired."""

from __future__ import annotations

import constraint_algebra as ca


def chain(input_shape, convolutions, activation=ca.ReLU, classes=10):
    """A network of 3×3 convolutions, given as (filters, stride), each with an activation, and a linear head."""
    layers = []
    for filters, stride in convolutions:
        layers += [ca.Conv2d(filters, 3, stride=stride, padding=1), activation()]
    return ca.Network(input_shape, [*layers, ca.Flatten(), ca.Linear(classes)])


def resnet18(activation=ca.ReLU):
    """The 17 convolutions of ResNet-18 for CIFAR, without shortcuts."""
    stages = [(64, 1), *[(64, 1)] * 4]
    for filters in (128, 256, 512):
        stages += [(filters, 2), *[(filters, 1)] * 3]
    return chain((3, 32, 32), stages, activation)


def vgg16(activation=ca.ReLU):
    """The 13 convolutions of VGG-16 at 224×224, with a convolution of stride 2 in the place of each pooling."""
    stages = []
    for filters, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        stages += [*[(filters, 1)] * count, (filters, 2)]
    return chain((3, 224, 224), stages, activation, classes=1000)


def vgg16_merged(activation=ca.ReLU):
    """As `vgg16`, but the last convolution of each block has stride 2 itself."""
    stages = []
    for filters, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        stages += [*[(filters, 1)] * (count - 1), (filters, 2)]
    return chain((3, 224, 224), stages, activation, classes=1000)
