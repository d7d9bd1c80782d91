"""MNIST in Lightning: A LightningModule and its Trainer.

Nothing in it knows of mlaas: run it by hand, or by `mlaas run`, and compare
what it prints with what was tracked.
"""
import os

import lightning
import numpy as np
import torch

data = os.path.join(os.environ.get("MLAAS_DATA", "data"), "mnist")


def read(kind):
    """Images as float32 of shape (N, 784) from 0 to 1, labels as int64 of shape (N,)."""
    images = np.fromfile(os.path.join(data, kind + "-images-idx3-ubyte"), np.uint8)[16:].reshape(-1, 784)
    return images.astype(np.float32) / 255, np.fromfile(os.path.join(data, kind + "-labels-idx1-ubyte"), np.uint8)[8:].astype(np.int64)


(images, labels), (test_images, test_labels) = read("train"), read("t10k")


class Net(lightning.LightningModule):
    def __init__(self, width=100, lr=0.001):
        super().__init__()
        self.save_hyperparameters()
        self.layers = torch.nn.Sequential(torch.nn.Linear(784, width), torch.nn.ReLU(), torch.nn.Linear(width, 10))

    def training_step(self, batch, i):
        loss = torch.nn.functional.cross_entropy(self.layers(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, i):
        logits = self.layers(batch[0])
        self.log("val_loss", torch.nn.functional.cross_entropy(logits, batch[1]))
        self.log("val_accuracy", (logits.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


def batches(x, y, size, shuffle=False):
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y)), size, shuffle=shuffle)


lightning.seed_everything(0)
net = Net()
trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer.fit(net, batches(images[:20000], labels[:20000], 100, True), batches(test_images, test_labels, 1000))
print("train loss %.4f" % trainer.callback_metrics["train_loss"])
print("validation loss %.4f validation accuracy %.4f" % (trainer.callback_metrics["val_loss"], trainer.callback_metrics["val_accuracy"]))
print("parameters %d" % sum(p.numel() for p in net.parameters()))
