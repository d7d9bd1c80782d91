"""Two networks that train against each other, as the tutorials write it."""
import torch
from torch import nn, optim

torch.manual_seed(0)
G = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
D = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
opt_g, opt_d = optim.Adam(G.parameters(), lr=2e-4, betas=(0.5, 0.999)), optim.Adam(D.parameters(), lr=4e-4, betas=(0.5, 0.999))
bce = nn.BCEWithLogitsLoss()
for it in range(1, 101):
    real, z = torch.randn(32, 2) * 0.5 + 1, torch.randn(32, 4)
    opt_d.zero_grad()
    errD_real = bce(D(real), torch.ones(32, 1))
    errD_real.backward()
    fake = G(z)
    errD_fake = bce(D(fake.detach()), torch.zeros(32, 1))
    errD_fake.backward()
    opt_d.step()
    opt_g.zero_grad()
    errG = bce(D(fake), torch.ones(32, 1))
    errG.backward()
    opt_g.step()
    if it % 20 == 0:
        print("[%d/%d] Loss_D: %.4f Loss_G: %.4f D(x): %.4f" % (it, 100, (errD_real + errD_fake).item(), errG.item(), torch.sigmoid(D(real)).mean().item()))
