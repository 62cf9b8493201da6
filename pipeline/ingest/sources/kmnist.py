"""Kuzushiji-MNIST: 70,000 cursive Japanese characters in ten classes, 28x28, gray (arXiv:1812.01718)."""

from torchvision.datasets import KMNIST

from pipeline.ingest.torchvision_dataset import mnist_like

SOURCE = mnist_like(KMNIST)
