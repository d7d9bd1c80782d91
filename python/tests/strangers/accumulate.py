"""Gradients of four batches to a step, two groups with rates of their own, a
TensorBoard writer, a line of formatted columns."""
import math

import torch
from torch.utils.tensorboard import SummaryWriter

torch.manual_seed(1)
writer = SummaryWriter("runs/exp")
net, head = torch.nn.LSTM(8, 16, batch_first=True), torch.nn.Linear(16, 1)
opt = torch.optim.SGD([{"params": net.parameters(), "lr": 0.05}, {"params": head.parameters(), "lr": 0.1}], momentum=0.9)
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=20)
ACC, step = 4, 0
for epoch in range(5):
    total = 0.0
    for i in range(16):
        x = torch.randn(10, 6, 8)
        y = x.sum((1, 2))[:, None] / 7
        out, _ = net(x)
        loss = torch.nn.functional.mse_loss(head(out[:, -1]), y) / ACC
        loss.backward()
        total += loss.item() * ACC
        if (i + 1) % ACC == 0:
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            opt.step()
            opt.zero_grad()
            step += 1
            writer.add_scalar("train/loss", total / (i + 1), step)
    sched.step()
    writer.add_scalars("epoch", {"mse": total / 16, "rmse": math.sqrt(total / 16)}, epoch)
    print("Epoch {:>3} | mse {:.5f} | ppl {:.3f} | lr {:.2e}".format(epoch, total / 16, math.exp(total / 16), opt.param_groups[0]["lr"]))
writer.close()
