"""Trains a small network on scikit-learn's handwritten digits; prints one JSON line per epoch.

    python train_digits.py --lr 0.003 --width 64 --optimizer adam

Needs torch, numpy and scikit-learn (for its data file alone); knows nothing of whoever starts it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop}


def load_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """1,797 images of 8x8 pixels from 0 to 1, and their labels.

    Reads the file that ships with scikit-learn: importing sklearn.datasets for it takes another second.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("train_digits.py: scikit-learn is missing; its data set is needed; pip install scikit-learn")
    path = Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    table = np.loadtxt(path, delimiter=",", dtype=np.float32)
    return torch.from_numpy(table[:, :-1] / 16), torch.from_numpy(table[:, -1].astype(np.int64))


def split(labels: torch.Tensor, share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions for training and validation, with the same share of each digit in both."""
    generator = torch.Generator().manual_seed(seed)
    training, validation = [], []
    for digit in range(10):
        positions = (labels == digit).nonzero().flatten()
        positions = positions[torch.randperm(len(positions), generator=generator)]
        held = round(len(positions) * share)
        validation.append(positions[:held])
        training.append(positions[held:])
    return torch.cat(training), torch.cat(validation)


def train(lr: float, width: int, optimizer_name: str, epochs: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, labels = load_digits()
    training, validation = split(labels, share=0.25, seed=0)
    model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))
    optimizer = OPTIMIZERS[optimizer_name](model.parameters(), lr=lr)
    loss_of = nn.CrossEntropyLoss()
    shuffle = torch.Generator().manual_seed(0)
    for epoch in range(1, epochs + 1):
        model.train()
        total = 0.0
        for batch in training[torch.randperm(len(training), generator=shuffle)].split(32):
            optimizer.zero_grad()
            loss = loss_of(model(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        model.eval()
        with torch.no_grad():
            hits = (model(images[validation]).argmax(1) == labels[validation]).sum().item()
        line = {"epoch": epoch, "loss": round(total / len(training), 5), "accuracy": round(hits / len(validation), 5)}
        print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="A small network on handwritten digits.")
    parser.add_argument("--lr", type=float, required=True, help="learning rate")
    parser.add_argument("--width", type=int, default=64, help="units in each hidden layer")
    parser.add_argument("--optimizer", choices=sorted(OPTIMIZERS), default="adam")
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args()
    train(args.lr, args.width, args.optimizer, args.epochs)


if __name__ == "__main__":
    main()
