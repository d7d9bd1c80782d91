"""A class Trainer: mixed precision with a GradScaler, a schedule for each step,
clipping, an AverageMeter, arguments from a dataclass, a logger."""
import argparse
import logging
from dataclasses import asdict, dataclass

import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset, random_split

logger = logging.getLogger("train")


@dataclass
class Config:
    lr: float = 1e-2
    hidden: int = 32
    epochs: int = 4
    batch_size: int = 64


class AverageMeter:
    def __init__(self):
        self.sum = self.n = 0

    def update(self, v, n=1):
        self.sum += v * n
        self.n += n

    @property
    def avg(self):
        return self.sum / max(1, self.n)


class Trainer:
    def __init__(self, cfg, model, train, val):
        self.cfg, self.model, self.train_loader, self.val_loader = cfg, model, train, val
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr, weight_decay=0.01)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, cfg.lr * 3, total_steps=cfg.epochs * len(train))
        self.scaler = torch.amp.GradScaler("cpu", enabled=True)
        self.criterion = nn.CrossEntropyLoss()

    def train_epoch(self, epoch):
        self.model.train()
        meter = AverageMeter()
        for i, (x, y) in enumerate(self.train_loader):
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                l = self.criterion(self.model(x), y)
            self.scaler.scale(l).backward()
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.scheduler.step()
            meter.update(l.item(), x.size(0))
            if i % 5 == 0:
                print(f"Epoch: [{epoch}][{i}/{len(self.train_loader)}]\tLoss {l.item():.4f} ({meter.avg:.4f})\tLR {self.scheduler.get_last_lr()[0]:.5f}")
        self.last = l.item()
        return meter.avg

    @torch.no_grad()
    def validate(self):
        self.model.eval()
        meter, correct = AverageMeter(), 0
        for x, y in self.val_loader:
            out = self.model(x)
            meter.update(self.criterion(out, y).item(), x.size(0))
            correct += (out.argmax(1) == y).sum().item()
        return meter.avg, correct / len(self.val_loader.dataset)

    def fit(self):
        best = 0.0
        for epoch in range(1, self.cfg.epochs + 1):
            train, (val, acc) = self.train_epoch(epoch), self.validate()
            logger.info("epoch %d/%d: train_loss=%.4f val_loss=%.4f val_acc=%.2f%%", epoch, self.cfg.epochs, train, val, 100 * acc)
            print(f"epoch {epoch}: loss={train:.4f} acc {100 * acc:.1f}%")
            if acc > best:
                best = acc
                torch.save(self.model.state_dict(), "best.pt")
        print(f"Best accuracy: {best:.4f}")
        print(f"the last one was {self.last:.5f}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    ap = argparse.ArgumentParser()
    for k, v in asdict(Config()).items():
        ap.add_argument(f"--{k}", type=type(v), default=v)
    args = ap.parse_args()
    torch.manual_seed(0)
    cfg = Config(**vars(args))
    x = torch.randn(1000, 20)
    train, val = random_split(TensorDataset(x, (x[:, :3].sum(1) > 0).long()), [800, 200])
    model = nn.Sequential(nn.Linear(20, cfg.hidden), nn.ReLU(), nn.Linear(cfg.hidden, 2))
    Trainer(cfg, model, DataLoader(train, cfg.batch_size, shuffle=True), DataLoader(val, 100)).fit()
