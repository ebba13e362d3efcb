"""Trains a small network on scikit-learn's handwritten digits, and is none the worse for being interrupted.

    python train_resumable.py --epochs 60 --seed 7

All that an epoch changes is given to ``resumable``: on the mesh it is saved now and then, and the next attempt, on
whatever machine, goes on from the newest; by hand the script trains from the beginning. In the end it prints the loss
of every epoch to the last bit, whoever trained it, and a digest of the weights. It draws from the generators of Python
and torch, so a run that was interrupted ends like one that never was only if both were restored.
"""

from __future__ import annotations

import argparse
import hashlib
import random

import torch
from torch import nn
from train_digits import load_digits

from mesh.torch import resumable

WIDTH = 256


def train(epochs: int, seed: int) -> None:
    torch.set_num_threads(1)  # sums of several threads may round otherwise on another machine
    torch.manual_seed(seed)
    random.seed(seed)
    images, labels = load_digits()
    layers = nn.Linear(64, WIDTH), nn.ReLU(), nn.Dropout(0.3), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10)
    model = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    loss_of = nn.CrossEntropyLoss()
    curve: dict[str, list[float]] = {"losses": []}
    for _ in (loop := resumable(epochs, model=model, optimizer=optimizer, scheduler=scheduler, curve=curve)):
        total = 0.0
        for batch in torch.randperm(len(images)).split(32):
            moved = images[batch].view(-1, 8, 8).roll(random.randint(-1, 1), dims=random.choice((1, 2)))
            optimizer.zero_grad()
            loss = loss_of(model(moved.flatten(1)), labels[batch])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        scheduler.step()
        curve["losses"].append(total / len(images))
        loop.report(loss=curve["losses"][-1])
    for epoch, loss_then in enumerate(curve["losses"]):
        print(f"epoch {epoch} loss {loss_then:.6f} {loss_then.hex()}")
    weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    print(f"weights {hashlib.sha256(weights).hexdigest()}")


def main() -> None:
    parser = argparse.ArgumentParser(description="A small network on handwritten digits, which can be interrupted.")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    train(args.epochs, args.seed)


if __name__ == "__main__":
    main()
